"""Adapts output to the terminal, file or pipe behind it: encoding, colour, width, closed pipes."""

from __future__ import annotations

import codecs
import contextlib
import os
import shutil
import sys
import unicodedata
from typing import TextIO

#: Replacements of characters that the output's encoding does not have.
_PLAIN = {
    "─": "-", "–": "-", "—": "-", "−": "-", "‑": "-", "…": "...", "≤": "<=", "≥": ">=", "≈": "~", "→": "->", "←": "<-",
    "↓": "(lower)", "↑": "(higher)", "✓": "+", "✗": "x", "△": "^", "•": "*", "“": '"', "”": '"', "„": '"', "’": "'",
    "±": "+-", "×": "x", "·": "*", "°": " degrees", "√": "sqrt", "²": "2", "∞": "inf",
}  # fmt: skip


def to_ascii(text: str) -> str:
    """Converts text to ASCII: signs as typed on a keyboard, Greek letters by name, other characters as escapes."""
    return "".join(map(_character, text))


def _character(character: str) -> str:
    if character.isascii():
        return character
    name = unicodedata.name(character, "")
    if name.startswith("GREEK SMALL LETTER ") and name.count(" ") == 3:
        return name.rpartition(" ")[2].lower()
    bare = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return _PLAIN.get(character) or bare or character.encode("ascii", "backslashreplace").decode()


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return to_ascii(error.object[error.start : error.end]), error.end


def speak_plainly() -> None:
    """Makes output replace characters that its encoding does not have, instead of failing."""
    codecs.register_error("sida.plain", _replace)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            # A stream put there by a caller may not support it.
            with contextlib.suppress(OSError, ValueError):
                reconfigure(errors="sida.plain")


def finish() -> None:
    """Flushes the output while the absence of a reader can still be reported.

    Raises:
        BrokenPipeError: The reader has closed the pipe.
    """
    if sys.stdout is not None:
        sys.stdout.flush()


def let_go(stream: TextIO) -> None:
    """Flushes a stream, or discards its content if that fails; otherwise the process would fail at its exit."""
    if stream is None:
        return
    try:
        stream.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def colour() -> bool:
    """Whether standard output is a terminal with colours (``NO_COLOR`` and ``TERM=dumb`` are not set)."""
    wanted = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return wanted and sys.stdout is not None and sys.stdout.isatty()


def width(most: int = 100, least: int = 40) -> int:
    """Columns of standard output: the terminal's within bounds, or ``most`` without a terminal."""
    if sys.stdout is None or not sys.stdout.isatty():
        return most
    return max(least, min(most, shutil.get_terminal_size((most, 24)).columns))
