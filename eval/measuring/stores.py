"""Images in files or in memory as a source: a folder, a zip or tar of pictures, or an array.

Nothing is resized, converted or rescaled, since a silent conversion would change the protocol. Unsuitable images are
refused with the file's name and the remedy.
"""

from __future__ import annotations

import abc
import functools
import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from sida.data.archive import Files, common_folder
from sida.data.arrays import ImageArrays, find_arrays
from sida.data.folders import counted_by_tool, is_tools
from sida.data.label_files import MAX_CLASSES
from sida.data.pictures import NOTED
from sida.errors import UserError, exact
from sida.eval.measuring.source import Duplicates, ImageBatch, Source
from sida.machine import num_cores

#: Meaning of folders of images.
Groups = Literal["trials", "classes"]
#: Children that decode, and bytes of images that they read at a time.
_WORKERS, _ROUND = min(16, num_cores()), 64 << 20


class ImageStore(Source):
    """Images by position, of files or of memory.

    Args:
        path: The folder or file; ``images`` or the like for images in memory.
        count: Number of images.
        classes: Class of every stored image int64 (N,), or None.
        names: Name of each stored picture, with its folders; empty for an array.

    Attributes:
        classes: Class of every image in the order of the images, or None.
        order: Description of the order for the record; empty for the stored order.
        trials: Number of trials, where folders are trials; else None.
        allow_duplicates: False refuses equal images, since copied files would count as samples.
        has_statistics: Whether mean and covariance of other images stand in the file.
    """

    in_files = True
    has_statistics: bool = False

    def __init__(self, path: str | Path, count: int, classes: np.ndarray | None, names: Sequence[str] = ()) -> None:
        self.path, self.count, self.classes, self._names = Path(path), count, classes, names
        self.allow_duplicates, self.order = False, ""
        self.trials: int | None = None
        self._remarks: tuple[str, ...] = ()
        self._positions = np.arange(count)

    @property
    def remarks(self) -> tuple[str, ...]:
        """Remarks on the images read so far, for the report."""
        return self._remarks

    @functools.cached_property
    def _duplicates(self) -> Duplicates:
        return Duplicates(self.name, "remove copies")

    def identity(self) -> dict[str, Any]:
        """Digest of the images, and their order where it is not the stored one."""
        return {"images": self.digest} | ({"order": self.order} if self.order else {})

    def stream(self, first: int, count: int, batch_size: int) -> Iterator[ImageBatch]:
        """Reads the images of these positions.

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

    def read(self, begin: int, end: int) -> np.ndarray:
        """Images ``begin … end − 1``, uint8 (N, C, H, W)."""
        images = self._read(begin, self._positions[begin:end])
        # Another layout of the same values in memory would choose another algorithm, which rounds otherwise.
        return np.ascontiguousarray(images).reshape(-1).reshape(images.shape)

    def name(self, position: int) -> str:
        """Name of an image for messages."""
        return self._name(int(self._positions[position]))

    def arrange(self, groups: Groups | None, size: int, most: int, asked: int | None = None) -> None:
        """Orders the images for trials, of which trial t takes the images t·n … (t + 1)·n − 1.

        Args:
            groups: ``trials``: trial t takes the first n images of folder t. ``classes``: a random order with seed 0,
                since a trial of neighbours would have few classes. None: the stored order.
            size: Images of a trial, n.
            most: Trials of the protocol.
            asked: Trials that the user asks for; None: as many as the images allow.

        Raises:
            UserError: Folders may be trials or classes, or do not have the images that trials take.
        """
        folders = _folders(self._names)
        names = sorted(np.unique(folders), key=_by_number)
        are_several = (asked or min(self.count // size, most)) > 1
        if groups == "classes":
            self._reorder(np.random.default_rng(0).permutation(self.count), "dealt, seed 0")
            self._remarks += ("images were dealt in a random order (seed 0), as --groups classes asks",)
        elif groups is None and len(names) > 1 and are_several:
            fault = f"its folders ({', '.join(names[:3]):.60}) may be trials or classes"
            raise UserError(self.path, fault, "give --groups trials or --groups classes")
        elif groups == "trials" and len(names) > 1:
            parts = [np.flatnonzero(folders == name) for name in names]
            fewest = min(map(len, parts))
            if fewest < size or (asked or 0) > len(parts):
                trials = f"{asked or len(parts)} trials of {size:,}"
                fault = f"its {len(parts)} folders have {fewest:,} images or more, not {trials}"
                remedy = f"give --trials {len(parts)}" if fewest >= size else f"give --num-samples {fewest}"
                raise UserError(self.path, fault, f"{remedy}, or --groups classes, which deals them over the trials")
            first_ones = [part[:size] for part in parts]
            self._reorder(np.concatenate([*first_ones, *(part[size:] for part in parts)]), "trials by its folders")
            self._remarks += (f"its folders are {len(parts)} trials of {size:,} images",)
            self.trials = len(parts)
        elif are_several and self.classes is not None and (steps := np.diff(self.classes)).any() and (steps >= 0).all():
            self._remarks += ("its images are sorted by class, so that a trial has few classes: give --groups classes",)

    def _reorder(self, positions: np.ndarray, order: str) -> None:
        self._positions, self.order = positions, order
        self.classes = None if self.classes is None else self.classes[positions]

    @abc.abstractmethod
    def _read(self, begin: int, stored: np.ndarray) -> np.ndarray:
        """Images of stored positions, uint8 (N, C, H, W), which are the images from ``begin`` on."""

    @abc.abstractmethod
    def _name(self, stored: int) -> str:
        """Name of a stored image for messages."""

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
    """Images in an array of a file (:class:`sida.data.arrays.ImageArrays`), which may be larger than the memory."""

    def __init__(self, images: ImageArrays) -> None:
        super().__init__(images.path, images.count, images.classes)
        self._images, self.has_statistics = images, images.has_statistics

    def _read(self, begin: int, stored: np.ndarray) -> np.ndarray:
        return self._images.read(stored)

    def _name(self, stored: int) -> str:
        return self._images.name(stored)

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the file, and of a file of classes."""
        return self._images.digest()


class MemoryStore(ImageStore):
    """Images in memory.

    Args:
        value: What :func:`as_pixels` takes.
        value_range: See there.
        where: Name in errors.

    Raises:
        UserError: As :func:`as_pixels`.
    """

    def __init__(self, value: Any, value_range: tuple[float, float] | None = None, where: str = "images") -> None:
        self._images, classes = as_pixels(value, value_range, where)
        super().__init__(where, len(self._images), classes)

    def _read(self, begin: int, stored: np.ndarray) -> np.ndarray:
        return self._images[stored]

    def _name(self, stored: int) -> str:
        return f"{self.path}[{stored}]"

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of shape, pixels and classes."""
        digest = hashlib.sha256(repr(self._images.shape).encode())
        for array in (self._images, self.classes):
            digest.update(b"" if array is None else np.ascontiguousarray(array).data)
        return digest.hexdigest()


class PictureStore(ImageStore):
    """Encoded pictures by name, also in EDM's data-set format with ``dataset.json``.

    Args:
        files: Opened folder, zip or tar.
        labels: Whether to read classes.

    Raises:
        UserError: No pictures, or labels that cannot be read.
    """

    def __init__(self, files: Files, labels: bool = True) -> None:
        self._files, self._members = files, files.pictures()
        names = [files.names[int(member)] for member in self._members]
        super().__init__(files.path, len(names), files.labels(self._members) if labels else None, names)
        self._shape: list[int] | None = None
        self._noted: dict[int, str] = {}
        self._remarks = (files.left_out,) if files.left_out else ()

    @property
    def remarks(self) -> tuple[str, ...]:
        """Files that were left out, the order, and kinds of pictures that may differ from what was drawn."""
        kinds: dict[str, list[str]] = {}
        for kind, count in Counter(self._noted.values()).items():
            kinds.setdefault(NOTED[kind], []).append(f"{count:,} pictures are {kind}")
        return (*self._remarks, *(f"{', '.join(counts)}, {note}" for note, counts in kinds.items()))

    def _name(self, stored: int) -> str:
        return self._files.where(int(self._members[stored]))

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of an archive; of a folder's pictures by name and content in their order, and of their classes."""
        if not self._files.is_folder:
            return self._files.digest()
        digest = hashlib.sha256(self._files.digest(map(int, self._members[self._positions])).encode())
        if self.classes is not None:
            digest.update(self.classes.tobytes())
        return digest.hexdigest()

    def _read(self, begin: int, stored: np.ndarray) -> np.ndarray:
        """Decodes pictures in parallel; all must have the size and mode of the first one read."""
        parts, index = [], begin
        if self._shape is None:
            ((facts, _),) = self._files.images(self._members[stored[:1]], None, "|u1", True)
            self._shape = facts["shape"]
        for facts, images in self._files.images(self._members[stored], self._shape, "|u1", True):
            if images is not None:
                parts.append(images)
            # By content and not by name: artefacts remain in a JPEG that is named .png.
            self._noted |= {at: kind for at, kind in enumerate(facts["noted"], start=index) if kind}
            index += len(facts["noted"])
            if facts["differing"] is not None:
                _refuse_other(self.name(index), facts["differing"][0], self._shape)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _refuse_other(name: str, shape: Sequence[int], first: Sequence[int]) -> None:
    if shape[1:] != first[1:]:
        fault = f"is {shape[1]}×{shape[2]}, the pictures before it {first[1]}×{first[2]}"
        raise UserError(name, fault, "all must have one size (resizing changes the numbers, so it is not done here)")
    modes = {1: "grey", 3: "RGB"}
    fault = f"is {modes[shape[0]]}, the pictures before it {modes[first[0]]}"
    raise UserError(name, fault, "convert all to one mode")


def open_images(path: str | os.PathLike[str], labels: bool = True) -> ImageStore:
    """Opens a folder, zip or tar (also packed) of pictures, an npz or npy, or a file of MNIST's format.

    Args:
        path: Folder or file.
        labels: Whether to read classes.

    Raises:
        UserError: A missing file, another kind of file, or no images.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(path, "no such folder or file of images")
    arrays = find_arrays(path, labels=labels)
    return PictureStore(Files(path, _WORKERS), labels) if arrays is None else ArrayStore(arrays)


def _folders(names: Sequence[str]) -> np.ndarray:
    """First folder in which pictures differ, ``(N,)``; empty for arrays and for the numbered folders of a tool."""
    common = common_folder(names) if names else ""
    folders = [name.removeprefix(common).rpartition("/")[0].partition("/")[0] for name in names]
    if folders and all(map(is_tools, folders)) and counted_by_tool(folders, names):
        folders = []
    return np.array(folders, str)


def _by_number(name: str) -> list[tuple[int, str]]:
    """Sorts names such as trial-2 and trial-10 by their numbers."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", name)]


_WANTED = "give uint8 images (N, C, H, W) or (N, H, W[, C]), a list of them or of pictures, or batches of them"


def as_pixels(
    value: Any, value_range: tuple[float, float] | None = None, where: str = "images", item: bool = False
) -> tuple[np.ndarray, np.ndarray | None]:
    """Collects images in memory.

    Args:
        value: An array or tensor of images; ``(images, classes)``; an iterable of images, Pillow pictures, batches, or
            batches with classes, such as a DataLoader; a data set with a length. Mappings name images ``images`` or
            ``image``, and classes ``labels`` or ``label``.
        value_range: Values of floats that stand for black and white, such as ``(-1, 1)``; needed for floats, which
            become ``floor((x - low) / (high - low) · 255 + 0.5)``, as the papers' samplers round.
        where: Name in errors.
        item: Whether the value is an item of an iterable, where three axes are those of one image.

    Returns:
        Pixels uint8 ``(N, C, H, W)``, and whole numbers ``(N,)`` of their classes, or None.

    Raises:
        UserError: Anything else, or floats without a range or outside of it.
    """
    if isinstance(value, Mapping):
        named = [next((value[name] for name in names if name in value), None) for names in _NAMES]
        value = value if named[0] is None else named[0] if named[1] is None else tuple(named)
    if item and isinstance(value, Image.Image):
        if value.mode not in ("L", "RGB"):
            raise UserError(where, f"is a picture of mode {value.mode}", "convert it: picture.convert('RGB')")
        value = np.asarray(value)
    if isinstance(value, np.ndarray | torch.Tensor):
        return _batch(_array(value, where), value_range, where, item), None
    if isinstance(value, tuple | list) and len(value) == 2 and _are_classes(value[0], value[1], item):
        images, _ = as_pixels(value[0], value_range, where, item)
        classes = _array(value[1], where)
        classes = classes[None] if classes.ndim == 0 else classes
        fits = classes.shape == (len(images),) and np.issubdtype(classes.dtype, np.integer)
        if not fits or (len(classes) and not 0 <= classes.min() <= classes.max() < MAX_CLASSES):
            fault = f"{len(images)} images have classes {classes.dtype} {classes.shape}, or no class"
            raise UserError(where, fault, f"give one whole number for each image, below {MAX_CLASSES:,}")
        return images, classes.astype(np.int64)
    if not isinstance(value, Iterable) and hasattr(value, "__getitem__") and hasattr(value, "__len__"):
        data = value  # a data set: Python's own iteration would look for an end
        value = (data[index] for index in range(len(data)))
    if isinstance(value, str | bytes | Image.Image | Mapping) or not isinstance(value, Iterable):
        raise UserError(where, f"cannot be read from {type(value).__name__}", _WANTED)
    parts = [as_pixels(part, value_range, f"{where}[{index}]", True) for index, part in enumerate(value)]
    shapes = {images.shape[1:] for images, _ in parts}
    if len(shapes) != 1:
        fault = f"have shapes {', '.join(map(str, sorted(shapes)[:3]))}" if parts else "are none"
        raise UserError(where, fault, "give images of one size")
    labels = [classes for _, classes in parts if classes is not None]
    if len(labels) not in (0, len(parts)):
        raise UserError(where, "only some batches have classes", "give classes with all batches, or with none")
    return np.concatenate([images for images, _ in parts]), np.concatenate(labels) if labels else None


#: Names of images and of classes in mappings.
_NAMES = ("images", "image", "img"), ("labels", "label")


def _are_classes(images: Any, value: Any, item: bool) -> bool:
    """Whether the second of two values is a number or a vector for each image; for one image, a number."""
    if isinstance(value, str | bytes | Image.Image | Mapping):
        return False
    try:
        axes = np.ndim(_array(value, "classes"))
    except UserError:  # a second picture or batch with its classes
        return False
    # Two axes beside images are one-hot classes, which the caller refuses by their shape.
    return axes == 1 or (item and axes == 0) or (axes == 2 and getattr(images, "ndim", 0) == 4)


def _batch(array: np.ndarray, value_range: tuple[float, float] | None, where: str, item: bool) -> np.ndarray:
    """Images uint8 (N, C, H, W) of an array of one or several images."""
    if item and array.ndim < 4:
        array = (array[..., None] if array.ndim == 2 else array)[None]
    elif array.ndim == 3:
        array = array[:, None]
    # Axes 1 and 3 are the channels of (N, C, H, W) and (N, H, W, C).
    if array.ndim != 4 or (1 not in array.shape[1::2] and 3 not in array.shape[1::2]):
        raise UserError(where, f"have shape {array.shape}", _WANTED)
    if array.shape[3] in (1, 3):
        array = array.transpose(0, 3, 1, 2)
    if not np.issubdtype(array.dtype, np.floating):
        if array.dtype != np.uint8:
            raise UserError(where, f"are {array.dtype}", "give uint8, or floats with value_range")
        return array
    if value_range is None:
        raise UserError(where, f"are {array.dtype}", "give their range, value_range=(-1, 1), or uint8")
    try:
        low, high = map(float, value_range)
    except (TypeError, ValueError):
        low = high = 0.0
    if not low < high:
        raise UserError("value_range", f"is {value_range!r}", "give black and white, such as (-1, 1)")
    if not (np.isfinite(array).all() and low <= array.min() and array.max() <= high):
        fault = f"have values {exact(array.min())} to {exact(array.max())}, range {exact(low)} to {exact(high)}"
        raise UserError(where, fault, "clip them, or correct the range")
    # One product and one sum, as x · 127.5 + 128 of the papers' samplers.
    scale = 255 / (high - low)
    scaled = array.astype(np.float32) * np.float32(scale) + np.float32(0.5 - low * scale)
    return np.floor(scaled).clip(0, 255).astype(np.uint8)


def _array(value: Any, where: str) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().to(torch.float32 if value.is_floating_point() else value.dtype).numpy()
    try:
        return np.asarray(value)
    except (ValueError, TypeError) as error:
        raise UserError(where, f"is not an array ({error})", _WANTED) from None
