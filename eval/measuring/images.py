"""Files of images as the source of a measurement: seed s of the protocol is image s − seed0, ordered by name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from eval.measuring.outside import Duplicates
from eval.measuring.pipeline import ImageBatch
from eval.measuring.protocol import Protocol
from eval.measuring.stores import open_images
from sida.errors import UserError


@dataclass
class ImageFiles:
    """Source of images in files.

    Args:
        path: Folder, zip, tar, npz or npy.
        protocol: Protocol, which determines the number of images of a trial.
        allow_duplicates: False refuses equal images, since copied files would count as samples.
    """

    path: str
    protocol: Protocol
    allow_duplicates: bool = False

    def __post_init__(self) -> None:
        self.store = open_images(self.path)
        self.store.side = self.protocol.resolution
        allowing = "or allow them (--allow-duplicates) if the generator really repeats itself"
        self._duplicates = Duplicates(self.store.name, f"remove copies, {allowing}")

    @property
    def trials(self) -> int:
        """Number of complete trials that the images allow."""
        return self.store.count // self.protocol.num_samples

    def identity(self) -> dict[str, Any]:
        """Digest of the files."""
        return {"images": self.store.digest()}

    def batches(self, seeds: range, batch_size: int) -> Iterator[ImageBatch]:
        """Decodes the images of these positions.

        Raises:
            UserError: Too few images, or one that is broken, of another size or mode, or a duplicate.
        """
        begin, end = seeds.start - self.protocol.seed0, seeds.stop - self.protocol.seed0
        if end > self.store.count:
            raise UserError(
                f"{self.path}: holds {self.store.count} images, this trial needs {end}; "
                f"generate more (protocol '{self.protocol.name}' takes {self.protocol.num_samples} for each trial)"
            )
        for first in range(begin, end, batch_size):
            images = self.store.read(first, min(first + batch_size, end))
            if not self.allow_duplicates:
                self._duplicates.check(images, first)
            classes = None
            if self.store.classes is not None:
                classes = torch.from_numpy(self.store.classes[first : first + len(images)])
            yield ImageBatch(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), classes)
