"""Numbers on the command line: a wrong one is one line that names its option, like any other fault."""

from __future__ import annotations

import math
from collections.abc import Callable

from sida.errors import UserError

_MOST = 2**63 - 1


def whole(option: str, least: int = 0, most: int = _MOST) -> Callable[[str], int]:
    """A reader of integers for an option of a verb.

    Args:
        option: The option, for errors.
        least: Smallest integer.
        most: Largest one.

    Raises:
        UserError: By the reader: another text, or out of range.
    """

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise UserError(f"{option}: must be an integer, got '{text}'") from None
        if not least <= value <= most:
            bound = f"at least {least}" if value < least else f"at most {most}"
            raise UserError(f"{option}: must be {bound}, got {text}")
        return value

    return read


def number(option: str, least: float = -math.inf) -> Callable[[str], float]:
    """The same for finite numbers."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise UserError(f"{option}: must be a number, got '{text}'") from None
        if not math.isfinite(value) or abs(value) > 1e30 or value < least:
            bound = f" of at least {least:g}" if least > -math.inf else ""
            raise UserError(f"{option}: must be a finite number{bound}, got {text}")
        return value

    return read
