"""The network of a one-step pipeline; `sida export --to hf` copies this file. Needs sida-repro and torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import sida


class OneStepGenerator(torch.nn.Module):
    """A generator of :func:`sida.load`, as a component of a diffusers pipeline."""

    def __init__(self, generator: sida.LoadedGenerator) -> None:
        super().__init__()
        self.generator, self.net = generator, generator.net

    @classmethod
    def from_pretrained(cls, folder: str, **_: Any) -> OneStepGenerator:
        """Reads ``network.safetensors`` of the folder; the settings of diffusers do not apply."""
        return cls(sida.load(Path(folder) / "network.safetensors", device="cpu"))
