"""Features of GDD's discriminator for digits, to compare with features that GDD did not train against."""

from __future__ import annotations

import torch

from eval.features.base import Extractor
from eval.features.digits import weights_digest
from sida.discriminator import make_backbone
from sida.errors import UserError


class DigitsBackboneExtractor(Extractor):
    """Last feature map of the digits backbone of the discriminator (:mod:`sida.discriminator.digits`), 64 × 2 × 2."""

    name = "digits_backbone"
    num_features = 256

    def __init__(self, device: str | torch.device = "cpu") -> None:
        super().__init__(device)
        net = make_backbone("digits", "published", 1, 8, f"extractor '{self.name}'")
        self.sha256 = weights_digest(net.state_dict())
        self._net = net.to(self.device)

    def _forward(self, images: torch.Tensor, logits: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        if tuple(images.shape[1:]) != (1, 8, 8):
            raise UserError(f"extractor '{self.name}': images must have shape (N, 1, 8, 8), got {tuple(images.shape)}")
        return self._net(images.to(torch.float32) / 127.5 - 1)[-1].flatten(1), None
