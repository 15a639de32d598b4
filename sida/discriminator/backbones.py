"""Base class of frozen feature networks, and their construction by name.

Discriminators of noisy images on the encoder of a diffusion network, and the fake score beside each of them.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from sida.config.families import BACKBONES
from sida.config.registry import RegistryEntry
from sida.errors import UserError
from sida.networks import Precond

#: Classes of the backbones of :data:`sida.config.families.BACKBONES`.
_CLASSES = {
    "vgg16_bn": RegistryEntry("sida.discriminator.imagenet:VGG16BN"),
    "efficientnet_lite0": RegistryEntry("sida.discriminator.imagenet:EfficientNetLite0"),
    "deit_base_distilled": RegistryEntry("sida.discriminator.imagenet:DeiTBaseDistilled"),
    "digits": RegistryEntry("sida.discriminator.digits:DigitsBackbone"),
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
        name: Key of :data:`sida.config.families.BACKBONES`.
        weights: ``published`` or ``random`` (from torch's global generator).
        image_channels: Channels of the images.
        resolution: Height and width of the images.
        where: Place named in errors.

    Raises:
        UserError: The backbone does not take such images, or a package or the weights are missing.
    """
    found: type[Backbone] = _CLASSES[name].load()
    if image_channels != found.image_channels or found.resolution not in (None, resolution):
        size = f"{found.resolution}×{found.resolution}, " if found.resolution else ""
        others = [other for other, asset in BACKBONES.items() if (asset is None) == (image_channels == 1)]
        raise UserError(
            f"{where}.backbones",
            f"'{name}' takes images of {size}{found.image_channels} channels, not {resolution}×"
            f"{resolution}, {image_channels}",
            f"for these name {' or '.join(others)}",
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


class FeatureHead(nn.Sequential):
    """Head that gives one logit ``(N, 1)`` of a square map.

    It has 4×4 convolutions of stride 2 down to 4×4 positions, one convolution over the remaining map, and a 1×1
    convolution. Group normalisation and SiLU follow all except the last.

    Args:
        channels: Channels of the map, and of all layers except the last.
        resolution: Side of the map.

    Source: tianweiy/DMD2:main/edm/edm_unified_model.py; the head for larger maps:
    NVlabs/FastGen:fastgen/networks/discriminators.py.
    """

    def __init__(self, channels: int, resolution: int) -> None:
        kernels = []
        while resolution > 4:
            kernels.append((4, 2, 1))
            resolution //= 2
        kernels.append((resolution, resolution, 0))
        layers: list[nn.Module] = []
        for size, stride, padding in kernels:
            norm = nn.GroupNorm(_groups(channels), channels)
            layers += [nn.Conv2d(channels, channels, size, stride, padding), norm, nn.SiLU()]
        super().__init__(*layers, nn.Conv2d(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, 1)``, float32, of maps ``(N, channels, resolution, resolution)``."""
        return cast(Tensor, super().forward(x.float())).flatten(1)


def _groups(channels: int) -> int:
    if channels <= 32:
        return max(1, channels // 4)
    return max(size for size in range(1, 33) if channels % size == 0)


def _map_shapes(network: nn.Module) -> list[tuple[int, int]]:
    """Channels and side of the encoder's maps that ``return_flag="features"`` gives."""
    net = cast(Precond, network)
    image = torch.zeros((1, net.img_channels, net.img_resolution, net.img_resolution))
    with torch.no_grad():
        maps = network(image.to(next(network.parameters()).device), 1.0, return_flag="features")
    return [(one.shape[1], one.shape[2]) for one in maps]


class FakeScoreWithHeads(nn.Module):
    """Fake score with discriminator heads on the maps of its encoder, or on those of a frozen teacher.

    Args:
        score: Fake score ψ, a network of :class:`sida.networks.Precond`.
        teacher: Frozen network φ whose encoder gives the maps; None: ψ gives them, and the discriminator trains ψ, too.
        every_resolution: Whether each resolution's last block has a head; else only the encoder's last block.
        bins: Length of the buffer ``ratios`` for f-distill's running means; 0 makes none.
    """

    def __init__(self, score: nn.Module, teacher: nn.Module | None, every_resolution: bool, bins: int = 0) -> None:
        super().__init__()
        self.score = score
        # Not a submodule: φ is not trained and not part of a state.
        self._source = (score if teacher is None else teacher,)
        device = next(score.parameters()).device
        shapes = _map_shapes(score) if every_resolution else _map_shapes(score)[-1:]
        self.heads = nn.ModuleList(FeatureHead(*one) for one in shapes).to(device)
        if bins:
            self.register_buffer("ratios", torch.ones(bins, device=device))

    def forward(
        self,
        x: Tensor,
        sigma: Tensor,
        class_labels: Tensor | None = None,
        *,
        augment_labels: Tensor | None = None,
        return_flag: str = "decoder",
    ) -> Any:
        """Logits ``(N, heads)`` for ``return_flag="logits"``, else as :meth:`sida.networks.Precond.forward` of ψ."""
        if return_flag != "logits":
            return self.score(x, sigma, class_labels, augment_labels=augment_labels, return_flag=return_flag)
        maps = self._source[0](x, sigma, class_labels, return_flag="features")
        return torch.cat([head(one) for head, one in zip(self.heads, maps[-len(self.heads) :])], dim=1)


class FrozenEncoderWithHead(nn.Module):
    """Discriminator that learns a head alone, on the encoder's last map of a frozen network.

    Args:
        teacher: Frozen network φ of :class:`sida.networks.Precond`.
    """

    def __init__(self, teacher: nn.Module) -> None:
        super().__init__()
        # Not a submodule: φ is not trained and not part of a state.
        self._source = (teacher,)
        self.head = FeatureHead(*_map_shapes(teacher)[-1]).to(next(teacher.parameters()).device)

    def forward(
        self,
        x: Tensor,
        sigma: Tensor,
        class_labels: Tensor | None = None,
        *,
        augment_labels: Tensor | None = None,
        return_flag: str = "encoder",
    ) -> Tensor:
        """Logits ``(N, 1, 1, 1)``, float32; ``return_flag`` is always ``encoder``."""
        maps = self._source[0](x, sigma, class_labels, augment_labels=augment_labels, return_flag="features")
        return cast(Tensor, self.head(maps[-1])).reshape(-1, 1, 1, 1)


class FakeScoreAndDiscriminator(nn.Module):
    """Fake score with a discriminator beside it that shares no weight with it, in the form of a network that has both.

    Args:
        score: Fake score ψ, a network of :class:`sida.networks.Precond`.
        discriminator: Network whose ``return_flag="encoder"`` gives logits.
    """

    def __init__(self, score: nn.Module, discriminator: nn.Module) -> None:
        super().__init__()
        self.score, self.discriminator = score, discriminator

    def forward(
        self,
        x: Tensor,
        sigma: Tensor,
        class_labels: Tensor | None = None,
        *,
        augment_labels: Tensor | None = None,
        return_flag: str = "decoder",
        decode: int | None = None,
    ) -> Any:
        """ψ's denoised images or, for ``encoder_decoder``, those of the first ``decode`` images and all logits."""
        if return_flag == "decoder":
            return self.score(x, sigma, class_labels, augment_labels=augment_labels)
        first = [None if one is None else one[:decode] for one in (x, sigma, class_labels, augment_labels)]
        denoised = self.score(*first[:3], augment_labels=first[3])
        return denoised, self.discriminator(
            x, sigma, class_labels, augment_labels=augment_labels, return_flag="encoder"
        )
