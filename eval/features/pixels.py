"""Raw pixels as features: a distance without any trained network."""

from __future__ import annotations

import torch

from eval.features.base import Extractor
from sida.files.atomic import sha256_json


class PixelExtractor(Extractor):
    """Pixels in [-1, 1], flattened; ``num_features`` is known after the first batch (0 before)."""

    name = "pixels"
    sha256 = sha256_json({"extractor": "pixels", "map": "x / 127.5 - 1, flattened"})
    num_features = 0

    def _forward(self, images: torch.Tensor, logits: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        features = images.flatten(1).to(torch.float32) / 127.5 - 1
        self.num_features = features.shape[1]
        return features, None
