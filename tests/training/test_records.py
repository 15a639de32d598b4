"""States that somebody made anew, with right hashes: a run goes on from those that can be, or says one line."""

from __future__ import annotations

import copy
import json
import os

import pytest

from sida.errors import UserError
from sida.files.content_hash import with_hash
from sida.training.run import RunFiles
from tests.training.made_states import DIGEST, FINISHED, OLDER, RUNNING, TICK, go_on, put, state, tensors

ESCAPE = "\x1b[2J"
MADE_UP = {
    "images that are none": {"nimg": -1},
    "a word for a number": {"nimg": True},
    "a line of the log without its values": {"train": [{"nimg": 16}]},
    "a loss that a terminal obeys": {"train": [{**RUNNING["train"][0], **TICK, "losses": {ESCAPE: 1.0}}]},
    "a choice that a terminal obeys": {"evaluations": [{"nimg": 16, "selection": ESCAPE, ESCAPE: 1.0}]},
    "no best of the evaluations": {"best": None},
    "a best that is no number": {"best": {"nimg": 16, "fd": 3.5, "other": [1]}},
    "a best of no evaluation": {"evaluations": []},
    "a tick that has counted nothing": {"meter": OLDER["meter"]},
    "an event that is missing": {"done": {"tick": 16, "snapshot": 0}},
    "lists in each other": {"more": json.loads("[" * 100 + "]" * 100)},
}


@pytest.fixture
def states(tmp_path):
    """The folder of a run's states, with one."""
    folder = tmp_path / "state"
    folder.mkdir()
    keep(folder, 1, OLDER)
    return folder


def keep(folder, number, record, content=None):
    content = tensors("running") if content is None else content
    put(folder, number, json.dumps(with_hash(state(record, content))).encode(), content)


@pytest.mark.parametrize("change", MADE_UP.values(), ids=MADE_UP)
def test_a_record_that_no_run_keeps_is_damage(states, capsys, change):
    keep(states, 2, {**RUNNING, **change})
    go_on(states.parent)
    said = capsys.readouterr().err
    assert f"{states / 'state-000002'}: this state is damaged; going back to the one before it" in said
    assert "\x1b" not in said


def test_an_evaluation_by_another_value_is_taken_up(states):
    record = {"evaluations": [{"nimg": 16, "selection": "is", "is": 1.5}], "best": {"nimg": 16, "is": 1.5}}
    keep(states, 2, {**RUNNING, **record})
    go_on(states.parent, lambda kept: None if kept.path.name == "state-000002" else pytest.fail("not taken"))


def test_what_merely_has_the_name_of_a_state_is_not_waited_for(states):
    keep(states, 2, RUNNING)
    os.mkfifo(states / "state-000003.json")
    for name in ("state-².json", "state-7.json", "state-00000000.json", "state-x.json"):
        (states / name).write_text("{}")
    with RunFiles(states.parent, DIGEST) as files:
        assert files.kept.path.name == "state-000002"


def test_tensors_that_are_a_pipe_are_damage(states):
    keep(states, 2, RUNNING)
    (states / "state-000002.safetensors").unlink()
    os.mkfifo(states / "state-000002.safetensors")
    with RunFiles(states.parent, DIGEST) as files:
        assert files.kept.record == OLDER


def test_a_finished_run_s_record_cannot_ask_for_an_endless_network(states):
    record = copy.deepcopy(FINISHED)
    record["metadata"]["network"]["kwargs"]["num_blocks"] = 10**9
    keep(states, 2, record, tensors("finished"))
    with pytest.raises(UserError, match=r"state-000002.json: architecture claims 1000000000 blocks"):
        go_on(states.parent)


def test_tensors_of_another_network_are_one_line(states):
    record = copy.deepcopy(FINISHED)
    record["metadata"]["network"]["kwargs"]["model_channels"] = 8
    keep(states, 2, record, tensors("finished"))
    with pytest.raises(UserError, match=r"state-000002: was written by a version .* that keeps other tensors"):
        go_on(states.parent)
