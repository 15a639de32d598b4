"""A training that runs out of memory once goes on with less of it, to the same numbers, or ends with a remedy."""

from __future__ import annotations

import re

import pytest
import torch

from sida.methods import distill
from sida.training import train_teacher
from sida.training.iteration import StudentTrainer
from sida.training.micro_batches import EagerRunner
from sida.training.processes import Ranks
from sida.training.teacher import EDMLoss
from tests.refused import refused
from tests.training.toy import DATASET, NETWORK, SID_STUDENT, STUDENT, TEACHER, iterate, results, student_trainer

BRIEF = {"total_kimg": 0.096, "tick_kimg": 0.016, "snapshot_kimg": None}
SMOOTH = {**NETWORK, "kwargs": {**NETWORK["kwargs"], "dropout": 0.0}}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    train_teacher({**TEACHER, "network": SMOOTH, "total_kimg": 0.1}, folder)
    return str(folder / "network.safetensors")


def out_of_memory(monkeypatch, owner, name, calls):
    """The named method raises at these calls, after its work."""
    original, count = getattr(owner, name), iter(range(10**6))

    def failing(*args, **kwargs):
        result = original(*args, **kwargs)
        if next(count) in calls:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return result

    monkeypatch.setattr(owner, name, failing)


@pytest.mark.parametrize(
    ("spec", "change", "exact"),
    [
        ({**SID_STUDENT, "augment": None}, "micro-batch is halved .* up to rounding", False),
        # The adversarial scalar, too.
        ({**STUDENT, "adversarial_kimg": 0.0}, "again in the backward pass .* stay the same$", True),
    ],
)
def test_a_student_goes_on_with_the_same_numbers(tmp_path, monkeypatch, capfd, teacher, spec, change, exact):
    spec = {**spec, **BRIEF, "teacher": teacher, "warmup_kimg": 0.0, "evaluation": None}
    distill(spec, tmp_path / "plain")
    # Also in the middle of a step, whose first gradients are then dropped.
    out_of_memory(monkeypatch, StudentTrainer, "_augment", {7})
    distill(spec, tmp_path / "relieved")
    assert re.search(change, capfd.readouterr().err, re.MULTILINE)
    found, wanted = results(tmp_path / "relieved")["train"], results(tmp_path / "plain")["train"]
    if exact:
        assert found == wanted
    else:
        for one, other in zip(found, wanted, strict=True):
            for key in ("losses", "grad_norm"):
                assert one[key] == pytest.approx(other[key], rel=1e-4)


SHORT = {
    "name": "t", "dataset": DATASET, "batch_size": 16, "lr": 1e-3, "total_kimg": 0.064, "tick_kimg": 0.016,
    "ema_half_life_kimg": 0.02, "pictures": 0,
}  # fmt: skip
WEIGHED = {"divergence": "js", "decay": 0.5, "bins": 3}


@pytest.mark.parametrize(
    ("method", "options", "call"),
    [
        ("f-distill", WEIGHED, 9),  # the second micro-batch of the generator's first step
        ("gdd", {"backbones": ["digits"], "r1_interval": 2}, 1),  # spectral norms; the discriminator has no blocks
    ],
)
def test_running_statistics_take_each_step_once(tmp_path, monkeypatch, teacher, method, options, call):
    spec = {**SHORT, "method": method, "teacher": teacher, "options": options, "batch_gpu": 8, "warmup_kimg": 0}
    distill(spec, tmp_path / "plain")
    out_of_memory(monkeypatch, EagerRunner, "__call__", {call})  # after the loss, which has changed them
    distill(spec, tmp_path / "relieved")
    assert results(tmp_path / "relieved")["train"] == results(tmp_path / "plain")["train"]


@pytest.mark.parametrize(("more", "exact"), [({}, True), ({"augment": None, "network": SMOOTH}, False)])
def test_a_teacher_goes_on_with_the_same_numbers(tmp_path, monkeypatch, more, exact):
    spec = {**TEACHER, **BRIEF, **more}
    train_teacher(spec, tmp_path / "plain")
    out_of_memory(monkeypatch, EDMLoss, "__call__", {3})
    train_teacher(spec, tmp_path / "relieved")
    wanted = [record["losses"]["denoising"] for record in results(tmp_path / "plain")["train"]]
    found = [record["losses"]["denoising"] for record in results(tmp_path / "relieved")["train"]]
    assert found == (wanted if exact else pytest.approx(wanted, rel=1e-4))


def test_the_second_time_ends_in_one_line_with_the_remedy(tmp_path, monkeypatch):
    out_of_memory(monkeypatch, EDMLoss, "__call__", {5, 9})
    refused("batch_gpu", train_teacher, TEACHER, tmp_path)


def test_statistics_outside_of_the_networks_take_no_step_twice(tmp_path, monkeypatch, teacher):
    options = {"judges": ["digits"], "population": 40}
    spec = {**SHORT, "method": "fd-loss", "teacher": teacher, "init": teacher, "options": options}
    out_of_memory(monkeypatch, EagerRunner, "__call__", {0})
    # All images of a step are one micro-batch.
    refused("^t: out of memory .*; set checkpointing .*batch_size", distill, spec, tmp_path)


class FirstOfTwo(Ranks):
    """The first of two processes; the numbers of the other one are 0."""

    def __init__(self):
        self.rank, self.world_size = 0, 2

    def add_up(self, tensor):
        pass


def test_one_of_several_processes_does_not_repeat_losses_that_all_add_up(monkeypatch, teacher):
    trainer = student_trainer({**SHORT, "method": "f-distill", "teacher": teacher, "options": WEIGHED})
    trainer.join(FirstOfTwo())
    out_of_memory(monkeypatch, EagerRunner, "__call__", {1})
    batch = [(torch.zeros(8, 1, 8, 8), torch.eye(10)[:8])]
    refused("^t: out of memory .*; give a smaller batch_gpu", iterate, trainer, 0, batch, batch)
