"""Finds dictionaries of tensors in the nested value of a checkpoint; runs in a fenced child process."""

import itertools
from collections.abc import Iterator
from typing import Any


def find_entry(value: Any, key: str | None) -> tuple[Any, str]:
    """Entry of nested dictionaries to which a key leads, whose parts are joined by dots; the value itself without one.

    The second value is the end of the key that leads to no entry, such as a prefix of names in it.
    """
    entry, rest = value, key.split(".") if key else []
    while rest and isinstance(entry, dict):
        # Names of entries may have dots.
        names = [".".join(rest[:count]) for count in range(len(rest), 0, -1)]
        if (name := next((name for name in names if isinstance(entry.get(name), dict)), None)) is None:
            break
        entry, rest = entry[name], rest[name.count(".") + 1 :]
    return entry, ".".join(rest)


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
