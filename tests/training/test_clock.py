"""The wall clock jumps by days while a network is trained: rates, intervals of states and results do not notice."""

from __future__ import annotations

import os
import random
import time

import pytest

from sida.cli.main import main
from sida.files.atomic import read_jsonl
from sida.training import train_teacher
from sida.training.run import StateStore
from tests.training.toy import TEACHER, as_json, interrupt_after, results

DAY = 86400
#: Seven iterations, with a snapshot after the fourth.
SHORT = {**TEACHER, "total_kimg": 0.1, "tick_kimg": 0.03, "snapshot_kimg": 0.06}


@pytest.fixture
def jumping(monkeypatch):
    """``time.time`` goes back or ahead by up to a week at each call."""
    real, source = time.time, random.Random(0)
    monkeypatch.setattr(time, "time", lambda: real() + source.uniform(-7, 7) * DAY)
    monkeypatch.setattr(time, "time_ns", lambda: int(time.time() * 1e9))


def test_a_clock_that_jumps_changes_nothing(tmp_path, jumping, monkeypatch, capsys):
    saved, original = [], StateStore.save
    monkeypatch.setattr(StateStore, "save", lambda *arguments: saved.append(1) or original(*arguments))
    spec = {**SHORT, "state_minutes": 60}
    assert main(["train-teacher", "--spec", as_json(spec), "--out", str(tmp_path / "jumping")]) == 0
    # A state at the snapshot and one at the end: no hour has passed.
    assert len(saved) == 2
    for tick in read_jsonl(tmp_path / "jumping/train.jsonl"):
        assert tick["img_per_s"] > 0
        assert 0 <= tick["seconds"] < DAY
    assert "-" not in capsys.readouterr().err.replace("train-", "").replace("denoising -", "")
    monkeypatch.undo()
    train_teacher(spec, tmp_path / "steady")
    assert results(tmp_path / "jumping") == results(tmp_path / "steady")


@pytest.mark.parametrize("days", [-3000, 3])
def test_states_with_other_times_are_gone_on_from(tmp_path, monkeypatch, days):
    """The newest state is known by its number, whatever its file's time says."""
    train_teacher(SHORT, tmp_path / "alone")
    run = tmp_path / "run"
    interrupt_after(train_teacher, SHORT, run, monkeypatch, 80)
    for number, path in enumerate(sorted((run / "state").glob("state-*"))):
        os.utime(path, times=(time.time() + (days - number) * DAY,) * 2)
    seen, original = [], StateStore.load
    monkeypatch.setattr(StateStore, "load", lambda self: seen.append(original(self)) or seen[-1])
    train_teacher(SHORT, run)
    assert seen[0].record["nimg"] == 80
    assert results(run) == results(tmp_path / "alone")
