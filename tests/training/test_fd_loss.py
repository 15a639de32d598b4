"""FD-Loss in the loop of all methods: its values are tested in tests/methods/test_fd_loss.py."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from sida.files.atomic import read_jsonl
from sida.files.tensors import read_tensors
from sida.methods import distill
from sida.methods.distillation import student_digest
from sida.methods.registry import DistillConfig
from tests.refused import refused
from tests.training.processes import said, together
from tests.training.toy import DATASET, student_trainer

SPEC = {
    "name": "judged", "method": "fd-loss", "dataset": DATASET, "total_kimg": 0.16, "batch_size": 16, "lr": 1e-3,
    "tick_kimg": 0.016, "ema_half_life_kimg": 0.02, "state_minutes": 0, "pictures": 0,
}  # fmt: skip
OPTIONS = {"judges": ["digits", "glyphs"], "decay": 0.9, "population": 40, "lr_rampup_kimg": 0.032}


@pytest.fixture
def spec(teacher):
    def make(options=None, **more):
        return {**SPEC, "teacher": teacher, "init": teacher, "options": {**OPTIONS, **(options or {})}, **more}

    return make


@pytest.mark.parametrize("statistics", ["average", "queue"])
def test_distances_fall_and_a_run_resumes_bit_by_bit(resumes, spec, statistics):
    folder = resumes(spec({"statistics": statistics}, total_kimg=0.24), 48)
    logs = read_jsonl(folder / "train.jsonl")
    assert {name for record in logs for name in record["losses"]} == {"fd", "fd_digits", "fd_glyphs"}
    first, last = logs[0]["losses"], logs[-1]["losses"]
    # The loss is just below the number of judges, whatever the distances.
    assert first["fd"] == pytest.approx(last["fd"], rel=0.01) == pytest.approx(2, rel=0.01)
    assert all(last[name] < 0.98 * first[name] for name in ("fd_digits", "fd_glyphs"))
    tensors, _ = read_tensors(folder / "network.safetensors")
    assert not any("judge" in name for name in tensors)


def test_two_processes_train_as_one(tmp_path, spec):
    given = spec(total_kimg=0.064)
    distill(given, tmp_path / "alone")
    assert together(lambda rank: distill(given, tmp_path / "run") and 0, 2, tmp_path) == [0, 0], said(tmp_path)
    one, two = (read_jsonl(tmp_path / name / "train.jsonl") for name in ("alone", "run"))
    for here, there in zip(one, two, strict=True):
        assert here["losses"] == pytest.approx(there["losses"], rel=1e-3)
        assert here["grad_norm"] == pytest.approx(there["grad_norm"], rel=1e-2)


def test_settings_that_no_distance_can_have_are_refused(spec):
    refused("batch_gpu.*a distance needs all images", DistillConfig, **spec(batch_gpu=8))
    refused("population.*take 16", DistillConfig, **spec({"statistics": "queue", "population": 12}))
    refused("init.*starts from a distilled generator", DistillConfig, **spec(init=None))
    refused("'inception_clean'.*has no gradient", _gradient_of_pillow)


def _gradient_of_pillow():
    from eval.features.inception import InceptionCleanExtractor

    InceptionCleanExtractor.check_gradient(InceptionCleanExtractor)


def test_digest_holds_the_judges_networks(spec, monkeypatch):
    digest = lambda: student_digest(DistillConfig(**spec({"judges": ["digits"]})), "data", {"teacher": "t"})
    before = digest()
    monkeypatch.setattr("eval.features.digits.weights_digest", lambda state: "another network")
    assert digest() != before


def test_step_draws_its_own_classes(spec):
    trainer, seen = student_trainer(spec()), []
    one_class = (torch.zeros(16, 1, 8, 8), torch.eye(10)[torch.zeros(16, dtype=torch.int64)])
    trainer.batches = lambda stream, nimg, with_images: [one_class]
    (step,) = trainer.steps
    loss = step.loss
    trainer.steps = [dataclasses.replace(step, loss=lambda given: seen.append(given.class_labels) or loss(given))]
    trainer.iteration(0)
    assert seen[0].shape == (16, 10)
    assert len(set(seen[0].argmax(1).tolist())) > 3
