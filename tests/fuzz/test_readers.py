"""Every registered reader, quick and slow, and the frame itself: what a case may not do is found, by its number."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from sida.config.resources import ROOT
from sida.errors import UserError
from sida.files.atomic import write_json
from sida.training.process import keep_freed_memory
from tests.fuzz.__main__ import main
from tests.fuzz.frame import QUICK, SLOW, Count, FaultError, Reader, command, fuzz, readers
from tests.fuzz.report import as_property, line, pytest_terminal_summary, stored

READERS = readers()
PARTS = 4


@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_read_or_refused_in_one_line(name, tmp_path, record_property):
    reader = READERS[name]
    count = fuzz(reader, range(reader.quick), tmp_path)
    record_property(*as_property(name, count))
    assert count.cases == reader.quick <= QUICK


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("name", READERS)
def test_many_damaged_files_are_read_or_refused_in_one_line(name, part, tmp_path, record_property):
    each = SLOW // PARTS
    count = fuzz(READERS[name], range(QUICK + part * each, QUICK + (part + 1) * each), tmp_path)
    record_property(*as_property(name, count))
    assert count.cases == each


def test_the_page_of_faults_says_how_many_readers_and_cases():
    page = (ROOT / "docs/reliability.md").read_text()
    assert f"{SLOW:,} changed copies of genuine files for each of {len(READERS)} readers" in page


# The frame itself


def write_genuine(folder: Path) -> None:
    (folder / "a.txt").write_text("width 12\nheight 7\n")
    (folder / "b.txt").write_text("width 100\nheight 9\n")


def reader(read) -> Reader:
    return Reader("example", write_genuine, lambda path, own: genuine_or(path, own, read), seconds=0.3, megabytes=50)


def genuine_or(path, own, read):
    """Reads the genuine files quietly, and does something else with every damaged one."""
    if path.parent.name != "genuine":
        read(path, own)


def refuse(path, own):
    raise UserError("", f"{path.name}: no table; make it again")


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


def write_inside(path, own):
    (own / "x").write_text("x")
    (own / "y").mkdir()


FAULTS = {
    "a traceback": (raising(KeyError("width")), "raised KeyError: 'width'"),
    "memory at the end": (raising(MemoryError()), "raised MemoryError"),
    "two lines": (raising(RawError("a\nb")), "not one printable line"),
    "an escape code": (raising(RawError("a \x1b[31m")), "not one printable line"),
    "nothing said": (raising(UserError("", "")), "not one printable line"),
    "a book": (raising(RawError("x" * 3000)), "a line of 3000 characters"),
    "memory": (allocate, "took 2.. MB of 50 MB"),
    "hidden memory": (hide, "only when memory ran out"),
    "a hang": (swallow, "did not end within 0.6 s"),
    "a file outside": (lambda path, own: (own.parent / "x").write_text("x"), "open .*/x"),
    "a file in the current folder": (lambda path, own: Path("x").write_text("x"), "open .*/x"),
    "a traversal": (lambda path, own: (own / ".." / "x").mkdir(exist_ok=True), "os.mkdir .*/x"),
    "a removal": (lambda path, own: os.rename(path, own.parent / "z"), "os.rename .*/z"),
    "a process": (lambda path, own: os.system("true"), "os.system"),
    "another process": (lambda path, own: subprocess.run(["true"], check=False), "subprocess.Popen"),
    "an unpickled name": (lambda path, own: pickle.loads(b"cos\nsystem\n."), "pickle.find_class"),
    "an escape code on the screen": (lambda path, own: print("a\x1b[2J", file=sys.stderr), "printed 'a.x1b"),
    "code": (lambda path, own: eval("1 + 1"), "exec"),
}


@pytest.mark.parametrize(("read", "reason"), FAULTS.values(), ids=FAULTS)
def test_what_a_case_may_not_do_is_found_with_its_number(read, reason, tmp_path):
    with pytest.raises(FaultError, match=reason) as caught:
        fuzz(reader(read), range(7, 8), tmp_path)
    assert "case 7 " in str(caught.value)
    assert "python -m tests.fuzz 'example' 7" in str(caught.value)


def test_memory_is_found_in_a_process_that_keeps_what_it_freed(tmp_path):
    """As after a training in the same test worker."""
    keep_freed_memory()
    kept = [bytes(1000) * 1000 for _ in range(500)]
    del kept
    read, reason = FAULTS["memory"]
    with pytest.raises(FaultError, match=reason):
        fuzz(reader(read), range(7, 8), tmp_path)


def test_a_file_without_a_name_is_no_file_elsewhere(tmp_path):
    def read(path, folder):
        with tempfile.TemporaryFile() as stream:
            stream.write(path.read_bytes())

    assert fuzz(reader(read), range(3), tmp_path).accepted == 3


def test_accepted_and_refused_cases_are_counted(tmp_path):
    count = fuzz(reader(refuse), range(20), tmp_path / "1")
    assert (count.cases, count.accepted, count.refused) == (20, 0, 20)
    count.add(fuzz(reader(write_inside), range(30), tmp_path / "2"))
    assert (count.cases, count.accepted, count.refused) == (50, 30, 20)
    assert "50 cases      30 accepted      20 refused" in line("x", count)


def test_a_number_always_stands_for_the_same_case(tmp_path):
    seen: list[list[bytes]] = [[], []]
    for time, kept in enumerate(seen):
        fuzz(reader(lambda path, own, kept=kept: kept.append(path.read_bytes())), range(50), tmp_path / str(time))
    assert seen[0] == seen[1]
    assert len(set(seen[0])) > 40


def test_a_command_s_error_line_counts_and_its_output_is_looked_at(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no such file"):
        command("sida", "info", tmp_path / "n.safetensors")
    monkeypatch.setattr("workflow.cli.sida_main", lambda argv: print("\x1b[2J") or 0)
    with pytest.raises(FaultError, match="printed"):
        command("sida", "info")


def test_the_lines_are_summed_over_processes_and_printed():
    """Reports travel between processes of pytest-xdist as JSON."""
    reports = []
    for n in (1, 2, 3):
        kept = [as_property("sheet", Count(n, n, 0, n / 10, n, n)), ("other", 1)]
        for when in ("setup", "call"):
            report = pytest.TestReport("t", ("t", 1, "t"), {}, "passed", None, when, user_properties=kept)
            reports.append(pytest.TestReport._from_json(json.loads(json.dumps(report._to_json()))))
    said = []
    terminal = SimpleNamespace(stats={"passed": reports}, section=said.append, write_line=said.append)
    pytest_terminal_summary(terminal)
    assert said == ["fuzzed readers", line("sheet", Count(6, 6, 0, 0.3, 3, 6))]


@pytest.mark.slow
def test_the_lines_stand_at_the_end_of_a_run_of_several_processes():
    arguments = ["-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", "tests/fuzz", "-k", "tensor and not many"]
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert f"{READERS['tensor file'].quick} cases" in next(
        row for row in done.stdout.splitlines() if row.startswith("tensor file")
    )


def test_counting_resumes_where_it_was_stopped(tmp_path):
    file = tmp_path / "counted.json"
    write_json(file, {"labels, in a folder": {**dataclasses.asdict(Count(9990, 1, 9989, 5.0, 3.0, 2.0)), "date": "-"}})
    assert main(["count", str(file), "labels, in a folder"]) == 0
    count = stored(file, "labels, in a folder")
    assert (count.cases, count.accepted + count.refused, count.longest) == (10_000, 10_000, 5.0)
