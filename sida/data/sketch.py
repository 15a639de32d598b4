"""Sketch of a set of images: its least digests, by which the images that two sets have in common are counted.

Two sets keep the least digests of their images. Below the smaller of both bounds each sketch is complete, so that the
images there are a random sample of both sets (bottom-k sketch: Cohen and Kaplan, 2007). It finds a set within another,
a part of one, and an archive of several, whatever their names, files and orders are.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

#: Digests that a sketch keeps, hexadecimal digits of one, and a bound above all digests.
SIZE, _DIGITS, ALL = 1024, 16, "g"


class Sketch:
    """The least digests of different images of one shape.

    Attributes:
        shape: ``(C, H, W)``; empty without images.
        least: The digests, in hexadecimal digits.
        bound: Digest up to which none is left out; :data:`ALL` where none is.
    """

    def __init__(self, shape: Iterable[int] = (), least: Iterable[str] = (), bound: str = ALL) -> None:
        self.shape, self.bound = tuple(shape), bound
        self.least = {digest for digest in least if digest <= bound}
        if len(self.least) > SIZE:
            self.least = set(sorted(self.least)[:SIZE])
            self.bound = max(self.least)

    def with_images(self, images: np.ndarray) -> Sketch:
        """The sketch with further images uint8 ``(N, C, H, W)``."""
        found = {hashlib.blake2b(image.tobytes(), digest_size=_DIGITS // 2).hexdigest() for image in images}
        return Sketch(images.shape[1:], self.least | found, self.bound)

    def joined(self, other: Sketch) -> Sketch | None:
        """Sketch of the images of both sets; None if their shapes differ."""
        if self.shape and other.shape and self.shape != other.shape:
            return None
        return Sketch(self.shape or other.shape, self.least | other.least, min(self.bound, other.bound))

    def shared(self, other: Sketch) -> tuple[int, int] | None:
        """How many of some images of another set are in this one: ``(found, looked for)``; None if that is unknown.

        A set of images of another shape may hold the same pictures, so that nothing is known.
        """
        bound = min(self.bound, other.bound)
        sample = {digest for digest in other.least if digest <= bound}
        return (len(sample & self.least), len(sample)) if sample and self.shape in ((), other.shape) else None

    def record(self) -> dict[str, Any]:
        """The sketch as JSON values."""
        return {"shape": [*self.shape], "bound": self.bound, "least": "".join(sorted(self.least))}


def read_sketch(record: Any) -> Sketch | None:
    """The sketch of a record; None for anything else."""
    if not isinstance(record, Mapping) or not isinstance(record.get("shape"), list):
        return None
    text = str(record.get("least"))
    return Sketch(record["shape"], re.findall(f"[0-9a-f]{{{_DIGITS}}}", text), str(record.get("bound")))


def join_sketches(sketches: Iterable[Sketch | None]) -> Sketch | None:
    """Sketch of the images of several sets; None if one is unknown, or if their shapes differ."""
    both: Sketch | None = Sketch()
    for sketch in sketches:
        both = None if both is None or sketch is None else both.joined(sketch)
    return both
