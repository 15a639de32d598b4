"""What the pickle interpreter works with: allow-list entries, records without behaviour, budgets and refusals."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from sida.errors import UserError

MAX_OPCODES = 4_000_000
MAX_TEXT = 256 << 20


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


class Record:
    """Base of the inert objects that may receive a state (opcode BUILD)."""

    def set_state(self, state: Any) -> None:
        """Keeps the state that the file gives."""
        raise TypeError("takes no state")


@dataclasses.dataclass
class Budget:
    """What a file may still use, shared by all its nested streams."""

    opcodes: int = MAX_OPCODES
    text_bytes: int = MAX_TEXT


def printable(text: str, limit: int = 80) -> str:
    """Text from a stranger's file, safe for a terminal and for one line."""
    shown = text.encode("ascii", "backslashreplace").decode()
    shown = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in shown)
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."
