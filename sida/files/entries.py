"""Finds dictionaries of tensors in the nested value of a checkpoint; runs in a fenced child process."""

import itertools
from collections.abc import Iterator
from typing import Any


def find_entry(value: Any, key: str | None) -> Any:
    """Entry of a dictionary by its key, or by keys joined by dots; the value itself if there is no such entry."""
    entry, rest = value, key
    while rest:
        if not isinstance(entry, dict):
            return value
        if isinstance(entry.get(rest), dict):
            return entry[rest]
        first, _, rest = rest.partition(".")
        entry = entry.get(first)
    return value


def is_weights(value: Any, tensor: type, levels: int = 3) -> bool:
    """Whether a value is a dictionary of tensors (of this type) by name; anything but weights may be among them."""
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        return False
    return any(isinstance(entry, tensor) for entry in value.values()) and not any(weights_in(value, tensor, levels))


def weights_in(value: Any, tensor: type, levels: int = 3) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the dictionaries of tensors below a dictionary, with the keys that lead there, joined by dots."""
    # Checkpoints have a few entries a level; the bounds end the search in a file made to prolong it.
    for name, entry in itertools.islice(value.items(), 100) if isinstance(value, dict) and levels else ():
        if is_weights(entry, tensor, levels - 1):
            yield f"{name!s:.60}", entry
        else:
            yield from ((f"{name!s:.60}.{below}", weights) for below, weights in weights_in(entry, tensor, levels - 1))
