"""Exceptions that a user sees as one line: the fault, its place and the remedy."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator

#: Exit status that asks to start the command again: EX_TEMPFAIL of sysexits.h. No command exits with it otherwise.
EXIT_RETRY = 75
#: Characters of the longest word that gets a suggestion: comparing longer ones takes long.
LONGEST_WORD = 200


class UserError(Exception):
    """Bad input or a broken environment, explained in one line: ``place: fault; remedy``.

    The command lines print ``error: <message>`` without a traceback and exit with its status. Names in the message may
    come from an untrusted file: control characters are escaped, and the middle of a very long message is left out.

    Attributes:
        place: File and key, option or object with the fault; empty where the command as a whole is meant.
        fault: What is wrong there.
        remedy: What helps; empty where the fault says it.
    """

    #: Exit status.
    status = 1

    def __init__(self, place: object, fault: object, remedy: object = "") -> None:
        self.place, self.fault, self.remedy = str(place), str(fault), str(remedy)
        super().__init__(self.place, self.fault, self.remedy)

    def __str__(self) -> str:
        message = f"{self.place}: {self.fault}" if self.place else self.fault
        return one_line(f"{message}; {self.remedy}" if self.remedy else message)


@contextlib.contextmanager
def located(place: object) -> Iterator[None]:
    """Gives a place to errors of the block that have none, or only a line (``:12``) of this place."""
    try:
        yield
    except UserError as error:
        if not error.place or error.place.startswith(":"):
            error.place = f"{place}{error.place}"
        raise


class SettingError(UserError, ValueError):
    """A setting that is wrong; ``place`` is its key, with the places around the key as far as known.

    Constructors of settings raise it with the key alone.
    """

    def inside(self, where: str) -> SettingError:
        """The same error with a place before the key."""
        return SettingError(inside(where, self.place), self.fault, self.remedy)


@contextlib.contextmanager
def settings_in(where: str) -> Iterator[None]:
    """Puts a place before the keys of the block's :class:`SettingError`."""
    try:
        yield
    except SettingError as error:
        raise error.inside(where) from None


def inside(where: str, key: str) -> str:
    """The place of a key: ``preset.yaml: seed`` in a file, ``recipes.sid.lr`` in a mapping."""
    joint = " " if where.endswith(":") else ": " if where.endswith((".yaml", ".yml", ".json")) else "."
    return f"{where}{joint}{key}"


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
    return one_line(
        "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text), limit
    )


def suggestion(word: str, known: Iterable[str]) -> str:
    """Returns ``" (did you mean 'x'?)"`` for the closest known word, or the list of known words."""
    names = sorted(set(known))
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6) if len(word) <= LONGEST_WORD else []
    if close:
        return f" (did you mean '{close[0]}'?)"
    return f" (known: {', '.join(names)})" if names else ""
