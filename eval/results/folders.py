"""Files below a results folder, which a stranger may have filled: no links, no pipes and no devices.

The folder itself may be reached through links, since the user named it. Below it each part is opened from its parent's
descriptor, so that nothing can be exchanged between a look and its use.
"""

import math
import os
import stat
from collections.abc import Iterator

from sida.errors import UserError
from sida.files.ordinary import SAFE


def open_below(folder: str | os.PathLike[str], name: str, flags: int = os.O_RDONLY) -> int:
    """Descriptor of ``folder/name``, a regular file reached without a link.

    Args:
        folder: A folder, which may be a link.
        name: Name below it, with slashes.
        flags: Flags of ``os.open`` except O_TRUNC, which would empty a file elsewhere before it is refused.

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
            before, here = here, os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | SAFE, dir_fd=here)
            os.close(before)
        file = os.open(last, flags | os.O_NOFOLLOW | SAFE, 0o666, dir_fd=here)
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
    return file


def walk_below(folder: str | os.PathLike[str], most: float = math.inf) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yields everything below a folder but folders, by its path there, in no order; no link is followed.

    Args:
        folder: The folder.
        most: Largest number of files and folders.

    Raises:
        UserError: A folder cannot be read, or there are more files and folders.
    """
    # A list instead of recursion, since folders can be nested deeper than Python calls.
    waiting, seen = [""], 0
    while waiting:
        inside = waiting.pop()
        place = os.path.join(folder, inside)
        try:
            with os.scandir(place) as entries:
                for entry in entries:
                    seen += 1
                    if seen > most:
                        raise UserError(folder, f"has more than {most:,} files", "is it the right folder?")
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(f"{inside}{entry.name}/")
                    else:
                        yield inside + entry.name, entry
        except OSError as error:
            raise UserError(place, f"cannot be read ({error.strerror})") from None
