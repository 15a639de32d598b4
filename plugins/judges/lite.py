"""EfficientNet-Lite0, trained on ImageNet: features of colour or grey pictures of any size, without a download.

A Fréchet distance in these features is not FID, and is not comparable with any published number.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from sida.eval.features.base import Extractor, as_rgb
from sida.eval.features.digits import weights_digest
from sida.files.atomic import sha256_json
from sida.plugins.judges.lite0 import CLASSES, NAME, WIDTH, published_network

_SIDE = 224


class Lite0Extractor(Extractor):
    """Features and ImageNet's 1,000 class logits of EfficientNet-Lite0.

    Images become 224×224 by torch's antialiased bicubic filter in float32, then ``(x − 127) / 128``, as the network's
    authors scale them; the package's own README scales otherwise.

    Args:
        device: Torch device of the network.
        path: Another file of the same weights; None takes the package's.

    Raises:
        UserError: The package is not installed, or the file does not hold these weights.
    """

    name = NAME
    num_features = WIDTH
    num_classes = CLASSES
    at_once = 8

    def __init__(self, device: str | torch.device = "cpu", path: str | Path | None = None) -> None:
        super().__init__(device)
        net, state = published_network(path)
        self.sha256 = sha256_json([weights_digest(state), _SIDE, "torch bicubic, antialiased, (x - 127) / 128"])
        self._net = net.requires_grad_(False).to(self.device).to(memory_format=torch.channels_last)

    def _forward(self, images: Tensor, logits: bool) -> tuple[Tensor, Tensor | None]:
        x = as_rgb(images, self.name).to(torch.float32)
        if x.shape[2:] != (_SIDE, _SIDE):
            x = functional.interpolate(x, (_SIDE, _SIDE), mode="bicubic", align_corners=False, antialias=True)
        features = self._net((x - 127) / 128)
        return features, self._net._fc(features) if logits else None
