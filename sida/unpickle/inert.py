"""What the pickle interpreter works with: allow-list entries, records without behaviour, budgets and refusals."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from sida.errors import UserError

MAX_STEPS = 1_500_000
"""Work that a file may ask for, counted and not timed: opcodes, calls, items that a call looks at, members of archives.
Stand-ins of the largest published networks take 165,000; that many small objects fit into 300 MB."""
MAX_TEXT = 256 << 20
MAX_NESTING = 3
_TEXT_PER_STEP = 256


class RefusedError(UserError):
    """Something outside the allow-list; the message names it."""


class DeniedError(Exception):
    """Raised by the allow-list; the machine adds the file's name and turns it into :class:`RefusedError`."""


@dataclasses.dataclass(eq=False)
class Allowed:
    """An entry of the allow-list: a name and the harmless maker that stands for it.

    Attributes:
        name: Dotted name as in the file.
        make: Called with the arguments from the file; must check them and build plain values or records only.
    """

    name: str
    make: Callable[..., Any]


class InertObject:
    """Base of the inert objects that may receive a state (opcode BUILD)."""

    def set_state(self, state: Any) -> None:
        """Keeps the state that the file gives."""
        raise TypeError("takes no state")


@dataclasses.dataclass
class Budget:
    """What a file may still use, shared by all its nested streams."""

    steps: int = MAX_STEPS
    text_bytes: int = MAX_TEXT
    copied_bytes: int = MAX_TEXT
    nested_bytes: int = 0

    @classmethod
    def of_file(cls, length: int) -> Budget:
        """For a file of so many bytes: streams nested in it are as long together, at each depth, and no longer."""
        return cls(nested_bytes=MAX_NESTING * length)

    def spend(self, steps: int) -> None:
        """Takes steps away.

        Raises:
            DeniedError: More than there are.
        """
        self.steps -= steps
        if self.steps < 0:
            raise DeniedError("it makes far more objects than any network has")

    def spend_on(self, values: tuple[Any, ...]) -> None:
        """Takes away what it costs to look once at every item of every value, and to copy every text."""
        self.spend(sum(_weight(value) for value in values))
        self.copied_bytes -= sum(len(value) for value in values if isinstance(value, str))
        if self.copied_bytes < 0:
            raise DeniedError(f"it makes more than {MAX_TEXT >> 20} MiB of copies of its texts")

    def enter(self, length: int) -> None:
        """Takes the bytes of a nested stream away, so that none is read a thousand times."""
        self.nested_bytes -= length
        if self.nested_bytes < 0:
            raise DeniedError("it reads the same nested stream again and again")


def _weight(value: Any) -> int:
    if isinstance(value, (str, bytes)):
        return len(value) // _TEXT_PER_STEP
    return len(value) if isinstance(value, (tuple, list, dict, set, frozenset)) else 0


@contextlib.contextmanager
def refusals(where: str) -> Iterator[None]:
    """Names the file in refusals, and refuses what goes beyond Python's own bounds.

    Raises:
        RefusedError: For a :class:`DeniedError`, a MemoryError or a RecursionError.
    """
    try:
        yield
    except DeniedError as reason:
        raise RefusedError(f"{where}: refused: {reason}; no published checkpoint needs it") from None
    except MemoryError:
        raise RefusedError(f"{where}: refused: reading it takes more memory than there is") from None
    except RecursionError:
        raise RefusedError(f"{where}: refused: it is nested deeper than any network") from None


def checked_key(value: Any) -> Any:
    """A key or member whose hash nobody can choose: crafted collisions would make dictionaries and sets quadratic.

    Raises:
        TypeError: It is none.
    """
    if isinstance(value, (str, bytes, float)) or value is None or (isinstance(value, int) and abs(value) < 2**64):
        return value
    raise TypeError(f"{type(value).__name__} as a key")


def printable(text: str, limit: int = 80) -> str:
    """Text from a stranger's file, safe for a terminal and for one line."""
    shown = text[: limit + 1].encode("ascii", "backslashreplace").decode()
    shown = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in shown)
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."
