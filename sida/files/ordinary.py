"""Ordinary files, in folders that strangers may have filled: no pipes, no devices, and below a folder no links.

A folder itself may be reached through links, since the user named it. Below it each part is opened from its parent's
descriptor, so that nothing can be exchanged between a look and its use.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from io import BufferedReader
from typing import BinaryIO

from sida.errors import UserError


class UnreadableError(UserError):
    """A file that cannot be read now, and may be whole."""


# Without O_NONBLOCK a pipe holds the process that opens it.
_SAFE = os.O_CLOEXEC | os.O_NONBLOCK


def open_ordinary(path: str | os.PathLike[str], missing: str = "") -> BufferedReader:
    """Opens a regular file for reading; links are followed.

    Args:
        path: The file.
        missing: Remedy where there is no such file.

    Raises:
        UserError: The file is missing, a folder, a pipe or a device, or cannot be read.
    """
    try:
        handle = os.open(path, os.O_RDONLY | _SAFE)
    except ValueError:
        raise UserError(f"{path!r}", "is not a valid path") from None
    except FileNotFoundError:
        raise UserError(path, "no such file", missing) from None
    except OSError as error:
        raise UnreadableError(path, f"cannot be read ({error.strerror})") from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise UserError(path, "is no ordinary file", "give the path of a file")
    return os.fdopen(handle, "rb")


def read_ordinary(path: str | os.PathLike[str], most: int, where: object = None) -> bytes:
    """Content of a regular file of at most so many bytes; ``where`` is named in errors in place of the path.

    Raises:
        UserError: As :func:`open_ordinary`, or the file is larger.
    """
    try:
        with open_ordinary(path) as stream:
            content = stream.read(most + 1)
    except OSError as error:
        raise UnreadableError(path, f"cannot be read ({error.strerror})") from None
    except UserError as error:
        error.place = str(path if where is None else where)
        raise
    if len(content) > most:
        fault = f"is larger than {most >> 20} MiB" if most >> 20 else f"has more than {most} bytes"
        raise UserError(path if where is None else where, fault, "is it the right file?")
    return content


def size_on_disk(stream: BinaryIO) -> int:
    """Bytes of a file up to its first hole: a file with holes claims more than it takes."""
    with contextlib.suppress(OSError):
        size = os.lseek(stream.fileno(), 0, os.SEEK_HOLE)
        os.lseek(stream.fileno(), 0, os.SEEK_SET)
        return size
    return os.fstat(stream.fileno()).st_size


def open_below(folder: str | os.PathLike[str], name: str, flags: int = os.O_RDONLY, make: bool = False) -> int:
    """Descriptor of ``folder/name``, a regular file reached without a link; with ``make``, folders on the way are made.

    Raises:
        UserError: The name leads out of the folder, or something on the way is a link, a pipe or a device.
    """
    *folders, last = name.split("/")
    where = os.path.join(folder, name)
    if any(part in ("", ".", "..") or "\0" in part for part in (*folders, last)):
        raise UserError(where, "is no name below the folder")
    here = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in folders:
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, dir_fd=here)
            before, here = here, os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | _SAFE, dir_fd=here)
            os.close(before)
        file = os.open(last, flags & ~os.O_TRUNC | os.O_NOFOLLOW | _SAFE, 0o666, dir_fd=here)
    except OSError as error:
        reason = "a link, a pipe, a device or no file"
        raise UserError(where, f"cannot be opened ({error.strerror})", f"it is {reason}: remove it") from None
    finally:
        os.close(here)
    status = os.fstat(file)
    # A second hard link leads to a file elsewhere, which would be written to.
    if not stat.S_ISREG(status.st_mode) or (status.st_nlink > 1 and flags & (os.O_WRONLY | os.O_RDWR)):
        os.close(file)
        raise UserError(where, "is no ordinary file", "remove it")
    if flags & os.O_TRUNC:
        os.ftruncate(file, 0)
    return file


def walk_ordinary(folder: str | os.PathLike[str]) -> Iterator[str]:
    """Yields the names of all regular files below a folder, sorted within each folder.

    Raises:
        UserError: A link, a pipe or a device, or a folder that cannot be read.
    """

    def unreadable(error: OSError) -> None:
        raise UserError(error.filename, f"cannot be read ({error.strerror})")

    for root, folders, files, here in os.fwalk(folder, follow_symlinks=False, onerror=unreadable):
        folders.sort()
        for name in (*folders, *sorted(files)):
            mode = os.stat(name, dir_fd=here, follow_symlinks=False).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise UserError(os.path.join(root, name), "is a link, a pipe or a device", "remove it")
        yield from (os.path.relpath(os.path.join(root, name), folder) for name in sorted(files))
