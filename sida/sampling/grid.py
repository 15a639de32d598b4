"""Pictures of many samples: one row per class, the same seeds for every generator (the layout of Figures 6–10)."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

from sida.data.pictures import encode_png
from sida.errors import UserError
from sida.files.atomic import atomic_path


def row_classes(rows: int, columns: int, label_dim: int) -> list[int]:
    """Classes of a grid in reading order: row r shows class ``r mod label_dim``; empty without classes."""
    return [(place // columns) % label_dim for place in range(rows * columns)] if label_dim else []


def tile(images: torch.Tensor, columns: int, gap: int = 0, fill: Sequence[int] = (255,)) -> torch.Tensor:
    """Arranges images uint8 ``(N, C, h, w)`` in one image ``(C, H, W)``, row by row.

    Args:
        images: Images.
        columns: Images per row.
        gap: Pixels between images.
        fill: Colour of gaps and empty cells: one value for all channels, or one per channel.
    """
    count, channels, height, width = images.shape
    rows = -(-count // columns)
    padded = torch.empty((rows * columns, channels, height + gap, width + gap), dtype=torch.uint8)
    padded[:] = torch.tensor(fill, dtype=torch.uint8)[:, None, None]
    padded[:count, :, :height, :width] = images
    picture = padded.reshape(rows, columns, channels, height + gap, width + gap).permute(2, 0, 3, 1, 4)
    picture = picture.reshape(channels, rows * (height + gap), columns * (width + gap))
    return picture[:, : picture.shape[1] - gap, : picture.shape[2] - gap].contiguous()


def save_grid(path: str | os.PathLike[str], images: torch.Tensor, columns: int, gap: int = 0, scale: int = 1) -> None:
    """Writes a grid as PNG, each pixel ``scale`` × ``scale``.

    Args:
        path: PNG file; written atomically.
        images: uint8 ``(N, C, H, W)`` with 1 or 3 channels.
        columns: Images per row.
        gap: White pixels between images, before scaling.
        scale: Whole-number enlargement, without smoothing.

    Raises:
        UserError: The images are neither grey nor RGB.
    """
    if images.shape[1] not in (1, 3):
        raise UserError(f"{path}: a picture needs 1 or 3 channels, got {images.shape[1]}; decode latents first (--vae)")
    picture = tile(images, columns, gap).permute(1, 2, 0).numpy()
    enlarged = picture.repeat(scale, axis=0).repeat(scale, axis=1)
    with atomic_path(path) as temporary:
        temporary.write_bytes(encode_png(enlarged))
