"""Raw pixels as features: a distance without any trained network.

Resizing by clean-fid, for variants of feature networks that other tools define.
"""

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from sida.config.lookup import how_to_install
from sida.errors import UserError, reason_of
from sida.eval.features.base import Extractor
from sida.files.atomic import sha256_json
from sida.machine import num_cores


class PixelExtractor(Extractor):
    """Pixels in [-1, 1], flattened; ``num_features`` is known after the first batch (0 before)."""

    name = "pixels"
    sha256 = sha256_json({"extractor": "pixels", "map": "x / 127.5 - 1, flattened"})
    num_features = 0

    def _forward(self, images: torch.Tensor, logits: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        features = images.flatten(1).to(torch.float32) / 127.5 - 1
        self.num_features = features.shape[1]
        return features, None


@contextlib.contextmanager
def clean_fid() -> Iterator[None]:
    """Turns a failed import of clean-fid into a message; it is an extra of the wheel, since it needs torchvision."""
    try:
        yield
    except ImportError as error:
        fault = f"clean-fid cannot be imported ({reason_of(error)})"
        raise UserError("resizing of clean-fid", fault, how_to_install("clean-fid>=0.1.35")) from None


def resized(images: torch.Tensor, size: int, rounded: bool) -> torch.Tensor:
    """Resizes by clean-fid's Pillow bicubic filter, in threads: Pillow releases Python's lock.

    Args:
        images: uint8 (N, 3, H, W).
        size: New height and width.
        rounded: Whether Pillow resizes the uint8 image, as in dgm-eval; else each channel in float32, as in clean-fid's
            mode ``clean``.

    Returns:
        (N, 3, size, size) in 0..255 on the CPU: uint8 if ``rounded``, else float32.
    """
    with clean_fid():
        from cleanfid.resize import make_resizer

    resize = make_resizer("PIL", rounded, "bicubic", (size, size))
    pictures = images.cpu().permute(0, 2, 3, 1).numpy()
    with ThreadPoolExecutor(min(8, num_cores())) as pool:
        return torch.from_numpy(np.stack(list(pool.map(resize, pictures)))).permute(0, 3, 1, 2)
