"""A training that runs out of memory once goes on with less of it, to the same numbers, or ends with a remedy."""

from __future__ import annotations

import pytest
import torch

from sida.methods import distill
from sida.training import train_teacher
from sida.training.iteration import EagerRunner
from tests.refused import refused
from tests.training.toy import DATASET, STUDENT, TEACHER, results

BRIEF = {"total_kimg": 0.096, "tick_kimg": 0.016, "snapshot_kimg": None}


def out_of_memory(monkeypatch, owner, name, calls):
    """The named method raises at these calls, after its work."""
    original, count = getattr(owner, name), iter(range(10**6))

    def failing(*args, **kwargs):
        result = original(*args, **kwargs)
        if next(count) in calls:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return result

    monkeypatch.setattr(owner, name, failing)


SHORT = {
    "name": "t", "dataset": DATASET, "batch_size": 16, "lr": 1e-3, "total_kimg": 0.064, "tick_kimg": 0.016,
    "ema_half_life_kimg": 0.02, "pictures": 0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "owner", "name", "call"),
    [
        # In the middle of a step, whose first gradients are then dropped.
        ({**STUDENT, **BRIEF, "adversarial_kimg": 0.0, "evaluation": None}, EagerRunner, "__call__", 7),
        # After the loss, which has changed spectral norms; the discriminator has no blocks.
        (
            {**SHORT, "method": "gdd", "options": {"backbones": ["digits"], "r1_interval": 2}, "batch_gpu": 8},
            EagerRunner, "__call__", 1,
        ),
        ({**TEACHER, **BRIEF}, EagerRunner, "__call__", 3),
    ],
    ids=["sida", "gdd", "teacher"],
)  # fmt: skip
def test_a_training_goes_on_with_the_same_numbers(tmp_path, monkeypatch, capfd, teacher, spec, owner, name, call):
    run = train_teacher if "network" in spec else distill
    spec = spec if run is train_teacher else {**spec, "teacher": teacher, "warmup_kimg": 0.0}
    run(spec, tmp_path / "plain")
    out_of_memory(monkeypatch, owner, name, {call})
    run(spec, tmp_path / "relieved")
    assert "again in the backward pass" in capfd.readouterr().err
    assert results(tmp_path / "relieved") == results(tmp_path / "plain")


def test_the_second_time_ends_in_one_line_with_the_remedy(tmp_path, monkeypatch):
    out_of_memory(monkeypatch, EagerRunner, "__call__", {5, 9})
    refused("out of memory at image .*batch_gpu", train_teacher, TEACHER, tmp_path)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("fd-loss", {"judges": ["digits"], "population": 40}),
        ("f-distill", {"divergence": "js", "decay": 0.5, "bins": 3}),
    ],
)
def test_statistics_outside_of_the_networks_take_no_step_twice(tmp_path, monkeypatch, teacher, method, options):
    spec = {**SHORT, "method": method, "teacher": teacher, "options": options}
    out_of_memory(monkeypatch, EagerRunner, "__call__", {0})
    refused("out of memory .*batch_gpu", distill, {**spec, "init": teacher if method == "fd-loss" else None}, tmp_path)
