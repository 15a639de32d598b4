"""Encoded pictures in a folder, a zip or a tar, in the order of their names."""

from __future__ import annotations

import abc
import hashlib
import json
import os
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from eval.measuring.stores.base import Store
from sida.data.pictures import PICTURES, open_picture
from sida.errors import UserError
from sida.io import sha256_file

_MODES = {"L": 1, "RGB": 3}


class PictureStore(Store):
    """Encoded pictures under names: what folders, zips and tars have in common."""

    def __init__(self, path: Path, names: list[str]) -> None:
        self.path = path
        pictures = sorted(name for name in names if _is_picture(name))
        if not pictures:
            raise UserError(f"{path}: holds no pictures ({', '.join(sorted(PICTURES))}); check the path")
        self._names, self.count = pictures, len(pictures)
        self._pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
        self._shape: tuple[int, ...] | None = None
        self._lossy: set[int] = set()
        described = sorted((name for name in names if Path(name).name == "dataset.json"), key=len)
        if described:
            self.classes = _labels(self.contents(described[0]), pictures, f"{path}/{described[0]}")

    @abc.abstractmethod
    def contents(self, name: str) -> bytes:
        """Bytes of a member."""

    def name(self, position: int) -> str:
        """Path of the picture, or archive and member."""
        return f"{self.path}/{self._names[position]}"

    def read(self, begin: int, end: int) -> np.ndarray:
        """Decodes pictures in parallel; all must have the size and mode of the first one read."""
        encoded = [self.contents(self._names[position]) for position in range(begin, end)]
        decoded = list(self._pool.map(decode_picture, encoded, map(self.name, range(begin, end))))
        images = [image for image, _ in decoded]
        for position, image in enumerate(images, start=begin):
            if self._shape is None:
                self._shape = image.shape
            if image.shape != self._shape:
                raise UserError(_unequal(self.name(position), image.shape, self._shape))
        # By content, not by name: artefacts stay when a JPEG is called .png.
        self._lossy.update(position for position, (_, jpeg) in enumerate(decoded, start=begin) if jpeg)
        if self._lossy:
            count = f"{len(self._lossy):,} pictures are JPEG"
            self.remark = f"{count}, whose artefacts raise distances; protocols take lossless images"
        return np.stack(images)


class FolderStore(PictureStore):
    """Pictures in a folder and its subfolders."""

    def __init__(self, path: Path) -> None:
        names = [str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()]
        super().__init__(path, names)

    def contents(self, name: str) -> bytes:
        """Reads a file."""
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            raise UserError(f"{self.path / name}: cannot be read ({error.strerror})") from None

    def digest(self) -> str:
        """Names, sizes and times of the files: reading all of them twice would take as long as measuring."""
        digest = hashlib.sha256()
        for name in self._names:
            status = (self.path / name).stat()
            digest.update(f"{name}/{status.st_size}/{status.st_mtime_ns}\n".encode())
        return digest.hexdigest()


class ZipStore(PictureStore):
    """Pictures in a zip, also in EDM's data-set format with ``dataset.json``."""

    def __init__(self, path: Path) -> None:
        try:
            self._zip = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile) as error:
            raise UserError(f"{path}: not a readable zip ({error}); make or download it again") from None
        super().__init__(path, self._zip.namelist())

    def contents(self, name: str) -> bytes:
        """Reads a member; its checksum is verified."""
        try:
            return self._zip.read(name)
        except (OSError, zipfile.BadZipFile, EOFError) as error:
            raise UserError(f"{self.path}/{name}: damaged ({error}); make or download the zip again") from None

    def digest(self) -> str:
        """SHA-256 of the file."""
        return sha256_file(self.path)


class TarStore(PictureStore):
    """Pictures in a tar, compressed or not."""

    def __init__(self, path: Path) -> None:
        try:
            self._tar = tarfile.open(path)  # noqa: SIM115 - stays open as long as the store
            self._members = {member.name: member for member in self._tar.getmembers() if member.isfile()}
        except (OSError, tarfile.TarError, EOFError) as error:
            raise UserError(f"{path}: not a readable tar ({error}); make or download it again") from None
        super().__init__(path, list(self._members))

    def contents(self, name: str) -> bytes:
        """Reads a member."""
        try:
            stream = self._tar.extractfile(self._members[name])
            assert stream is not None  # only regular files were kept
            return stream.read()
        except (OSError, tarfile.TarError, EOFError) as error:
            raise UserError(f"{self.path}/{name}: damaged ({error}); make or download the tar again") from None

    def digest(self) -> str:
        """SHA-256 of the file."""
        return sha256_file(self.path)


def decode_picture(encoded: bytes, name: str) -> tuple[np.ndarray, bool]:
    """A picture as uint8 (H, W, C), grey or RGB, and whether it is a JPEG.

    Raises:
        UserError: Broken file, or a mode that cannot be measured as it is.
    """
    picture = open_picture(encoded, name)
    if picture.mode not in _MODES:
        raise UserError(f"{name}: has mode {picture.mode}; convert all pictures to RGB (or all to L) first")
    array = np.asarray(picture)
    # Pillow calls a JPEG with further pictures behind it MPO.
    return array[..., None] if array.ndim == 2 else array, picture.format in ("JPEG", "MPO")


def _is_picture(name: str) -> bool:
    """Pictures by suffix; what systems leave behind (hidden files, ``__MACOSX``) is no picture."""
    parts = Path(name).parts
    return Path(name).suffix.lower() in PICTURES and not any(p.startswith(".") or p == "__MACOSX" for p in parts)


def _labels(text: bytes, names: list[str], where: str) -> np.ndarray | None:
    """Integer classes from EDM's ``dataset.json``; None when it has none."""
    try:
        pairs: Any = json.loads(text).get("labels")
        if pairs is None:
            return None
        table = dict(pairs)
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{where}: labels cannot be read ({error}); see EDM's data-set format") from None
    base = str(Path(names[0]).anchor)
    values = [table.get(name.removeprefix(base), table.get(Path(name).name)) for name in names]
    if any(value is None for value in values):
        raise UserError(f"{where}: has no label for {names[values.index(None)]}; add it or remove 'labels'")
    return np.asarray(values, dtype=np.int64) if all(isinstance(value, int) for value in values) else None


def _unequal(name: str, shape: tuple[int, ...], first: tuple[int, ...]) -> str:
    if shape[:2] != first[:2]:
        return (
            f"{name}: is {shape[0]}×{shape[1]}, the pictures before it {first[0]}×{first[1]}; "
            "all must have one size (resizing changes the numbers, so it is not done here)"
        )
    modes = {1: "grey", 3: "RGB"}
    return f"{name}: is {modes[shape[2]]}, the pictures before it {modes[first[2]]}; convert all to one mode"
