"""Places for results, looked at before anything is computed for them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sida.errors import UserError

#: Arguments of verbs that name a file or folder to write, as they are called in errors.
_WRITTEN = {"out": "--out", "grid": "--grid", "latex": "--latex", "target": "OUT", "study": "STUDY"}


def check_places(arguments: Mapping[str, Any]) -> None:
    """Looks at the places that a verb's arguments name as its output, see :func:`check_place`."""
    for name, option in _WRITTEN.items():
        if isinstance(arguments.get(name), str):
            check_place(arguments[name], option)


def check_place(path: str, option: str) -> None:
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
