"""Fuzzing of readers: genuine small files, damaged in ways that a number decides, are read in this process.

How to add a reader: write a module ``tests/fuzz/<area>_readers.py`` with ``READERS = (Reader(...), ...)``. Nothing else
is needed; ``tests/fuzz/test_readers.py`` finds it, and its line appears at the end of ``make test-all``. A reader says

- ``genuine(folder)``: writes one or several small genuine files there (some KB: cases per second decide what is found).
  Keep them equal from run to run (seeded), or the numbers of cases lose their meaning. The reader must accept each;
- ``read(path, folder)``: reads the damaged file at ``path``, as far as a user's command would; it may write below
  ``folder``, which is empty again in the next case. A command line is read with ``command("sida", ...)``;
- ``changes``: changes that know the format, ``change(data, random) -> bytes`` (:mod:`tests.fuzz.changes` has the
  general ones, which are always used, and makers for JSON, zip archives and tables of tokens); ``share``
  says how often they are taken. A change raises ValueError for data that it cannot take.

What a case may do: succeed, or raise one `UserError` of one printable line. It may not raise anything else, take more
than ``seconds`` of processor time or ``megabytes`` of memory, hide that memory ran out, start a process, open a
connection, unpickle, print what a terminal obeys, or write, remove or rename anything outside ``folder``.
``python -m tests.fuzz READER CASE`` repeats a case, with its traceback.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import io
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from unittest import mock

from sida.errors import UserError
from tests.fuzz.changes import Change, damaged
from tests.fuzz.guards import (
    MemoryLimit,
    TooLongError,
    peak_memory,
    reset_peak,
    return_freed_memory,
    time_limit,
    watched,
)

#: Cases of a reader in `make test`, and in the slow set.
QUICK, SLOW = 100, 10_000
LONGEST_MESSAGE = 2500


@dataclasses.dataclass(frozen=True)
class Reader:
    """What is fuzzed; see the head of this module.

    Attributes:
        name: Its name in reports.
        genuine: Writes genuine files into a folder.
        read: Reads the file at a path; may write below a folder.
        changes: Changes that know the format.
        share: Of all changes, those that know the format: near 1 where most else ends at the first look, as in JSON.
        seconds: Processor time that a case may take. Cases that take 4 s on an idle core take 6 s on a busy machine.
        megabytes: Memory that a case may add to the process at its peak. The same case takes 79 MB in a new process and
            143 MB in one that has run tests for an hour.
        quick: Cases in `make test`; lower it where 100 take more than a second.
    """

    name: str
    genuine: Callable[[Path], object]
    read: Callable[[Path, Path], object]
    changes: Sequence[Change] = ()
    share: float = 0.5
    seconds: float = 15.0
    megabytes: int = 256
    quick: int = QUICK


@dataclasses.dataclass
class Count:
    """What came of a number of cases; ``longest`` is of reading alone, ``seconds`` of all, in processor time."""

    cases: int = 0
    accepted: int = 0
    refused: int = 0
    longest: float = 0.0
    peak_mb: float = 0.0
    seconds: float = 0.0

    def add(self, other: Count) -> None:
        """Adds another count."""
        self.cases, self.accepted = self.cases + other.cases, self.accepted + other.accepted
        self.refused = self.refused + other.refused
        self.longest, self.peak_mb = max(self.longest, other.longest), max(self.peak_mb, other.peak_mb)
        self.seconds += other.seconds


class FaultError(AssertionError):
    """A case that did what it may not."""


def readers() -> dict[str, Reader]:
    """All readers by name, from the modules ``tests/fuzz/*_readers.py``."""
    found: dict[str, Reader] = {}
    for path in sorted(Path(__file__).parent.glob("[!t]*_readers.py")):
        for reader in importlib.import_module(f"tests.fuzz.{path.stem}").READERS:
            assert reader.name not in found, f"two readers have the name {reader.name!r}"
            found[reader.name] = reader
    return found


def command(program: str, *arguments: object) -> str:
    """Runs ``sida`` or ``sida-eval`` with arguments in this process; returns what it printed.

    Raises:
        UserError: It ended with its one error line.
        FaultError: It printed something that is not printable, or ended in another way.
    """
    from workflow import cli

    main = {"sida": cli.sida_main, "sida-eval": cli.eval_main}[program]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main([str(argument) for argument in arguments])
    _check_printed(out.getvalue())
    if status == 0:
        return out.getvalue()
    message = err.getvalue()
    if not message.startswith("error: ") or not message.endswith("\n"):
        raise FaultError(f"status {status} with {message!r}")
    raise UserError("", message.removeprefix("error: ").removesuffix("\n"))


@functools.cache
def genuine_files(reader: Reader) -> dict[str, bytes]:
    """The genuine files of a reader, by name; each is read once, so that whatever reading imports is imported."""
    with tempfile.TemporaryDirectory() as text:
        folder, own = Path(text) / "genuine", Path(text) / "out"
        folder.mkdir()
        reader.genuine(folder)
        files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
        assert files, f"{reader.name}: no genuine files"
        for name in files:
            own.mkdir()
            reader.read(folder / name, own)
            shutil.rmtree(own)
    return files


def case(reader: Reader, number: int) -> tuple[str, bytes]:
    """Name and content of the damaged file that a number stands for."""
    rng = random.Random(f"{reader.name} {number}")
    files = genuine_files(reader)
    name = rng.choice(sorted(files))
    others = [content for other, content in sorted(files.items())]
    return name, damaged(files[name], others, reader.changes, reader.share, rng)


def fuzz(reader: Reader, numbers: range, folder: Path, most_faults: int = 5) -> Count:
    """Reads the cases of some numbers.

    Raises:
        FaultError: What cases did that they may not, each with the command that repeats it.
    """
    genuine_files(reader)
    return_freed_memory()
    begin, count, faults = time.process_time(), Count(), []
    elsewhere, own = folder / "elsewhere", folder / "own"
    elsewhere.mkdir(parents=True)
    # Whether a disk has really written is not asked here, and takes longer than all else.
    with contextlib.chdir(elsewhere), MemoryLimit(), mock.patch("os.fsync", return_value=None):
        for number in numbers:
            own.mkdir()
            try:
                name, content = case(reader, number)
                (own / name).write_bytes(content)
                count.add(judge(reader, own / name, own))
            except FaultError as fault:
                faults.append(f"case {number} {fault}\n    python -m tests.fuzz {reader.name!r} {number}")
            shutil.rmtree(own)
            if len(faults) >= most_faults:
                break
    count.seconds = time.process_time() - begin
    if faults:
        raise FaultError(f"{reader.name}:\n  " + "\n  ".join(faults))
    return count


def judge(reader: Reader, path: Path, own: Path) -> Count:
    """Reads one file under the rules; also for files that a test made on purpose.

    Raises:
        FaultError: The reader did what it may not.
    """
    before = reset_peak()
    begin = time.process_time()
    with _judged(reader.seconds):
        refused = _read(reader, path, own)
    seconds, peak = time.process_time() - begin, max(0.0, peak_memory() - before)
    if seconds > reader.seconds:
        raise FaultError(f"took {seconds:.1f} s of {reader.seconds:g} s")
    if peak > reader.megabytes:
        raise FaultError(f"took {peak:.0f} MB of {reader.megabytes} MB")
    return Count(1, int(not refused), int(refused), seconds, peak)


def _read(reader: Reader, path: Path, own: Path) -> bool:
    """Whether the reader refuses the file, as it should."""
    said = io.StringIO()
    with watched(own) as seen, contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            reader.read(path, own)
            refused = False
        except UserError as error:
            refused = True
            _check_message(error)
    if seen:
        raise FaultError(f"did what no reader does: {'; '.join(seen[:3])}")
    _check_printed(said.getvalue())
    return refused


@contextlib.contextmanager
def _judged(seconds: float) -> Iterator[None]:
    """Turns whatever else is raised, and a hang, into a fault."""
    try:
        with time_limit(2 * seconds):
            yield
    except FaultError:
        raise
    except TooLongError:
        raise FaultError(f"did not end within {2 * seconds:g} s") from None
    except Exception as error:
        raise FaultError(f"raised {type(error).__name__}: {str(error)[:200]}") from None


def _check_printed(text: str) -> None:
    for line in text.splitlines():
        if not line.isprintable():
            raise FaultError(f"printed {line[:300]!r}")


def _check_message(error: UserError) -> None:
    message = str(error)
    if not message or not message.isprintable():
        raise FaultError(f"was refused with {message[:300]!r}, which is not one printable line")
    if len(message) > LONGEST_MESSAGE:
        raise FaultError(f"was refused with a line of {len(message)} characters: {message[:100]}...")
    reason: BaseException | None = error
    while reason is not None:
        if isinstance(reason, MemoryError):
            raise FaultError(f"was refused only when memory ran out: {message}")
        reason = reason.__cause__ or reason.__context__
