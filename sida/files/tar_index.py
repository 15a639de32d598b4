"""Index of a tar file's members, read from the headers alone: seconds for a million, where ``tarfile`` takes minutes.

Tars inside the tar are indexed as well: ImageNet is a tar of one tar per class.
"""

from __future__ import annotations

import lzma
import os
import struct
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from sida.errors import UserError

_BLOCK = 512
_FILE = b"0\0"
_MOST_LEVELS, _LONGEST_HEADER, _MOST_MEMBERS = 3, 1 << 20, 5_000_000
#: Bytes that any archive may unpack to, and largest plausible compression ratio of images.
FREE_BYTES, MAX_RATIO = 64 << 20, 20
#: Exceptions of Python's readers for damaged, encrypted and unusually packed archives.
ARCHIVE_FAULTS = (
    OSError, EOFError, ValueError, LookupError, RuntimeError, OverflowError, struct.error, zlib.error, lzma.LZMAError,
)  # fmt: skip
TAR_FAULTS = (tarfile.TarError, *ARCHIVE_FAULTS)


#: Name, position of the content in the archive, bytes.
Member = tuple[str, int, int]


def tar_members(path: str | os.PathLike[str]) -> Iterator[Member]:
    """Lists all files with their places; a file in an inner ``NAME.tar`` is ``NAME/file``, and ``./file`` is ``file``.

    Raises:
        UserError: The archive is compressed, cut off or damaged.
    """
    with open(path, "rb") as stream:
        yield from _members(stream.fileno(), 0, os.fstat(stream.fileno()).st_size, str(path))


def _members(handle: int, position: int, end: int, where: str, level: int = 0) -> Iterator[Member]:
    if level > _MOST_LEVELS:
        raise UserError(where, f"more than {_MOST_LEVELS} tars within each other", "unpack them and give the folder")
    longer: str | None = None
    while position + _BLOCK <= end:
        header = os.pread(handle, _BLOCK, position)
        if not header.strip(b"\0"):
            return
        size, kind, data = _size(header, where), header[156], position + _BLOCK
        position = data - (-size // _BLOCK) * _BLOCK
        if position > end:
            raise UserError(where, f"is cut off within {_name(header)}", "fetch it again")
        if kind in b"Lxg" and size > _LONGEST_HEADER:
            raise UserError(where, f"a header of {size} bytes", "it is damaged, fetch it again")
        if kind in b"Lx":
            longer = _longer(os.pread(handle, size, data), kind) or longer
        elif kind in _FILE:
            name, longer = (longer or _name(header)).removeprefix("./"), None
            if name.endswith(".tar"):
                folder = name.removesuffix(".tar")
                for member, start, length in _members(handle, data, data + size, f"{where}: {name}", level + 1):
                    yield f"{folder}/{member}", start, length
            else:
                yield name, data, size
        elif kind not in b"gK":
            longer = None
    if position < end:
        raise UserError(where, "is cut off", "fetch it again")


def _size(header: bytes, where: str) -> int:
    """Checks the header's checksum, and returns the bytes of the member."""
    try:
        if int(header[148:156].strip(b"\0 "), 8) != sum(header) - sum(header[148:156]) + 8 * 32:
            raise ValueError
        if header[124] & 0x80:
            return int.from_bytes(header[125:136])
        size = int(header[124:136].strip(b"\0 ") or b"0", 8)
        if size < 0:
            raise ValueError
        return size
    except ValueError:
        fault = "is no whole tar file, or a compressed one, which has no index"
        raise UserError(where, fault, "unpack it and give the folder") from None


def _name(header: bytes) -> str:
    name, prefix = header[:100].partition(b"\0")[0], header[345:500].partition(b"\0")[0]
    whole = prefix + b"/" + name if header[257:263] == b"ustar\0" and prefix else name
    return whole.decode(errors="replace")


def _longer(content: bytes, kind: int) -> str | None:
    """A long name in GNU's format (``L``) or POSIX's (``x``: lines ``LENGTH path=NAME``)."""
    if kind == ord("L"):
        return content.rstrip(b"\0").decode(errors="replace")
    for record in content.split(b"\n"):
        key, _, value = record.partition(b" ")[2].partition(b"=")
        if key == b"path":
            return value.decode(errors="replace")
    return None


def checked_members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Regular files of an archive opened by Python's tar reader, which also reads compressed archives.

    Raises:
        TAR_FAULTS: The archive is damaged (any of these), or a member's size leads back into the archive.
    """
    archive.tarinfo = _Member
    place, most = -1, most_unpacked(os.path.getsize(str(archive.name)))
    for count, member in enumerate(archive):
        if archive.offset <= place or member.size < 0 or count >= _MOST_MEMBERS:
            raise tarfile.ReadError("its sizes or numbers are impossible")
        if archive.offset > most:
            raise tarfile.ReadError(f"it unpacks to more than {most:,} bytes")
        place = archive.offset
        if member.isfile():
            yield member


def most_unpacked(packed: int) -> int:
    """Bytes to which a compressed archive of so many bytes may unpack: images hardly shrink, bombs shrink a lot."""
    return max(FREE_BYTES, MAX_RATIO * packed)


class _Member(tarfile.TarInfo):
    """A member whose extended headers must be short, since they are read into memory."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _HEADERS and not 0 <= self.size <= _LONGEST_HEADER:
            raise tarfile.ReadError(f"a header of {self.size} bytes")
        found: tarfile.TarInfo = super()._proc_member(archive)  # type: ignore[misc]
        return found


_HEADERS = (
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE,
)  # fmt: skip


def is_tar(path: str | os.PathLike[str]) -> bool:
    """Whether a file has the suffix of a tar archive."""
    return ".tar" in Path(path).suffixes or Path(path).suffix == ".tgz"
