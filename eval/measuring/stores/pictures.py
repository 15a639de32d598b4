"""Stores of encoded pictures in a folder, a zip or a tar, in the order of names."""

from __future__ import annotations

import functools
import hashlib
import os
from collections import Counter
from collections.abc import Set
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from eval.measuring.stores.base import ImageStore
from sida.data.archive import read_labels
from sida.data.pictures import MOST_SUM, PixelSum, open_picture
from sida.errors import UserError
from sida.files.archives import PICTURES, Files, FolderFiles

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
            raise UserError(f"{self.path}: holds no pictures ({', '.join(sorted(PICTURES))}); check the path")
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
        size = (self._shape[1], self._shape[0])
        decode = functools.partial(decode_picture, size=size)
        decoded = list(self._pool.map(decode, encoded, map(self.name, range(begin, end))))
        images = [image for image, _ in decoded]
        for position, image in enumerate(images, start=begin):
            if image.shape != self._shape:
                raise UserError(_unequal(self.name(position), image.shape, self._shape))
        # Judged by content: artefacts remain in a JPEG that is named .png.
        self._lossy.update({position: lossy for position, (_, lossy) in enumerate(decoded, start=begin) if lossy})
        if self._lossy:
            counts = ", ".join(
                f"{count:,} pictures are {kind}" for kind, count in Counter(self._lossy.values()).items()
            )
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
        raise UserError(f"{name}: has mode {picture.mode}; convert all pictures to RGB (or all to L) first")
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


def _unequal(name: str, shape: tuple[int, ...], first: tuple[int, ...]) -> str:
    if shape[:2] != first[:2]:
        return (
            f"{name}: is {shape[0]}×{shape[1]}, the pictures before it {first[0]}×{first[1]}; "
            "all must have one size (resizing changes the numbers, so it is not done here)"
        )
    modes = {1: "grey", 3: "RGB"}
    return f"{name}: is {modes[shape[2]]}, the pictures before it {modes[first[2]]}; convert all to one mode"
