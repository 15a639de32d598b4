"""``KEY=VALUE`` options of the command line."""

from __future__ import annotations

from collections.abc import Sequence
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
