"""Arrays of images of anyone, with their classes: ``.npz``, ``.npy``, and files of MNIST's format (idx)."""

from __future__ import annotations

import functools
import hashlib
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sida.data.archive import MAX_RATIO, PART, READER, SECONDS, ask_shared, refuse_foreign
from sida.data.dataset import InMemory
from sida.data.reader import MAX_CLASSES
from sida.errors import UserError
from sida.files.atomic import sha256_file
from sida.files.fenced import Child
from sida.files.ordinary import open_ordinary, size_on_disk

_IMAGES, _CLASSES = ("arr_0", "images", "samples"), ("arr_1", "labels")
#: Images of a part that is read at a time.
_AT_ONCE = 256
_IDX = re.compile(r"images[-.]idx3-ubyte(\.gz)?$")


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """An array uint8 of MNIST's format, also packed by gzip.

    Raises:
        UserError: It is no ordinary file or no whole file of that format.
    """
    return ask_shared("idx", path)[1]["data"]


class Arrays:
    """Arrays of numbers of an ``.npz`` file, or the one of an ``.npy`` file, whose name is empty.

    Attributes:
        path: The file.
        shapes: Shape by name.
        dtypes: Type by name.
        fortran: Names of the arrays whose first index runs fastest.

    Raises:
        UserError: The file is missing or damaged, or an array is not one of plain numbers.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = path
        stream = open_ordinary(path)
        self._size = size_on_disk(stream)
        self._child = Child(READER, path)
        found, _ = self._child.ask("arrays", files=[stream], seconds=self._size * SECONDS)
        self.shapes = {name: tuple(shape) for name, (shape, _, _) in found.items()}
        self.dtypes = {name: np.dtype(kind) for name, (_, kind, _) in found.items()}
        self.fortran = {name for name, (*_, fortran) in found.items() if fortran}

    def elements(self, name: str, begin: int, end: int) -> np.ndarray:
        """Elements of an array in the file's order; reading forwards is fast."""
        step = PART // self.dtypes[name].itemsize
        parts = []
        for at in range(begin, end, step):
            rows = self._child.ask("rows", name, at, min(step, end - at))[1].get("rows")
            if rows is None or len(rows) != min(step, end - at):
                raise UserError(self.path, "its reader gave other numbers than were asked for", "make it again")
            parts.append(rows)
        return np.concatenate(parts) if parts else np.empty(0, self.dtypes[name].newbyteorder("="))

    def read(self, name: str) -> np.ndarray:
        """A whole array.

        Raises:
            UserError: It is cut off, or claims more than the file explains.
        """
        count = math.prod(self.shapes[name])
        claimed = count * self.dtypes[name].itemsize
        if claimed > max(1 << 30, MAX_RATIO * self._size):
            raise UserError(f"{self.path}[{name}]", f"claims {claimed:,} bytes in {self._size:,}", "make it again")
        order: Any = "F" if name in self.fortran else "C"
        return self.elements(name, 0, count).reshape(self.shapes[name], order=order)


class ImageArrays:
    """Images in an array: ``arr_0`` (or the only array) of an npz, an npy, or idx; read as a stream.

    Args:
        path: The file. Classes are those of ``arr_1`` or ``labels``; those of an npy or idx lie in a file beside it,
            named with ``labels`` in the place of ``images``.
        labels: Whether to read classes.

    Attributes:
        path: The file.
        count: Number of images.
        classes: Class of every image int64 (N,), or None.
        files: The file, and that of the classes, if there is one.
        channels: 1 or 3.

    Raises:
        UserError: A damaged file, no array of images, values that are no bytes, or classes that do not fit.
    """

    def __init__(self, path: str | Path, labels: bool = True) -> None:
        self.path, self.files = Path(path), [Path(path)]
        self.classes: np.ndarray | None = None
        self._held: np.ndarray | None = None
        if is_idx(self.path):
            self._member, self._held = "", read_idx(self.path)
            self._stored, self._dtype = self._held.shape, self._held.dtype
            if self._held.ndim == 1:
                raise UserError(self.path, "holds classes, and no images", "give the file of images")
        else:
            self._arrays = Arrays(self.path)
            self._member = self._chosen()
            self._stored, self._dtype = self._arrays.shapes[self._member], self._arrays.dtypes[self._member]
        self._check_shape()
        self.count, self.channels = self._stored[0], 1 if len(self._stored) == 3 else self._stored[self._axis]
        if labels:
            self._read_classes()

    def read(self, begin: int, end: int) -> np.ndarray:
        """Images ``begin … end − 1``, uint8 (N, C, H, W); a step backwards starts the stream again."""
        if self._held is None and self._member in self._arrays.fortran:
            self._held = self._arrays.read(self._member)
        images = self._elements(begin, end) if self._held is None else self._held[begin:end]
        if images.ndim == 3:
            return images[:, None]
        return images.transpose(0, 3, 1, 2) if self._axis == 3 else images

    def pairs(self) -> Iterator[tuple[np.ndarray, int | None]]:
        """Pixels ``(H, W[, 3])`` of each image, with its class."""
        for begin in range(0, self.count, _AT_ONCE):
            for index, image in enumerate(self.read(begin, min(begin + _AT_ONCE, self.count)), start=begin):
                pixels = image[0] if self.channels == 1 else image.transpose(1, 2, 0)
                yield pixels, None if self.classes is None else int(self.classes[index])

    def name(self, position: int) -> str:
        """File, array and index."""
        return f"{self._where}[{position}]"

    def digest(self) -> str:
        """SHA-256 of the file, and of a file of classes."""
        digests = [sha256_file(path) for path in self.files]
        return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()

    @property
    def nbytes(self) -> int:
        """Bytes of all images."""
        return int(np.prod(self._stored))

    @property
    def _where(self) -> str:
        return f"{self.path}[{self._member or self.path.name}]"

    def _elements(self, begin: int, end: int) -> np.ndarray:
        each = int(np.prod(self._stored[1:]))
        return self._arrays.elements(self._member, begin * each, end * each).reshape(end - begin, *self._stored[1:])

    def _chosen(self) -> str:
        arrays = [*self._arrays.shapes]
        others = [name for name in arrays if name not in _CLASSES]
        named = [name for name in _IMAGES if name in arrays]
        if not named and len(others) != 1:
            fault = f"has no array 'arr_0' of images (arrays: {', '.join(arrays) or 'none'})"
            raise UserError(self.path, fault, "name it so, and its classes 'arr_1'")
        return [*named, *others][0]

    def _check_shape(self) -> None:
        if self._dtype != np.uint8:
            remedy = "save images as uint8 in 0..255, of [-1, 1] by (x * 127.5 + 128).clip(0, 255)"
            raise UserError(self._where, f"holds {self._dtype}", remedy)
        if len(self._stored) not in (3, 4) or 0 in self._stored[1:]:
            raise UserError(self._where, f"has shape {self._stored}", "images must be (N, H, W, C)")
        self._axis = 3 if len(self._stored) == 3 or self._stored[3] in (1, 3) else 1
        if len(self._stored) == 4 and self._stored[self._axis] not in (1, 3):
            raise UserError(self._where, f"has shape {self._stored}", "images need 1 or 3 channels, (N, H, W, C)")

    def _read_classes(self) -> None:
        beside = self._beside()
        if beside is not None:
            self.files.append(beside)
            found, where = (read_idx(beside) if is_idx(beside) else Arrays(beside).read("")), str(beside)
        elif self._member and (known := [name for name in _CLASSES if name in self._arrays.shapes]):
            found, where = self._arrays.read(known[0]), f"{self.path}[{known[0]}]"
        else:
            return
        if found.size != self.count or len(found) != self.count:
            fault = f"holds {found.dtype} {found.shape} as classes of {self.count:,} images"
            raise UserError(where, fault, "give one whole number for each image, or leave classes out")
        if not np.issubdtype(found.dtype, np.integer):
            raise UserError(where, f"classes must be integers, got {found.dtype}", "save them so, or leave them out")
        found = found.reshape(-1)
        if found.size and not 0 <= found.min() <= found.max() < MAX_CLASSES:
            raise UserError(where, f"a class is not between 0 and {MAX_CLASSES:,}", "make it again")
        self.classes = found.astype(np.int64)

    def _beside(self) -> Path | None:
        """File of the classes beside the file of the images: other names, and packed or not."""
        name = self.path.name.removesuffix(".gz")
        if is_idx(self.path):
            other = name.replace("images", "labels").replace("idx3", "idx1")
            names = [other, f"{other}.gz"] if other != name else []
        elif self.path.suffix == ".npy":
            names = [name.replace("images", "labels")] if "images" in name else [f"{self.path.stem}_labels.npy"]
        else:
            names = []
        return next((path for path in map(self.path.with_name, names) if path.is_file()), None)


def is_idx(path: Path) -> bool:
    """Whether a file is one of MNIST's format, by its name or, if it is not packed, by its first bytes."""
    if not path.is_file() or path.suffix in (".npz", ".npy"):
        return False
    if re.search(r"idx\d-ubyte", path.name):
        return True
    with open_ordinary(path) as stream:
        return stream.read(3) == b"\0\0\x08"


def find_arrays(path: str | Path, subset: str | None = None, labels: bool = True) -> ImageArrays | None:
    """Images of an npz, npy or idx file, or of a folder with idx files; None for anything else.

    Args:
        path: File or folder.
        subset: ``train`` or ``test``, of several idx files in a folder; None refuses several.
        labels: Whether to read classes.

    Raises:
        UserError: A file of a format that is not read, or damaged arrays.
    """
    path = Path(path)
    refuse_foreign(path)
    if path.is_dir():
        found = sorted(file for file in path.iterdir() if _IDX.search(file.name))
        fitting = [file for file in found if subset is None or ("train" in file.name) == (subset == "train")]
        if not found:
            return None
        if len(fitting) != 1:
            fault = f"holds {len(fitting)} files of {subset or 'its'} images ({', '.join(f.name for f in found[:4])})"
            raise UserError(path, fault, "name one file")
        path = fitting[0]
    return ImageArrays(path, labels) if path.suffix in (".npz", ".npy") or is_idx(path) else None


class ArrayData(InMemory):
    """Images in an array as a data set, held in memory.

    Args:
        images: The images, which must be square.
    """

    def __init__(self, images: ImageArrays) -> None:
        self._images, pixels = images, images.read(0, images.count)
        if pixels.shape[2] != pixels.shape[3] or not images.count:
            raise UserError(images.path, f"holds images of shape {pixels.shape}", "images must be square")
        super().__init__(images.path.stem, pixels, images.classes)

    @functools.cached_property
    def sha256(self) -> str:
        """Digest of the file and of its classes."""
        return self._images.digest()
