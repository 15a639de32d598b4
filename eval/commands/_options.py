"""``KEY=VALUE`` options of the command line."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sida.errors import UserError

_WORDS = {"true": True, "false": False, "null": None}


def pairs(texts: Sequence[str], option: str) -> dict[str, str]:
    """``["edm=a.npz"]`` as ``{"edm": "a.npz"}``.

    Raises:
        UserError: A text without ``=``.
    """
    result = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key or not value:
            raise UserError(f"{option}: must be KEY=VALUE, got '{text}'")
        result[key] = value
    return result


def extractor_options(texts: Sequence[str], option: str = "--extractor-option") -> dict[str, dict[str, Any]]:
    """``["inception.path=x.pt"]`` as ``{"inception": {"path": "x.pt"}}``; true, false and null are understood.

    Raises:
        UserError: Not of that form.
    """
    result: dict[str, dict[str, Any]] = {}
    for key, value in pairs(texts, option).items():
        name, dot, setting = key.partition(".")
        if not dot:
            raise UserError(f"{option}: must be NAME.KEY=VALUE, got '{key}={value}'")
        result.setdefault(name, {})[setting] = _WORDS.get(value, value)
    return result


def check_output(path: str | None, option: str, suffix: str | None = None) -> None:
    """Refuses an output file that cannot be written, before anything is computed for it; None is no file.

    Raises:
        UserError: A folder, a file in place of a parent folder, or another suffix.
    """
    if path is None:
        return
    if suffix is not None and Path(path).suffix != suffix:
        raise UserError(f"{option} {path}: must end in {suffix}, the format it is written in")
    if Path(path).is_dir():
        raise UserError(f"{option} {path}: is a folder; give the name of a file")
    parent = next(p for p in Path(path).absolute().parents if p.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UserError(f"{option} {path}: cannot be written in {parent}; choose another place")
