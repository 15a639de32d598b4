"""Readers of foreign files under rules: genuine small files, damaged as hypothesis draws it, are read in this process.

How to add a reader: put a `Reader` into the ``READERS`` of a module ``tests/readers/<area>_readers.py``;
``tests/readers/test_damaged.py`` finds it.

A case may succeed, or raise one `UserError` of one printable line. It may not raise anything else, take more than
``seconds`` of processor time or ``megabytes`` of memory, hide that memory ran out, start a process, open a connection,
unpickle, run code, print what a terminal obeys, leave a half-written file, or write, remove or rename anything outside
its folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import io
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from unittest import mock

import hypothesis

from sida.errors import UserError
from tests.readers.changes import Change, damaged
from tests.readers.guards import (
    MemoryLimit,
    TooLongError,
    peak_memory,
    reset_peak,
    return_freed_memory,
    time_limit,
    watched,
)

#: The slow tests read so many times the cases of `make test`.
SLOW = 20
LONGEST_MESSAGE = 2500


@dataclasses.dataclass(frozen=True)
class Reader:
    """A reader, its genuine files and their changes.

    Attributes:
        name: Its name in reports.
        genuine: Writes genuine files of some KB into a folder, equal from run to run; the reader accepts each.
        read: Reads the file at a path as far as a user's command would; may write below a folder, which is new in each
            case. A command line is read with :func:`command`.
        changes: Changes that know the format; general ones are always used.
        share: Of all changes, those that know the format: near 1 where most else ends at the first look, as in JSON.
        cases: Cases in `make test`: about a second's.
        seconds: Processor time that a case may take. Cases that take 4 s on an idle core take 6 s on a busy machine.
        megabytes: Memory that a case may add to the process at its peak. The same case takes 79 MB in a new process and
            143 MB in one that has run tests for an hour.
    """

    name: str
    genuine: Callable[[Path], object]
    read: Callable[[Path, Path], object]
    changes: Sequence[Change] = ()
    share: float = 0.5
    cases: int = 100
    seconds: float = 15.0
    megabytes: int = 256


class FaultError(AssertionError):
    """A case that did what it may not."""


def readers() -> dict[str, Reader]:
    """All readers by name."""
    modules = sorted(path.stem for path in Path(__file__).parent.glob("*_readers.py"))
    found = [reader for name in modules for reader in importlib.import_module(f"tests.readers.{name}").READERS]
    return {reader.name: reader for reader in found}


def command(program: str, *arguments: object) -> str:
    """Runs ``sida`` or ``sida`` with arguments in this process; returns what it printed.

    Raises:
        UserError: It ended with its one error line.
        FaultError: It printed something that is not printable, or ended in another way.
    """
    from workflow.cli import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as end:
            status = end.code  # of argparse
    _check_printed(out.getvalue())
    if status == 0:
        return out.getvalue()
    _check_printed(err.getvalue())
    # Lines about progress or usage may precede the one that ends.
    *before, last = err.getvalue().splitlines() or [""]
    if status not in (1, 2) or any("error: " in line for line in before) or "error: " not in last:
        raise FaultError(f"status {status} with {err.getvalue()!r}")
    raise UserError("", last.partition("error: ")[2])


def refused(function: Callable[..., object], *arguments: object, megabytes: int = 128) -> str:
    """The one short line with which arguments are refused, in little memory and without hanging."""
    before, begin = reset_peak(), time.process_time()
    try:
        function(*arguments)
    except UserError as error:
        text = str(error)
    else:
        raise FaultError(f"{arguments} is taken")
    spent, peak = time.process_time() - begin, peak_memory() - before
    assert text.isprintable()
    assert len(text) <= LONGEST_MESSAGE
    assert spent < 30
    assert peak < megabytes
    return text


@functools.cache
def genuine_files(reader: Reader) -> dict[str, bytes]:
    """The genuine files of a reader, by name; each is read once, so that whatever reading imports is imported."""
    with tempfile.TemporaryDirectory() as text:
        folder, own = Path(text) / "genuine", Path(text) / "out"
        folder.mkdir()
        reader.genuine(folder)
        for path in folder.iterdir():
            own.mkdir()
            reader.read(path, own)
            shutil.rmtree(own)
        return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def read_damaged(reader: Reader, cases: int, folder: Path) -> None:
    """Reads damaged copies, the same ones in each run; hypothesis repeats and shrinks the first that is at fault.

    Raises:
        FaultError: What a case did that it may not; its file stays in the folder.
    """
    files = genuine_files(reader)
    own, elsewhere = folder / "own", folder / "elsewhere"
    elsewhere.mkdir()
    return_freed_memory()

    @hypothesis.settings(
        max_examples=cases,
        derandomize=True,
        report_multiple_bugs=False,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(damaged(files, reader.changes, reader.share))
    def read(case: tuple[str, bytes]) -> None:
        name, content = case
        shutil.rmtree(own, ignore_errors=True)
        own.mkdir()
        (own / name).write_bytes(content)
        judge(reader, own / name, own)

    # Whether a disk has really written is not asked here, and takes longer than all else.
    with contextlib.chdir(elsewhere), MemoryLimit(), mock.patch("os.fsync", return_value=None):
        read()


def judge(reader: Reader, path: Path, own: Path) -> None:
    """Reads one file under the rules; also for files that a test made on purpose.

    Raises:
        FaultError: The reader did what it may not.
    """
    before, begin = reset_peak(), time.process_time()
    with _judged(reader.seconds):
        _read(reader, path, own)
    seconds, peak = time.process_time() - begin, peak_memory() - before
    if seconds > reader.seconds:
        raise FaultError(f"{path}: took {seconds:.1f} s of {reader.seconds:g} s")
    if peak > reader.megabytes:
        raise FaultError(f"{path}: took {peak:.0f} MB of {reader.megabytes} MB")


def _read(reader: Reader, path: Path, own: Path) -> None:
    said = io.StringIO()
    with watched(own) as seen, contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            reader.read(path, own)
        except UserError as error:
            _check_message(error)
    if seen:
        raise FaultError(f"{path}: did what no reader does: {'; '.join(seen[:3])}")
    _check_printed(said.getvalue())
    if left := [found for found in own.rglob(".*.tmp*") if found != path]:
        raise FaultError(f"{path}: left {left[0].name} half-written")


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
        raise FaultError(f"raised {type(error).__name__}: {str(error)[:200]}") from error


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
