"""Small stand-ins with the call signatures of the published feature networks."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from sida.networks import build_network
from sida.networks.file import save_network


class TinyInception(nn.Module):
    """Like ``inception-2015-12-05.pt``: resizes inside, features, class probabilities with or without output bias."""

    def __init__(self, num_features: int = 12, num_classes: int = 7) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, num_features, 5, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.output = nn.Linear(num_features, num_classes)

    def forward(
        self, img: torch.Tensor, return_features: bool = False, use_fp16: bool = False, no_output_bias: bool = False
    ) -> torch.Tensor:
        x = nn.functional.interpolate(img.to(torch.float32), size=(33, 33), mode="bilinear", align_corners=False)
        features = self.layers((x - 128) / 128)
        if return_features:
            return features
        return self.probabilities(features, no_output_bias)

    def probabilities(self, features: torch.Tensor, no_output_bias: bool) -> torch.Tensor:
        logits = nn.functional.linear(features, self.output.weight) if no_output_bias else self.output(features)
        return torch.softmax(logits, 1)


class WideInception(TinyInception):
    """As wide as the published file, which clean-fid asks for."""

    def __init__(self) -> None:
        super().__init__(2048)


class OddInception(TinyInception):
    """Its probabilities do not come from its last matrix alone."""

    def probabilities(self, features: torch.Tensor, no_output_bias: bool) -> torch.Tensor:
        return torch.softmax(3 * self.output(features), 1)


class Normed(nn.Module):
    """A convolution, batch normalisation and ReLU; ``reused`` adds the convolution again, which no folding allows."""

    def __init__(self, inputs: int, outputs: int, stride: int, reused: bool) -> None:
        super().__init__()
        self.convolution, self.reused = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), reused
        self.norm = nn.BatchNorm2d(outputs, eps=1e-3)
        for tensor in (self.norm.running_mean, self.norm.running_var, self.norm.weight, self.norm.bias):
            tensor.data = 0.2 + torch.rand(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made = self.convolution(x)
        result = torch.relu(self.norm(made))
        return result + made if self.reused else result


class NormedInception(TinyInception):
    """With batch normalisation, like the published file."""

    reused = False

    def __init__(self) -> None:
        super().__init__()
        layers = [Normed(3, 8, 2, self.reused), nn.MaxPool2d(2), Normed(8, 12, 1, self.reused)]
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


class ReusedInception(NormedInception):
    """Uses the output of a convolution twice."""

    reused = True


class StandInVae:
    """Decodes latents: their first three channels as colours, each pixel 4 × 4."""

    def decode(self, x: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(sample=(x[:, :3] / 4 + 0.5).repeat_interleave(4, 2).repeat_interleave(4, 3))


def write_inception(path: Path, kind: type[TinyInception] = TinyInception, seed: int = 0) -> Path:
    """A TorchScript file of the published call signature, a few kilobytes."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        net = kind()
        for parameter in net.parameters():
            parameter.data.mul_(3)  # features that differ between images
        torch.jit.script(net.eval().requires_grad_(False)).save(str(path))
    return path


def load_script(path: Path) -> torch.jit.ScriptModule:
    """Loads a file of :func:`write_inception`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.load(str(path))


def write_network(path: Path | str, config: dict, seed: int = 0, std: float = 0.0, **metadata: Any) -> str:
    """A network with random weights, moved by this much from its start; returns the path."""
    torch.manual_seed(seed)
    net = build_network(config)
    for parameter in net.parameters() if std else ():
        parameter.data.add_(std * torch.randn_like(parameter))
    save_network(net, path, {"network": config, "method": "sid", **metadata})
    return str(path)


HUBCONF = """
dependencies = ["torch"]
import torch


class Tiny(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.patch = torch.nn.Conv2d(3, 10, 14, stride=14)

    def forward(self, x):
        assert x.shape[1:] == (3, 224, 224), x.shape
        return torch.nn.functional.gelu(self.patch(x)).mean((2, 3))


def dinov2_vitl14(pretrained=True, **kwargs):
    torch.manual_seed(1 if pretrained else 2)
    return Tiny()
"""


class TinyDino(nn.Module):
    """Like DINOv2: a vector of each picture."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 10, 14, stride=14)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.gelu(self.patch(x)).mean((2, 3))


def tiny_dino() -> tuple[nn.Module, str]:
    """A network in the place of DINOv2, and the digest of its code."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return TinyDino(), "code"


def pictures(count: int, size: int = 16, channels: int = 3, seed: int = 0) -> torch.Tensor:
    """Smooth random images uint8 (N, C, size, size)."""
    noise = torch.rand(count, channels, 4, 4, generator=torch.Generator().manual_seed(seed))
    smooth = nn.functional.interpolate(noise, size=(size, size), mode="bilinear")
    return (smooth * 255).to(torch.uint8)


def images(count: int = 30, size: int = 16, channels: int = 3, seed: int = 0) -> np.ndarray:
    """The same pictures as an array (N, H, W, C)."""
    return pictures(count, size, channels, seed).permute(0, 2, 3, 1).numpy()
