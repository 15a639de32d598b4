"""Parts of the pickle interpreter: entries of the allow-list, base of inert objects, budgets and errors."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from sida.errors import UserError, located

MAX_STEPS = 1_500_000
"""Limit of a file's work in steps: opcodes, calls, items of a call's arguments, members of archives.
Copies of the largest published networks take 165,000 steps; 1.5 million small objects fit into 300 MB."""
MAX_TEXT = 256 << 20
MAX_NESTING = 3
_TEXT_PER_STEP = 256


class RefusedError(UserError):
    """A file contains something outside the allow-list.

    Args:
        reason: The refused thing.
        remedy: Remark on it.
    """

    def __init__(self, reason: str, remedy: str = "no published checkpoint needs it") -> None:
        super().__init__("", f"refused: {reason}", remedy)
        self.args = (reason, remedy)  # with which a copy from another process is made


@dataclasses.dataclass(eq=False)
class Allowed:
    """An entry of the allow-list: a name and the harmless function that replaces it.

    Attributes:
        name: Dotted name as in the file.
        make: Function called with the arguments from the file; must check them and return plain values or records.
    """

    name: str
    make: Callable[..., Any]


class InertObject:
    """Base class of inert objects that may receive a state (opcode BUILD)."""

    def set_state(self, state: Any) -> None:
        """Takes the state from the file; by default refuses it."""
        raise TypeError("takes no state")


@dataclasses.dataclass
class Budget:
    """Remaining resources of a file, shared by all its nested streams."""

    steps: int = MAX_STEPS
    text_bytes: int = MAX_TEXT
    copied_bytes: int = MAX_TEXT
    nested_bytes: int = 0

    @classmethod
    def of_file(cls, length: int) -> Budget:
        """Budget of a file: at each depth, nested streams may have as many bytes as the file in total."""
        return cls(nested_bytes=MAX_NESTING * length)

    def spend(self, steps: int) -> None:
        """Spends steps.

        Raises:
            RefusedError: The steps are used up.
        """
        self.steps -= steps
        if self.steps < 0:
            raise RefusedError("it makes far more objects than any network has")

    def spend_on(self, values: tuple[Any, ...]) -> None:
        """Spends the steps for one look at every item of every value, and the bytes for a copy of every text."""
        self.spend(sum(_weight(value) for value in values))
        self.copied_bytes -= sum(len(value) for value in values if isinstance(value, str))
        if self.copied_bytes < 0:
            raise RefusedError(f"it makes more than {MAX_TEXT >> 20} MiB of copies of its texts")

    def enter(self, length: int) -> None:
        """Spends the bytes of a nested stream, which bounds repeated reads of the same stream."""
        self.nested_bytes -= length
        if self.nested_bytes < 0:
            raise RefusedError("it reads the same nested stream again and again")


def _weight(value: Any) -> int:
    if isinstance(value, (str, bytes)):
        return len(value) // _TEXT_PER_STEP
    return len(value) if isinstance(value, (tuple, list, dict, set, frozenset)) else 0


@contextlib.contextmanager
def refusals(where: str) -> Iterator[None]:
    """Gives errors the file's name, and turns Python's own limits (memory, recursion) into refusals."""
    with located(where):
        try:
            yield
        except MemoryError:
            raise RefusedError("reading it takes more memory than there is", "") from None
        except RecursionError:
            raise RefusedError("it is nested deeper than any network", "") from None


def checked_key(value: Any) -> Any:
    """Returns a key of a dictionary or member of a set, if its type allows no crafted hash collisions.

    Raises:
        TypeError: The type allows collisions, which would make dictionaries and sets quadratic.
    """
    if isinstance(value, (str, bytes, float)) or value is None or (isinstance(value, int) and abs(value) < 2**64):
        return value
    raise TypeError(f"{type(value).__name__} as a key")


def printable(text: str, limit: int = 80) -> str:
    """Text from an untrusted file, escaped for one line of a terminal."""
    shown = text[: limit + 1].encode("ascii", "backslashreplace").decode()
    shown = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in shown)
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."


def expect_type(value: Any, kind: type | tuple[type, ...]) -> Any:
    """Returns a value of an expected type; raises TypeError for any other value."""
    if not isinstance(value, kind):
        wanted = " or ".join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))
        raise TypeError(f"a {wanted} was expected, {type(value).__name__} found")
    return value


def describe_value(value: Any) -> str:
    """Name or type of an untrusted value, for errors."""
    return f"'{value.name}'" if isinstance(value, Allowed) else f"a value of type {type(value).__name__}"


def brief_error(error: BaseException) -> str:
    """An error's message, escaped and cut to 100 characters."""
    return printable(str(error) or type(error).__name__, 100)
