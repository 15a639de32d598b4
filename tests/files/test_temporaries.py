"""Files appear whole or not at all; what killed processes left is swept, what a living one writes is never touched."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import pytest

import sida.files.atomic as temporaries
from sida.config.lookup import ROOT
from sida.errors import UserError
from sida.files.atomic import atomic_folder, atomic_path, sweep_temporaries, write_files, write_text
from sida.workflow.cli import main

WRITER = (
    "import sys; from sida.files.atomic import atomic_path\n"
    "with atomic_path(sys.argv[1]) as path: path.write_text('half'); print('in', flush=True); sys.stdin.read()"
)


def age(path, seconds: float) -> None:
    os.utime(path, (time.time() - seconds,) * 2)


def test_a_killed_writer_is_swept_by_the_next_after_a_day_and_a_living_one_is_not(tmp_path):
    gone, hours = ".b.json.abcd1234.tmp.json", {".gitignore": 25, "a.tmp": 25, ".a.json.abcd1234.tmp.json": 1}
    for name, old in {**hours, gone: 25}.items():
        (tmp_path / name).write_text("half")
        age(tmp_path / name, 3600 * old)
    before = {tmp_path / name for name in hours}
    command = [sys.executable, "-c", WRITER, str(tmp_path / "table.csv")]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout.readline() == "in\n"
        (left,) = {*tmp_path.iterdir()} - before - {tmp_path / gone}
        # However old it is: a suspended process may be.
        age(left, 30 * temporaries.DAY)
        write_text(tmp_path / "other.txt", "x")
        before.add(tmp_path / "other.txt")
        assert {*tmp_path.iterdir()} == before | {left}
        writer.kill()
    age(left, 2 * temporaries.DAY)
    temporaries._swept.clear()
    write_text(tmp_path / "other.txt", "x")
    assert {*tmp_path.iterdir()} == before


def test_a_folder_of_one_writer_is_swept_whole(tmp_path):
    with atomic_path(tmp_path / "a.bin") as path:
        path.write_bytes(b"half")
        os.link(path, tmp_path / f".again.{path.name.removeprefix('.a.bin.')}")
    assert len(os.listdir(tmp_path)) == 2
    sweep_temporaries(tmp_path)
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_long_name_of_other_letters_can_be_written(tmp_path):
    path = tmp_path / f"{'漢' * 80}.txt"
    write_text(path, "x")
    assert os.listdir(tmp_path) == [path.name]


def test_files_and_folders_have_the_permissions_of_the_user_whose_umask_no_write_touches(tmp_path):
    """Another thread would write with what is set for a moment."""
    code = (
        "import os; os.umask(0o027); from sida.files.atomic import atomic_folder, write_text; del os.umask\n"
        "with atomic_folder('folder'): write_text('file', 'x')"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {"folder": 0o750, "file": 0o640}


def test_a_mistake_of_the_program_keeps_its_traceback(tmp_path, monkeypatch):
    mistake = OSError(errno.EBADF, os.strerror(errno.EBADF))
    monkeypatch.setattr(os, "fsync", Mock(side_effect=mistake))
    command = ["sample", "--sampler", "data", "--dataset", "digits", "--seeds", "0-3", "--out", str(tmp_path / "x.npz")]
    with pytest.raises(OSError, match="Bad file descriptor"):
        main(command)
    assert not [path for path in tmp_path.rglob("*") if ".tmp" in path.name]


def test_devices_and_folders_are_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(UserError, match="not an ordinary file"), atomic_path(tmp_path / name):
            pytest.fail("the block must not run")
    assert sorted(os.listdir(tmp_path)) == ["folder", "pipe"]


@pytest.mark.parametrize("place", ["write", "fsync"])
def test_a_full_disk_names_the_file_and_leaves_no_part_of_a_set(tmp_path, monkeypatch, place):
    names = [tmp_path / f"table.{suffix}" for suffix in ("tex", "csv", "md")]
    names[1].write_text("old")
    full, left = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), [1, 1]

    def fails(*given):
        if not left:
            raise full
        left.pop()
        return original(*given)

    owner, name = (Path, "write_bytes") if place == "write" else (os, "fsync")
    original = getattr(owner, name)
    monkeypatch.setattr(owner, name, fails)
    with pytest.raises(OSError, match="No space left") as caught:
        write_files(dict.fromkeys(names, "new"))
    assert caught.value.filename == str(names[2])
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"table.csv": "old"}
    monkeypatch.undo()
    write_files(dict.fromkeys(names, "new"))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {path.name: "new" for path in names}


@pytest.mark.parametrize("writer", [atomic_path, atomic_folder])
def test_a_full_disk_names_the_target_where_the_system_names_a_copied_or_temporary_file(tmp_path, writer):
    def fails(*names):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), *names)

    target = tmp_path / "out"
    for names in (lambda part: [part], lambda part: ["source", None, part]):
        with pytest.raises(OSError, match="No space left") as caught, writer(target) as part:
            fails(*names(str(part)))
        assert caught.value.filename == str(target)
    with pytest.raises(OSError, match="No space left") as caught, writer(target):
        fails("on another disk")
    assert caught.value.filename == "on another disk"
    assert not any(tmp_path.iterdir())


def test_the_folder_of_a_killed_writer_is_removed_by_the_next_one_and_that_of_a_living_one_is_not(tmp_path):
    mine = tmp_path / ".out.a.tmp"  # no name of a temporary folder
    mine.mkdir()
    code = WRITER.replace("atomic_path", "atomic_folder").replace("path.write_text('half')", "path")
    command = [sys.executable, "-c", code, str(tmp_path / "out")]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout.readline() == "in\n"
        (left,) = {*tmp_path.iterdir()} - {mine}
        (left / "file").write_text("half")
        age(left, 2 * temporaries.DAY)
        with atomic_folder(tmp_path / "out") as folder:
            (folder / "file").write_text("x")
        assert {*tmp_path.iterdir()} == {mine, left, tmp_path / "out"}
        writer.kill()
    with atomic_folder(tmp_path / "out2"):
        assert left.exists()
    os.utime(left)  # killed and run at once
    with pytest.raises(UserError) as caught, atomic_folder(tmp_path / "out") as folder:
        (folder / "file").write_text("y")
    assert caught.value.where == str(tmp_path / "out")
    assert (tmp_path / "out/file").read_text() == "x"
    assert {*tmp_path.iterdir()} == {mine, tmp_path / "out", tmp_path / "out2"}


@pytest.mark.parametrize("moment", ["before it is opened", "before it is locked"])
def test_a_sweep_between_making_and_locking_a_folder_harms_no_writer(tmp_path, monkeypatch, moment):
    owner, name = (os, "open") if moment == "before it is opened" else (temporaries, "try_lock")
    original, swept = getattr(owner, name), []

    def sweeps_first(*given, **options):
        if not swept:
            swept.extend(tmp_path.iterdir())
            monkeypatch.undo()
            sweep_temporaries(tmp_path, folders_of="out")
        return original(*given, **options)

    context = atomic_folder(tmp_path / "out")
    monkeypatch.setattr(owner, name, sweeps_first)
    with context as folder:
        (folder / "file").write_text("x")
    assert len(swept) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_sweep_for_a_folder_leaves_files_and_folders_of_other_targets(tmp_path):
    for name in (".out.abcd1234.tmp", ".out.json.abcd1234.tmp.json"):
        (tmp_path / name).write_text("half")
    (tmp_path / ".out2.abcd1234.tmp").mkdir()
    (tmp_path / ".out.abcd1235.tmp").mkdir()
    sweep_temporaries(tmp_path, folders_of="out")
    names = {".out.abcd1234.tmp", ".out.json.abcd1234.tmp.json", ".out2.abcd1234.tmp"}
    assert {path.name for path in tmp_path.iterdir()} == names
