"""DINOv2 ViT-L/14 for FD-DINOv2: the normalised class token, 1024 features.

Images are resized to 224×224 by antialiased bicubic interpolation in float, divided by 255 and normalised with
ImageNet's mean and std (NVlabs/edm2:calculate_metrics.py; algorithm.md, "Measuring").
"""

from __future__ import annotations

from pathlib import Path

import torch

from eval.features.base import Extractor, as_rgb
from eval.features.digits import weights_digest
from eval.features.hub import load_hub_model
from eval.features.registry import EXTRACTORS
from eval.features.resize import resize_bytes
from sida.files.atomic import sha256_json
from sida.runtime.devices import tf32

MODEL = "dinov2_vitl14"
_WEIGHTS, _CODE = EXTRACTORS["dinov2"].assets
_SIZE = 224
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class DinoV2Extractor(Extractor):
    """The detector of FD-DINOv2.

    Args:
        device: Torch device of the network.
        repository: Copy of DINOv2's repository (a folder with ``hubconf.py``), whose code runs with the user's
            permission; None takes the registered archive of one commit, unpacked in the cache.
        weights: File of the weights; None takes the registered asset, ``"hub"`` leaves loading to the repository.
        model: Entry point of the repository.

    Raises:
        UserError: Repository or weights that cannot be loaded.
    """

    name = "dinov2"
    resize = "torch bicubic, antialiased, float"
    at_once = 16
    #: Precision of the computation, if it changes the features.
    precision: str | None = None

    def __init__(
        self,
        device: str | torch.device = "cpu",
        repository: str | None = None,
        weights: str | Path | None = None,
        model: str = MODEL,
    ) -> None:
        super().__init__(device)
        net, code = load_hub_model(repository or _CODE, model, weights or _WEIGHTS)
        self._net = net.to(self.device).eval().requires_grad_(False)
        # The digest is of the weights, since two files with equal tensors may differ in bytes.
        facts = [weights_digest(self._net.state_dict()), self.resize, code]
        self.sha256 = sha256_json(facts if self.precision is None else [*facts, self.precision])
        self._prepare()
        self._mean = torch.tensor(_MEAN, device=self.device).view(1, 3, 1, 1)
        self._std = torch.tensor(_STD, device=self.device).view(1, 3, 1, 1)
        with torch.inference_mode():
            probe = torch.zeros(1, 3, _SIZE, _SIZE, dtype=torch.uint8, device=self.device)
            self.num_features = self._forward(probe, logits=False)[0].shape[1]

    def _forward(self, images: torch.Tensor, logits: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        resized = self._resize(as_rgb(images, self.name)).to(self.device, torch.float32)
        return self._features((resized / 255 - self._mean) / self._std).to(torch.float32), None

    def _prepare(self) -> None:
        """Converts the network to its precision."""

    def _features(self, normalised: torch.Tensor) -> torch.Tensor:
        """Features of normalised images float32 (N, 3, 224, 224)."""
        features: torch.Tensor = self._net(normalised)
        return features

    def _resize(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.interpolate(
            images.to(torch.float32), size=(_SIZE, _SIZE), mode="bicubic", antialias=True
        )


class DinoV2PillowExtractor(DinoV2Extractor):
    """DINOv2 after Pillow's resize, rounded to bytes (as dgm-eval); its numbers differ, so it has another name."""

    name = "dinov2_pil"
    resize = "Pillow bicubic, uint8"

    def _resize(self, images: torch.Tensor) -> torch.Tensor:
        return resize_bytes(images, _SIZE)


class DinoV2TF32Extractor(DinoV2Extractor):
    """DINOv2 with products in TF32 on a GPU; its last digits differ, so it has another name."""

    name = "dinov2_tf32"
    precision = "TF32"
    tf32 = True

    def _features(self, normalised: torch.Tensor) -> torch.Tensor:
        with tf32(True):
            return super()._features(normalised)


class DinoV2HalfExtractor(DinoV2Extractor):
    """DINOv2 with weights and activations in float16; its last digits differ, so it has another name."""

    name = "dinov2_fp16"
    precision = "float16"

    def _prepare(self) -> None:
        self._net.half()

    def _features(self, normalised: torch.Tensor) -> torch.Tensor:
        return super()._features(normalised.half())
