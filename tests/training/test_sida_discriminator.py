"""SiDA's discriminator: the fake score's encoder, a copy of the teacher, or a head on the frozen teacher."""

from __future__ import annotations

import pytest
import torch

from sida.errors import UserError
from sida.files.atomic import read_jsonl
from sida.methods import distill
from sida.methods.distillation import student_digest
from sida.methods.resolve import DistillConfig, resolve_recipe
from sida.networks.checkpoint import load_network
from sida.training import train_teacher
from sida.training.process import prepare_process
from tests.training.toy import NETWORK, STUDENT, TEACHER, student_trainer
from workflow.planning.steps import student_cost

OTHERS = ("separate", "teacher")
BRIEF = {**STUDENT, "total_kimg": 0.08, "warmup_kimg": 0, "adversarial_kimg": 0, "evaluation": None}


def spec_of(teacher, chosen, **more):
    return {**BRIEF, "teacher": teacher, "options": {"discriminator": chosen} if chosen else {}, **more}


def after_one_iteration(teacher, chosen, **more):
    """Weights of the fake score alone, and of the whole optimized network, after one iteration."""
    prepare_process(1)
    spec = {**spec_of(teacher, chosen, augment=None, dropout=0, **more), "batch_gpu": None}
    config = DistillConfig(**{key: value for key, value in spec.items() if key != "snapshot_kimg"})
    trainer = student_trainer(config)
    source = torch.Generator().manual_seed(1)
    real = torch.rand(16, 1, 8, 8, generator=source) * 2 - 1
    labels = torch.eye(10)[torch.randint(10, (16,), generator=source)]
    trainer.batches = lambda stream, nimg, with_images: [(real, labels)]
    trainer.iteration(0)
    whole = trainer.networks["fake_score"].net
    return getattr(whole, "score", whole).state_dict(), whole.state_dict()


@pytest.mark.parametrize(("chosen", "alone"), [("joint", False), ("separate", True), ("teacher", True)])
def test_the_discriminator_moves_the_fake_score_only_where_both_are_one(teacher, chosen, alone):
    (score, _), (strong, _) = (after_one_iteration(teacher, chosen, lambda_d=weight) for weight in (0.0, 100.0))
    assert all(torch.equal(score[name], strong[name]) for name in score) == alone


def test_a_separate_discriminator_learns_and_a_frozen_teacher_does_not(teacher):
    start = load_network(teacher)[0].state_dict()
    _, separate = after_one_iteration(teacher, "separate")
    judging = {key.removeprefix("discriminator."): value for key, value in separate.items() if "discriminator" in key}
    assert judging.keys() == start.keys()
    moved = [name for name in start if not torch.equal(start[name], judging[name])]
    assert any(name.startswith("model.enc.") for name in moved)
    assert not any(name.startswith("model.dec.") for name in moved)
    _, headed = after_one_iteration(teacher, "teacher")
    assert {key.split(".")[1] for key in headed if key.startswith("discriminator.")} == {"head"}


@pytest.mark.parametrize("chosen", OTHERS)
def test_runs_resume_bit_by_bit(resumes, teacher, chosen):
    logs = read_jsonl(resumes(spec_of(teacher, chosen), 48) / "train.jsonl")
    assert {name for record in logs for name in record["losses"]} == {
        "sid", "adversarial", "denoising", "discriminator"
    }  # fmt: skip
    assert all(record["nan_count"] == record["bad_gradients"] == 0 for record in logs)


def test_the_papers_discriminator_keeps_digests_and_plans_grow_with_the_others(teacher):
    spec = {key: value for key, value in spec_of(teacher, None).items() if key != "snapshot_kimg"}
    configs = {
        name: DistillConfig(**{**spec, "options": {"discriminator": name} if name else {}})
        for name in ("", "joint", *OTHERS)
    }
    digests = {name: student_digest(config, "", {}) for name, config in configs.items()}
    assert digests[""] == digests["joint"]
    assert len(set(digests.values())) == 3
    work = {
        name: student_cost(resolve_recipe(config, NETWORK, "x"), NETWORK).operations for name, config in configs.items()
    }
    assert work[""] == work["joint"] < work["teacher"] < work["separate"]


def test_networks_with_a_variance_head_have_the_papers_alone(tmp_path, teacher):
    kwargs = {
        "img_resolution": 8, "img_channels": 1, "label_dim": 10, "model_channels": 8, "channel_mult": [1],
        "num_blocks": 1, "attn_resolutions": [], "channels_per_head": 8, "logvar_channels": 8,
    }  # fmt: skip
    other = {**TEACHER, "network": {"class": "EDM2Precond", "kwargs": kwargs}, "total_kimg": 0.032, "augment": None}
    made = str(train_teacher(other, tmp_path / "edm2"))
    with pytest.raises(UserError, match=r"options.discriminator: 'separate' is for networks without variance head"):
        distill(spec_of(made, "separate", augment=None), tmp_path / "run")
