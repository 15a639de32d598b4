"""Images in memory (arrays, tensors, pictures, batches) as one array of pixels."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from sida.errors import UserError, exact

_WANTED = "give uint8 images (N, C, H, W) or (N, H, W[, C]), a list of them or of pictures, or batches of them"


class Pixels(NamedTuple):
    """Pixels uint8 ``(N, C, H, W)`` or ``(N, H, W, C)``, and whole numbers ``(N,)`` of their classes, or None."""

    images: np.ndarray
    classes: np.ndarray | None


def as_pixels(value: Any, value_range: tuple[float, float] | None = None, where: str = "images") -> Pixels:
    """Collects images in memory.

    Args:
        value: An array or tensor of images; ``(images, classes)``; an iterable of images, Pillow pictures, batches, or
            batches with classes, such as a DataLoader; a data set with a length. Mappings name images ``images`` or
            ``image``, and classes ``labels`` or ``label``.
        value_range: Values of floats that stand for black and white, such as ``(-1, 1)``; needed for floats, which
            become ``floor((x - low) / (high - low) · 255 + 0.5)``, as the papers' samplers round.
        where: Name in errors.

    Raises:
        UserError: Anything else, or floats without a range or outside of it.
    """
    if value_range is not None:
        _check_range(value_range)
    value = _without_names(value)
    if isinstance(value, np.ndarray | torch.Tensor):
        return Pixels(_batch(value[:, None] if value.ndim == 3 else value, value_range, where), None)
    if isinstance(value, tuple | list) and len(value) == 2 and _are_classes(*value):
        images = as_pixels(value[0], value_range, where).images
        classes = _array(value[1], where)
        if classes.shape != (len(images),) or not np.issubdtype(classes.dtype, np.integer):
            fault = f"{len(images)} images have classes {classes.dtype} {classes.shape}"
            raise UserError(where, fault, "give one whole number for each image")
        return Pixels(images, classes)
    if not isinstance(value, Iterable) and hasattr(value, "__getitem__") and hasattr(value, "__len__"):
        items = value  # a data set: Python's own iteration would look for an end
        value = (items[index] for index in range(len(items)))
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
    labels = [part.classes for part in parts if part.classes is not None]
    return Pixels(np.concatenate([part.images for part in parts]), np.concatenate(labels) if labels else None)


def _part(value: Any, value_range: tuple[float, float] | None, where: str) -> Pixels:
    """One picture or batch of an iterable."""
    value = _without_names(value)
    if isinstance(value, tuple | list) and len(value) == 1:  # a batch of a TensorDataset
        value = value[0]
    if isinstance(value, Image.Image):
        if value.mode not in ("L", "RGB"):
            raise UserError(where, f"is a picture of mode {value.mode}", "convert it: picture.convert('RGB')")
        value = np.asarray(value)
    if isinstance(value, tuple | list) and len(value) == 2:
        if np.ndim(value[1]) == 0:  # a picture with its class, of a data set
            return Pixels(_part(value[0], value_range, where).images, _array([value[1]], where))
        return as_pixels(tuple(value), value_range, where)
    if isinstance(value, np.ndarray | torch.Tensor):
        value = value[..., None] if value.ndim == 2 else value
        pixels = _batch(value[None] if value.ndim == 3 else value, value_range, where)
        return Pixels(pixels, None)
    raise UserError(where, f"cannot be read from {type(value).__name__}", _WANTED)


def _without_names(value: Any) -> Any:
    """The images, or ``(images, classes)``, of a mapping that names them; other values are returned unchanged."""
    if not isinstance(value, Mapping):
        return value
    images = next((value[name] for name in ("images", "image", "img") if name in value), None)
    if images is None:
        return value
    classes = next((value[name] for name in ("labels", "label") if name in value), None)
    return images if classes is None else (images, classes)


def _are_classes(images: Any, value: Any) -> bool:
    """Whether the second of two values is a number or a vector for each image."""
    if isinstance(value, str | bytes | Image.Image | Mapping):
        return False
    try:
        axes = np.ndim(_array(value, "classes"))
    except UserError:  # a second picture or batch with its classes
        return False
    # Two axes beside images are one-hot classes, which the caller refuses by their shape.
    return axes == 1 or (axes == 2 and getattr(images, "ndim", 0) == 4)


def _check_range(value_range: Any) -> None:
    try:
        low, high = map(float, value_range)
    except (TypeError, ValueError):
        raise UserError("value_range", f"is {value_range!r}", "give two numbers, such as (-1, 1)") from None
    if not low < high:
        raise UserError("value_range", f"is from {low} to {high}", "give black first, such as (-1, 1)")


def _batch(value: np.ndarray | torch.Tensor, value_range: tuple[float, float] | None, where: str) -> np.ndarray:
    array = _array(value, where)
    # Axes 1 and 3 are the channels of (N, C, H, W) and (N, H, W, C).
    if array.ndim != 4 or (1 not in array.shape[1::2] and 3 not in array.shape[1::2]):
        raise UserError(where, f"have shape {array.shape}", _WANTED)
    if np.issubdtype(array.dtype, np.floating):
        if value_range is None:
            raise UserError(where, f"are {array.dtype}", "give their range, value_range=(-1, 1), or uint8")
        low, high = value_range
        if not (np.isfinite(array).all() and low <= array.min() and array.max() <= high):
            fault = f"have values {exact(array.min())} to {exact(array.max())}, range {exact(low)} to {exact(high)}"
            raise UserError(where, fault, "clip them, or correct the range")
        # One product and one sum, as x · 127.5 + 128 of the papers' samplers.
        scale = 255 / (high - low)
        return (
            np.floor(array.astype(np.float32) * np.float32(scale) + np.float32(0.5 - low * scale))
            .clip(0, 255)
            .astype(np.uint8)
        )
    if array.dtype != np.uint8:
        raise UserError(where, f"are {array.dtype}", "give uint8, or floats with value_range")
    return array


def _array(value: Any, where: str) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().to(torch.float32 if value.is_floating_point() else value.dtype).numpy()
    try:
        return np.asarray(value)
    except (ValueError, TypeError) as error:
        raise UserError(where, f"is not an array ({error})", _WANTED) from None
