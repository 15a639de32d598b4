"""Images in memory, as Python people have them, to one array of pixels: arrays, tensors, pictures, batches."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from sida.errors import UserError

_WANTED = "give uint8 images (N, C, H, W) or (N, H, W, C), a list of them or of pictures, or batches of them"


class Pixels(NamedTuple):
    """Pixels uint8 ``(N, C, H, W)`` or ``(N, H, W, C)``, and whole numbers ``(N,)`` of their classes, or None."""

    images: np.ndarray
    classes: np.ndarray | None


def as_pixels(value: Any, value_range: tuple[float, float] | None = None, where: str = "images") -> Pixels:
    """Collects images in memory.

    Args:
        value: An array or tensor of images; ``(images, classes)``; or an iterable of images, Pillow pictures, batches,
            or batches with classes, such as a DataLoader.
        value_range: Values of floats that stand for black and white, such as ``(-1, 1)``; needed for floats, which
            become ``floor((x - low) / (high - low) · 255 + 0.5)``, as the papers' samplers round.
        where: Name in errors.

    Raises:
        UserError: Anything else, or floats without a range or outside of it.
    """
    if isinstance(value, tuple) and len(value) == 2 and np.ndim(_array(value[1], where)) == 1:
        images = as_pixels(value[0], value_range, where).images
        classes = _array(value[1], where)
        if len(classes) != len(images) or not np.issubdtype(classes.dtype, np.integer):
            fault = f"{len(images)} images have classes {classes.dtype} {classes.shape}"
            raise UserError(where, fault, "give one whole number for each image")
        return Pixels(images, classes)
    if isinstance(value, np.ndarray | torch.Tensor):
        return Pixels(_batch(value, value_range, where), None)
    if isinstance(value, str | bytes | Image.Image) or not isinstance(value, Iterable):
        raise UserError(where, f"cannot be read from {type(value).__name__}", _WANTED)
    parts = [_part(part, value_range, f"{where}[{index}]") for index, part in enumerate(value)]
    shapes = {part.images.shape[1:] for part in parts}
    if len(shapes) != 1:
        fault = f"have shapes {', '.join(map(str, sorted(shapes)[:3]))}" if parts else "are none"
        raise UserError(where, fault, "give images of one size")
    labelled = {part.classes is None for part in parts}
    if len(labelled) > 1:
        raise UserError(where, "only some batches have classes", "give classes with all batches, or with none")
    found = [part.classes for part in parts if part.classes is not None]
    return Pixels(np.concatenate([part.images for part in parts]), np.concatenate(found) if found else None)


def _part(value: Any, value_range: tuple[float, float] | None, where: str) -> Pixels:
    """One picture or batch of an iterable."""
    if isinstance(value, Image.Image):
        if value.mode not in ("L", "RGB"):
            raise UserError(where, f"is a picture of mode {value.mode}", "convert it: picture.convert('RGB')")
        value = np.asarray(value)
        value = value[..., None] if value.ndim == 2 else value
    if isinstance(value, tuple | list) and len(value) == 2:
        if np.ndim(value[1]) == 0:  # a picture with its class, of a data set
            return Pixels(_part(value[0], value_range, where).images, _array([value[1]], where))
        return as_pixels(tuple(value), value_range, where)
    if isinstance(value, np.ndarray | torch.Tensor):
        found = _batch(value[None] if value.ndim == 3 else value, value_range, where)
        return Pixels(found, None)
    raise UserError(where, f"cannot be read from {type(value).__name__}", _WANTED)


def _batch(value: np.ndarray | torch.Tensor, value_range: tuple[float, float] | None, where: str) -> np.ndarray:
    array = _array(value, where)
    if array.ndim != 4:
        raise UserError(where, f"have shape {array.shape}", _WANTED)
    if np.issubdtype(array.dtype, np.floating):
        if value_range is None:
            raise UserError(where, f"are {array.dtype}", "say their range, value_range=(-1, 1), or give uint8")
        low, high = value_range
        if not (np.isfinite(array).all() and low <= array.min() and array.max() <= high):
            least, most = f"{array.min():.4g}", f"{array.max():.4g}"
            raise UserError(
                where, f"have values {least} to {most}, range {low} to {high}", "clip them, or mend the range"
            )
        return np.floor((array.astype(np.float32) - low) / (high - low) * 255 + 0.5).clip(0, 255).astype(np.uint8)
    if array.dtype != np.uint8:
        raise UserError(where, f"are {array.dtype}", "give uint8, or floats with value_range")
    return array


def _array(value: Any, where: str) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().to(torch.float32 if value.is_floating_point() else value.dtype).numpy()
    try:
        return np.asarray(value)
    except ValueError as error:
        raise UserError(where, f"is no array ({error})", _WANTED) from None
