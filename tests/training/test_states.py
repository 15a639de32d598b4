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
import safetensors
import torch

from sida.files.atomic import try_lock, wait_for_lock
from sida.files.tensors import write_tensors
from sida.files.text_files import HASH_KEY, with_hash
from sida.networks import build_network
from sida.networks.file import save_network
from sida.training import TeacherConfig, run, train_teacher
from sida.training.run import StateStore
from sida.workflow.cli import main
from tests import disks
from tests.refused import command, refused
from tests.training.toy import NETWORK, TEACHER, before_iterations, interrupt_after, raising, results

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
    for path in tmp_path.glob("state-000002.*"):
        os.utime(path, (0, 0))
    return tmp_path


def save(folder: Path, nimg: int) -> None:
    store = StateStore(folder, "digest", set_aside=True)
    store.load()
    store.save({"nimg": nimg}, {"x": torch.zeros(99)})


def loaded(folder: Path, **options) -> int:
    """Number of images at which a run would begin."""
    state = StateStore(folder, "digest", **options).load()
    return 0 if state is None else state.record["nimg"]


@pytest.mark.parametrize("source", ["state-000001", "other"])
def test_tensors_of_another_state_are_not_taken(kept, tmp_path, source, capsys):
    """Each file is intact by itself."""
    StateStore(kept, "digest").load()
    if source == "other":
        write_tensors(kept / "other.safetensors", {"x": torch.ones(99)})
    else:
        store = StateStore(kept, "digest")
        store.load()
        store.save({"nimg": 336}, {"x": torch.ones(99)})
    newest = sorted(kept.glob("state-*.safetensors"))[-1]
    before = loaded(kept)
    older = kept / "other.safetensors" if source == "other" else kept / "state-000002.safetensors"
    newest.write_bytes(older.read_bytes())
    assert loaded(kept) < before
    assert newest.stem in capsys.readouterr().err


def test_a_state_of_an_earlier_version_names_no_tensors_and_is_read(kept):
    path = kept / "state-000002.json"
    header = {
        key: value for key, value in json.loads(path.read_text()).items() if key not in (HASH_KEY, "tensors_sha256")
    }
    path.write_text(json.dumps(with_hash(header)))
    assert loaded(kept) == 320


def test_a_folder_that_is_renamed_during_a_training_is_told_and_the_run_resumes_there(
    tmp_path, uninterrupted, monkeypatch
):
    folder, moved = tmp_path / "run", tmp_path / "moved"
    with before_iterations(lambda nimg: nimg == 160 and folder.rename(moved)):
        error = refused("is gone.*--out", train_teacher, TEACHER, folder)
    assert error.where == str(folder)
    assert not list(folder.rglob("*.jsonl"))
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


@pytest.mark.parametrize("name", ["state-000002.json", "state-000002.safetensors"])
def test_a_state_that_cannot_be_read_is_one_line_and_stays(kept, monkeypatch, name):
    """A link to itself stands for a disk that does not answer (permissions do not stop root)."""
    path, good = kept / name, kept / "good"
    path.rename(good)
    path.symlink_to(path)
    refused(rf"^{path}: cannot be read \(.*nothing was changed", loaded, kept, set_aside=True)
    path.unlink()
    good.rename(path)
    assert loaded(kept) == 320
    # Not an empty folder, either, where it cannot be listed.
    monkeypatch.setattr(os, "listdir", raising(PermissionError(13, "Permission denied")))
    refused(rf"^{kept}: cannot be read \(Permission denied\); nothing was changed", loaded, kept)


def test_a_state_for_which_there_is_no_memory_is_not_damaged(kept, monkeypatch):
    before = contents(kept)
    error = safetensors.SafetensorError("Error while opening: Cannot allocate memory (os error 12)")
    for name, fault in (("safe_open", error), ("safe_open", MemoryError())):
        with monkeypatch.context() as patch:
            patch.setattr(safetensors, name, raising(fault))
            refused("cannot be read .*memory.*nothing was changed", loaded, kept, set_aside=True)
    assert (loaded(kept), contents(kept)) == (320, before)


def test_two_intact_states_are_kept_also_after_a_damaged_one(kept):
    disks.cut(kept / "state-000002.safetensors")
    assert loaded(kept) == 304
    save(kept, 320)
    assert sorted(path.name for path in kept.glob("*.json")) == ["state-000001.json", "state-000003.json"]
    disks.cut(kept / "state-000003.safetensors")
    assert loaded(kept) == 304


@pytest.mark.parametrize("suffix", ["json", "safetensors"])
def test_damaged_states_alone_need_the_users_word_and_stay(kept, suffix):
    for number in (1, 2):
        disks.cut(kept / f"state-00000{number}.{suffix}")
    before = contents(kept)
    refused(r"state-000002 is damaged, and there is none before it.*--set-aside", loaded, kept)
    assert loaded(kept, set_aside=True) == 0
    save(kept, 16)
    assert before.items() <= contents(kept).items()


@pytest.mark.parametrize(("name", "nimg"), [("state-000002.safetensors", 304), ("state-000003.json", 320)])
def test_a_pipe_in_place_of_a_state_is_not_waited_for(kept, name, nimg):
    (kept / name).unlink(missing_ok=True)
    os.mkfifo(kept / name)
    assert loaded(kept) == nimg


def test_starting_anew_needs_the_users_word_and_going_back_goes_on(unfinished, uninterrupted, capsys):
    mine, alone = unfinished / "snapshots/network-mine.safetensors", unfinished / "alone"
    save_network(build_network(NETWORK), mine, {"method": "teacher"})
    train_teacher(OTHER, alone)
    before, arguments = contents(unfinished), ["train-teacher", "--spec", json.dumps(OTHER), "--out", unfinished]
    refused(r"state-000020 is .* unfinished run \(image 320\) of another config.*--set-aside", command, *arguments)
    assert contents(unfinished) == before
    assert main([*map(str, arguments), "--set-aside"]) == 0
    assert "state-000020 is the state of an unfinished run" in capsys.readouterr().err
    # The other run's states and its snapshot lie where they can be found again, and a network of no run where it lay.
    after = contents(unfinished)
    kept = [name for name in before if name.startswith("state/")] + ["snapshots/network-mine.safetensors"]
    assert len(kept) == 5
    assert all(after[name] == before[name] for name in kept)
    (aside,) = (unfinished / "snapshots").glob("*/network-*.safetensors")
    assert aside.read_bytes() == before[f"snapshots/{aside.name}"]
    mine.unlink()
    assert results(unfinished) == results(alone)
    assert first_image(TEACHER, unfinished) == 320
    assert results(unfinished) == results(uninterrupted)
    # Both are finished now, and each change of settings only writes the files again.
    for spec, expected in ((OTHER, alone), (TEACHER, uninterrupted)):
        assert first_image(spec, unfinished) == -1
        assert results(unfinished) == results(expected)


def test_a_log_that_no_state_can_hold_is_refused_before_the_training():
    long = {**TEACHER, "total_kimg": 2000, "tick_kimg": 0.01}
    told = "tick_kimg: 0.01 gives 125,000 log records, more than 100,000; set it to 0.02 or more"
    refused(told, TeacherConfig, **long)
    TeacherConfig(**{**long, "tick_kimg": 0.02})


def test_a_file_system_without_locks_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", raising(OSError(errno.ENOLCK, "No locks available")))
    refused(r"cannot be locked \(No locks available\); use a file system with locks", train_teacher, TEACHER, tmp_path)


def test_the_lock_is_held_while_a_state_is_written_that_nobody_waits_for(tmp_path, monkeypatch):
    """An insistent Ctrl-C leaves the writer alone."""
    written = threading.Event()
    monkeypatch.setattr(run.StateStore, "save", lambda *state: written.wait(60))
    with contextlib.suppress(KeyboardInterrupt), run.RunFiles(tmp_path, "digest") as files:
        files.save({}, {}, {})
        raise KeyboardInterrupt
    with open(tmp_path / "state" / ".lock", "r+b") as lock:
        assert not try_lock(lock)
        written.set()
        wait_for_lock(lock)


def test_a_state_of_another_version_is_one_line(unfinished):
    """Its hash is right, its values are not those of this version."""
    path = unfinished / "state/state-000020.json"
    header = json.loads(path.read_bytes())
    header["record"].update(train=[{"nimg": 16}])
    path.write_text(json.dumps(with_hash(header)))
    before, told = contents(unfinished), "state-000020: was written by another version of the program; resume with"
    refused(told, train_teacher, TEACHER, unfinished)
    assert contents(unfinished) == before


def test_a_snapshot_that_cannot_be_written_is_told_and_no_state_claims_it(tmp_path, monkeypatch):
    """What failed in the background ends the run with one line, and nothing behind it is written."""
    with monkeypatch.context() as patch:
        patch.setattr(run, "write_state_dict", raising(OSError(28, "No space left on device", "network-0000000208")))
        arguments = ["train-teacher", "--spec", json.dumps(TEACHER), "--out", tmp_path]
        refused("network-0000000208: No space left", command, *arguments)
    assert not list(tmp_path.glob("state/state-*"))
    assert first_image(TEACHER, tmp_path) == 0


def test_a_full_disk_is_told_within_an_iteration(tmp_path, unfinished, uninterrupted):
    """On a file system of its own that has room for one state and a half."""
    spec = {**TEACHER, "state_minutes": 0}
    size = (unfinished / "state" / "state-000020.safetensors").stat().st_size
    with disks.small_disk(tmp_path / "disk") as disk:
        filler = disks.fill(disk, size * 3 // 2)
        refused(r"the state cannot be written \(.*No space left on device.*make room", train_teacher, spec, disk)
        header = json.loads(next((disk / "state").glob("*.json")).read_text())
        # No hidden rest takes the room that the next attempt needs.
        assert [path.name for path in disk.rglob(".*")] == [".lock"]
        filler.unlink()
        assert first_image(spec, disk) == header["record"]["nimg"]
        assert results(disk) == results(uninterrupted)
