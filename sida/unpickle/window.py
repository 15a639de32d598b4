"""Parts of a file that are read in pieces, so that a gigabyte of weights is never in memory at once."""

from __future__ import annotations

import io
import os
from pathlib import Path

_AHEAD = 1 << 13


class Window:
    """Bytes ``start … start + length`` of an open file or of a byte string.

    Windows into windows share the source: tensors in a nested stream in a zip archive are still plain places in one
    file. The file is not mapped into memory, so that a file that shrinks meanwhile causes an error and not a crash.

    Args:
        source: The open file (which its windows keep open) or the bytes.
        start: First byte.
        length: Number of bytes.
    """

    def __init__(self, source: io.FileIO | bytes, start: int, length: int) -> None:
        self._source, self._start, self.length = source, start, length
        self._ahead, self._ahead_at = b"", 0

    @classmethod
    def of_file(cls, path: Path) -> Window:
        """Opens a file and returns a window of all its bytes."""
        stream = open(path, "rb", buffering=0)  # noqa: SIM115 (its windows keep it open)
        return cls(stream, 0, os.fstat(stream.fileno()).st_size)

    def part(self, offset: int, length: int) -> Window:
        """A window into this one.

        Raises:
            EOFError: The part reaches beyond this window.
        """
        if offset < 0 or length < 0 or offset + length > self.length:
            raise EOFError
        return Window(self._source, self._start + offset, length)

    def read_at(self, offset: int, length: int) -> bytes:
        """Reads few bytes, with a small look-ahead.

        Raises:
            EOFError: The bytes reach beyond the window.
        """
        begin = offset - self._ahead_at
        if begin >= 0 and begin + length <= len(self._ahead):
            return self._ahead[begin : begin + length]
        if offset < 0 or offset + length > self.length:
            raise EOFError
        self._ahead = self._read(offset, min(max(length, _AHEAD), self.length - offset))
        self._ahead_at = offset
        return self._ahead[:length]

    def read_into(self, offset: int, target: memoryview) -> None:
        """Fills ``target`` with the bytes from ``offset`` on, without an extra copy.

        Raises:
            EOFError: The bytes reach beyond the window.
        """
        length = len(target)
        if offset < 0 or offset + length > self.length:
            raise EOFError
        if isinstance(self._source, bytes):
            target[:] = self._source[self._start + offset : self._start + offset + length]
            return
        done = 0
        while done < length:
            count = os.preadv(self._source.fileno(), [target[done:]], self._start + offset + done)
            if count == 0:
                raise EOFError
            done += count

    def tobytes(self) -> bytes:
        """All bytes; use it for small windows only."""
        return self._read(0, self.length)

    def _read(self, offset: int, length: int) -> bytes:
        data = bytearray(length)
        self.read_into(offset, memoryview(data))
        return bytes(data)


class WindowStream(io.RawIOBase):
    """A window as a seekable binary stream, for readers such as ``zipfile``.

    Args:
        window: The bytes.
        most: Largest number of bytes of one read.
    """

    def __init__(self, window: Window, most: int) -> None:
        self._window, self._position, self._most = window, 0, most

    def read(self, size: int = -1) -> bytes:
        """Reads bytes from the position on.

        Raises:
            OSError: More bytes than allowed; no memory is allocated for them.
        """
        left = max(0, self._window.length - self._position)
        size = left if size is None or size < 0 else min(size, left)
        if size > self._most:
            raise OSError(f"a directory of {size} bytes, larger than any network's")
        return super().read(size) or b""

    def readable(self) -> bool:
        """Always true."""
        return True

    def seekable(self) -> bool:
        """Always true."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves the position; see ``io.IOBase.seek``."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._window.length}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        """The position."""
        return self._position

    def readinto(self, buffer: object) -> int:
        """Fills ``buffer`` with the bytes from the position on, and returns their number."""
        target = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        count = max(0, min(len(target), self._window.length - self._position))
        if count:
            self._window.read_into(self._position, target[:count])
            self._position += count
        return count
