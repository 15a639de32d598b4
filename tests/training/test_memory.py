"""A training that runs out of memory once goes on with less of it, to the same numbers, or ends with a remedy."""

from __future__ import annotations

import pytest
import torch

from sida.methods import distill
from sida.training import train_teacher
from sida.training.micro_batches import EagerRunner
from sida.training.teacher import EDMLoss
from tests.refused import refused
from tests.training.test_rivals import spec_of
from tests.training.toy import STUDENT, TEACHER, results

BRIEF = {"total_kimg": 0.064, "tick_kimg": 0.016, "snapshot_kimg": None}
SIDA = {**STUDENT, **BRIEF, "warmup_kimg": 0.0, "adversarial_kimg": 0.0, "evaluation": None}


def running(kind, teacher, monkeypatch, calls):
    """Function that trains in a folder; the losses of these calls run out of memory after their work."""
    spec = {"teacher": {**TEACHER, **BRIEF}, "sida": {**SIDA, "teacher": teacher}}.get(kind) or spec_of(kind, teacher)
    owner, run = (EDMLoss, train_teacher) if kind == "teacher" else (EagerRunner, distill)
    original, count = owner.__call__, iter(range(10**6))

    def failing(*args, **kwargs):
        result = original(*args, **kwargs)
        if next(count) in calls:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return result

    def train(folder, fails):
        with monkeypatch.context() as patch:
            if fails:
                patch.setattr(owner, "__call__", failing)
            run(spec, folder)

    return train


# In the middle of a step, whose first gradients are then dropped; of GDD after the loss, which has changed spectral
# norms (the discriminator has no blocks).
@pytest.mark.parametrize(("kind", "call"), [("sida", 7), ("gdd", 1), ("teacher", 3)])
def test_a_training_goes_on_with_the_same_numbers(tmp_path, monkeypatch, capfd, teacher, kind, call):
    train = running(kind, teacher, monkeypatch, {call})
    train(tmp_path / "plain", False)
    train(tmp_path / "relieved", True)
    assert "again in the backward pass" in capfd.readouterr().err
    assert results(tmp_path / "relieved") == results(tmp_path / "plain")


# The second time; and statistics outside of the networks take no step twice.
@pytest.mark.parametrize(("kind", "calls"), [("teacher", {1, 3}), ("fd-loss", {0}), ("f-distill", {0})])
def test_what_cannot_go_on_ends_in_one_line_with_the_remedy(tmp_path, monkeypatch, teacher, kind, calls):
    train = running(kind, teacher, monkeypatch, calls)
    refused("out of memory at image .*batch_gpu", train, tmp_path, True)
