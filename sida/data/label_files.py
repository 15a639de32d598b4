"""Labels of pictures by name from a ``dataset.json``, for the fenced child process (:mod:`sida.data.reader`)."""

from __future__ import annotations

import json
import unicodedata
from typing import Any

from sida.errors import UserError
from sida.files.content import START, placeholder_in


def same_name(name: str) -> str:
    """Normal form of a file's name: composed Unicode, slashes, no roots."""
    return relative_name(unicodedata.normalize("NFC", name).replace("\\", "/"))


def relative_name(name: str) -> str:
    """A member's name without the roots that some tools write."""
    return name.removeprefix("./").lstrip("/")


def parse_labels(content: bytes) -> dict[str, Any] | None:
    """Labels by file name of a ``dataset.json``, or None if its labels are null."""
    try:
        entries = json.loads(content)["labels"]
        pairs = None if entries is None else [(same_name(str(name)), label) for name, label in entries]
    except (ValueError, KeyError, TypeError):
        text = placeholder_in(content[:START])
        if text is not None and not text.is_plain:
            raise UserError("", f"is {text.kind}, not a list of labels", text.remedy) from None
        fault = "must be JSON with the key 'labels', of pairs [file name, label] or null"
        raise UserError("", fault, "write it again") from None
    if pairs is None:
        return None
    if len(labels := dict(pairs)) < len(pairs):
        raise UserError("", "has two labels for one file", "remove one")
    return labels
