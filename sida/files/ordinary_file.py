"""Reading ordinary files whole; what merely stands in a file's place (a pipe, a device) is not waited for."""

from __future__ import annotations

import os
import stat

from sida.errors import UserError


def read_ordinary(path: str | os.PathLike[str], where: str, most: int, special: str, large: str) -> bytes:
    """The content of an ordinary file.

    Args:
        path: The file.
        where: Place named in errors.
        most: Bytes that it may have.
        special: What to do, said of a pipe, a folder or a device.
        large: What to do, said of a larger file.

    Raises:
        UserError: No such file, no ordinary one, larger, or it cannot be read.
    """
    try:
        # Not blocking: a pipe without a writer would be waited for.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as stream:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise UserError(f"{where}: is no ordinary file; {special}")
            if status.st_size > most:
                raise UserError(f"{where}: is larger than {most >> 20} MiB; {large}")
            return stream.read()
    except ValueError:
        raise UserError(f"{where!r}: is no path") from None
    except FileNotFoundError:
        raise UserError(f"{where}: no such file") from None
    except OSError as error:
        raise UserError(f"{where}: cannot be read ({error.strerror})") from None
