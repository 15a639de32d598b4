"""Exceptions that a user sees as one line: the fault, its place and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

#: Exit status that asks to start the command again: EX_TEMPFAIL of sysexits.h. No command exits with it otherwise.
EXIT_RETRY = 75
#: Characters of the longest word that gets a suggestion: comparing longer ones takes long.
LONGEST_WORD = 200


class UserError(Exception):
    """Bad input or a broken environment, explained in one line.

    The command lines print ``error: <message>`` without a traceback and exit with its status. Raise it with the file
    and key, the fault and the remedy. Names in the message may come from an untrusted file: control characters are
    escaped, and the middle of a very long message is left out.
    """

    #: Exit status.
    status = 1

    def __init__(self, message: object = "") -> None:
        super().__init__(one_line(str(message)))


class Preempted(KeyboardInterrupt):
    """A signal (SIGTERM, SIGUSR1) asked the process to stop; the same command resumes from the saved state.

    The command lines exit with :data:`EXIT_RETRY`.
    """

    status = EXIT_RETRY


def one_line(text: str, limit: int = 2000) -> str:
    """Escapes the control characters of a text, and shortens it to about ``limit`` characters."""
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
