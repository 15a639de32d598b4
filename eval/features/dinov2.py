"""DINOv2 ViT-L/14 for FD-DINOv2: the normalised class token, 1024 features.

Images are resized to 224×224 by antialiased bicubic interpolation in float, divided by 255 and normalised with
ImageNet's mean and std (NVlabs/edm2:calculate_metrics.py; algorithm.md, "Measuring").
"""

from __future__ import annotations

from pathlib import Path

import torch

from eval.features.base import Extractor, as_rgb
from eval.features.digits import weights_digest
from eval.features.registry import EXTRACTORS
from eval.features.resize import resize_bytes
from sida.assets import checked, fetch
from sida.checkpoint import read_state_dict
from sida.errors import UserError
from sida.io import sha256_json
from sida.plugins import check_place
from sida.tf32 import tf32

REPOSITORY = "facebookresearch/dinov2:main"
MODEL = "dinov2_vitl14"
(ASSET,) = EXTRACTORS["dinov2"].assets
INPUT_SIZE = 224
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class DinoV2Extractor(Extractor):
    """The detector of FD-DINOv2.

    Args:
        device: Where it runs.
        repository: ``owner/name:ref`` on GitHub, or a local copy of the repository (a folder with ``hubconf.py``).
            torch.hub runs its code.
        weights: File of the weights; None takes the registered asset, ``"hub"`` lets the repository load its own.
        model: Entry point of the repository.

    Raises:
        UserError: Repository or weights that cannot be loaded.
    """

    name = "dinov2"
    resize = "torch bicubic, antialiased, float"
    #: What computes the network, where that changes its features.
    precision: str | None = None

    def __init__(
        self,
        device: str | torch.device = "cpu",
        repository: str = REPOSITORY,
        weights: str | Path | None = None,
        model: str = MODEL,
    ) -> None:
        super().__init__(device)
        net = load_hub_model(repository, model, weights)
        self._net = net.to(self.device).eval().requires_grad_(False)
        # The digest is over the weights themselves: a file's bytes may differ where its tensors do not.
        facts = [weights_digest(self._net.state_dict()), self.resize]
        self.sha256 = sha256_json(facts if self.precision is None else [*facts, self.precision])
        self._prepare()
        self._mean = torch.tensor(_MEAN, device=self.device).view(1, 3, 1, 1)
        self._std = torch.tensor(_STD, device=self.device).view(1, 3, 1, 1)
        with torch.inference_mode():
            probe = torch.zeros(1, 3, INPUT_SIZE, INPUT_SIZE, dtype=torch.uint8, device=self.device)
            self.num_features = self._forward(probe, logits=False)[0].shape[1]

    def _forward(self, images: torch.Tensor, logits: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        resized = self._resize(as_rgb(images, self.name)).to(self.device, torch.float32)
        return self._features((resized / 255 - self._mean) / self._std).to(torch.float32), None

    def _prepare(self) -> None:
        """Changes the network for the precision."""

    def _features(self, normalised: torch.Tensor) -> torch.Tensor:
        """What the network gives for normalised images float32 (N, 3, 224, 224)."""
        features: torch.Tensor = self._net(normalised)
        return features

    def _resize(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.interpolate(
            images.to(torch.float32), size=(INPUT_SIZE, INPUT_SIZE), mode="bicubic", antialias=True
        )


class DinoV2PillowExtractor(DinoV2Extractor):
    """The same network after Pillow's resize, rounded to bytes (dgm-eval): other numbers, hence another name."""

    name = "dinov2_pil"
    resize = "Pillow bicubic, uint8"

    def _resize(self, images: torch.Tensor) -> torch.Tensor:
        return resize_bytes(images, INPUT_SIZE)


class DinoV2TF32Extractor(DinoV2Extractor):
    """The same network with products in TF32 on a GPU: other digits, hence another name."""

    name = "dinov2_tf32"
    precision = "TF32"
    tf32 = True

    def _features(self, normalised: torch.Tensor) -> torch.Tensor:
        with tf32(True):
            return super()._features(normalised)


class DinoV2HalfExtractor(DinoV2Extractor):
    """The same network with weights and activations in float16: other digits, hence another name."""

    name = "dinov2_fp16"
    precision = "float16"

    def _prepare(self) -> None:
        self._net.half()

    def _features(self, normalised: torch.Tensor) -> torch.Tensor:
        return super()._features(normalised.half())


def load_hub_model(repository: str, model: str, weights: str | Path | None) -> torch.nn.Module:
    """Loads a network through torch.hub, from GitHub or from a local folder.

    Raises:
        UserError: Anything that fails, in one line.
    """
    local = Path(repository).is_dir()
    if not local and (repository.startswith((".", "/", "~")) or ":" not in repository):
        raise UserError(f"{repository}: no such folder; give a copy of {REPOSITORY.split(':')[0]} or owner/name:ref")
    if local:
        check_place(repository, "a folder whose hubconf.py is run")
    own = weights == "hub"
    path = None if own else _weights_file(weights)
    try:
        net: torch.nn.Module = torch.hub.load(
            repository,
            model,
            source="local" if local else "github",
            trust_repo=True,
            verbose=False,
            pretrained=own,
            **({} if local else {"skip_validation": True}),
        )
    except Exception as error:  # torch.hub runs foreign code, which may raise anything
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{repository}: cannot load '{model}' ({reason}); without network give a local copy of the repository "
            "as option 'repository' of extractor dinov2"
        ) from None
    if path is not None:
        try:
            net.load_state_dict(read_state_dict(path))
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"{path}: does not hold the weights of '{model}' ({reason}); fetch it again") from None
    return net


def _weights_file(weights: str | Path | None) -> Path:
    if weights is None:
        return fetch(ASSET)
    path = checked(weights)
    if not path.is_file():
        raise UserError(f"{path}: no such file of weights; fetch it with `sida assets fetch {ASSET}`")
    return path
