"""Kept states are never lost: not by faults of a disk, not by another configuration in the same folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from sida.cli import main
from sida.errors import UserError
from sida.training import train_teacher
from sida.training.run import RunFiles
from sida.training.teacher import TeacherTrainer
from tests.training.toy import TEACHER, as_json, interrupt_after, results

#: The same length and intervals, another result.
OTHER = {**TEACHER, "lr": 1e-3}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    train_teacher(TEACHER, folder)
    return folder


@pytest.fixture
def unfinished(tmp_path, monkeypatch):
    """A run that stopped at image 320, behind its snapshot at 208 and with states at 208 and 304."""
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


@pytest.mark.parametrize("name", ["state-000003.json", "state-000003.safetensors"])
@pytest.mark.parametrize("target", ["itself", "unmounted"])
def test_a_state_that_cannot_be_read_is_one_line_and_stays(
    unfinished, uninterrupted, monkeypatch, capsys, name, target
):
    """A link to itself or to nothing stands for a disk that does not answer (permissions do not stop root)."""
    path, good = unfinished / "state" / name, unfinished / "good"
    path.rename(good)
    path.symlink_to(path if target == "itself" else unfinished / "nowhere")
    before = contents(unfinished)
    assert main(["train-teacher", "--spec", as_json(TEACHER), "--out", str(unfinished), "--set-aside"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {path}: cannot be read (")
    assert "nothing was changed" in line
    assert contents(unfinished) == before
    assert os.path.islink(path)
    path.unlink()
    good.rename(path)
    assert first_image(TEACHER, unfinished, monkeypatch) == 304
    assert results(unfinished) == results(uninterrupted)


def test_a_folder_that_cannot_be_listed_is_not_taken_for_an_empty_one(unfinished, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    before = contents(unfinished)
    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", refuse)
        with pytest.raises(UserError, match=r"state: cannot be read \(Permission denied\); nothing was changed"):
            train_teacher(TEACHER, unfinished)
    assert contents(unfinished) == before


def test_starting_anew_over_an_unfinished_run_needs_the_users_word(unfinished, monkeypatch, capsys):
    before = contents(unfinished)
    arguments = ["train-teacher", "--spec", as_json(OTHER), "--out", str(unfinished)]
    assert main(arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "state-000003 is the state of an unfinished run (image 304) of another configuration" in line
    assert "--set-aside" in line
    assert contents(unfinished) == before
    assert main([*arguments, "--set-aside"]) == 0
    assert "state-000003 is the state of an unfinished run" in capsys.readouterr().err
    # The other run's states and its snapshot lie where they can be found again.
    after = contents(unfinished)
    kept = [name for name in before if name.startswith("state/")]
    assert len(kept) == 4
    assert all(after[name] == before[name] for name in kept)
    (snapshot,) = [name for name in before if name.startswith("snapshots/")]
    (aside,) = (unfinished / "snapshots").glob(f"*/{Path(snapshot).name}")
    assert aside.read_bytes() == before[snapshot]


def test_going_back_to_the_settings_goes_on_where_they_stopped(
    unfinished, uninterrupted, tmp_path, monkeypatch, capsys
):
    alone = tmp_path / "alone"
    train_teacher(OTHER, alone)
    assert first_image(OTHER, unfinished, monkeypatch, set_aside=True) == 0
    assert results(unfinished) == results(alone)
    capsys.readouterr()
    assert first_image(TEACHER, unfinished, monkeypatch) == 304
    assert "going on from this kept state, whose settings are back" in capsys.readouterr().err
    assert results(unfinished) == results(uninterrupted)
    # Both are finished now, and each change of settings only writes the files again.
    for spec, expected in ((OTHER, alone), (TEACHER, uninterrupted)):
        assert first_image(spec, unfinished, monkeypatch) == -1
        assert results(unfinished) == results(expected)


def test_no_number_of_changes_removes_a_state(unfinished, uninterrupted, monkeypatch):
    """A, then B, then C, each unfinished, then A again."""
    for lr in (3e-3, 4e-3):
        spec = {**TEACHER, "lr": lr}
        interrupt_after(lambda *a, **k: train_teacher(*a, **k, set_aside=True), spec, unfinished, monkeypatch, 220)
    assert first_image(TEACHER, unfinished, monkeypatch) == 304
    assert results(unfinished) == results(uninterrupted)


def test_a_finished_run_may_be_followed_by_another_without_a_word(tmp_path, monkeypatch, capsys):
    train_teacher(TEACHER, tmp_path)
    assert first_image(OTHER, tmp_path, monkeypatch) == 0
    assert "is the state of a finished run of another configuration" in capsys.readouterr().err


def test_two_intact_states_are_kept_also_after_a_damaged_one(unfinished, monkeypatch):
    assert states(unfinished)[::2] == ["state-000002.json", "state-000003.json"]
    newest = unfinished / "state" / "state-000003.safetensors"
    newest.write_bytes(newest.read_bytes()[:-10])
    # From image 208 again to a state at 304, and no further.
    interrupt_after(train_teacher, TEACHER, unfinished, monkeypatch, 320)
    assert states(unfinished)[::2] == ["state-000002.json", "state-000004.json"]
    newest = unfinished / "state" / "state-000004.safetensors"
    newest.write_bytes(newest.read_bytes()[:-10])
    assert first_image(TEACHER, unfinished, monkeypatch) == 208


def test_damaged_states_alone_need_the_users_word_and_stay(unfinished, uninterrupted, monkeypatch):
    for path in (unfinished / "state").glob("state-*.json"):
        path.write_text('{"format": ')
    before = contents(unfinished)
    with pytest.raises(UserError, match=r"state-000003 is damaged, and there is none before it.*--set-aside"):
        train_teacher(TEACHER, unfinished)
    assert contents(unfinished) == before
    assert first_image(TEACHER, unfinished, monkeypatch, set_aside=True) == 0
    assert results(unfinished) == results(uninterrupted)
    assert {"state-000002.json", "state-000003.json"} <= set(states(unfinished))


def test_a_state_with_other_tensors_is_one_line(unfinished, monkeypatch):
    monkeypatch.setattr(TeacherTrainer, "load", lambda self, state: state["no such tensor"])
    with pytest.raises(UserError, match=r"state-000003: was written by a version of the program that keeps other"):
        train_teacher(TEACHER, unfinished)


def test_only_the_first_rank_writes(tmp_path):
    with RunFiles(tmp_path, "digest", rank=1) as files:
        files.log("train", {"nimg": 1})
        files.write_logs([{"nimg": 1}], [])
        files.save({"finished": False}, {"x": torch.zeros(1)})
        files.write_snapshot({"nimg": 1}, {})
        files.publish({"train": [], "evaluations": [], "metadata": {}}, {})
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [".lock"]
