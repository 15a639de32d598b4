"""Networks with the call signature of ``inception-2015-12-05.pt`` and other layers."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import nn


class Network(nn.Module):
    """Resizes, any layers to 2,048 features, and class probabilities with or without the output's bias."""

    def __init__(self, layers: nn.Module, size: int) -> None:
        super().__init__()
        self.layers, self.size, self.output = layers, size, nn.Linear(2048, 1008)

    def forward(  # noqa: D102
        self, img: torch.Tensor, return_features: bool = False, use_fp16: bool = False, no_output_bias: bool = False
    ) -> torch.Tensor:
        x = nn.functional.interpolate(img.to(torch.float32), size=(self.size, self.size), mode="bilinear")
        features = self.layers((x - 128) / 128)
        if return_features:
            return features
        logits = nn.functional.linear(features, self.output.weight) if no_output_bias else self.output(features)
        return torch.softmax(logits, 1)


def write_network(path: Path, layers: nn.Module, size: int) -> Path:
    """Writes such a network as TorchScript."""
    with warnings.catch_warnings(action="ignore"):
        torch.jit.script(Network(layers, size).eval().requires_grad_(False)).save(str(path))
    return path
