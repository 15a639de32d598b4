"""Damaged copies of genuine files for every reader, and the frame itself: a deed that is not allowed is found."""

import contextlib
import os
import pickle
import sys

import pytest

from sida.errors import UserError
from sida.machine import keep_freed_memory
from tests.readers.frame import SLOW, FaultError, Reader, command, judge, read_damaged, readers
from tests.readers.guards import return_freed_memory

READERS = readers()


@pytest.mark.parametrize("times", [1, pytest.param(SLOW, marks=pytest.mark.slow)], ids=["few", "many"])
@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_read_or_refused_in_one_line(name, times, tmp_path):
    read_damaged(READERS[name], times * READERS[name].cases, tmp_path)


# The frame itself


def allocate(path, own):
    bytearray(200 << 20)


def hide(path, own):
    try:
        bytearray(1 << 45)
    except MemoryError:
        raise UserError("", "too large") from None


def swallow(path, own):
    while True:
        with contextlib.suppress(Exception):
            sum(range(1000))


def raising(error):
    def read(path, own):
        raise error

    return read


class RawError(UserError):
    """An error that shows what it was given, as it is."""

    def __init__(self, message):
        super().__init__("", "")
        self.message = message

    def __str__(self):
        return self.message


FAULTS = {
    "a traceback": (raising(KeyError("width")), "raised KeyError: 'width'"),
    "two lines": (raising(RawError("a\nb")), "not one printable line"),
    "nothing said": (raising(UserError("", "")), "not one printable line"),
    "a book": (raising(RawError("x" * 3000)), "a line of 3000 characters"),
    "memory": (allocate, "took 2.. MB of 50 MB"),
    "hidden memory": (hide, "only when memory ran out"),
    "a hang": (swallow, "did not end within 0.6 s"),
    "half a file": (lambda path, own: (own / ".x.csv.abcdefgh.tmp").write_text("x"), "half-written"),
    "a file outside": (lambda path, own: (own.parent / "x").write_text("x"), "open .*/x"),
    "a traversal": (lambda path, own: (own / ".." / "x").mkdir(exist_ok=True), "os.mkdir .*/x"),
    "a removal": (lambda path, own: os.rename(path, own.parent / "z"), "os.rename .*/z"),
    "a process": (lambda path, own: os.system("true"), "os.system"),
    "an unpickled name": (lambda path, own: pickle.loads(b"cos\nsystem\n."), "pickle.find_class"),
    "an escape code on the screen": (lambda path, own: print("a\x1b[2J", file=sys.stderr), "printed 'a.x1b"),
    "code": (lambda path, own: eval("1 + 1"), "exec"),
}


def judged(read, folder):
    """Judges what a function does to a file; only a hang may depend on the speed of the machine."""
    (own := folder / "own").mkdir()
    (own / "a.txt").write_text("width 12\n")
    seconds = 0.3 if read is swallow else 30
    # As before the first case: a heap that shrinks meanwhile hides what a case takes.
    return_freed_memory()
    judge(Reader("example", lambda folder: None, read, seconds=seconds, megabytes=50), own / "a.txt", own)


@pytest.mark.parametrize(("read", "reason"), FAULTS.values(), ids=FAULTS)
def test_what_a_case_may_not_do_is_found(read, reason, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FaultError, match=reason):
        judged(read, tmp_path)


def test_a_fault_is_shrunk_and_its_file_stays(tmp_path):
    def read(path, own):
        if path.read_text(errors="ignore").count("\n") != 2:
            raise KeyError("rows")

    example = Reader("example", lambda folder: (folder / "a.txt").write_text("width 12\nheight 7\n"), read)
    with pytest.raises(FaultError, match="raised KeyError: 'rows'"):
        read_damaged(example, 100, tmp_path)
    assert (tmp_path / "own/a.txt").read_bytes().count(b"\n") != 2


def test_memory_is_found_in_a_process_that_keeps_what_it_freed(tmp_path):
    """As after a training in the same test worker."""
    keep_freed_memory()
    kept = [bytes(1000) * 1000 for _ in range(500)]
    del kept
    read, reason = FAULTS["memory"]
    with pytest.raises(FaultError, match=reason):
        judged(read, tmp_path)


def test_a_command_s_error_line_counts_and_its_output_is_looked_at(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no such file"):
        command("sida", "info", tmp_path / "n.safetensors")
    monkeypatch.setattr("workflow.cli.main", lambda argv: print("\x1b[2J") or 0)
    with pytest.raises(FaultError, match="printed"):
        command("sida", "info")
