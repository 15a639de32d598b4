"""Random access to the files of a folder and the members of zip and tar archives, without extracting anything.

Threads and forked data-loading workers may share an open zip archive, because ``pread`` never moves a file position; a
spawned worker opens the archive again. The index takes a few dozen bytes for each member.
"""

from __future__ import annotations

import abc
import hashlib
import io
import os
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from sida.errors import UserError
from sida.files.atomic import sha256_file
from sida.files.npy import ZIP_FAULTS, check_members
from sida.files.ordinary import read_ordinary
from sida.files.tar_index import TAR_FAULTS, checked_members, tar_members

#: Pillow's name of the format by suffix. A picture's format may differ from its suffix (as a few of ImageNet's do), but
#: must be one of these.
FORMATS = {
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".bmp": "BMP", ".webp": "WEBP", ".ppm": "PPM", ".pgm": "PPM",
    ".tif": "TIFF", ".tiff": "TIFF", ".gif": "GIF",
}  # fmt: skip
PICTURES = frozenset(FORMATS)
#: Largest member. Images and latents are far smaller, zip bombs are larger.
MAX_MEMBER_BYTES = 256 << 20
_LONGEST_NAME, _MOST_NAMES = 1000, 512 << 20
_LOCAL_HEADER = struct.Struct("<4s22xHH")


class Files(abc.ABC):
    """Named byte strings, in sorted order of their names.

    Attributes:
        path: Archive or folder.
        names: Relative names with ``/``, bytes, sorted; shape ``(N,)``.
    """

    def __init__(self, path: str | os.PathLike[str], names: list[bytes]) -> None:
        self.path = str(path)
        longest = max(map(len, names), default=0)
        # The array gives each name the space of the longest one.
        if longest > _LONGEST_NAME or longest * len(names) > _MOST_NAMES:
            raise UserError(path, f"{len(names):,} files, the longest name of {longest:,} bytes", "that is no data set")
        self.names = np.array(names or [b""], dtype=bytes)[: len(names)]
        for double in np.flatnonzero(self.names[1:] == self.names[:-1]):
            raise UserError(self.where(int(double)), "occurs twice", "make the archive again")

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        """Name of a member."""
        return bytes(self.names[index]).decode()

    def where(self, index: int) -> str:
        """Archive and member, for error messages."""
        return f"{self.path}: {self.name(index)}"

    def find(self, name: str) -> int | None:
        """Index of a member, or None."""
        key = name.encode()
        index = int(np.searchsorted(self.names, np.array(key)))
        return index if index < len(self) and bytes(self.names[index]) == key else None

    @abc.abstractmethod
    def read(self, index: int) -> bytes:
        """Content of a member.

        Raises:
            UserError: The member cannot be read, or its checksum is wrong.
        """

    def digest(self) -> str:
        """SHA-256 that identifies the whole content: of the archive's bytes."""
        return sha256_file(self.path)

    @property
    def size(self) -> int:
        """Bytes of the archive, or of all files of the folder."""
        return os.path.getsize(self.path)


class ZipFiles(Files):
    """Members of a zip archive (stored or deflated).

    Raises:
        UserError: No such file, or not a whole zip archive.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not Path(path).is_file():
            raise UserError(path, "no such file", "fetch or prepare the data set first (sida data prepare --help)")
        refuse_picture(path)
        try:
            with zipfile.ZipFile(path) as archive:
                members = sorted((m for m in archive.infolist() if not m.is_dir()), key=lambda m: m.filename.encode())
            facts = [(m.header_offset, m.compress_size, m.file_size, m.CRC, m.compress_type) for m in members]
            self._facts = np.array(facts, dtype=np.int64).reshape(len(members), 5)
        except ZIP_FAULTS as error:
            raise UserError(path, f"not a whole zip archive ({error})", "fetch or prepare it again") from None
        super().__init__(path, [m.filename.encode() for m in members])
        for index in np.flatnonzero((self._facts[:, 2] > MAX_MEMBER_BYTES) | (self._facts[:, 1] > MAX_MEMBER_BYTES)):
            raise UserError(self.where(int(index)), f"claims {self._facts[index, 2]} bytes", "that is no image")
        if any(m.flag_bits & 1 for m in members):
            raise UserError(path, "is encrypted", "unpack it and prepare it again")
        try:
            check_members(members, os.path.getsize(path))
        except ValueError as error:
            raise UserError(path, f"refused: {error}", "that is no data set") from None
        self._handle = open(self.path, "rb")  # noqa: SIM115 - stays open as long as this

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_handle"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _handle=open(state["path"], "rb"))  # noqa: SIM115

    def read(self, index: int) -> bytes:
        """Content of a member; its CRC is checked."""
        offset, packed, size, crc, method = (int(value) for value in self._facts[index])
        descriptor = self._handle.fileno()
        try:
            # Header and content in one call: the local header's name and extra field rarely exceed 256 bytes.
            block = os.pread(descriptor, _LOCAL_HEADER.size + 256 + packed, offset)
            magic, name_size, extra_size = _LOCAL_HEADER.unpack_from(block)
            start = _LOCAL_HEADER.size + name_size + extra_size
            content = block[start : start + packed]
            if len(content) < packed:
                content = os.pread(descriptor, packed, offset + start)
            if magic != b"PK\x03\x04" or len(content) < packed:
                raise ValueError("cut off")
            if method == zipfile.ZIP_DEFLATED:
                content = zlib.decompressobj(-15).decompress(content, size + 1)
            elif method != zipfile.ZIP_STORED:
                raise ValueError(f"compression method {method} is not supported")
            if len(content) != size or zlib.crc32(content) != crc:
                raise ValueError("wrong checksum")
        except (OSError, ValueError, OverflowError, struct.error, zlib.error) as error:
            raise UserError(self.where(index), f"damaged ({error})", "fetch or prepare the archive again") from None
        return content


class TarFiles(Files):
    """Members of a tar archive, compressed or not; read from one thread at a time.

    Raises:
        UserError: Not a whole tar archive.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        try:
            self._tar = tarfile.open(path)  # noqa: SIM115 - stays open as long as this
            members = checked_members(self._tar)
            found = {_encoded(member.name.removeprefix("./"), path): member for member in members}
            self._members = [found[name] for name in sorted(found)]
            self._unpack()
        except TAR_FAULTS as error:
            reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(":")
            raise UserError(path, f"not a whole tar archive ({reason})", "make or fetch it again") from None
        super().__init__(path, sorted(found))

    def _unpack(self) -> None:
        """Unpacks a compressed archive with unsorted members, since seeking back restarts at its first byte."""
        packed: Any = self._tar.fileobj
        if isinstance(packed, io.BufferedReader) or all(a.offset < b.offset for a, b in pairwise(self._members)):
            return
        left, plain = self._tar.offset, tempfile.TemporaryFile()  # noqa: SIM115 - stays open as long as this
        packed.seek(0)
        while piece := packed.read(min(left, 1 << 20)):
            left -= plain.write(piece)
        self._tar.fileobj = plain

    def read(self, index: int) -> bytes:
        """Content of a member."""
        try:
            if self._members[index].size > MAX_MEMBER_BYTES:
                raise ValueError(f"claims {self._members[index].size} bytes")
            stream = self._tar.extractfile(self._members[index])
            assert stream is not None  # only regular files were kept
            return stream.read()
        except TAR_FAULTS as error:
            raise UserError(self.where(index), f"damaged ({error})", "make or fetch the archive again") from None


class TarIndexFiles(Files):
    """Members of an uncompressed tar archive and of the tars in it (such as ImageNet's); read from any thread.

    Raises:
        UserError: No such file, or not a whole uncompressed tar archive.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        members = sorted(tar_members(path), key=lambda member: member[0].encode())
        super().__init__(path, [name.encode() for name, _, _ in members])
        self._places = np.array([place for _, *place in members], dtype=np.int64).reshape(len(members), 2)
        self._handle = open(path, "rb")  # noqa: SIM115 - stays open as long as this

    def read(self, index: int) -> bytes:
        """Content of a member."""
        start, size = (int(value) for value in self._places[index])
        if size > MAX_MEMBER_BYTES:
            raise UserError(self.where(index), f"has {size} bytes", "that is no image")
        content = os.pread(self._handle.fileno(), size, start)
        if len(content) < size:
            raise UserError(self.where(index), "cut off", "fetch the archive again")
        return content


class FolderFiles(Files):
    """Files of a folder and its subfolders, without hidden ones.

    Raises:
        UserError: No such folder.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not Path(path).is_dir():
            raise UserError(path, "no such folder")
        super().__init__(path, sorted(_encoded(name, path) for name in _walk(Path(path))))

    def read(self, index: int) -> bytes:
        """Content of a file."""
        path = Path(self.path) / self.name(index)
        return read_ordinary(path, MAX_MEMBER_BYTES, self.where(index))

    @property
    def size(self) -> int:
        """Bytes of all files; missing ones are named when they are read."""
        paths = [os.path.join(self.path, self.name(index)) for index in range(len(self))]
        return sum(os.path.getsize(path) for path in paths if os.path.exists(path))

    def digest(self, members: Iterable[int] | None = None) -> str:
        """SHA-256 over names and contents, in order, of all members or of the given ones."""
        total = hashlib.sha256()
        for index in range(len(self)) if members is None else members:
            content = self.read(index)
            total.update(f"{self.name(index)}\0{len(content)}\0".encode() + hashlib.sha256(content).digest())
        return total.hexdigest()


def open_files(path: str | os.PathLike[str]) -> Files:
    """Opens a folder, a zip archive or an uncompressed tar archive."""
    if Path(path).is_dir():
        return FolderFiles(path)
    return TarIndexFiles(path) if Path(path).suffix == ".tar" and Path(path).is_file() else ZipFiles(path)


def refuse_picture(path: str | os.PathLike[str]) -> None:
    """Refuses one picture in the place of a folder or archive of pictures.

    Raises:
        UserError: The path is a file with the suffix of a picture.
    """
    if Path(path).suffix.lower() in PICTURES and Path(path).is_file():
        raise UserError(path, "is one picture", "name the folder or archive that holds all of them")


def _walk(folder: Path) -> Iterator[str]:
    seen: dict[tuple[int, int], str] = {}
    for root, folders, files in os.walk(folder, followlinks=True, onerror=_unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        relative = Path(root).relative_to(folder)
        # A link to a folder above would yield each image many times.
        status = os.stat(root)
        other = seen.setdefault((status.st_dev, status.st_ino), root)
        if other != root:
            raise UserError(root, f"is a link to, or from, {other}", "remove one, its images would count twice")
        for name in files:
            if not name.startswith("."):
                yield (relative / name).as_posix()


def _unreadable(error: OSError) -> None:
    raise UserError(error.filename, f"cannot be read ({error.strerror})", "its images would be left out")


def _encoded(name: str, path: str | os.PathLike[str]) -> bytes:
    try:
        return name.encode()
    except UnicodeEncodeError:
        raise UserError(path, f"the name {name!a} is not UTF-8", "rename the file") from None
