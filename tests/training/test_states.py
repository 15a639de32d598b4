"""Kept states are never lost: not by faults of a disk, not by another configuration in the same folder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sida.cli.main import main
from sida.errors import UserError
from sida.files.atomic import try_lock, wait_for_lock
from sida.files.text_files import with_hash
from sida.networks import build_network
from sida.networks.file import save_network
from sida.training import run, train_teacher
from sida.training.teacher import TeacherTrainer
from tests import disks
from tests.refused import command, refused
from tests.training.toy import NETWORK, TEACHER, as_json, interrupt_after, results

#: The same length and intervals, another result.
OTHER = {**TEACHER, "lr": 1e-3}


@pytest.fixture
def uninterrupted(teacher):
    return Path(teacher).parent


@pytest.fixture
def unfinished(tmp_path, monkeypatch):
    """A run that stopped at image 320, behind its snapshot at 208 and with states at 304 and 320."""
    interrupt_after(train_teacher, TEACHER, tmp_path, monkeypatch, 320)
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def states(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "state").glob("state-*"))


def first_image(spec, folder, monkeypatch, **options) -> int:
    """Trains to the end; the number of images at which it began."""
    seen, original = [], TeacherTrainer.iteration
    with monkeypatch.context() as patch:
        patch.setattr(TeacherTrainer, "iteration", lambda self, nimg: seen.append(nimg) or original(self, nimg))
        train_teacher(spec, folder, **options)
    return seen[0] if seen else -1


@contextlib.contextmanager
def unchanged(folder: Path, told: str) -> Iterator[None]:
    """What is done within is refused with these words, and no file changes."""
    before = contents(folder)
    with pytest.raises(UserError, match=told):
        yield
    assert contents(folder) == before


@pytest.mark.parametrize("name", ["state-000020.json", "state-000020.safetensors"])
def test_a_state_that_cannot_be_read_is_one_line_and_stays(unfinished, uninterrupted, monkeypatch, name):
    """A link to itself stands for a disk that does not answer (permissions do not stop root)."""
    path, good = unfinished / "state" / name, unfinished / "good"
    path.rename(good)
    path.symlink_to(path)
    with unchanged(unfinished, rf"^{path}: cannot be read \(.*nothing was changed"):
        train_teacher(TEACHER, unfinished, set_aside=True)
    assert os.path.islink(path)
    path.unlink()
    good.rename(path)
    assert first_image(TEACHER, unfinished, monkeypatch) == 320
    assert results(unfinished) == results(uninterrupted)


def test_a_folder_that_cannot_be_listed_is_not_taken_for_an_empty_one(unfinished, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    told = r"state: cannot be read \(Permission denied\); nothing was changed"
    with unchanged(unfinished, told), monkeypatch.context() as patch:
        patch.setattr(os, "listdir", refuse)
        train_teacher(TEACHER, unfinished)


def test_starting_anew_over_an_unfinished_run_needs_the_users_word(unfinished, capsys):
    before = contents(unfinished)
    arguments = ["train-teacher", "--spec", as_json(OTHER), "--out", unfinished]
    with unchanged(unfinished, r"state-000020 is .* unfinished run \(image 320\) of another config.*--set-aside"):
        command(*arguments)
    assert main([*map(str, arguments), "--set-aside"]) == 0
    assert "state-000020 is the state of an unfinished run" in capsys.readouterr().err
    # The other run's states and its snapshot lie where they can be found again.
    after = contents(unfinished)
    kept = [name for name in before if name.startswith("state/")]
    assert len(kept) == 4
    assert all(after[name] == before[name] for name in kept)
    (snapshot,) = [name for name in before if name.startswith("snapshots/")]
    (aside,) = (unfinished / "snapshots").glob(f"*/{Path(snapshot).name}")
    assert aside.read_bytes() == before[snapshot]


def test_a_network_of_no_run_among_the_snapshots_stays_where_it_is(tmp_path):
    mine = tmp_path / "snapshots" / "network-mine.safetensors"
    mine.parent.mkdir()
    save_network(build_network(NETWORK), mine, {"method": "teacher"})
    before = mine.read_bytes()
    for lr in (1e-3, 2e-3):
        train_teacher({**TEACHER, "total_kimg": 0.016, "snapshot_kimg": 0.016, "lr": lr}, tmp_path)
    assert mine.read_bytes() == before
    assert len(list(mine.parent.glob("*/network-0000000016.safetensors"))) == 1


def test_going_back_to_the_settings_goes_on_where_they_stopped(
    unfinished, uninterrupted, tmp_path, monkeypatch, capsys
):
    alone = tmp_path / "alone"
    train_teacher(OTHER, alone)
    assert first_image(OTHER, unfinished, monkeypatch, set_aside=True) == 0
    assert results(unfinished) == results(alone)
    capsys.readouterr()
    assert first_image(TEACHER, unfinished, monkeypatch) == 320
    assert "this kept state, whose settings are back" in capsys.readouterr().err
    assert results(unfinished) == results(uninterrupted)
    # Both are finished now, and each change of settings only writes the files again.
    for spec, expected in ((OTHER, alone), (TEACHER, uninterrupted)):
        assert first_image(spec, unfinished, monkeypatch) == -1
        assert results(unfinished) == results(expected)


def test_the_number_of_a_state_and_not_its_time_decides_which_is_newest(unfinished, monkeypatch):
    for days, path in enumerate(sorted((unfinished / "state").glob("state-*"))):
        os.utime(path, times=(time.time() - days * 86400,) * 2)
    assert first_image(TEACHER, unfinished, monkeypatch) == 320


def test_a_file_system_without_locks_is_one_line(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
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


def test_two_intact_states_are_kept_also_after_a_damaged_one(unfinished, monkeypatch):
    assert states(unfinished)[::2] == ["state-000019.json", "state-000020.json"]
    newest = unfinished / "state" / "state-000020.safetensors"
    newest.write_bytes(newest.read_bytes()[:-10])
    # From image 304 again to a state at 320, and no further.
    interrupt_after(train_teacher, TEACHER, unfinished, monkeypatch, 320)
    assert states(unfinished)[::2] == ["state-000019.json", "state-000021.json"]
    newest = unfinished / "state" / "state-000021.safetensors"
    newest.write_bytes(newest.read_bytes()[:-10])
    assert first_image(TEACHER, unfinished, monkeypatch) == 304


@pytest.mark.parametrize("suffix", ["json", "safetensors"])
def test_damaged_states_alone_need_the_users_word_and_stay(unfinished, uninterrupted, monkeypatch, suffix):
    for path in (unfinished / "state").glob(f"state-*.{suffix}"):
        path.write_bytes(path.read_bytes()[:-10])
    with unchanged(unfinished, r"state-000020 is damaged, and there is none before it.*--set-aside"):
        train_teacher(TEACHER, unfinished)
    assert first_image(TEACHER, unfinished, monkeypatch, set_aside=True) == 0
    assert results(unfinished) == results(uninterrupted)
    assert {"state-000019.json", "state-000020.json"} <= set(states(unfinished))


def test_a_state_of_another_version_is_one_line(unfinished):
    """Its hash is right, its values are not those of this version."""
    path = unfinished / "state/state-000020.json"
    header = json.loads(path.read_bytes())
    header["record"].update(train=[{"nimg": 16}])
    path.write_text(json.dumps(with_hash(header)))
    with unchanged(unfinished, r"state-000020: was written by another version of the program; resume with"):
        train_teacher(TEACHER, unfinished)


@pytest.mark.parametrize("name", ["state-000020.safetensors", "state-000021.json"])
def test_a_pipe_in_place_of_a_state_is_not_waited_for(unfinished, uninterrupted, monkeypatch, name):
    (unfinished / "state" / name).unlink(missing_ok=True)
    os.mkfifo(unfinished / "state" / name)
    assert first_image(TEACHER, unfinished, monkeypatch) == (320 if "21" in name else 304)
    assert results(unfinished) == results(uninterrupted)


def test_a_snapshot_that_cannot_be_written_is_told_and_no_state_claims_it(tmp_path, monkeypatch):
    """What failed in the background ends the run with one line, and nothing behind it is written."""

    def full(state, path, metadata):
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(run, "write_state_dict", full)
        arguments = ["train-teacher", "--spec", as_json(TEACHER), "--out", tmp_path]
        refused("snapshots/network-0000000208.safetensors: No space left", command, *arguments)
    assert states(tmp_path) == []
    assert first_image(TEACHER, tmp_path, monkeypatch) == 0


def test_a_full_disk_is_told_within_an_iteration(tmp_path, unfinished, uninterrupted, monkeypatch):
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
        assert first_image(spec, disk, monkeypatch) == header["record"]["nimg"]
        assert results(disk) == results(uninterrupted)


def test_data_that_vanish_end_a_run_with_one_line_and_its_state_stays(tmp_path, pictures, monkeypatch):
    """As when a disk is unmounted: a picture cannot be read in the middle, and is there again later."""
    spec = {**TEACHER, "dataset": pictures, "total_kimg": 0.2, "snapshot_kimg": None}
    train_teacher(spec, tmp_path / "alone")
    folder, out = Path(pictures["path"]), tmp_path / "run"
    original, aside = TeacherTrainer.iteration, tmp_path / "unmounted"

    def unmounted(self, nimg):
        if nimg == 96:
            folder.rename(aside)
        return original(self, nimg)

    with monkeypatch.context() as patch:
        patch.setattr(TeacherTrainer, "iteration", unmounted)
        assert str(folder) in str(refused("", train_teacher, {**spec, "state_minutes": 0}, out))
    aside.rename(folder)
    # The images of this step may have been read ahead.
    assert first_image(spec, out, monkeypatch) in (96, 112)
    assert results(out) == results(tmp_path / "alone")
