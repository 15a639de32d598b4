"""Kept states are never lost: not by faults of a disk, not by another configuration in the same folder."""

import contextlib
import errno
import fcntl
import itertools
import json
import os
import threading
import time
from pathlib import Path

import pytest
import torch

from sida.files.atomic import try_lock, wait_for_lock
from sida.training import TeacherConfig, run_folder, train_teacher
from sida.training.run_folder import RunFolder
from sida.workflow.cli import main
from tests import disks
from tests.refused import command, refused
from tests.training.toy import TEACHER, CrashError, before_iterations, interrupt_after, raising, results, states

#: The same length and intervals, another result.
OTHER = {**TEACHER, "lr": 1e-3}


@pytest.fixture
def uninterrupted(teacher):
    return Path(teacher).parent


@pytest.fixture
def unfinished(tmp_path):
    """A run that stopped at image 320 behind its snapshot at 208, with states at 304 and 320."""
    interrupt_after(train_teacher, TEACHER, tmp_path, 320)
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def first_image(spec, folder) -> int:
    """Trains to the end; the number of images at which it began."""
    seen = []
    with before_iterations(seen.append):
        train_teacher(spec, folder)
    return seen[0] if seen else -1


@pytest.fixture
def kept(tmp_path):
    """Folder of two states, the newer one older by its time."""
    for nimg in (304, 320):
        save(tmp_path, nimg)
    os.utime(states(tmp_path)[1], (0, 0))
    return tmp_path


def save(folder: Path, nimg: int) -> None:
    with RunFolder(folder, "digest") as files:
        files.save({"nimg": nimg, "finished": False}, {"x": torch.full((99,), nimg)}, {})


def loaded(folder: Path, **options) -> int:
    """Number of images at which a run would begin."""
    with RunFolder(folder, "digest", **options) as files:
        return 0 if files.state is None else files.state.record["nimg"]


def test_a_folder_that_is_renamed_during_a_training_is_told_and_the_run_resumes_there(
    tmp_path, uninterrupted, monkeypatch
):
    folder, moved = tmp_path / "run", tmp_path / "moved"
    with before_iterations(lambda nimg: nimg == 160 and folder.rename(moved)):
        error = refused("is gone.*--out", train_teacher, TEACHER, folder)
    assert error.where == str(folder)
    assert not folder.exists()
    train_teacher(TEACHER, moved)
    assert results(moved) == results(uninterrupted)


def test_a_clock_that_goes_back_and_files_of_the_future_change_no_result(tmp_path, uninterrupted, monkeypatch):
    now, calls = time.time(), itertools.count()
    monkeypatch.setattr(time, "time", lambda: now - 3600 * next(calls))
    interrupt_after(train_teacher, TEACHER, tmp_path, 160)
    for path in tmp_path.rglob("*"):
        os.utime(path, (now + 10**7,) * 2)
    train_teacher(TEACHER, tmp_path)
    assert results(tmp_path) == results(uninterrupted)


def test_a_state_that_cannot_be_read_is_one_line_and_stays(kept):
    """A link to itself stands for a disk that does not answer (permissions do not stop root)."""
    path, good = states(kept)[1], kept / "good"
    path.rename(good)
    path.symlink_to(path)
    refused(rf"^{path}: cannot be read", loaded, kept, set_aside=True)
    path.unlink()
    good.rename(path)
    assert loaded(kept) == 320


@pytest.mark.parametrize("damage", disks.DAMAGES.values(), ids=disks.DAMAGES)
def test_two_intact_states_are_kept_also_after_a_damaged_one(kept, capsys, damage):
    first, second = states(kept)
    damage(second)
    assert loaded(kept) == 304
    assert f"{second}: this state is damaged" in capsys.readouterr().err
    save(kept, 336)
    damage(states(kept)[1])
    assert loaded(kept) == 304
    damage(first)
    assert loaded(kept) == 0
    assert not states(kept)


def test_starting_anew_needs_the_users_word_and_going_back_goes_on(unfinished, uninterrupted, capsys):
    alone = unfinished / "alone"
    train_teacher(OTHER, alone)
    before, arguments = contents(unfinished), ["train-teacher", "--spec", json.dumps(OTHER), "--out", unfinished]
    refused(r"holds an unfinished run \(image 320\) of other settings.*--set-aside", command, *arguments)
    assert contents(unfinished) == before
    assert main([*map(str, arguments), "--set-aside"]) == 0
    assert f"{unfinished}: holds an unfinished run" in capsys.readouterr().err
    # The other run's states and its snapshot lie where they can be found again.
    (aside,) = (unfinished / "aside").iterdir()
    kept = {name: content for name, content in before.items() if name.startswith(("state/", "snapshots/"))}
    assert len(kept) == 3
    assert contents(aside) == kept
    assert results(unfinished) == results(alone)
    assert first_image(TEACHER, unfinished) == 320
    assert results(unfinished) == results(uninterrupted)
    # Both are finished now, and each change of settings only writes the files again.
    for spec, expected in ((OTHER, alone), (TEACHER, uninterrupted)):
        assert first_image(spec, unfinished) == -1
        assert results(unfinished) == results(expected)


def test_a_kill_between_the_moves_of_a_run_mixes_no_snapshots(unfinished, uninterrupted, monkeypatch):
    rename, calls = Path.rename, itertools.count()

    def killed(path, target):
        if path.is_dir() and next(calls):
            raise CrashError
        return rename(path, target)

    for spec in (OTHER, TEACHER):
        with monkeypatch.context() as patch, contextlib.suppress(CrashError):
            patch.setattr(Path, "rename", killed)
            train_teacher(spec, unfinished, set_aside=True)
        calls = itertools.count()
        train_teacher(spec, unfinished, set_aside=True)
    assert results(unfinished) == results(uninterrupted)


def test_a_log_that_no_state_can_hold_is_refused_before_the_training():
    long = {**TEACHER, "total_kimg": 2000, "tick_kimg": 0.01}
    told = "tick_kimg: 0.01 gives 125,000 log records, more than 100,000; set it to 0.02 or more"
    refused(told, TeacherConfig, **long)
    TeacherConfig(**{**long, "tick_kimg": 0.02})


def test_a_file_system_without_locks_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", raising(OSError(errno.ENOLCK, "No locks available")))
    refused(r"cannot be locked \(No locks available\); use a file system with locks", train_teacher, TEACHER, tmp_path)


def test_the_lock_is_held_while_a_state_is_written(tmp_path, monkeypatch):
    started, written = threading.Event(), threading.Event()
    monkeypatch.setattr(RunFolder, "_write_state", lambda *state: started.set() or written.wait(60))

    def interrupted():
        with contextlib.suppress(KeyboardInterrupt), RunFolder(tmp_path, "digest") as files:
            files.save({}, {}, {})
            raise KeyboardInterrupt

    thread = threading.Thread(target=interrupted)
    thread.start()
    started.wait(60)
    with open(tmp_path / ".lock", "r+b") as lock:
        assert not try_lock(lock)
        written.set()
        wait_for_lock(lock)
    thread.join(60)


def test_a_snapshot_that_cannot_be_written_is_told_and_no_state_claims_it(tmp_path, monkeypatch):
    """What failed in the background ends the run with one line, and nothing behind it is written."""
    with monkeypatch.context() as patch:
        patch.setattr(
            run_folder, "write_state_dict", raising(OSError(28, "No space left on device", "network-0000000208"))
        )
        arguments = ["train-teacher", "--spec", json.dumps(TEACHER), "--out", tmp_path]
        refused("network-0000000208: No space left", command, *arguments)
    assert not states(tmp_path)
    assert first_image(TEACHER, tmp_path) == 0


def test_a_full_disk_is_told_within_an_iteration(tmp_path, unfinished, uninterrupted):
    """On a file system of its own that has room for one state and a half."""
    spec = {**TEACHER, "state_minutes": 0}
    size = states(unfinished)[1].stat().st_size
    with disks.small_disk(tmp_path / "disk") as disk:
        filler = disks.fill(disk, size * 3 // 2)
        refused(r"cannot be written \(.*No space left on device.*make room", train_teacher, spec, disk)
        (state,) = states(disk)
        # No hidden rest takes the room that the next attempt needs.
        assert [path.name for path in disk.rglob(".*")] == [".lock"]
        filler.unlink()
        assert first_image(spec, disk) == int(state.stem)
        assert results(disk) == results(uninterrupted)
