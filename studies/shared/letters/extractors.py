"""Feature networks of rendered letters, trained on fonts that the data sets do not have (``train.py``).

Features are the activations after the last convolution and pooling, as in the network `digits`.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from eval.features.digits import DigitsExtractor, GlyphsExtractor, convolution_block

from .render import RENDERED

GLYPHS32_NETWORK = Path(__file__).with_name("glyphs32.safetensors")
GLYPHS8_NETWORK = Path(__file__).with_name("glyphs8.safetensors")
_WIDTHS = (32, 48, 64, 64)
_CLASSES = len(RENDERED["glyphs32"].letters)


class Glyphs8Extractor(GlyphsExtractor):
    """The committed network of ``glyphs8``, or another one by ``path``."""

    name = "glyphs8"

    def __init__(self, device: str | torch.device = "cpu", path: str | Path = GLYPHS8_NETWORK) -> None:
        super().__init__(device, path)


class Glyphs32Net(nn.Module):
    """Four convolutions, each with a pooling, and one linear layer; input float32 (N, 3, 32, 32) in [-1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in zip((3, *_WIDTHS), _WIDTHS, strict=False):
            layers += [*convolution_block(inputs, outputs), nn.MaxPool2d(2)]
        self.convolutions = nn.Sequential(*layers, nn.Flatten())
        self.classifier = nn.Sequential(nn.Dropout(0.3), nn.Linear(4 * _WIDTHS[-1], _CLASSES))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns features (N, 256) and logits (N, 26)."""
        features = self.convolutions(images)
        return features, self.classifier(features)


class Glyphs32Extractor(DigitsExtractor):
    """The committed network of ``glyphs32``, or another one by ``path``."""

    name = "glyphs32"
    num_features = 4 * _WIDTHS[-1]
    num_classes = _CLASSES
    image_shape = (3, 32, 32)

    def __init__(self, device: str | torch.device = "cpu", path: str | Path = GLYPHS32_NETWORK) -> None:
        super().__init__(device, path)

    @classmethod
    def network(cls) -> nn.Module:
        """See :meth:`DigitsExtractor.network`."""
        return Glyphs32Net()


class Glyphs16Extractor(Glyphs32Extractor):
    """The network of ``glyphs32`` for images of ``glyphs16``, which are enlarged twice, bicubic."""

    name = "glyphs16"
    image_shape = (3, 16, 16)

    def _input(self, images: torch.Tensor) -> torch.Tensor:
        enlarged: torch.Tensor = nn.functional.interpolate(super()._input(images), scale_factor=2, mode="bicubic")
        return enlarged
