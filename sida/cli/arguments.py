"""Numbers on the command line: a wrong one is one line that names its option, like any other fault."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sida.errors import UserError

_MOST = 2**63 - 1


def whole(option: str, least: int = 0, most: int = _MOST) -> Callable[[str], int]:
    """A reader of integers for an option of a verb.

    Args:
        option: The option, for errors.
        least: Smallest integer.
        most: Largest one.

    Raises:
        UserError: By the reader: another text, or out of range.
    """

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise UserError(f"{option}: must be an integer, got '{text}'") from None
        if not least <= value <= most:
            bound = f"at least {least}" if value < least else f"at most {most}"
            raise UserError(f"{option}: must be {bound}, got {text}")
        return value

    return read


def number(option: str, least: float = -math.inf) -> Callable[[str], float]:
    """The same for finite numbers."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise UserError(f"{option}: must be a number, got '{text}'") from None
        if not math.isfinite(value) or abs(value) > 1e30 or value < least:
            bound = f" of at least {least:g}" if least > -math.inf else ""
            raise UserError(f"{option}: must be a finite number{bound}, got {text}")
        return value

    return read


#: Arguments of verbs that name a file or folder to write, as they are called in errors.
_WRITTEN = {"out": "--out", "grid": "--grid", "latex": "--latex", "target": "OUT", "study": "STUDY"}


def check_output_paths(arguments: Mapping[str, Any]) -> None:
    """Looks at the places that a verb's arguments name as its output, see :func:`check_output_path`."""
    for name, option in _WRITTEN.items():
        if isinstance(arguments.get(name), str):
            check_output_path(arguments[name], option)


def check_output_path(path: str, option: str) -> None:
    """Refuses a place where nothing can be written: no name, a file in place of a folder, /proc, no permission.

    Args:
        path: File or folder to write; it need not be there, nor the folders around it.
        option: What is named in errors.

    Raises:
        UserError: The fault.
    """
    if not path.strip() or "\0" in path:
        raise UserError(f"{option} '{path}': is no name; give a file or folder to write")
    place = Path(path).expanduser().absolute()
    try:
        parent = next(folder for folder in (place, *place.parents) if _there(folder))
        if parent == place and not place.is_dir():
            parent = place.parent
        if not parent.is_dir():
            raise UserError(f"{option} {path}: {parent} is a file, not a folder; choose another place")
        # Permissions say little: a superuser has all of them in /proc too, and a disk may be there for reading only.
        with tempfile.TemporaryFile(dir=parent):
            pass
    except FileNotFoundError:
        raise UserError(f"{option} {path}: nothing can be written there; choose another place") from None
    except OSError as error:
        raise UserError(f"{option} {path}: cannot be written ({error.strerror}); choose another place") from None


def _there(path: Path) -> bool:
    """Whether something of this name is there; a name that cannot be (too long, a circle of links) is an OSError."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True
