"""Discriminators: heads on the encoder of a diffusion network, and GDD's heads on mixed features of frozen backbones.

Mixing combines a backbone's maps across channels, then across scales; a head is a small convolutional network on each
mixed map. Backbones are VGG16, EfficientNet and DeiT of ImageNet, and a small one of digits, whose weights
tools/train_backbone.py makes.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, leaky_relu, linear
from torch.nn.utils.parametrizations import spectral_norm

from sida.assets.cache import fetch
from sida.config.feature_networks import BACKBONES
from sida.config.lookup import how_to_install
from sida.errors import UserError
from sida.files.state_dicts import read_state_dict
from sida.networks.precond import Precond


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
        self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None, *, return_flag: str = "decoder", **more: Any
    ) -> Any:
        """Logits ``(N, heads)`` for ``return_flag="logits"``, else as :meth:`sida.networks.Precond.forward` of ψ."""
        if return_flag != "logits":
            return self.score(x, sigma, class_labels, return_flag=return_flag, **more)
        maps = self._source[0](x, sigma, class_labels, return_flag="features")
        return torch.cat([head(one) for head, one in zip(self.heads, maps[-len(self.heads) :])], dim=1)


BACKBONE_SIZE = 224
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def normalised(images: Tensor, mean: Sequence[float], std: Sequence[float], exact: bool = False) -> Tensor:
    """Normalises images in [-1, 1] to ``((x + 1) / 2 − mean) / std`` for each channel, and enlarges them to 224×224.

    Args:
        images: float32 ``(N, 3, H, W)``.
        mean: Mean of each channel.
        std: Standard deviation of each channel.
        exact: Whether larger images are made smaller; else they keep their size.
    """
    centre, width = (torch.tensor(values, device=images.device).view(1, -1, 1, 1) for values in (mean, std))
    x, side = ((images + 1) / 2 - centre) / width, images.shape[-1]
    if side == BACKBONE_SIZE or (side > BACKBONE_SIZE and not exact):
        return x
    return interpolate(x, BACKBONE_SIZE, mode="bilinear", align_corners=False)


class Backbone(nn.Module):
    """Frozen network that gives feature maps of images, finest first, each half as wide and high as the previous.

    Scales are those of projected GANs (arXiv:2111.01007); Zyriix/GDD:feature_networks/vit.py,
    autonomousvision/stylegan-xl:feature_networks/pretrained_builder.py.

    Attributes:
        image_channels: Channels of the images; None accepts grey and colour.
        resolution: Size of the images; None accepts any size.
        channels: Channels of each map.
        sizes: Nominal sizes of the maps after mixing, which doubles them; they decide the depth of the heads.
        mixing: Channels of the first mixed map; the next maps have 2, 4, ... times as many.
        widths: Channels of a head's maps by their nominal size.
        weights: File of the committed weights of a network that a script of tools/ made.
        statistics: Mean and standard deviation of each channel of the network's images, if the network needs them
            normalised.
        memory_format: Memory format of the weights and maps, and of the layers that take these.
        levels: Layers that give one map each.
    """

    image_channels: ClassVar[int | None] = 3
    resolution: ClassVar[int | None] = None
    channels: ClassVar[Sequence[int]]
    sizes: ClassVar[Sequence[int]] = (128, 64, 32, 16)
    mixing: ClassVar[int] = 64
    # StyleGAN-XL (arXiv:2202.00273); autonomousvision/stylegan-xl:pg_modules/discriminator.py.
    widths: ClassVar[Mapping[int, int]] = {8: 512, 16: 256, 32: 128, 64: 64, 128: 64, 256: 32}
    weights: ClassVar[Path]
    statistics: ClassVar[tuple[Sequence[float], Sequence[float]] | None] = None
    memory_format: ClassVar[torch.memory_format] = torch.contiguous_format
    levels: Any

    def forward(self, images: Tensor) -> list[Tensor]:
        """Maps ``(N, channels[i], h, w)`` of images float32 ``(N, C, H, W)`` in [-1, 1]."""
        maps, x = [], images if self.statistics is None else normalised(images, *self.statistics)
        for level in self.levels:
            x = level(x)
            maps.append(x)
        return maps

    @classmethod
    def takes(cls, image_channels: int, resolution: int) -> bool:
        """Whether the network takes images of a format."""
        return cls.image_channels in (None, image_channels) and cls.resolution in (None, resolution)

    def published(self) -> nn.Module:
        """The part whose weights are published."""
        return self

    def load_published(self, path: Path | None) -> None:
        """Loads the published weights.

        Args:
            path: Downloaded file of the weights; None takes those of an installation.

        Raises:
            UserError: The file is missing or damaged, or holds other weights.
        """
        net, path = self.published(), path or self.weights
        state, own = read_state_dict(path), net.state_dict()
        try:
            net.load_state_dict({key: value for key, value in state.items() if key in own})
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(path, f"does not hold this backbone's weights ({reason})", "fetch it again") from None


class DigitsBackbone(Backbone):
    """Three convolutions with maps of 8, 4 and 2 pixels, for images float32 ``(N, 1, 8, 8)`` in [-1, 1].

    Attributes:
        classifier: Layers after the last map, used only to train the network.
    """

    weights = Path(__file__).with_name("digits.safetensors")
    image_channels = 1
    resolution = 8
    channels = (16, 32, 64)
    sizes = (16, 8, 4)
    mixing = 16
    widths = {4: 64, 8: 32, 16: 16}

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.ModuleList([backbone_level(1, 16, pool=False), backbone_level(16, 32), backbone_level(32, 64)])
        self.classifier = nn.Sequential(nn.Flatten(), nn.Dropout(0.3), nn.Linear(256, 10))


def backbone_level(inputs: int, outputs: int, pool: bool = True) -> nn.Sequential:
    """A level of a small backbone: max pooling, a 3×3 convolution, batch normalisation and ReLU."""
    layers = [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*([nn.MaxPool2d(2)] if pool else []), *layers)


class VGG16BN(Backbone):
    """VGG16 with batch normalisation: the maps before its second to fifth pooling (112 to 14 pixels wide)."""

    channels = (128, 256, 512, 512)
    statistics = IMAGENET

    def __init__(self) -> None:
        super().__init__()
        vgg = _package("torchvision.models.vgg")
        # Without the classifier, most of VGG's weights.
        self.features = vgg.make_layers(vgg.cfgs["D"], batch_norm=True)
        # A tuple hides parts, whose layers are named already, from torch.
        self.levels = tuple(self.features[start:stop] for start, stop in ((0, 13), (13, 23), (23, 33), (33, 43)))


class EfficientNetLite0(Backbone):
    """EfficientNet-lite0: the maps after its second, third, fifth and last stage (56 to 7 pixels wide)."""

    channels = (24, 40, 112, 320)
    statistics = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)

    def __init__(self) -> None:
        super().__init__()
        net = _package("timm").create_model("tf_efficientnet_lite0", pretrained=False)
        self.conv_stem, self.bn1, self.blocks = net.conv_stem, net.bn1, net.blocks
        first = nn.Sequential(self.conv_stem, self.bn1, *self.blocks[:2])
        # A tuple, as in VGG16BN.
        self.levels = (first, self.blocks[2:3], self.blocks[3:5], self.blocks[5:7])


class DeiTBaseDistilled(Backbone):
    """DeiT-base, distilled: tokens after every third block, as maps of 56 to 7 pixels by random frozen layers."""

    channels = (96, 192, 384, 768)

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
        """See :meth:`Backbone.forward`."""
        x = normalised(images, *IMAGENET, exact=True)
        maps = self.net.forward_intermediates(x, indices=[2, 5, 8, 11], intermediates_only=True)
        return [layer(tokens) for layer, tokens in zip(self.spread, maps)]

    def published(self) -> nn.Module:
        """See :meth:`Backbone.published`; the spreading layers stay random."""
        return cast(nn.Module, self.net)


def _package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError:
        fault = f"the package {name.partition('.')[0]} is not installed"
        remedy = how_to_install("timm>=1.0", "torchvision>=0.20", "safetensors>=0.4")
        raise UserError("options.backbones", fault, remedy) from None


def make_backbone(name: str, image_channels: int, resolution: int, where: str = "options") -> Backbone:
    """Makes a frozen backbone with its published weights, in evaluation mode.

    Args:
        name: Key of :data:`sida.config.feature_networks.BACKBONES`.
        image_channels: Channels of the images.
        resolution: Height and width of the images.
        where: Place named in errors.

    Raises:
        UserError: The backbone does not take such images, or a package or the weights are missing.
    """
    entry = BACKBONES[name]
    cls: type[Backbone] = entry.load()
    if not cls.takes(image_channels, resolution):
        size = f"{cls.resolution}×{cls.resolution}, " if cls.resolution else ""
        others = [other for other, one in BACKBONES.items() if one.load().takes(image_channels, resolution)]
        ours = f"{resolution}×{resolution}, {image_channels}"
        fault = f"'{name}' takes images of {size}{cls.image_channels} channels, not {ours}"
        raise UserError(f"{where}.backbones", fault, f"for these name {' or '.join(others)}")
    backbone = cls()
    backbone.load_published(fetch(entry.asset) if entry.asset else None)
    return backbone.eval().requires_grad_(False)


class Mixing(nn.Module):
    """Mixes each map's channels at random, adds all coarser maps, and doubles the size.

    Args:
        channels: Channels of the maps, finest first.
        width: Channels of the first mixed map.

    Attributes:
        channels: Channels of the mixed maps: ``width``, ``width``, ``2 width``, ``4 width``, ...

    Source: projected GANs (arXiv:2111.01007), section 3.2; autonomousvision/stylegan-xl:pg_modules/projector.py.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        inner = [width << level for level in range(len(channels))]
        self.channels = [width, *inner[:-1]]
        self.across_channels = nn.ModuleList(nn.Conv2d(old, new, 1) for old, new in zip(channels, inner))
        self.across_scales = nn.ModuleList(nn.Conv2d(old, new, 1) for old, new in zip(inner, self.channels))
        self.requires_grad_(False)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Mixed maps, finest first; maps ``(N, C, h, w)`` halve in size from one to the next."""
        mixed: list[Tensor] = []
        for x, channels, scales in reversed(list(zip(maps, self.across_channels, self.across_scales))):
            x = channels(x)
            if mixed:
                x = x + mixed[-1]
            x = interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
            mixed.append(scales(x))
        return mixed[::-1]


#: Width of a class's embedding, and channels of the map with which it is multiplied.
EMBEDDING, COMPARED = 320, 64


class ClassProjection(nn.Linear):
    """A linear layer with equalised learning rate, and leaky ReLU with gain √2.

    Weights start as N(0, 1) and are scaled in the forward pass; biases start as 0.

    Source: StyleGAN2 (arXiv:1912.04958); Zyriix/GDD:training/networks_stylegan2.py (``FullyConnectedLayer``).
    """

    def reset_parameters(self) -> None:
        """Draws the weights from torch's global generator."""
        nn.init.normal_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in)`` to ``(N, out)``."""
        return math.sqrt(2) * leaky_relu(linear(x, self.weight / math.sqrt(self.in_features), self.bias), 0.2)


class Head(nn.Module):
    """Head that reduces a map to a common size and gives logits of its patches, conditioned on classes if any.

    Convolutions have spectral normalisation. Batch normalisation always uses the batch, since the official
    discriminator is always in training mode.

    Args:
        channels: Channels of the map.
        size: Nominal size of the map.
        end: Nominal size of the map from which the logits are computed.
        widths: Channels of further maps by nominal size.
        label_dim: Number of classes; 0 is unconditional.

    Source: StyleGAN-XL (arXiv:2202.00273), section 3.1; Zyriix/GDD:pg_modules/discriminator.py, whose class embeddings
    start from ImageNet's; here they start at random.
    """

    def __init__(self, channels: int, size: int, end: int, widths: Mapping[int, int], label_dim: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        while size > end:
            size //= 2
            layers += [
                spectral_norm(nn.Conv2d(channels, widths[size], 4, 2, 1)),
                nn.BatchNorm2d(widths[size], track_running_stats=False),
                nn.LeakyReLU(0.2),
            ]
            channels = widths[size]
        self.down = nn.Sequential(*layers)
        kernel = 4 if end >= 8 else max(1, end // 2)
        self.logits = spectral_norm(nn.Conv2d(channels, COMPARED if label_dim else 1, kernel, bias=False))
        self.embedding = self.projection = None
        if label_dim:
            self.embedding = nn.Linear(label_dim, EMBEDDING, bias=False)
            nn.init.normal_(self.embedding.weight)
            self.projection = ClassProjection(EMBEDDING, COMPARED)

    def forward(self, x: Tensor, class_labels: Tensor | None) -> Tensor:
        """Logits ``(N, patches)`` of a map ``(N, C, h, w)``; ``class_labels`` one-hot ``(N, label_dim)``."""
        x = self.logits(self.down(x))
        if self.embedding is not None and self.projection is not None:
            assert class_labels is not None
            class_vector = self.projection(self.embedding(class_labels))
            x = (x * class_vector[:, :, None, None]).sum(1, keepdim=True) / math.sqrt(COMPARED)
        return x.flatten(1)


class ProjectedDiscriminator(nn.Module):
    """Discriminator that gives logits of images, one tensor for each backbone.

    Backbones and mixing are not registered as submodules: they have no trained parameters, are not part of a run's
    state and never change their mode. They follow the module to a device.

    Args:
        backbones: Frozen feature networks.
        label_dim: Number of classes; 0 is unconditional.

    Draws for the frozen mixing and the heads come from torch's global generator.

    Source: projected GANs (arXiv:2111.01007); GDD (arXiv:2405.20750).
    """

    def __init__(self, backbones: Sequence[Backbone], label_dim: int = 0) -> None:
        super().__init__()
        mixings = [Mixing(net.channels, net.mixing) for net in backbones]
        # A tuple hides them from torch.
        self._frozen = tuple(nn.Sequential(*pair).eval() for pair in zip(backbones, mixings))
        self.heads = nn.ModuleList()
        for net, mixing in zip(backbones, mixings):
            end = min(8, net.sizes[-1])
            maps = zip(mixing.channels, net.sizes)
            heads = nn.ModuleList(Head(c, size, end, net.widths, label_dim) for c, size in maps)
            self.heads.append(heads.to(memory_format=net.memory_format))
            mixing.to(memory_format=net.memory_format)

    def forward(self, images: Tensor, class_labels: Tensor | None = None) -> list[Tensor]:
        """Computes logits.

        Args:
            images: float32 ``(N, C, H, W)`` in [-1, 1].
            class_labels: One-hot ``(N, label_dim)``; ignored by an unconditional discriminator.

        Returns:
            A tensor ``(N, L)`` for each backbone: the patches of all its heads.
        """
        logits = []
        for frozen, heads in zip(self._frozen, self.heads):
            parts = [head(x, class_labels) for head, x in zip(cast(nn.ModuleList, heads), frozen(images))]
            logits.append(torch.cat(parts, 1))
        return logits

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ProjectedDiscriminator:
        for net in self._frozen:
            net._apply(fn)
        return super()._apply(fn, recurse)
