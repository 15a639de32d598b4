"""Stores of image files: a folder, a zip or tar of pictures, or an array in ``.npz``/``.npy``, read as a stream.

Nothing is resized, converted or rescaled, since a silent conversion would change the protocol. Unsuitable images are
refused with the file's name and the remedy.

Base class of stores of images.

Stores of images in an array, read as a stream.

Stores of encoded pictures in a folder, a zip or a tar, in the order of names.
"""

from __future__ import annotations

import abc
import functools
import hashlib
import os
import zipfile
from collections import Counter
from collections.abc import Set
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import numpy as np

from sida.config.settings import names_object
from sida.data.archive import MAX_CLASSES, read_labels
from sida.data.pictures import MOST_SUM, PixelSum, open_picture
from sida.errors import UserError
from sida.files.archives import MAX_MEMBER_BYTES, PICTURES, Files, FolderFiles, TarFiles, ZipFiles
from sida.files.atomic import sha256_file
from sida.files.npy import ZIP_FAULTS, Npz, check_packing, read_npy_header


class ImageStore(abc.ABC):
    """Images by position.

    Attributes:
        path: The folder or file.
        count: Number of images.
        classes: Class of every image int64 (N,), or None.
        remarks: Remarks on the images read so far, for the report.
        side: Height and width that a protocol asks for, or None; then other pictures are not decoded.
    """

    path: Path
    count: int
    classes: np.ndarray | None = None
    remarks: tuple[str, ...] = ()
    side: int | None = None

    @abc.abstractmethod
    def read(self, begin: int, end: int) -> np.ndarray:
        """Images ``begin … end − 1``, uint8 (N, H, W, C); reading forwards is fast."""

    @abc.abstractmethod
    def name(self, position: int) -> str:
        """Name of an image for messages."""

    @abc.abstractmethod
    def digest(self) -> str:
        """Digest that changes if the images change."""


class ArrayStore(ImageStore):
    """Images in an array: ``arr_0`` (or the only array) of an ``.npz``, or a ``.npy``; classes in ``arr_1``.

    The array is read as a stream, so a file may be larger than the memory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._zip: zipfile.ZipFile | None = None
        if path.suffix == ".npz":
            try:
                self._zip = zipfile.ZipFile(path)
            except ZIP_FAULTS as error:
                raise UserError(path, f"not a readable .npz ({error})", "make or download it again") from None
        self._member = self._choose()
        self._open()
        self._check_shape()
        self.count = self._stored[0]

    def read(self, begin: int, end: int) -> np.ndarray:
        """Reads images; a step backwards starts the stream again."""
        if begin < self._position:
            self._open()
        try:
            while self._position < begin:
                self._take(min(begin - self._position, 1024))
            rows = self._take(end - begin)
        except ZIP_FAULTS as error:
            raise UserError(self.path, f"damaged after image {self._position} ({error})", "make it again") from None
        images = np.frombuffer(rows, np.uint8).reshape(end - begin, *self._stored[1:])
        if images.ndim == 3:
            return images[..., None]
        return images if self._channels_last else images.transpose(0, 2, 3, 1)

    def name(self, position: int) -> str:
        """File, array and index."""
        return f"{self.path}[{self._member}][{position}]"

    def digest(self) -> str:
        """SHA-256 of the file."""
        return sha256_file(self.path)

    def _choose(self) -> str:
        if self._zip is None:
            return self.path.name
        arrays = [name.removesuffix(".npy") for name in self._zip.namelist() if name.endswith(".npy")]
        classes = next((name for name in ("arr_1", "labels") if name in arrays), None)
        if classes is not None:
            self.classes = self._read_classes(classes)
        others = [name for name in arrays if name not in ("arr_1", "labels")]
        named = [*({"arr_0"} & {*arrays}), *(name for name in arrays if name in ("images", "samples"))]
        if not named and len(others) != 1:
            raise UserError(self.path, f"has no array 'arr_0' of images (arrays: {', '.join(arrays) or 'none'})")
        return [*named, *others][0]

    def _read_classes(self, name: str) -> np.ndarray:
        where = f"{self.path}[{name}]"
        try:
            found = Npz(self.path, MAX_MEMBER_BYTES).read(name).reshape(-1)
        except ZIP_FAULTS as error:
            raise UserError(where, f"not a readable array ({error})", "make it again") from None
        if not np.issubdtype(found.dtype, np.integer):
            raise UserError(where, f"classes must be integers, got {found.dtype}", "save them so, or leave them out")
        if found.size and not 0 <= found.min() <= found.max() < MAX_CLASSES:
            raise UserError(where, f"a class is not between 0 and {MAX_CLASSES:,}", "make it again")
        return found.astype(np.int64)

    def _open(self) -> None:
        try:
            if self._zip is None:
                size = self.path.stat().st_size
                self._stream: IO[bytes] = open(self.path, "rb")  # noqa: SIM115
            else:
                info = self._zip.getinfo(f"{self._member}.npy")
                check_packing(info)
                size, self._stream = info.file_size, self._zip.open(info)
            header = read_npy_header(self._stream)
            if header.nbytes > size:
                raise ValueError(f"claims shape {header.shape} in {size:,} bytes")
        except ZIP_FAULTS as error:
            raise UserError(self.path, f"not a readable array ({error})", "make it again") from None
        self._stored, self._dtype = header.shape, header.dtype
        if header.fortran:
            raise UserError(self.path, "array is stored in Fortran order", "save np.ascontiguousarray(images)")
        self._position = 0

    def _take(self, count: int) -> bytes:
        size = count * int(np.prod(self._stored[1:]))
        data = self._stream.read(size)
        if len(data) != size:
            raise EOFError(f"{len(data)} of {size} bytes")
        self._position += count
        return data

    def _check_shape(self) -> None:
        where = f"{self.path}[{self._member}]"
        if self._dtype != np.uint8:
            raise UserError(where, self._float_hint())
        if len(self._stored) not in (3, 4) or 0 in self._stored[1:]:
            raise UserError(where, f"has shape {self._stored}", "images must be (N, H, W, C)")
        self._channels_last = len(self._stored) == 3 or self._stored[3] in (1, 3)
        if not self._channels_last and self._stored[1] not in (1, 3):
            raise UserError(where, f"has shape {self._stored}", "images need 1 or 3 channels, (N, H, W, C)")
        if self.classes is not None and len(self.classes) != self._stored[0]:
            raise UserError(self.path, f"{len(self.classes)} labels for {self._stored[0]} images", "make it again")

    def _float_hint(self) -> str:
        """Remedy for values that are not bytes, inferred from the first values."""
        if not np.issubdtype(self._dtype, np.floating):
            return f"holds {self._dtype}; save images as uint8 in 0..255"
        count = min(int(np.prod(self._stored)), 1 << 20)
        sample = np.frombuffer(self._stream.read(count * self._dtype.itemsize), self._dtype)
        low, high = (float(sample.min()), float(sample.max())) if sample.size else (0.0, 0.0)
        span = f"holds {self._dtype} from {low:.3g} to {high:.3g}"
        if -1.001 <= low < -1e-6 and high <= 1.001:
            return f"{span}, probably [-1, 1]; save (x * 127.5 + 128).clip(0, 255).astype(np.uint8)"
        if low >= -1e-6 and high <= 1.001:
            return f"{span}, probably [0, 1]; save (x * 255).clip(0, 255).astype(np.uint8)"
        return f"{span}; save images as uint8 in 0..255"


_MODES = {"L": 1, "RGB": 3}


class PictureStore(ImageStore):
    """Encoded pictures by name, also in EDM's data-set format with ``dataset.json``.

    Args:
        files: Opened folder, zip or tar.

    Raises:
        UserError: No pictures, or labels that cannot be read.
    """

    def __init__(self, files: Files) -> None:
        self.path, self._files = Path(files.path), files
        self._members = np.array([i for i in range(len(files)) if _is_picture(files.name(i))], dtype=np.int64)
        if not len(self._members):
            raise UserError(self.path, f"holds no pictures ({', '.join(sorted(PICTURES))})", "check the path")
        self.count = len(self._members)
        self._pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
        self._shape: tuple[int, ...] | None = None
        self._lossy: dict[int, str] = {}
        self.remarks = self._order = _order_of({os.path.dirname(files.name(int(i))) for i in self._members})
        labels = read_labels(files, self._members, anywhere=True)
        self.classes = labels if labels is not None and labels.ndim == 1 else None

    def name(self, position: int) -> str:
        """Path of the picture, or archive and member."""
        return f"{self.path}/{self._files.name(int(self._members[position]))}"

    def digest(self) -> str:
        """SHA-256 of an archive; of a folder's pictures by name and content, and of their classes."""
        if not isinstance(self._files, FolderFiles):
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
            asked = None if self.side is None else (self.side, self.side)
            image, _ = decode_picture(self._files.read(int(self._members[begin])), self.name(begin), asked)
            if asked not in (None, image.shape[:2]):
                return image[None]
            self._shape = image.shape
            if image.shape[0] * image.shape[1] * self.count > MOST_SUM:
                PixelSum(str(self.path), self._files.size).add(image.shape[0] * image.shape[1] * self.count)
        encoded = [self._files.read(int(member)) for member in self._members[begin:end]]
        decode = functools.partial(decode_picture, size=(self._shape[1], self._shape[0]))
        decoded = list(self._pool.map(decode, encoded, map(self.name, range(begin, end))))
        images = [image for image, _ in decoded]
        for position, image in enumerate(images, start=begin):
            _check_equal(self.name(position), image.shape, self._shape)
        # Judged by content: artefacts remain in a JPEG that is named .png.
        self._lossy.update({position: lossy for position, (_, lossy) in enumerate(decoded, start=begin) if lossy})
        if self._lossy:
            kinds = Counter(self._lossy.values()).items()
            counts = ", ".join(f"{count:,} pictures are {kind}" for kind, count in kinds)
            lossy = f"{counts}, whose artefacts raise distances; protocols take lossless images"
            self.remarks = (*self._order, lossy)
        return np.stack(images)


def _order_of(folders: Set[str]) -> tuple[str, ...]:
    if len(folders) < 2:
        return ()
    return (
        f"images are taken folder by folder, of {len(folders):,}: if these are classes, a trial or a split of the "
        "inception score holds few of them; put all pictures into one folder, in an order that is not that of classes",
    )


def decode_picture(encoded: bytes, name: str, size: tuple[int, int] | None = None) -> tuple[np.ndarray, str | None]:
    """Decodes a picture: uint8 (H, W, C), grey or RGB, and the name of its lossy compression or None.

    Of a picture of another width and height than ``size`` the array has the shape only.

    Raises:
        UserError: Broken file, more than 8 bits or one frame, or an unsupported mode.
    """
    picture = open_picture(encoded, name, whole=True, size=size)
    if picture.mode not in _MODES:
        raise UserError(name, f"has mode {picture.mode}", "convert all pictures to RGB (or all to L) first")
    if size not in (None, picture.size):
        return np.broadcast_to(np.uint8(0), (picture.height, picture.width, _MODES[picture.mode])), None
    array = np.asarray(picture)
    return array[..., None] if array.ndim == 2 else array, _lossy(picture.format, encoded)


def _lossy(form: str, encoded: bytes) -> str | None:
    # MPO is Pillow's name of a JPEG with further pictures in the file.
    if form in ("JPEG", "MPO"):
        return "JPEG"
    place = 12 if form == "WEBP" else len(encoded)
    while place < len(encoded):  # the chunks of a RIFF file: name, size, content to an even length
        if encoded[place : place + 4] == b"VP8 ":
            return "lossy WebP"
        size = int.from_bytes(encoded[place + 4 : place + 8], "little")
        place += 8 + size + size % 2
    return None


def _is_picture(name: str) -> bool:
    """Whether a file is a picture by its suffix; hidden files and ``__MACOSX`` are not."""
    if os.path.splitext(name)[1].lower() not in PICTURES:
        return False
    return not any(part.startswith(".") or part == "__MACOSX" for part in name.replace(os.sep, "/").split("/"))


def _check_equal(name: str, shape: tuple[int, ...], first: tuple[int, ...]) -> None:
    if shape[:2] != first[:2]:
        fault = f"is {shape[0]}×{shape[1]}, the pictures before it {first[0]}×{first[1]}"
        raise UserError(name, fault, "all must have one size (resizing changes the numbers, so it is not done here)")
    if shape != first:
        modes = {1: "grey", 3: "RGB"}
        fault = f"is {modes[shape[2]]}, the pictures before it {modes[first[2]]}"
        raise UserError(name, fault, "convert all to one mode")


def open_images(path: str | os.PathLike[str]) -> ImageStore:
    """Opens a folder, ``.zip``, ``.tar`` (also compressed), ``.npz`` or ``.npy``.

    Raises:
        UserError: A missing file, another kind of file, shards of ``sida sample``, or a store without images.
    """
    path = Path(path)
    if path.is_dir():
        if next(path.glob("shard-*.npz"), None):
            remedy = f"sample again, to --out {path}.npz or another folder"
            raise UserError(path, "holds shards of an earlier `sida sample`, which are not read", remedy)
        return PictureStore(FolderFiles(path))
    if not path.is_file() and names_object(str(path)):
        named = "name it in column 'checkpoint' of a sample sheet (docs/add.md)"
        fault = "a Python function, which is no file of images"
        raise UserError(path, fault, f"write its images into a .npz file, or {named}")
    if not path.is_file():
        raise UserError(path, "no such folder or file of images")
    if path.suffix == ".zip":
        return PictureStore(ZipFiles(path))
    if ".tar" in path.suffixes or path.suffix in (".tgz", ".txz"):
        return PictureStore(TarFiles(path))
    if path.suffix in (".npz", ".npy"):
        return ArrayStore(path)
    raise UserError(path, "not a folder, .zip, .tar, .npz or .npy of images")
