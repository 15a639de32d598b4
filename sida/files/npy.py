"""Reader of untrusted npy and npz files.

NumPy's reader evaluates the header as Python, and allocates the claimed size before it checks the file. This reader
accepts headers of one form and arrays of plain numbers only, whose size must be that of the file.
"""

from __future__ import annotations

import lzma
import math
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import IO

import numpy as np

from sida.files.tar_index import MAX_RATIO, most_unpacked

MAGIC = b"\x93NUMPY"
#: Exceptions of Python's zip reader for damaged, encrypted and unusually packed members.
ZIP_FAULTS = (
    zipfile.BadZipFile, OSError, ValueError, EOFError, KeyError, IndexError, RuntimeError, OverflowError, struct.error,
    zlib.error, lzma.LZMAError,
)  # fmt: skip
_MOST_HEADER = 10_000
_TYPE = re.compile(r"""['"]descr['"]\s*:\s*['"]([<>|=]?[?biuf]\d*)['"]""")
_ORDER = re.compile(r"""['"]fortran_order['"]\s*:\s*(True|False)""")
_SHAPE = re.compile(r"""['"]shape['"]\s*:\s*\(([\dL\s,]*)\)""")
#: Bytes of an array from which on its compression ratio must be plausible for images.
_LARGE = 1 << 30
#: Least number of bytes before a member's content.
_LEAST_HEADER = 30


@dataclass(frozen=True)
class NpyHeader:
    """Header of an npy file.

    Attributes:
        shape: Shape of the array.
        dtype: Type of the elements: numbers or booleans.
        fortran: Whether the first index runs fastest.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool

    @property
    def nbytes(self) -> int:
        """Bytes of the array."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_npy_header(stream: IO[bytes]) -> NpyHeader:
    """Reads the header, up to the array's first byte.

    Raises:
        ValueError: Not an npy file, or an array of anything but numbers.
    """
    start = stream.read(8)
    if len(start) < 8 or not start.startswith(MAGIC) or start[6] not in (1, 2, 3):
        raise ValueError("no npy file")
    width = 2 if start[6] == 1 else 4
    length = int.from_bytes(stream.read(width), "little")
    if length > _MOST_HEADER:
        raise ValueError(f"its header has {length} bytes")
    text = stream.read(length).decode("latin-1")
    kind, order, shape = _TYPE.search(text), _ORDER.search(text), _SHAPE.search(text)
    if not kind and "descr" in text:
        objects = re.search(r"descr.{1,5}\|O", text)
        raise ValueError("Object arrays cannot be loaded" if objects else "its array does not hold plain numbers")
    if not (kind and order and shape):
        raise ValueError("its header is cut off or damaged")
    try:
        dtype = np.dtype(kind[1])
        sizes = tuple(int(part.strip().rstrip("L")) for part in shape[1].split(",") if part.strip())
    except (TypeError, ValueError):
        raise ValueError("its header is damaged") from None
    if len(sizes) > 8 or max(sizes, default=0) >= 1 << 62:
        raise ValueError("it claims a shape that no array has")
    return NpyHeader(sizes, dtype, order[1] == "True")


def read_npy(stream: IO[bytes], size: int) -> np.ndarray:
    """Reads a whole array.

    Args:
        stream: Stream at the first byte of the file.
        size: Bytes of the file.

    Raises:
        ValueError: As :func:`read_npy_header`, or the array has not the size of the rest of the file.
    """
    header = read_npy_header(stream)
    if not header.nbytes <= size or header.nbytes > 1 << 62:
        raise ValueError(f"claims an array of shape {header.shape} {header.dtype} in {size:,} bytes")
    content = stream.read(header.nbytes + 1)
    if len(content) != header.nbytes:
        raise ValueError(f"{len(content):,} bytes for an array of {header.nbytes:,}")
    # A writeable copy, as NumPy's reader gives.
    array = np.frombuffer(bytearray(content), header.dtype)
    return array.reshape(header.shape, order="F" if header.fortran else "C")


class Npz:
    """Arrays of an npz file.

    Args:
        path: The file.
        most_bytes: Largest array; None sets no limit, but refuses the compression ratios of zip bombs.

    Raises:
        ZIP_FAULTS: The file is damaged (any of these).
    """

    def __init__(self, path: str | os.PathLike[str], most_bytes: int | None = None) -> None:
        self.path, self.most_bytes = path, most_bytes
        with zipfile.ZipFile(path) as archive:
            infos = [info for info in archive.infolist() if info.filename.endswith(".npy")]
        self._members = {info.filename.removesuffix(".npy"): info for info in infos}

    @property
    def names(self) -> list[str]:
        """Names of the arrays."""
        return list(self._members)

    def read(self, name: str) -> np.ndarray:
        """Reads an array by its name; raises as the class."""
        info = self._members[name]
        check_packing(info)
        if self.most_bytes is not None and info.file_size > self.most_bytes:
            raise ValueError(f"'{name}' claims {info.file_size:,} bytes")
        with zipfile.ZipFile(self.path) as archive, archive.open(info) as stream:
            return read_npy(stream, info.file_size)


def check_members(members: Iterable[zipfile.ZipInfo], packed: int) -> None:
    """Refuses members that share their bytes, or that unpack to too many bytes.

    Args:
        members: Members of an archive.
        packed: Bytes of the archive.

    Raises:
        ValueError: A member is refused.
    """
    places = sorted((member.header_offset, member.compress_size, member.file_size) for member in members)
    for (begin, size, _), (after, *_) in pairwise(places):
        if begin + _LEAST_HEADER + size > after:
            raise ValueError("members share their bytes")
    total, most = sum(size for *_, size in places), most_unpacked(packed)
    if total > most:
        raise ValueError(f"it unpacks to {total:,} bytes, more than {most:,}")


def check_packing(info: zipfile.ZipInfo) -> None:
    """Refuses a large member whose compression ratio is impossible for images.

    Raises:
        ValueError: The member is refused.
    """
    if info.file_size > _LARGE and info.file_size > MAX_RATIO * info.compress_size:
        raise ValueError(f"'{info.filename}' claims {info.file_size:,} bytes in {info.compress_size:,}")
