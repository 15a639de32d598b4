"""A training that runs out of memory ends with a remedy, and goes on with less of it to the same numbers."""

from __future__ import annotations

import torch

from sida.training import train_teacher
from sida.training.teacher import TeacherTrainer
from tests.refused import refused
from tests.training.toy import TEACHER, results


def test_too_little_memory_is_one_line_whose_remedy_resumes_to_the_same_numbers(tmp_path, monkeypatch):
    spec = {**TEACHER, "total_kimg": 0.096, "tick_kimg": 0.016, "snapshot_kimg": None, "state_minutes": 0}
    train_teacher(spec, tmp_path / "plain")
    original = TeacherTrainer.iteration

    def full(self, nimg):
        if nimg == 48:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(self, nimg)

    with monkeypatch.context() as patch:
        patch.setattr(TeacherTrainer, "iteration", full)
        refused("^out of memory at image 48; set checkpointing to true", train_teacher, spec, tmp_path / "relieved")
    train_teacher({**spec, "checkpointing": True}, tmp_path / "relieved")
    assert results(tmp_path / "relieved") == results(tmp_path / "plain")
