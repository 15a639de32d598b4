"""What images from outside must fulfil: their type and shape, and that each is there once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from eval.measuring.pipeline import ImageBatch
from sida.errors import UserError


class Duplicates:
    """Refuses two equal images: copies would pass as samples.

    Args:
        name: Name of the image at a position, for the error.
        remedy: What to do, for the error.
    """

    def __init__(self, name: Callable[[int], str], remedy: str) -> None:
        self._name, self._remedy = name, remedy
        self._seen: dict[bytes, int] = {}

    def check(self, images: Iterable[np.ndarray], first: int) -> None:
        """Looks at the images from position ``first`` on.

        Raises:
            UserError: One of them was there before, at another position.
        """
        for position, image in enumerate(images, start=first):
            digest = hashlib.blake2b(image.tobytes(), digest_size=16).digest()
            twin = self._seen.setdefault(digest, position)
            if twin != position:
                raise UserError(f"{self._name(position)}: is the same image as {self._name(twin)}; {self._remedy}")


def as_batch(returned: Any, count: int, name: str) -> ImageBatch:
    """What a function returned for some seeds.

    Args:
        returned: Images uint8 ``(N, C, H, W)``, or ``(images, classes)`` with whole numbers ``(N,)``.
        count: Number of seeds.
        name: The function, for errors.

    Raises:
        UserError: It is anything else.
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
