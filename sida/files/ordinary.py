"""Untrusted files, opened only if they are ordinary: no pipes and no devices.

Links are followed to a file or folder that the user named, and refused below such a folder.
"""

import contextlib
import errno
import math
import os
import stat
from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from sida.errors import PassingError, UserError


class UnreadableError(PassingError):
    """A file that cannot be read now; its content may be intact."""


# Opening a pipe without O_NONBLOCK waits until another process writes to it.
_SAFE = os.O_CLOEXEC | os.O_NONBLOCK
#: Numbers of errors for a missing permission, and the remedy.
DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
NO_PERMISSION = "work where you may write; the owner of a shared folder sets umask 002 and gives chmod g+w"


def open_ordinary(path: str | os.PathLike[str], missing: str = "") -> BufferedReader:
    """Opens a regular file for reading; links are followed.

    Args:
        path: The file.
        missing: Remedy if there is no such file.

    Raises:
        UserError: The file is missing, a folder, a pipe or a device, or cannot be read.
    """
    try:
        handle = os.open(path, os.O_RDONLY | _SAFE)
    except ValueError:  # a NUL in the path
        raise UserError(f"{path!r}", "is not a valid path") from None
    except FileNotFoundError:
        raise UserError(path, "no such file", missing) from None
    except OSError as error:
        raise UnreadableError(path, f"cannot be read ({error.strerror})") from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise UserError(path, "is not an ordinary file", "give the path of a file")
    return os.fdopen(handle, "rb")


def read_ordinary(path: str | os.PathLike[str], most: int) -> bytes:
    """Content of a regular file of at most ``most`` bytes.

    Raises:
        UserError: As :func:`open_ordinary`, or the file is larger.
    """
    try:
        with open_ordinary(path) as stream:
            content = stream.read(most + 1)
    except OSError as error:
        raise UnreadableError(path, f"cannot be read ({error.strerror})") from None
    if len(content) > most:
        raise UserError(path, f"has more than {most:,} bytes", "is it the right file?")
    return content


def file_below(folder: str | os.PathLike[str], name: str) -> Path:
    """Path of ``folder/name``, a regular file reached without a link, or missing.

    Readers of a results folder, which may be a stranger's, take from this function the path of a file that they name.

    Args:
        folder: A folder, which may be a link.
        name: Name below it, with slashes.

    Raises:
        UserError: The name leads out of the folder, or something on the way is a link, a pipe or a device.
    """
    path = Path(folder)
    *folders, last = _parts(folder, name)
    for part in folders:
        path /= part
        if os.path.islink(path):
            raise UserError(path, *_LINK)
    path /= last
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        mode = os.lstat(path).st_mode
        if not stat.S_ISREG(mode):
            raise UserError(path, *(_LINK if stat.S_ISLNK(mode) else _NO_FILE))
    return path


def _parts(folder: str | os.PathLike[str], name: str) -> list[str]:
    """Parts of a name below a folder; refuses a name that leads out of it."""
    parts = name.split("/")
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise UserError(os.path.join(folder, name), "is not a name below the folder")
    return parts


def walk_below(
    folder: str | os.PathLike[str], limit: float = math.inf, folders: list[str] | None = None
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yields path and entry of everything below a folder except folders, in no order, without following links.

    Args:
        folder: The folder.
        limit: Largest number of files and folders.
        folders: List that receives the names of the folders.

    Raises:
        UserError: A folder cannot be read, or there are more files and folders.
    """
    # A list instead of recursion, since folders can be nested deeper than Python calls.
    waiting, count = [""], 0
    while waiting:
        inside = waiting.pop()
        path = os.path.join(folder, inside)
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    count += 1
                    if count > limit:
                        raise UserError(folder, f"has more than {limit:,} files", "is it the right folder?")
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(f"{inside}{entry.name}/")
                        if folders is not None:
                            folders.append(inside + entry.name)
                    else:
                        yield inside + entry.name, entry
        except OSError as error:
            raise UserError(path, f"cannot be read ({error.strerror})") from None


#: Largest number of files and folders in a results folder.
MOST_FILES = 500_000
#: Faults of what is not an ordinary file, with remedies.
_LINK = "is a link, which may lead anywhere", "replace it by the file"
_NO_FILE = "is not an ordinary file", "remove it"


def ordinary_files(
    folder: str | os.PathLike[str],
    limit: float = MOST_FILES,
    fault: Callable[[str, str], object] | None = None,
    folders: list[str] | None = None,
) -> dict[str, int]:
    """Sizes of the ordinary files below a folder, by name, sorted: the one walk of folders.

    Readers and writers of a folder that may be a stranger's take these names and no others. Such a name has neither
    ``..`` nor a slash at its start, and no part of it is a link.

    Args:
        folder: The folder, which may be a link itself.
        limit: Largest number of files and folders.
        fault: Called with name and fault of each link, pipe and device; by default the first one raises.
        folders: List that receives the names of the folders.

    Raises:
        UserError: A folder cannot be read, there are more files and folders, or something is not an ordinary file.
    """
    sizes: dict[str, int] = {}
    for name, entry in sorted(walk_below(folder, limit, folders)):
        if entry.is_symlink():
            reason = _LINK
        elif not entry.is_file(follow_symlinks=False):
            reason = _NO_FILE
        elif not _is_text(name):
            reason = "has a name that is not UTF-8", "rename it"
        else:
            with contextlib.suppress(FileNotFoundError):  # a temporary file, gone since
                sizes[name] = entry.stat(follow_symlinks=False).st_size
            continue
        if fault is None:
            raise UserError(os.path.join(folder, name), *reason)
        fault(name, "; ".join(reason))
    return sizes


def _is_text(name: str) -> bool:
    try:
        return bool(name.encode())
    except UnicodeEncodeError:
        return False


def size_on_disk(stream: BinaryIO) -> int:
    """Bytes of a file up to its first hole: a sparse file claims more bytes than it occupies."""
    with contextlib.suppress(OSError):
        size = os.lseek(stream.fileno(), 0, os.SEEK_HOLE)
        os.lseek(stream.fileno(), 0, os.SEEK_SET)
        return size
    return os.fstat(stream.fileno()).st_size


def refuse_same(source: str | os.PathLike[str], out: str | os.PathLike[str]) -> None:
    """Refuses to write a file over its own source.

    Raises:
        UserError: Both paths lead to one file.
    """
    # samefile alone would miss `new/../source`: the folder `new` is made only when the file is written.
    ends = [os.path.realpath(path) for path in (source, out)]
    if all(map(os.path.exists, ends)) and os.path.samefile(*ends):
        raise UserError(out, "is the source, which would be lost", "name another output file")
