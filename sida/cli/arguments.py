"""Checks of numbers and output paths on the command line; an error is one line that names the option."""

import difflib
import math
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sida.assets.registry import check_network
from sida.errors import UserError

_MOST = 2**63 - 1


def whole(option: str, least: int = 0, most: int = _MOST) -> Callable[[str], int]:
    """Returns a parser of integers for an option of a verb.

    Args:
        option: Option named in errors.
        least: Smallest accepted integer.
        most: Largest accepted integer.

    Raises:
        UserError: Raised by the parser if the text is not an integer or is out of range.
    """

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise UserError(option, f"must be an integer, got '{text}'") from None
        if not least <= value <= most:
            bound = f"at least {least}" if value < least else f"at most {most}"
            raise UserError(option, f"must be {bound}, got {text}")
        return value

    return read


def add_whole(parser: Any, option: str, text: str, least: int = 0, most: int = _MOST, **more: Any) -> None:
    """Adds an option with an integer to a parser of ``argparse``; bounds as of :func:`whole`, ``text`` is its help."""
    parser.add_argument(option, type=whole(option, least, most), help=text, **{"metavar": "N", **more})


def number(option: str, least: float = -math.inf) -> Callable[[str], float]:
    """Returns a parser of finite numbers; see :func:`whole`."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise UserError(option, f"must be a number, got '{text}'") from None
        if not math.isfinite(value) or abs(value) > 1e30 or value < least:
            bound = f" of at least {least:g}" if least > -math.inf else ""
            raise UserError(option, f"must be a finite number{bound}, got {text}")
        return value

    return read


def existing(option: str = "") -> Callable[[str], str]:
    """Returns a parser of paths that a verb reads: a wrong name ends before the heavy imports.

    Args:
        option: Option named in errors; empty for a positional argument.

    Raises:
        UserError: Raised by the parser if nothing is there; the message suggests the closest name in that folder.
    """

    def read(text: str) -> str:
        path = Path(text)
        if not _exists(path):
            near = difflib.get_close_matches(path.name, os.listdir(path.parent), 1) if path.parent.is_dir() else []
            meant = f"did you mean '{path.parent / near[0]}'?" if near else "check the path"
            raise UserError(f"{option + ' ' if option else ''}{text}", "no such file or folder", meant)
        return text

    return read


def network_source(text: str) -> str:
    """Parser of networks (file, folder, id or address): a wrong name ends before the heavy imports.

    Raises:
        UserError: Nothing has this name.
    """
    check_network(text)
    return text


#: Arguments of verbs that name an output file or folder, with their names in errors.
_WRITTEN = {"out": "--out", "grid": "--grid", "record": "--record", "target": "OUT", "study": "STUDY"}


def check_output_paths(arguments: Mapping[str, Any]) -> None:
    """Checks the output paths among a verb's arguments; see :func:`check_output_path`."""
    for name, option in _WRITTEN.items():
        if isinstance(arguments.get(name), str):
            check_output_path(arguments[name], option)


def check_output_path(path: str, option: str) -> None:
    """Checks that a file or folder can be written.

    Args:
        path: File or folder to write. Neither the path nor its parent folders need to exist.
        option: Option named in errors.

    Raises:
        UserError: The path is empty or begins with ``~``, a parent is a file, or the file system does not permit
            writing.
    """
    if not path.strip() or "\0" in path:
        raise UserError(f"{option} '{path}'", "is not a path", "give a file or folder to write")
    if path[0] == "~":
        # A shell replaces it at the start of a word, but not in --out=~/x.
        fault = "nothing can be written there, since the shell has not replaced '~'"
        raise UserError(f"{option} {path}", fault, "write the folder out")
    place = Path(path).absolute()
    try:
        parent = next(folder for folder in (place, *place.parents) if _exists(folder))
        if parent == place and not place.is_dir():
            parent = place.parent
        if not parent.is_dir():
            raise UserError(f"{option} {path}", f"{parent} is a file, not a folder", "choose another place")
        # Permissions do not suffice: root has all of them in /proc too, and a disk may be mounted read-only.
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        raise UserError(f"{option} {path}", f"cannot be written ({error.strerror})", "choose another place") from None


def _exists(path: Path) -> bool:
    """Whether a path exists; raises OSError for an impossible path (too long, or a circle of links)."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True
