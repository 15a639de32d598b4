"""Base class of frozen feature networks, and their construction by name."""

from __future__ import annotations

import abc
import importlib
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from sida.config.method_options import BACKBONES
from sida.errors import UserError

_CLASSES = {
    "vgg16_bn": "imagenet:VGG16BN",
    "efficientnet_lite0": "imagenet:EfficientNetLite0",
    "deit_base_distilled": "imagenet:DeiTBaseDistilled",
    "digits": "digits:DigitsBackbone",
}


class Backbone(nn.Module, abc.ABC):
    """Frozen network that gives feature maps of images, finest first, each half as wide and high as the previous.

    Attributes:
        image_channels: Channels of the images.
        resolution: Size of the images; None accepts any size.
        channels: Channels of each map.
        sizes: Nominal sizes of the maps after mixing, which doubles them; they decide the depth of the heads.
        mixing: Channels of the first mixed map; the next maps have 2, 4, ... times as many.
        widths: Channels of a head's maps by their nominal size.
    """

    image_channels: ClassVar[int] = 3
    resolution: ClassVar[int | None] = None
    channels: ClassVar[Sequence[int]]
    sizes: ClassVar[Sequence[int]] = (128, 64, 32, 16)
    mixing: ClassVar[int] = 64
    # StyleGAN-XL (arXiv:2202.00273); autonomousvision/stylegan-xl:pg_modules/discriminator.py.
    widths: ClassVar[Mapping[int, int]] = {8: 512, 16: 256, 32: 128, 64: 64, 128: 64, 256: 32}

    @abc.abstractmethod
    def forward(self, images: Tensor) -> list[Tensor]:
        """Maps ``(N, channels[i], h, w)`` of images float32 ``(N, C, H, W)`` in [-1, 1]."""

    @abc.abstractmethod
    def load_published(self) -> None:
        """Loads the published weights; those for ImageNet are downloaded on first use.

        Raises:
            UserError: The weights cannot be downloaded or do not fit.
        """


def make_backbone(name: str, weights: str, image_channels: int, resolution: int, where: str = "options") -> Backbone:
    """Makes a frozen backbone in evaluation mode.

    Args:
        name: Key of :data:`sida.config.method_options.BACKBONES`.
        weights: ``published`` or ``random`` (from torch's global generator).
        image_channels: Channels of the images.
        resolution: Height and width of the images.
        where: Place named in errors.

    Raises:
        UserError: The backbone does not take such images, or a package or the weights are missing.
    """
    module, _, cls = _CLASSES[name].partition(":")
    found: type[Backbone] = getattr(importlib.import_module(f"sida.discriminator.{module}"), cls)
    if image_channels != found.image_channels or found.resolution not in (None, resolution):
        size = f"{found.resolution}×{found.resolution}, " if found.resolution else ""
        others = [other for other, asset in BACKBONES.items() if (asset is None) == (image_channels == 1)]
        raise UserError(
            f"{where}.backbones: '{name}' takes images of {size}{found.image_channels} channels, not {resolution}×"
            f"{resolution}, {image_channels}; for these name {' or '.join(others)}"
        )
    backbone = found()
    if weights == "published":
        backbone.load_published()
    return backbone.eval().requires_grad_(False)


def normalised(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Normalises images in [-1, 1] to ``((x + 1) / 2 − mean) / std`` for each channel."""
    shape = (1, -1, 1, 1)
    centre = torch.tensor(mean, device=images.device).view(shape)
    return ((images + 1) / 2 - centre) / torch.tensor(std, device=images.device).view(shape)
