"""Files that are a list of things with ids: claims and experiments."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sida.config.mapping import load_yaml
from sida.errors import UserError


def listed_entries(path: str | Path, kind: str, keys: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The entries of the list ``<kind>s`` of a YAML file, each with its place for messages.

    Args:
        path: YAML file.
        kind: What an entry is: ``claim``.
        keys: The keys that an entry must have, in words.

    Yields:
        Place (file, number, id) and settings of an entry.

    Raises:
        UserError: Missing file, no list, an entry that is no mapping, or an id used twice.
    """
    listed = load_yaml(path).get(f"{kind}s")
    if not isinstance(listed, list):
        raise UserError(f"{path}: key '{kind}s' must be a list of {kind}s")
    before: list[Any] = []
    for number, entry in enumerate(listed):
        where = f"{path}: {kind}s[{number}]"
        if not isinstance(entry, dict):
            raise UserError(f"{where}: must be a mapping with {keys}")
        where += f" ({entry.get('id')})"
        if "id" in entry and entry["id"] in before:
            raise UserError(f"{where}.id: occurs twice; give each {kind} its own id")
        before.append(entry.get("id"))
        yield where, entry
