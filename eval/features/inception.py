"""Inception-v3 of the original FID, as NVIDIA's TorchScript file ``inception-2015-12-05.pt``.

Call signature of the file: ``net(uint8 (N, 3, H, W), return_features=True) -> float32 (N, 2048)`` for FID and
precision/recall, ``net(images, no_output_bias=True) -> probabilities (N, 1008)`` for the inception score. It resizes to
299×299 inside, with the filter of the original TensorFlow graph.

The second call repeats the whole network for one last linear layer. This module runs the network once and applies the
weight of the last layer, without bias, to the features; loading checks the result against the second call.
"""

import contextlib
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sida.assets.cache import checked, fetch
from sida.assets.registry import load_registry
from sida.config.lookup import check_code_path
from sida.errors import UserError, reason_of
from sida.eval.features.base import Extractor, as_rgb
from sida.eval.features.pixels import clean_fid, resized
from sida.eval.features.registry import EXTRACTORS, ON_PROCESSOR, variant_digest
from sida.files.atomic import sha256_file

(ASSET,) = EXTRACTORS["inception"].assets
_SIZE = 299
_TOLERANCE = 1e-5


class InceptionExtractor(Extractor):
    """The detector of all published FID, IS and precision/recall numbers.

    Args:
        device: Torch device of the network.
        path: The TorchScript file; None takes the registered asset (fetched if it is not in the cache).

    Raises:
        UserError: A missing or broken file, a file whose last layer does not give its probabilities, or another program
            than the published one (it may write files) without the user's permission.
    """

    name = "inception"
    at_once = 32
    #: Difference from the published network, part of the digest; None for the published network.
    variant: ClassVar[str | None] = None

    def __init__(self, device: str | torch.device = "cpu", path: str | Path | None = None) -> None:
        super().__init__(device)
        self.path = checked(path) if path is not None else fetch(ASSET)
        if not self.path.is_file():
            raise UserError(path, "no such feature network", f"fetch it with `sida assets fetch {ASSET}`")
        self.sha256 = sha256_file(self.path)
        if path is not None and self.sha256 != load_registry()[ASSET].sha256:
            check_code_path(self.path, "a TorchScript program other than the published one")
        self._net = load_torchscript(self.path, self.device)
        noise = torch.randint(0, 256, (1, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        self._probe = noise.to(self.device)
        # TorchScript's own optimisation takes longer than a few passes do.
        with torch.inference_mode(), torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            features, probabilities = self._features(self._probe), self._probabilities(self._probe)
            self._weight = self._output_weight(features, probabilities)
        self.num_features, self.num_classes = features.shape[1], probabilities.shape[1]
        if self.variant is not None:
            self.sha256 = variant_digest(self.sha256, self.variant)
            self._prepare(features)

    def _prepare(self, published: torch.Tensor) -> None:
        """Prepares a variant, given the published network's features of the probe."""

    def _forward(self, images: torch.Tensor, logits: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        rgb = as_rgb(images, self.name).contiguous()
        features = self._features(rgb)
        return features, features @ self._weight.T if logits else None

    def _features(self, images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self._net(images, return_features=True)
        return features.reshape(len(images), -1).to(torch.float32)

    def _probabilities(self, images: torch.Tensor) -> torch.Tensor:
        probabilities: torch.Tensor = self._net(images, no_output_bias=True)
        return probabilities.to(torch.float32)

    def _output_weight(self, features: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
        """Weight (K, C) of the last layer, checked: ``softmax(features @ weightᵀ)`` equals the file's probabilities."""
        shape = (probabilities.shape[1], features.shape[1])
        tensors = [*self._net.named_parameters(), *self._net.named_buffers()]
        # The layer's name in the published file is tried first; any other matrix of this shape must pass the same test.
        for _, tensor in sorted(tensors, key=lambda item: item[0] != "output.weight"):
            if tuple(tensor.shape) == shape:
                recomputed = torch.softmax(features @ tensor.float().T, 1)
                if bool((recomputed - probabilities).abs().max() <= _TOLERANCE * probabilities.abs().max()):
                    return tensor.detach().float()
        fault = f"no matrix {shape} in it gives its own class probabilities from its features"
        raise UserError(self.path, fault, "use the published file")


class InceptionCleanExtractor(InceptionExtractor):
    """clean-fid's features after its resize to 299×299; their numbers differ, so the extractor has another name.

    Raises:
        UserError: Also a file of another name than the published one, which clean-fid does not read.
    """

    name = "inception_clean"
    variant = "clean-fid resize, Pillow bicubic float32, no resize inside"
    gradient = False

    def _prepare(self, published: torch.Tensor) -> None:
        with clean_fid():
            from cleanfid.inception_torchscript import InceptionV3W

        self.num_classes, name = 0, Path(load_registry()[ASSET].target).name
        # clean-fid looks for the file by its name in a folder, and calls the layers of its program.
        if self.path.name != name or not hasattr(self._net, "layers"):
            raise UserError(self.path, f"is not the file '{name}' with 'layers'", "use the published file")
        self._net = InceptionV3W(str(self.path.parent), download=False).to(self.device)

    def _forward(self, images: torch.Tensor, logits: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        features: torch.Tensor = self._net(resized(as_rgb(images, self.name), _SIZE, rounded=False).to(self.device))
        return features.to(torch.float32), None


class InceptionCPUExtractor(InceptionExtractor):
    """Inception for processors, faster by other rounding: the last digits differ, so it has another name.

    Feature maps are channels-last, and batch normalisation and ReLU are part of the convolution before them.

    Raises:
        UserError: Also a file whose operations cannot be combined so.
    """

    name = "inception_cpu"
    variant = ON_PROCESSOR["inception"][1]
    gradient = False

    def _prepare(self, published: torch.Tensor) -> None:
        self._folded = _Folded([*self._net.parameters(), *self._net.buffers()])
        with torch.inference_mode():
            for _ in range(2):  # the first pass records the operations, the second one combines them
                features = self._features(self._probe)
        if not bool((features - published).abs().max() <= _TOLERANCE * published.abs().max()):
            fault = "gives other features with folded convolutions"
            raise UserError(self.path, fault, "name its file: --extractor-option inception.path=FILE")

    def _features(self, images: torch.Tensor) -> torch.Tensor:
        # TorchScript's own optimisation repeats for every shape, and its fused operations would not be replaced.
        with torch.jit.optimized_execution(False), getattr(self, "_folded", contextlib.nullcontext()):  # type: ignore[attr-defined]
            return super()._features(images)


@dataclass
class _Convolution:
    """A convolution of the network with the operations that follow it directly."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    norm: tuple[Any, ...] | None = None
    relu: bool = False
    packed: bool = False


class _Folded(TorchDispatchMode):
    """Runs a network with channels-last maps, each convolution with its batch normalisation and ReLU as one operation.

    The network's program does not change: its operations are replaced while they run. The first pass records the batch
    normalisation and ReLU that follow each convolution; later passes compute them with the convolution and skip them.

    Args:
        tensors: Parameters and buffers; convolutions with other weights are not changed.
    """

    def __init__(self, tensors: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self._own = {tensor.data_ptr() for tensor in tensors}
        self._convolutions: dict[int, _Convolution] = {}  # by the address of the weight
        self._last: tuple[torch.Tensor | None, _Convolution | None] = (None, None)  # output of the latest operation

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and the import of torch's compiler takes seconds

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        aten = torch.ops.aten
        if func is aten.conv2d.default and args[1].data_ptr() in self._own and not kwargs:
            return self._convolve(*args)
        tensor, before = self._last
        if before is not None and args and args[0] is tensor:
            if func is aten.batch_norm.default:
                if before.packed:
                    return tensor
                if before.norm is None and not args[5]:
                    before.norm = args[1:]
                    result = func(*args)
                    self._last = (result, before)
                    return result
            if func in (aten.relu.default, aten.relu_.default):
                if before.packed and before.relu:
                    return tensor
                before.relu = before.relu or before.norm is not None
        self._last = (None, None)
        return func(*args, **(kwargs or {}))

    def _convolve(
        self,
        images: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None = None,
        stride: Any = (1, 1),
        padding: Any = (0, 0),
        dilation: Any = (1, 1),
        groups: int = 1,
    ) -> torch.Tensor:
        images = images.contiguous(memory_format=torch.channels_last)
        convolution = self._convolutions.get(weight.data_ptr())
        fuses = images.device.type == "cpu" and torch.backends.mkldnn.is_available()
        settings = (padding, stride, dilation, groups)
        if convolution is None:
            convolution = self._convolutions[weight.data_ptr()] = _Convolution(weight, bias)
        elif convolution.norm is not None and not convolution.packed:
            convolution.weight, convolution.bias = _fold(convolution)
            convolution.packed = True
            if fuses:
                shape = list(images.shape)
                packed = torch.ops.mkldnn._reorder_convolution_weight(convolution.weight, *settings, shape)
                convolution.weight = packed
        weight, bias = convolution.weight, convolution.bias
        if convolution.packed and fuses:
            after = "relu" if convolution.relu else "none"
            result = torch.ops.mkldnn._convolution_pointwise(images, weight, bias, *settings, after, [], "")
        else:
            result = torch.conv2d(images, weight, bias, stride, padding, dilation, groups)
            result = result.relu_() if convolution.packed and convolution.relu else result
        self._last = (result, convolution)
        return result


def _fold(convolution: _Convolution) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of a convolution with its batch normalisation, computed in float64."""
    assert convolution.norm is not None
    gain, shift, mean, variance, _, _, eps, *_ = convolution.norm
    assert mean.shape == variance.shape == (len(convolution.weight),)
    scale = (variance.double() + eps).rsqrt() * (1 if gain is None else gain.double())
    bias = (0 if convolution.bias is None else convolution.bias.double()) - mean.double()
    bias = bias * scale + (0 if shift is None else shift.double())
    weight = (convolution.weight.double() * scale[:, None, None, None]).float()
    return weight.contiguous(memory_format=torch.channels_last), bias.float()


def load_torchscript(path: Path, device: torch.device) -> Any:
    """Loads a TorchScript file in evaluation mode.

    Raises:
        UserError: Broken file.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the published file needs TorchScript, deprecated or not
            net = torch.jit.load(str(path), map_location=device).eval()
    except (RuntimeError, ValueError, OSError) as error:
        fault = f"not a TorchScript network ({reason_of(error)})"
        raise UserError(path, fault, "delete it and fetch it again") from None
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    return net
