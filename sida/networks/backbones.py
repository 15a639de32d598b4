"""Frozen networks that give feature maps of images to GDD's discriminator.

They are VGG16, EfficientNet and DeiT of ImageNet, and small ones of digits and clothes, whose weights
tools/train_backbone.py and tools/train_clothes.py make.

Images below 224×224 are enlarged to 224×224 for the networks of ImageNet, which have feature maps at four scales. The
scales are those of projected GANs (arXiv:2111.01007); Zyriix/GDD:feature_networks/vit.py,
autonomousvision/stylegan-xl:feature_networks/pretrained_builder.py.
"""

from __future__ import annotations

import abc
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from sida.assets.cache import fetch
from sida.config.families import BACKBONES
from sida.config.resources import how_to_install
from sida.errors import UserError
from sida.files.pickles import read_state_dict
from sida.files.tensors import explained, read_tensors


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


def normalised(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Normalises images in [-1, 1] to ``((x + 1) / 2 − mean) / std`` for each channel."""
    shape = (1, -1, 1, 1)
    centre = torch.tensor(mean, device=images.device).view(shape)
    return ((images + 1) / 2 - centre) / torch.tensor(std, device=images.device).view(shape)


class TrainedHere(Backbone):
    """Small network for grey images of ten classes, trained by tools/train_backbone.py or train_clothes.py.

    Attributes:
        weights: File of the committed weights.
        levels: Blocks that give one map each.
        classifier: Layers after the last map, used only to train the network.
    """

    image_channels = 1
    weights: ClassVar[Path]
    levels: nn.ModuleList
    classifier: nn.Sequential

    def forward(self, images: Tensor) -> list[Tensor]:
        """See :class:`Backbone`."""
        maps, x = [], images
        for level in self.levels:
            x = level(x)
            maps.append(x)
        return maps

    def load_published(self) -> None:
        """Loads the committed weights.

        Raises:
            UserError: The file is missing or damaged.
        """
        with explained(self.weights, "not the weights of this backbone", "make them with a script of tools/"):
            self.load_state_dict(read_tensors(self.weights)[0])


class DigitsBackbone(TrainedHere):
    """Three convolutions with maps of 8, 4 and 2 pixels, for images float32 ``(N, 1, 8, 8)`` in [-1, 1]."""

    weights = Path(__file__).with_name("digits.safetensors")
    resolution = 8
    channels = (16, 32, 64)
    sizes = (16, 8, 4)
    mixing = 16
    widths = {4: 64, 8: 32, 16: 16}

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.ModuleList([_level(1, 16, pool=False), _level(16, 32), _level(32, 64)])
        self.classifier = nn.Sequential(nn.Flatten(), nn.Dropout(0.3), nn.Linear(256, 10))


class ClothesBackbone(TrainedHere):
    """Two pairs of convolutions with maps of 14 and 7 pixels, for pictures float32 ``(N, 1, 28, 28)`` in [-1, 1]."""

    weights = Path(__file__).with_name("clothes.safetensors")
    resolution = 28
    channels = (32, 64)
    sizes = (32, 16)
    mixing = 32
    widths = {8: 64, 16: 48}

    def __init__(self) -> None:
        super().__init__()
        pairs = [(_level(1, 16, pool=False), _level(16, 32)), (_level(32, 64), _level(64, 64, pool=False))]
        self.levels = nn.ModuleList(nn.Sequential(*first, *second) for first, second in pairs)
        pooled = (nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Dropout(0.3))
        self.classifier = nn.Sequential(*pooled, nn.Linear(576, 10))


def _level(inputs: int, outputs: int, pool: bool = True) -> nn.Sequential:
    layers = [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*([nn.MaxPool2d(2)] if pool else []), *layers)


BACKBONE_SIZE = 224
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


class VGG16BN(Backbone):
    """VGG16 with batch normalisation: the maps before its second to fifth pooling (112 to 14 pixels wide)."""

    channels = (128, 256, 512, 512)
    _cuts: ClassVar = (0, 13, 23, 33, 43)

    def __init__(self) -> None:
        super().__init__()
        vgg = _package("torchvision.models.vgg")
        # Without the classifier, most of VGG's weights.
        self.features = vgg.make_layers(vgg.cfgs["D"], batch_norm=True)

    def forward(self, images: Tensor) -> list[Tensor]:
        """See :class:`Backbone`."""
        maps, x = [], _enlarged(normalised(images, *IMAGENET))
        for start, stop in zip(self._cuts, self._cuts[1:]):
            x = self.features[start:stop](x)
            maps.append(x)
        return maps

    def load_published(self) -> None:
        """See :class:`Backbone`."""
        path = _weights("vgg16_bn")
        state = {name: value for name, value in read_state_dict(path).items() if name.startswith("features.")}
        _load(self, state, path)


class EfficientNetLite0(Backbone):
    """EfficientNet-lite0: the maps after its second, third, fifth and last stage (56 to 7 pixels wide)."""

    channels = (24, 40, 112, 320)
    _cuts: ClassVar = (0, 2, 3, 5, 7)

    def __init__(self) -> None:
        super().__init__()
        net = _package("timm").create_model("tf_efficientnet_lite0", pretrained=False)
        self.conv_stem, self.bn1, self.blocks = net.conv_stem, net.bn1, net.blocks

    def forward(self, images: Tensor) -> list[Tensor]:
        """See :class:`Backbone`."""
        maps, x = [], self.bn1(self.conv_stem(_enlarged(normalised(images, *HALF))))
        for start, stop in zip(self._cuts, self._cuts[1:]):
            x = self.blocks[start:stop](x)
            maps.append(x)
        return maps

    def load_published(self) -> None:
        """See :class:`Backbone`."""
        _load_safetensors(self, _weights("efficientnet_lite0"), ("conv_stem.", "bn1.", "blocks."))


class DeiTBaseDistilled(Backbone):
    """DeiT-base, distilled: tokens after every third block, as maps of 56 to 7 pixels by random frozen layers."""

    channels = (96, 192, 384, 768)
    _blocks: ClassVar = [2, 5, 8, 11]

    def __init__(self) -> None:
        super().__init__()
        net = _package("timm").create_model("deit_base_distilled_patch16_224", pretrained=False)
        for block in net.blocks:
            # R1 needs second derivatives, which fused attention does not have.
            block.attn.fused_attn = False
        self.net, width = net, net.embed_dim
        first, second, third, last = self.channels
        self.spread = nn.ModuleList(
            [
                nn.Sequential(nn.Conv2d(width, first, 1), nn.ConvTranspose2d(first, first, 4, 4)),
                nn.Sequential(nn.Conv2d(width, second, 1), nn.ConvTranspose2d(second, second, 2, 2)),
                nn.Conv2d(width, third, 1),
                nn.Sequential(nn.Conv2d(width, last, 1), nn.Conv2d(last, last, 3, 2, 1)),
            ]
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """See :class:`Backbone`."""
        x = normalised(images, *IMAGENET)
        if x.shape[-1] != BACKBONE_SIZE:
            x = interpolate(x, BACKBONE_SIZE, mode="bilinear", align_corners=False)
        maps = self.net.forward_intermediates(x, indices=self._blocks, intermediates_only=True)
        return [layer(tokens) for layer, tokens in zip(self.spread, maps)]

    def load_published(self) -> None:
        """See :class:`Backbone`."""
        _load_safetensors(self.net, _weights("deit_base_distilled"), ("",))


def _enlarged(images: Tensor) -> Tensor:
    if images.shape[-1] >= BACKBONE_SIZE:
        return images
    return interpolate(images, BACKBONE_SIZE, mode="bilinear", align_corners=False)


def _package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError:
        fault = f"the package {name.partition('.')[0]} is not installed"
        remedy = how_to_install("timm>=1.0", "torchvision>=0.20", "safetensors>=0.4")
        raise UserError("options.backbones", fault, remedy) from None


def _weights(name: str) -> Path:
    asset = BACKBONES[name]
    assert asset is not None
    return fetch(asset)


def _load_safetensors(net: nn.Module, path: Path, prefixes: tuple[str, ...]) -> None:
    from safetensors.torch import load_file

    _load(net, {name: value for name, value in load_file(path).items() if name.startswith(prefixes)}, path)


def _load(net: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(path, f"does not hold this backbone's weights ({reason})", "fetch it again") from None


_CLASSES: dict[str, type[Backbone]] = {
    "vgg16_bn": VGG16BN,
    "efficientnet_lite0": EfficientNetLite0,
    "deit_base_distilled": DeiTBaseDistilled,
    "digits": DigitsBackbone,
    "clothes": ClothesBackbone,
}


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
    found = _CLASSES[name]
    if image_channels != found.image_channels or found.resolution not in (None, resolution):
        size = f"{found.resolution}×{found.resolution}, " if found.resolution else ""
        others = [other for other, asset in BACKBONES.items() if (asset is None) == (image_channels == 1)]
        given = f"{resolution}×{resolution}, {image_channels}"
        fault = f"'{name}' takes images of {size}{found.image_channels} channels, not {given}"
        raise UserError(f"{where}.backbones", fault, f"for these name {' or '.join(others)}")
    backbone = found()
    if weights == "published":
        backbone.load_published()
    return backbone.eval().requires_grad_(False)
