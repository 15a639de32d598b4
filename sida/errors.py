"""Output of commands for users: faults as one line (where, fault, remedy), other lines, and progress."""

from __future__ import annotations

import contextlib
import difflib
import itertools
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TextIO

#: Exit status that asks to start the command again: EX_TEMPFAIL of sysexits.h. No command exits with it otherwise.
EXIT_RETRY = 75
#: Characters of the longest word that gets a suggestion: comparing longer ones takes long.
LONGEST_WORD = 200
#: Characters of the longest list of known words.
LONGEST_LIST = 200
#: Largest number of names of a folder that are compared with a mistyped one.
MOST_ENTRIES = 10_000


class UserError(Exception):
    """Bad input or a broken environment, explained in one line: ``where: fault; remedy``.

    The command lines print ``error: <message>`` without a traceback and exit with its status. Names in the message may
    come from an untrusted file: control characters are escaped, and the middle of a very long message is left out.

    Attributes:
        where: File and key, option or object with the fault; empty if the fault concerns the whole command.
        fault: Description of the fault, in words that follow ``where``.
        remedy: Action that helps; empty if the fault implies it.
    """

    #: Exit status.
    status = 1

    def __init__(self, where: object, fault: object, remedy: object = "") -> None:
        self.where, self.fault, self.remedy = str(where), str(fault), str(remedy)
        # Unpickling an error of another process calls the class with these arguments.
        super().__init__(self.where, self.fault, self.remedy)

    def __str__(self) -> str:
        message = f"{self.where}: {self.fault}" if self.where else self.fault
        return one_line(f"{message}; {self.remedy}" if self.remedy else message)


class PassingError(UserError):
    """A fault that a later attempt or another machine may not meet; a workflow tries its job again."""


@contextlib.contextmanager
def errors_at(where: object) -> Iterator[None]:
    """Adds ``where`` to errors of the block that name no file or key, or only a line of it (``:12``)."""
    try:
        yield
    except UserError as error:
        if not error.where or error.where.startswith(":"):
            error.where = f"{where}{error.where}"
        raise


class SettingError(UserError, ValueError):
    """A wrong setting; ``where`` is its key, after the file and the outer keys as far as they are known.

    Constructors of settings raise it with only the key, and their callers add the rest.
    """

    def inside(self, where: str) -> SettingError:
        """The same error with a file or outer key before its key."""
        return SettingError(inside(where, self.where), self.fault, self.remedy)


@contextlib.contextmanager
def settings_in(where: str) -> Iterator[None]:
    """Puts a file or outer key before the keys of the block's :class:`SettingError`."""
    try:
        yield
    except SettingError as error:
        raise error.inside(where) from None


def inside(where: str, key: str) -> str:
    """The full name of a key: ``preset.yaml: seed`` in a file, ``recipes.sid.lr`` in a mapping."""
    if where.endswith(":"):
        return f"{where} {key}"
    return f"{where}: {key}" if where.endswith((".yaml", ".yml", ".json")) else f"{where}.{key}"


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
    return one_line(visible(text, ""), limit)


def reason_of(error: BaseException) -> str:
    """First line of an error's text, or the name of its class where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def exact(number: float) -> str:
    """Shortest text that reads back as the same number, so that a rounded value does not look within a bound."""
    return str(number).removesuffix(".0")


def counted(number: int, noun: str) -> str:
    """A number of things, e.g. ``1 image`` or ``2,000 images``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def suggestion(word: str, known: Iterable[str], too_many: str | None = None) -> str:
    """Returns ``" (did you mean 'x'?)"`` for the closest known word, or the list of known words.

    Args:
        word: The unknown word.
        known: The known words.
        too_many: Text instead of a list that fills the screen.
    """
    names = sorted(set(known))
    if (close := _closest(word, names)) is not None:
        return f" (did you mean '{close}'?)"
    names_text = f" (known: {', '.join(names)})" if names else ""
    return names_text if too_many is None or len(names_text) < LONGEST_LIST else too_many


def near_path(path: str | os.PathLike[str], others: Iterable[str] = ()) -> str:
    """Returns ``did you mean 'samples/'?`` for the closest name in the folder of a missing path, or ``check the path``.

    Args:
        path: The path, at which nothing is.
        others: Words that may be meant instead of a path, such as ids.
    """
    folder, name = os.path.split(os.path.normpath(path))
    entries: dict[str, str] = {}
    with contextlib.suppress(OSError), os.scandir(folder or ".") as entries_of_folder:
        for entry in itertools.islice(entries_of_folder, MOST_ENTRIES):
            entries[entry.name] = os.path.join(folder, entry.name) + ("/" if entry.is_dir() else "")
    words = dict.fromkeys(others) | entries
    match = _closest(name, words)
    return "check the path" if match is None else f"did you mean '{words[match] or match}'?"


def _closest(word: str, known: Iterable[str]) -> str | None:
    """The known word that is most like a word, by letters of either case."""
    by_letters = {name.casefold(): name for name in known}
    close = difflib.get_close_matches(word.casefold(), by_letters, 1) if len(word) <= LONGEST_WORD else []
    return by_letters[close[0]] if close else None


def duration(seconds: float) -> str:
    """Formats seconds as ``45s``, ``3m05s`` or ``2h07m``."""
    total = max(0, round(seconds))
    if total < 60:
        return f"{total}s"
    if total < 3600:
        return f"{total // 60}m{total % 60:02d}s"
    return f"{total // 3600}h{total % 3600 // 60:02d}m"


def visible(text: str, allowed: str = "\n\t") -> str:
    """Text with escapes for characters without a glyph, which may control a terminal, except the ``allowed`` ones."""
    return "".join(c if c.isprintable() or c in allowed else c.encode("unicode_escape").decode() for c in text)


def say(line: str, stream: TextIO | None = None) -> None:
    """Prints a line for people, to standard error by default.

    A line that cannot be written (the reader was killed, the disk is full) is dropped, and the work continues. Text and
    line end are written in one call: lines of processes that share an unbuffered terminal must not mix.

    Args:
        line: Text without a line end.
        stream: Target. Results of a command go to standard output instead, by ``print``.
    """
    stream = sys.stderr if stream is None else stream
    if stream is None:
        # The process was started with standard error closed.
        return
    with contextlib.suppress(OSError):
        stream.write(f"{visible(line)}\n")
        stream.flush()


class Progress:
    """Prints ``[stage] 12.0/40.0 kimg  30 %  342 img/s  1m22s left  fd 3.9`` at most once per interval.

    Args:
        stage: What is running, e.g. ``"distill sida-a1.0"``.
        total: Number of units of the whole job.
        unit: Name of the unit, e.g. ``"img"``.
        done: Units done before this process started (a resumed run). The rate leaves them out.
        interval: Seconds between two lines.
    """

    def __init__(self, stage: str, total: float, unit: str = "img", done: float = 0, interval: float = 10) -> None:
        self.stage, self.total, self.unit, self.interval = stage, total, unit, interval
        self._start_done = self._done = done
        self._start = self._last = time.monotonic()

    def update(self, done: float | None, facts: Mapping[str, float] | None = None, force: bool = False) -> None:
        """Reports the number of finished units (None: as last told), with a few named numbers."""
        done = self._done = self._done if done is None else done
        moment = time.monotonic()
        if not force and moment - self._last < self.interval:
            return
        self._last = moment
        rate = (done - self._start_done) / max(moment - self._start, 1e-9)
        left = duration((self.total - done) / rate) + " left" if rate > 0 else "starting"
        share = 100 * done / self.total if self.total else 100
        parts = [f"[{self.stage}]", f"{done:,.0f}/{self.total:,.0f} {self.unit}", f"{share:.0f} %"]
        parts += [f"{rate:,.0f} {self.unit}/s" if rate >= 10 else f"{rate:.2g} {self.unit}/s", left]
        parts += [f"{name} {value:.4g}" for name, value in (facts or {}).items()]
        say("  ".join(parts))
