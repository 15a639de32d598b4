"""Backbones trained on ImageNet: torchvision's and timm's networks, with feature maps at four scales.

Images below 224×224 are enlarged to 224×224. The scales are those of projected GANs (arXiv:2111.01007);
autonomousvision/stylegan-xl:feature_networks/pretrained_builder.py, Zyriix/GDD:feature_networks/vit.py.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import ClassVar

from torch import Tensor, nn
from torch.nn.functional import interpolate

from sida.config.families import BACKBONES
from sida.config.resources import how_to_install
from sida.discriminator.backbones import Backbone, normalised
from sida.errors import UserError

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
        from sida.files.pickles import read_state_dict

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
        raise UserError(
            "options.backbones",
            f"the package {name.partition('.')[0]} is not installed",
            how_to_install("timm>=1.0", "torchvision>=0.20", "safetensors>=0.4"),
        ) from None


def _weights(name: str) -> Path:
    from sida.assets import fetch

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
