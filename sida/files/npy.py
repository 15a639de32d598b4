"""Reader of untrusted npy and npz files: NumPy parses a header of limited length, this module checks what it claims.

NumPy's own reader allocates the claimed size before it looks at the file. This reader accepts arrays of plain numbers
only, whose size must be that of the file.
"""

from __future__ import annotations

import math
import os
import tokenize
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import IO

import numpy as np
from numpy.lib import format as npy_format

from sida.files.tar_index import ARCHIVE_FAULTS, MAX_RATIO, most_unpacked

MAGIC = npy_format.MAGIC_PREFIX
#: Exceptions of Python's zip reader for damaged, encrypted and unusually packed members.
ZIP_FAULTS = (zipfile.BadZipFile, *ARCHIVE_FAULTS)
#: Limit of a header in bytes; that of an array of numbers has 118.
_MOST_HEADER = 1_000
#: Exceptions of NumPy's parser of headers, which are Python literals, beside ValueError.
_HEADER_FAULTS = (TypeError, SyntaxError, tokenize.TokenError, MemoryError, RecursionError, LookupError, OverflowError)
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
    try:
        # Arrays of numbers need no later version, whose headers may claim gigabytes: NumPy would allocate them.
        if npy_format.read_magic(stream) != (1, 0):
            raise ValueError("not of version 1.0")
        shape, fortran, dtype = npy_format.read_array_header_1_0(stream, max_header_size=_MOST_HEADER)
    except (ValueError, *_HEADER_FAULTS) as error:
        raise ValueError(f"no npy file, or a damaged one ({str(error).partition(chr(10))[0][:100]})") from None
    if dtype.kind not in "biuf":
        fault = "Object arrays cannot be loaded" if dtype.hasobject else "its array does not hold plain numbers"
        raise ValueError(fault)
    if len(shape) > 8 or not all(0 <= n < 1 << 62 for n in shape):
        raise ValueError("it claims a shape that no array has")
    return NpyHeader(shape, dtype, fortran)


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
