"""Instance-based distillation: the generator repeats what the teacher makes of the same latent."""

from __future__ import annotations

import pytest
import torch

from sida.files.atomic import read_jsonl
from sida.losses import MicroBatch
from sida.methods import distill
from sida.methods.resolve import DistillConfig
from sida.networks.checkpoint import load_network
from sida.sampling import heun, latents_for_seeds, one_step
from tests.training.toy import STUDENT, of_method, student_trainer

INSTANCE = {
    **of_method("instance", STUDENT), "total_kimg": 0.32, "warmup_kimg": None,
    "evaluation": None, "options": {"num_steps": 3},
}  # fmt: skip


def test_loss_is_the_distance_to_what_the_teachers_sampler_draws(teacher):
    net, _ = load_network(teacher)
    z, labels = latents_for_seeds(range(4), (1, 8, 8)), torch.eye(10)[[3, 1, 4, 1]]
    (step,) = student_trainer(DistillConfig(**{**INSTANCE, "teacher": teacher, "options": {"num_steps": 5}})).steps
    with torch.no_grad():
        drawn = heun(net, z, labels, num_steps=5).to(torch.float32)
    terms = step.loss(MicroBatch(torch.zeros_like(z), labels, draws={"z": z}))
    assert torch.equal(terms.instance, drawn.square())


def test_run_goes_on_where_it_stopped(resumes, teacher):
    resumes({**INSTANCE, "teacher": teacher}, 96)


def test_images_come_nearer_to_the_teachers(tmp_path, teacher):
    path = distill({**INSTANCE, "teacher": teacher, "total_kimg": 2.0, "batch_gpu": 16}, tmp_path)
    assert {name for record in read_jsonl(tmp_path / "train.jsonl") for name in record["losses"]} == {"instance"}
    start, _ = load_network(teacher)
    net, metadata = load_network(path)
    assert metadata["sampler"] == {"kind": "one_step", "init_sigma": 80.0}
    z, labels = latents_for_seeds(range(64), (1, 8, 8)), torch.eye(10)[torch.arange(64) % 10]
    with torch.no_grad():
        target = heun(start, z, labels, num_steps=3)
        before, after = ((one_step(one, z, labels, 80.0) - target).square().mean() for one in (start, net))
    assert after < 0.7 * before


def test_defaults_are_gdds_with_which_it_is_compared(teacher):
    config = DistillConfig(**{**INSTANCE, "teacher": teacher, "options": {}})
    trainer = student_trainer(config)
    (step,) = trainer.steps
    assert (trainer.recipe.init_sigma, step.network.adam.betas, step.network.clip_value) == (
        80.0,
        (0.0, 0.99),
        None,
    )
    assert step.network.net.init_config["class"] == "EDMPrecond"
    assert step.network.net.init_config["kwargs"]["dropout"] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"options": {"num_steps": 1}}, "--spec.options.num_steps: must be at least 2, got 1"),
        ({"options": {"steps": 3}}, "--spec.options.steps: unknown key (did you mean 'num_steps'?)"),
        ({"real_source": "x"}, "--spec.real_source: method 'instance' does not read real_source; remove it"),
        ({"init": "x"}, "init: 'instance' starts from the teacher; remove it"),
        (
            {"device": "cuda", "kernels": "fused"},
            "--spec.kernels: method 'instance' does not read kernels; remove it",
        ),
    ],
)
def test_fault_is_one_line(refused, teacher, change, message):
    assert message in refused({**INSTANCE, "teacher": teacher, **change})
