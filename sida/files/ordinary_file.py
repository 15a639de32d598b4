"""Reading of regular files, which never waits for pipes or devices."""

from __future__ import annotations

import os
import stat

from sida.errors import UserError


def read_ordinary(path: str | os.PathLike[str], where: str, most: int, special: str, large: str) -> bytes:
    """Reads the content of a regular file.

    Args:
        path: The file.
        where: Place named in errors.
        most: Largest number of bytes.
        special: Remedy for a pipe, a folder or a device, for errors.
        large: Remedy for a larger file, for errors.

    Raises:
        UserError: The file is missing, not regular, too large, or cannot be read.
    """
    try:
        # Without O_NONBLOCK, opening a pipe without a writer blocks.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as stream:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise UserError(f"{where}: is no ordinary file; {special}")
            if status.st_size > most:
                raise UserError(f"{where}: is larger than {most >> 20} MiB; {large}")
            return stream.read()
    except ValueError:
        raise UserError(f"{where!r}: is not a valid path") from None
    except FileNotFoundError:
        raise UserError(f"{where}: no such file") from None
    except OSError as error:
        raise UserError(f"{where}: cannot be read ({error.strerror})") from None
