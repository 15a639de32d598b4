"""A source of images: ``stream(first, count)`` yields uint8 batches by position, and its identity changes with them.

Networks, data sets, files and Python functions are sources. Position i is image i of files, and for the others a seed;
it gives the same image in any batch, part or trial.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

if TYPE_CHECKING:
    # A list of files is checked without torch.
    import torch

    from sida.data.dataset import Sketch


class ImageBatch(NamedTuple):
    """Images of consecutive positions.

    Attributes:
        images: uint8 (N, C, H, W).
        classes: Requested classes, int64 (N,), or None.
    """

    images: torch.Tensor
    classes: torch.Tensor | None

    @classmethod
    def of(cls, images: torch.Tensor, classes: torch.Tensor | None) -> ImageBatch:
        """Images of a generator; a network without classes gives None or :data:`sida.sampling.NO_CLASS`."""
        from sida.sampling import NO_CLASS

        # A network has classes or none, so one label stands for all.
        has_classes = classes is not None and len(classes) > 0 and int(classes[0]) != NO_CLASS
        return cls(images, classes if has_classes else None)


class Source(abc.ABC):
    """Images by position.

    Attributes:
        in_files: Whether positions count the images of files from 0; else they are seeds.
        sketch: Sketch of the images that the generator was trained on; None: unknown.
    """

    in_files: ClassVar[bool] = False
    sketch: Sketch | None = None

    @abc.abstractmethod
    def identity(self) -> dict[str, Any]:
        """Plain values that change if an image could change, such as digests of networks, data and files."""

    @abc.abstractmethod
    def stream(self, first: int, count: int, batch_size: int) -> Iterator[ImageBatch]:
        """Yields images ``first … first + count − 1`` in their order, ``batch_size`` at a time."""
