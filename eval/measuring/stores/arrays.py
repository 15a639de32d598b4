"""Stores of images in an array, read as a stream."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from eval.measuring.stores.base import ImageStore
from sida.data.archive import MAX_CLASSES
from sida.errors import UserError
from sida.files.archives import MAX_MEMBER_BYTES
from sida.files.atomic import sha256_file
from sida.files.npy import ZIP_FAULTS, Npz, check_packing, read_npy_header


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
                raise UserError(f"{path}: not a readable .npz ({error}); make or download it again") from None
        self._member = self._choose()
        self._open()
        self._check_shape()
        self.count = self._stored[0]

    def read(self, begin: int, end: int) -> np.ndarray:
        """Reads images; a step backwards starts the stream again."""
        if begin < self._position:
            self._open()
        try:
            for size in _steps(begin - self._position):
                self._take(size)
            rows = self._take(end - begin)
        except ZIP_FAULTS as error:
            raise UserError(f"{self.path}: damaged after image {self._position} ({error}); make it again") from None
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
        for name in ("arr_1", "labels"):
            if name in arrays:
                self.classes = self._read_classes(name)
                break
        images = "arr_0" if "arr_0" in arrays else next((n for n in arrays if n in ("images", "samples")), None)
        others = [name for name in arrays if name not in ("arr_1", "labels")]
        if images is None and len(others) == 1:
            images = others[0]
        if images is None:
            raise UserError(f"{self.path}: has no array 'arr_0' of images (arrays: {', '.join(arrays) or 'none'})")
        return images

    def _read_classes(self, name: str) -> np.ndarray:
        try:
            found = Npz(self.path, MAX_MEMBER_BYTES).read(name).reshape(-1)
        except ZIP_FAULTS as error:
            raise UserError(f"{self.path}[{name}]: not a readable array ({error}); make it again") from None
        if not np.issubdtype(found.dtype, np.integer):
            raise UserError(
                f"{self.path}[{name}]: classes must be integers, got {found.dtype}; save them so, or leave them out"
            )
        if found.size and not 0 <= found.min() <= found.max() < MAX_CLASSES:
            raise UserError(f"{self.path}[{name}]: a class is not between 0 and {MAX_CLASSES:,}; make it again")
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
            raise UserError(f"{self.path}: not a readable array ({error}); make it again") from None
        self._stored, self._dtype = header.shape, header.dtype
        if header.fortran:
            raise UserError(f"{self.path}: array is stored in Fortran order; save np.ascontiguousarray(images)")
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
            raise UserError(f"{where}: {self._float_hint()}")
        if len(self._stored) not in (3, 4) or 0 in self._stored[1:]:
            raise UserError(f"{where}: has shape {self._stored}; images must be (N, H, W, C)")
        self._channels_last = len(self._stored) == 3 or self._stored[3] in (1, 3)
        if not self._channels_last and self._stored[1] not in (1, 3):
            raise UserError(f"{where}: has shape {self._stored}; images need 1 or 3 channels, (N, H, W, C)")
        if self.classes is not None and len(self.classes) != self._stored[0]:
            raise UserError(f"{self.path}: {len(self.classes)} labels for {self._stored[0]} images; make it again")

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


def _steps(count: int, most: int = 1024) -> Iterator[int]:
    while count > 0:
        yield min(count, most)
        count -= most
