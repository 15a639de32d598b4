"""Inception-v3 of the original FID, as NVIDIA's TorchScript file ``inception-2015-12-05.pt``.

Call signature of the file: ``net(uint8 (N, 3, H, W), return_features=True) -> float32 (N, 2048)`` for FID and
precision/recall, ``net(images, no_output_bias=True) -> probabilities (N, 1008)`` for the inception score. It resizes to
299×299 inside, with the filter of the original TensorFlow graph.

The second call repeats the whole network for one last linear layer. This module runs the network once and applies the
weight of the last layer, without bias, to the features; loading checks the result against the second call.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from eval.features.base import Extractor, as_rgb
from eval.features.registry import EXTRACTORS
from eval.features.resize import resize_clean
from sida.assets import checked, fetch, load_registry
from sida.config.plugins import check_code_path
from sida.errors import UserError
from sida.files.atomic import sha256_file, sha256_json
from sida.runtime.devices import tf32

(ASSET,) = EXTRACTORS["inception"].assets
_SIZE = 299
_TOLERANCE = 1e-5


class InceptionExtractor(Extractor):
    """The detector of all published FID, IS and precision/recall numbers.

    Args:
        device: Torch device of the network.
        path: The TorchScript file; None takes the registered asset (fetched if it is not in the cache).
        two_passes: Compute probabilities by a second pass; for files whose last layer cannot be found.

    Raises:
        UserError: A missing or broken file, a file whose last layer does not give its probabilities, or another program
            than the published one (it may write files) without the user's permission.
    """

    name = "inception"

    def __init__(
        self, device: str | torch.device = "cpu", path: str | Path | None = None, two_passes: bool = False
    ) -> None:
        super().__init__(device)
        self.path = checked(path) if path is not None else fetch(ASSET)
        if not self.path.is_file():
            raise UserError(f"{path}: no such feature network; fetch it with `sida assets fetch {ASSET}`")
        self.sha256 = sha256_file(self.path)
        if path is not None and self.sha256 != load_registry()[ASSET].sha256:
            check_code_path(self.path, "a TorchScript program other than the published one")
        self._net = load_torchscript(self.path, self.device)
        self.two_passes = two_passes
        probe = torch.randint(0, 256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        with torch.inference_mode():
            features = self._features(probe.to(self.device))
            probabilities = self._probabilities(probe.to(self.device))
            self._weight = None if two_passes else self._output_weight(features, probabilities)
        self.num_features, self.num_classes = features.shape[1], probabilities.shape[1]

    def _forward(self, images: torch.Tensor, logits: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        rgb = as_rgb(images, self.name).contiguous()
        features = self._features(rgb)
        if not logits:
            return features, None
        if self._weight is not None:
            return features, features @ self._weight.T
        return features, self._probabilities(rgb).clamp_min(1e-38).log()

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
        # First the layer's name in the published file; any other matrix of that shape must pass the same test.
        for _, tensor in sorted(tensors, key=lambda item: item[0] != "output.weight"):
            if tuple(tensor.shape) == shape:
                ours = torch.softmax(features @ tensor.float().T, 1)
                if bool((ours - probabilities).abs().max() <= _TOLERANCE * probabilities.abs().max()):
                    return tensor.detach().float()
        raise UserError(
            f"{self.path}: no matrix {shape} in it gives its own class probabilities from its features; "
            "use the published file, or the option two_passes: true"
        )


class InceptionCleanExtractor(InceptionExtractor):
    """Inception after clean-fid's resize to 299×299, features only; its numbers differ, so it has another name."""

    name = "inception_clean"

    def __init__(self, device: str | torch.device = "cpu", path: str | Path | None = None) -> None:
        super().__init__(device, path, two_passes=True)
        self.num_classes = 0
        self.sha256 = sha256_json([self.sha256, "clean-fid resize, Pillow bicubic float32, no resize inside"])
        if not hasattr(self._net, "layers"):
            raise UserError(f"{self.path}: has no 'layers' to call without its own resize; use the published file")

    def _forward(self, images: torch.Tensor, logits: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        resized = resize_clean(as_rgb(images, self.name), _SIZE).to(self.device)
        features: torch.Tensor = self._net.layers((resized - 128) / 128)
        return features.reshape(len(images), -1).to(torch.float32), None


class InceptionTF32Extractor(InceptionExtractor):
    """Inception with TF32 and channels-last maps on a GPU; its last digits differ, so it has another name."""

    name = "inception_tf32"
    tf32 = True

    def __init__(
        self, device: str | torch.device = "cpu", path: str | Path | None = None, two_passes: bool = False
    ) -> None:
        super().__init__(device, path, two_passes)
        self.sha256 = sha256_json([self.sha256, "TF32, channels last"])
        self._net = self._net.to(memory_format=torch.channels_last)

    def _forward(self, images: torch.Tensor, logits: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        with tf32(True):
            return super()._forward(images, logits)


def load_torchscript(path: Path, device: torch.device) -> Any:
    """Loads a TorchScript file in evaluation mode.

    Raises:
        UserError: Broken file.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the published file needs TorchScript, deprecated or not
            return torch.jit.load(str(path), map_location=device).eval()
    except (RuntimeError, ValueError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{path}: not a TorchScript network ({reason}); delete it and fetch it again") from None
