"""The one exception that reaches a user: a single line that says what, where and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

#: Exit status for 'start this again': EX_TEMPFAIL of sysexits.h, which no command here gives for another reason.
EXIT_RETRY = 75
#: Longer words are no misspelt ones, and take long to compare.
LONGEST_WORD = 200


class UserError(Exception):
    """Bad input or a broken environment, explained in one line.

    The command lines print ``error: <message>`` without a traceback and exit with its status. Raise it with
    the file and key (where), the fault (what) and the remedy. Names in it may come from a stranger's file: what a
    terminal would obey is written as an escape, and the middle of an endless line is left out.
    """

    #: Exit status.
    status = 1

    def __init__(self, message: object = "") -> None:
        super().__init__(one_line(str(message)))


class Preempted(KeyboardInterrupt):
    """The process was asked to make room (SIGTERM, SIGUSR1); the same command goes on from its kept state.

    The command lines exit with :data:`EXIT_RETRY`.
    """

    status = EXIT_RETRY


def one_line(text: str, limit: int = 2000) -> str:
    """Text as one line that no terminal obeys: control characters as escapes, at most ``limit`` characters."""
    if len(text) > limit:
        text = f"{text[: limit * 3 // 4]} ... {text[-limit // 5 :]}"
    if text.isprintable():
        return text
    shown = (c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
    return "".join(shown)


def suggestion(word: str, known: Iterable[str]) -> str:
    """Returns ``" (did you mean 'x'?)"`` for the closest known word, or the list of known words."""
    names = sorted(set(known))
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6) if len(word) <= LONGEST_WORD else []
    if close:
        return f" (did you mean '{close[0]}'?)"
    return f" (known: {', '.join(names)})" if names else ""
