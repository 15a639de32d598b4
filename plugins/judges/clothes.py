"""Feature networks of studies: classifiers of grey 28×28 clothes and of colour pictures, and a backbone of GDD.

`clothes_plain` has plain convolutions with batch normalisation and max pooling, `clothes_residual` residual blocks with
group normalisation and convolutions of stride 2. Each was trained on one half of Fashion-MNIST's training images; no
image is in both halves. `colour` has residual blocks for 16×16 pictures; it was trained on one half of the training
pictures of the study `mechanisms-colour`. ``tools/train_clothes.py`` trains all again.

Features are 256 activations after the last block, averaged over quarters of the picture. Clothes of another size are
resized to 28×28.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from sida.eval.features.digits import NUM_FEATURES, SmallExtractor, check_shape, convolution_block
from sida.networks.discriminators import Backbone, backbone_level

NUM_CLASSES, SIZE = 10, 28


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


def _plain_layers() -> list[nn.Module]:
    pool = nn.MaxPool2d(2)
    return [*convolution_block(1, 32), pool, *convolution_block(32, 64), pool, *convolution_block(64, 64)]


def _residual_layers() -> list[nn.Module]:
    blocks = [Residual(24, 32), Residual(32, 64)]
    return [nn.Conv2d(1, 24, 5, padding=2), *blocks, nn.GroupNorm(8, 64), nn.SiLU()]


def _colour_layers() -> list[nn.Module]:
    blocks = [Residual(32, 64), Residual(64, 64)]
    return [nn.Conv2d(3, 32, 3, padding=1), *blocks, nn.GroupNorm(8, 64), nn.SiLU()]


ARCHITECTURES = {"plain": _plain_layers, "residual": _residual_layers, "colour": _colour_layers}


class ClothesNet(nn.Module):
    """Convolutions and one linear layer; input float32 (N, 1, 28, 28), of `colour` (N, 3, 16, 16), in [-1, 1].

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
        assert features.shape == (len(images), NUM_FEATURES)
        return features, self.classifier(features)


class ClassifierExtractor(SmallExtractor):
    """A network of this module; its file names the architecture."""

    folder = Path(__file__).parent
    at_once = 1000

    @classmethod
    def network(cls, metadata: Mapping[str, Any]) -> nn.Module:
        """A network of the file's architecture."""
        return ClothesNet(metadata["architecture"])


class ClothesExtractor(ClassifierExtractor):
    """A network for clothes of any size."""

    def _input(self, images: Tensor) -> Tensor:
        check_shape(images, (1, *images.shape[2:]), self.name)
        x = images.to(torch.float32) / 127.5 - 1
        return x if x.shape[2:] == (SIZE, SIZE) else interpolate(x, (SIZE, SIZE), mode="bicubic", antialias=True)


class PlainExtractor(ClothesExtractor):
    """Plain convolutions."""

    name = "clothes_plain"


class ResidualExtractor(ClothesExtractor):
    """Residual blocks."""

    name = "clothes_residual"


class ColourExtractor(ClassifierExtractor):
    """Residual blocks for colour pictures."""

    name = "colour"
    image_shape = (3, 16, 16)


class ClothesBackbone(Backbone):
    """Two pairs of convolutions with maps of 14 and 7 pixels, for pictures float32 ``(N, 1, 28, 28)`` in [-1, 1].

    Attributes:
        classifier: Layers after the last map, used only to train the network.
    """

    weights = Path(__file__).with_name("clothes.safetensors")
    image_channels = 1
    resolution = 28
    channels = (32, 64)
    sizes = (32, 16)
    mixing = 32
    widths = {8: 64, 16: 48}

    def __init__(self) -> None:
        super().__init__()
        pairs = [
            (backbone_level(1, 16, pool=False), backbone_level(16, 32)),
            (backbone_level(32, 64), backbone_level(64, 64, pool=False)),
        ]
        self.levels = nn.ModuleList(nn.Sequential(*first, *second) for first, second in pairs)
        pooled = (nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Dropout(0.3))
        self.classifier = nn.Sequential(*pooled, nn.Linear(576, 10))
