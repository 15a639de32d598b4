"""What the terminal, file or pipe behind a command's output can take."""

from __future__ import annotations

import codecs
import contextlib
import os
import shutil
import sys
import unicodedata
from typing import TextIO

#: What characters of tables and messages become where the output's encoding has no such.
_PLAIN = {
    "─": "-", "–": "-", "—": "-", "−": "-", "‑": "-", "…": "...", "≤": "<=", "≥": ">=", "≈": "~", "→": "->", "←": "<-",
    "↓": "(lower)", "↑": "(higher)", "✓": "+", "✗": "x", "△": "^", "•": "*", "“": '"', "”": '"', "„": '"', "’": "'",
    "±": "+-", "×": "x", "·": "*", "°": " degrees", "√": "sqrt", "²": "2", "∞": "inf",
}  # fmt: skip


def to_ascii(text: str) -> str:
    """Text in ASCII: signs as one would type them, Greek letters by their names, anything else as an escape."""
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
    """From here on nothing that is printed fails for want of a character in the output's encoding."""
    codecs.register_error("sida.plain", _replace)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            # A stream that someone else has put there may know nothing of it.
            with contextlib.suppress(OSError, ValueError):
                reconfigure(errors="sida.plain")


def finish() -> None:
    """Hands over what was printed while a reader's absence can still be told.

    Raises:
        BrokenPipeError: The reader has gone.
    """
    if sys.stdout is not None:
        sys.stdout.flush()


def let_go(stream: TextIO) -> None:
    """Writes what a stream still holds, or throws it away: else it would fail the process when that has ended."""
    if stream is None:
        return
    try:
        stream.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def colour() -> bool:
    """Whether standard output takes escape codes: a terminal, and neither ``NO_COLOR`` nor ``TERM=dumb``."""
    wanted = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return wanted and sys.stdout is not None and sys.stdout.isatty()


def width(most: int = 100, least: int = 40) -> int:
    """Columns for text on standard output: the terminal's within bounds, and ``most`` where there is none."""
    if sys.stdout is None or not sys.stdout.isatty():
        return most
    return max(least, min(most, shutil.get_terminal_size((most, 24)).columns))
