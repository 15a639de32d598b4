"""Checks of images from outside: type, shape, and no duplicates."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from eval.measuring.pipeline import ImageBatch
from sida.errors import UserError


class Duplicates:
    """Refuses equal images, since copies would count as samples.

    Args:
        name: Gives the name of the image at a position, for the error.
        remedy: Remedy in the error.
    """

    def __init__(self, name: Callable[[int], str], remedy: str) -> None:
        self._name, self._remedy = name, remedy
        self._seen: dict[bytes, int] = {}

    def check(self, images: Iterable[np.ndarray], first: int) -> None:
        """Checks the images from position ``first`` on.

        Raises:
            UserError: An image equals an image at another position.
        """
        for position, image in enumerate(images, start=first):
            digest = hashlib.blake2b(image.tobytes(), digest_size=16).digest()
            twin = self._seen.setdefault(digest, position)
            if twin != position:
                raise UserError(f"{self._name(position)}: is the same image as {self._name(twin)}; {self._remedy}")


def as_batch(returned: Any, count: int, name: str) -> ImageBatch:
    """Checks and converts the images that a function returned for seeds.

    Args:
        returned: Images uint8 ``(N, C, H, W)``, or ``(images, classes)`` with whole numbers ``(N,)``.
        count: Number of seeds.
        name: Name of the function, for errors.

    Raises:
        UserError: The returned value is anything else.
    """
    images, classes = returned if isinstance(returned, tuple) and len(returned) == 2 else (returned, None)
    wanted = f"{name}: must return uint8 images of shape ({count}, C, H, W)"
    try:
        pixels = torch.as_tensor(images)
    except (TypeError, ValueError, RuntimeError):
        raise UserError(f"{wanted}, or (images, classes), got {type(images).__name__}") from None
    if pixels.dtype != torch.uint8 or pixels.ndim != 4 or len(pixels) != count:
        raise UserError(f"{wanted}, got {pixels.dtype} {tuple(pixels.shape)}")
    if classes is None:
        return ImageBatch(pixels, None)
    try:
        labels = torch.as_tensor(classes)
    except (TypeError, ValueError, RuntimeError):
        raise UserError(f"{name}: must return classes as whole numbers, got {type(classes).__name__}") from None
    if labels.shape != (count,) or labels.is_floating_point():
        raise UserError(
            f"{name}: must return classes as whole numbers of shape ({count},), got {labels.dtype} "
            f"{tuple(labels.shape)}"
        )
    return ImageBatch(pixels, labels.to(torch.int64))
