"""Feature networks for grey 28×28 pictures of clothes: two small classifiers whose weights are part of the package.

`clothes_plain` has plain convolutions with batch normalisation and max pooling, `clothes_residual` residual blocks with
group normalisation and convolutions of stride 2. Each learned from one half of Fashion-MNIST's training images; no
image is in both halves. ``tools/train_clothes.py`` trains both again.

Features are 256 activations after the last block, averaged over quarters of the picture. Pictures of another
size are resized to 28×28.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from eval.features.base import Extractor
from eval.features.digits import check_shape, convolution_block, load_weights, weights_digest
from sida.files.tensors import explained, read_tensors

NUM_FEATURES, NUM_CLASSES = 256, 10
SIZE = 28


class Residual(nn.Module):
    """Two 3×3 convolutions after group normalisation and SiLU, the first of stride 2, beside a 1×1 convolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.path = nn.Sequential(
            nn.GroupNorm(8, inputs),
            nn.SiLU(),
            nn.Conv2d(inputs, outputs, 3, stride=2, padding=1),
            nn.GroupNorm(8, outputs),
            nn.SiLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1),
        )
        self.skip = nn.Sequential(nn.AvgPool2d(2, ceil_mode=True), nn.Conv2d(inputs, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(N, inputs, h, w)`` to ``(N, outputs, ⌈h/2⌉, ⌈w/2⌉)``."""
        return cast(Tensor, self.path(x) + self.skip(x))


def _plain() -> list[nn.Module]:
    pool = nn.MaxPool2d(2)
    return [*convolution_block(1, 32), pool, *convolution_block(32, 64), pool, *convolution_block(64, 64)]


def _residual() -> list[nn.Module]:
    blocks = [Residual(24, 32), Residual(32, 64)]
    return [nn.Conv2d(1, 24, 5, padding=2), *blocks, nn.GroupNorm(8, 64), nn.SiLU()]


ARCHITECTURES = {"plain": _plain, "residual": _residual}


class ClothesNet(nn.Module):
    """Convolutions and one linear layer; input float32 (N, 1, 28, 28) in [-1, 1].

    Args:
        architecture: Key of :data:`ARCHITECTURES`.
    """

    def __init__(self, architecture: str) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(*ARCHITECTURES[architecture](), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(NUM_FEATURES, NUM_CLASSES))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Returns features (N, 256) and logits (N, 10)."""
        features = self.convolutions(images)
        return features, self.classifier(features)


class ClothesExtractor(Extractor):
    """The committed network of the class's name, or another one by ``path``; its file names the architecture."""

    num_features = NUM_FEATURES
    num_classes = NUM_CLASSES
    at_once = 1000

    def __init__(self, device: str | torch.device = "cpu", path: str | Path | None = None) -> None:
        super().__init__(device)
        path = path or Path(__file__).with_name(f"{self.name}.safetensors")
        with explained(path, "not a network of clothes", "make one with tools/train_clothes.py"):
            state, metadata = read_tensors(path)
            net = ClothesNet(metadata["architecture"])
            load_weights(net, state, path)
        self.sha256 = weights_digest(state)
        self._net = net.eval().requires_grad_(False).to(self.device)

    def _forward(self, images: Tensor, logits: bool) -> tuple[Tensor, Tensor | None]:
        check_shape(images, (1, *images.shape[2:]), self.name)
        x = images.to(torch.float32) / 127.5 - 1
        if x.shape[2:] != (SIZE, SIZE):
            x = interpolate(x, (SIZE, SIZE), mode="bicubic", antialias=True)
        features = self._net.convolutions(x)
        return features, self._net.classifier(features) if logits else None


class PlainExtractor(ClothesExtractor):
    """Plain convolutions."""

    name = "clothes_plain"


class ResidualExtractor(ClothesExtractor):
    """Residual blocks."""

    name = "clothes_residual"
