"""Stores of image files: a folder, a zip or tar of pictures, or an array in ``.npz``/``.npy``, read as a stream.

Nothing is resized, converted or rescaled, since a silent conversion would change the protocol. Unsuitable images are
refused with the file's name and the remedy.
"""

from __future__ import annotations

import abc
import functools
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sida.data.archive import Files
from sida.data.arrays import ImageArrays, find_arrays
from sida.data.pictures import NOTED
from sida.errors import UserError
from sida.eval.measuring.order import Order, Trials, arranged
from sida.eval.measuring.source import ImageBatch, Source
from sida.late import torch
from sida.machine import num_cores

#: Largest array in bytes whose images are dealt in memory.
_MOST_HELD = 4 << 30
#: Children that decode, and bytes of images that they read at a time.
_WORKERS, _ROUND = min(16, num_cores()), 64 << 20


class Duplicates:
    """Refuses equal images, since copies would count as samples.

    Args:
        name: Function that gives the name of the image at a position, for the error.
        remedy: Remedy in the error, beside that of allowing them.
    """

    def __init__(self, name: Callable[[int], str], remedy: str) -> None:
        allowing = "or allow them (--allow-duplicates; in a spec allow_duplicates: true of the sampler)"
        self._name, self._remedy = name, f"{remedy}, {allowing} if the generator may draw equal images"
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
                raise UserError(self._name(position), f"is the same image as {self._name(twin)}", self._remedy)


class ImageStore(Source):
    """Images of files by position.

    Attributes:
        path: The folder or file.
        count: Number of images.
        classes: Class of every image int64 (N,), or None.
        order: Order of the images.
        remarks: Remarks on the images read so far, for the report.
        side: Height and width that a protocol asks for, or None; then other pictures are not decoded.
        allow_duplicates: False refuses equal images, since copied files would count as samples.
        has_statistics: Whether mean and covariance of other images stand in the file.
    """

    in_files = True

    path: Path
    count: int
    classes: np.ndarray | None = None
    order: Order = Order()
    remarks: tuple[str, ...] = ()
    side: int | None = None
    allow_duplicates: bool = False
    has_statistics: bool = False

    @functools.cached_property
    def _duplicates(self) -> Duplicates:
        return Duplicates(self.name, "remove copies")

    def identity(self) -> dict[str, Any]:
        """Digest of the files, and the order of their images where it is not the stored one."""
        return {"images": self.digest} | ({"order": self.order.facts} if self.order.facts else {})

    def stream(self, first: int, count: int, batch_size: int) -> Iterator[ImageBatch]:
        """Decodes the images of these positions.

        Raises:
            UserError: Too few images, or one that is broken, of another size or mode, or a duplicate.
        """
        if first + count > self.count:
            fault = f"holds {self.count} images, this trial needs {first + count}"
            raise UserError(self.path, fault, f"generate more (a trial takes {count})")
        for images in in_batches(self.read, first, first + count, batch_size):
            if not self.allow_duplicates:
                self._duplicates.check(images.numpy(), first)
            part = None if self.classes is None else torch.from_numpy(self.classes[first : first + len(images)])
            yield ImageBatch(images, part)
            first += len(images)

    @abc.abstractmethod
    def read(self, begin: int, end: int) -> np.ndarray:
        """Images ``begin … end − 1``, uint8 (N, C, H, W); reading forwards is fast."""

    @abc.abstractmethod
    def name(self, position: int) -> str:
        """Name of an image for messages."""

    @functools.cached_property
    @abc.abstractmethod
    def digest(self) -> str:
        """Digest that changes if the images change, computed once."""


def in_batches(
    read: Callable[[int, int], np.ndarray | torch.Tensor], begin: int, end: int, size: int
) -> Iterator[torch.Tensor]:
    """Images ``begin … end − 1``, ``size`` at a time, read several batches at a time by all decoders.

    In between the decoders wait: on a processor a feature network that shares the cores with them waits longer.
    """
    count = size  # the first read shows how large an image is
    while begin < end:
        images = torch.as_tensor(read(begin, min(begin + count, end)))
        yield from images.split(size)
        begin += len(images)
        count = size * max(1, min(_WORKERS, _ROUND // (size * images[0].nbytes)))


class ArrayStore(ImageStore):
    """Images in an array (:class:`sida.data.arrays.ImageArrays`): npz, npy, or a file of MNIST's format.

    The array is read as a stream, so a file may be larger than the memory.

    Args:
        images: The opened array.
        trials: Trials to take; None: all images are one set.
    """

    def __init__(self, images: ImageArrays, trials: Trials | None = None) -> None:
        self.path, self.count, self.classes, self._images = images.path, images.count, images.classes, images
        self._held: np.ndarray | None = None
        self.order = arranged(self.path, (), self.classes, self.count, trials)
        if self.order.positions is not None:
            self._deal(self.order.positions)
        self.remarks = (self.order.remark,) if self.order.remark else ()
        self.has_statistics = images.has_statistics

    def _deal(self, order: np.ndarray) -> None:
        """Takes the images in another order, which needs all of them in memory."""
        if self._images.nbytes > _MOST_HELD:
            fault = f"is sorted by class, and its {self._images.nbytes / 1e9:.1f} GB are too many to be dealt here"
            raise UserError(self.path, fault, "save images and classes in a random order")
        self._held = self._images.read(0, self.count)[order]
        assert self.classes is not None
        self.classes = self.classes[order]

    def read(self, begin: int, end: int) -> np.ndarray:
        """Reads images; a step backwards starts the stream again."""
        images = self._images.read(begin, end) if self._held is None else self._held[begin:end]
        return np.ascontiguousarray(images)

    def name(self, position: int) -> str:
        """File, array and index."""
        return self._images.name(position)

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the file, and of a file of classes."""
        return self._images.digest()


class PictureStore(ImageStore):
    """Encoded pictures by name, also in EDM's data-set format with ``dataset.json``.

    Args:
        files: Opened folder, zip or tar.
        trials: Trials to take; None: all images are one set.
        labels: Whether to read classes.

    Raises:
        UserError: No pictures, labels that cannot be read, or groups that may be trials or classes.
    """

    def __init__(self, files: Files, trials: Trials | None = None, labels: bool = True) -> None:
        self.path, self._files = Path(files.path), files
        self._members = files.pictures()
        self.count = len(self._members)
        self._shape: list[int] | None = None
        self._noted: dict[int, str] = {}
        self.classes = files.labels(self._members) if labels else None
        names = [files.names[int(member)] for member in self._members]
        self.order = arranged(self.path, names, self.classes, self.count, trials)
        if self.order.positions is not None:
            self._members = self._members[self.order.positions]
            self.classes = None if self.classes is None else self.classes[self.order.positions]
        self.remarks = self._opened = tuple(filter(None, (files.left_out, self.order.remark)))

    def name(self, position: int) -> str:
        """Archive or folder, and picture."""
        return self._files.where(int(self._members[position]))

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of an archive; of a folder's pictures by name and content, and of their classes."""
        if not self._files.is_folder:
            return self._files.digest()
        digest = hashlib.sha256(self._files.digest(map(int, self._members)).encode())
        if self.classes is not None:
            digest.update(self.classes.tobytes())
        return digest.hexdigest()

    def read(self, begin: int, end: int) -> np.ndarray:
        """Decodes pictures in parallel; all must have the size and mode of the first one read.

        A picture of another side than the protocol's is not decoded, and no further one is read.
        """
        if self._shape is None:
            expected_shape = None if self.side is None else [1, self.side, self.side]
            ((facts, _),) = self._files.images(self._members[begin : begin + 1], expected_shape, "|u1", True)
            self._shape = facts["differing"][0] if facts["differing"] is not None else facts["shape"]
            if self.side is not None and self._shape[1:] != [self.side, self.side]:
                # The caller refuses the image by its shape alone, so nothing is decoded.
                shape, self._shape = self._shape, None
                return np.zeros((1, *shape), np.uint8)
        parts, index = [], begin
        for facts, images in self._files.images(self._members[begin:end], self._shape, "|u1", True):
            if images is not None:
                parts.append(images)
            # By content and not by name: artefacts remain in a JPEG that is named .png.
            self._noted |= {at: kind for at, kind in enumerate(facts["noted"], start=index) if kind}
            index += len(facts["noted"])
            if facts["differing"] is not None:
                _refuse_other(self.name(index), facts["differing"][0], self._shape)
        kinds: dict[str, list[str]] = {}
        for kind, count in Counter(self._noted.values()).items():
            kinds.setdefault(NOTED[kind], []).append(f"{count:,} pictures are {kind}")
        self.remarks = (*self._opened, *(f"{', '.join(counts)}, {note}" for note, counts in kinds.items()))
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _refuse_other(name: str, shape: list[int], first: list[int]) -> None:
    if shape[1:] != first[1:]:
        fault = f"is {shape[1]}×{shape[2]}, the pictures before it {first[1]}×{first[2]}"
        raise UserError(name, fault, "all must have one size (resizing changes the numbers, so it is not done here)")
    modes = {1: "grey", 3: "RGB"}
    fault = f"is {modes[shape[0]]}, the pictures before it {modes[first[0]]}"
    raise UserError(name, fault, "convert all to one mode")


def open_images(path: str | os.PathLike[str], trials: Trials | None = None, labels: bool = True) -> ImageStore:
    """Opens a folder, zip or tar (also packed) of pictures, an npz or npy, or a file of MNIST's format.

    Args:
        path: Folder or file.
        trials: Trials to take, for the order of the images; None: all images are one set.
        labels: Whether to read classes.

    Raises:
        UserError: A missing file, another kind of file, no images, or groups that may be trials or classes.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(path, "no such folder or file of images")
    arrays = find_arrays(path, labels=labels)
    return PictureStore(Files(path, _WORKERS), trials, labels) if arrays is None else ArrayStore(arrays, trials)
