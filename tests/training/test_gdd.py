"""GDD, GDD-I and instance-based distillation by the same loop: a discriminator or a distance in place of scores."""

from __future__ import annotations

import json

import pytest
import torch

from sida.files.atomic import read_jsonl
from sida.methods import distill
from sida.methods.distillation import student_digest
from sida.methods.gdd import INNATE, freeze_innate
from sida.methods.registry import DistillConfig
from sida.networks import build_network
from sida.networks.file import load_network, read_metadata
from sida.sampling import heun, latents_for_seeds, one_step
from sida.training.micro_batches import MicroBatch
from sida.training.run import StateStore
from tests.training.toy import GIVEN, STUDENT, interrupt_after, of_method, results, student_trainer

GDD = {
    **of_method("gdd", STUDENT), "total_kimg": 0.16, "warmup_kimg": None, "evaluation": None, "augment": None,
    "options": {"backbones": ["digits"], "r1_interval": 4},
}  # fmt: skip
CIFAR10 = {
    "model_type": "SongUNet", "embedding_type": "fourier", "encoder_type": "residual", "channel_mult_noise": 2,
    "resample_filter": [1, 3, 3, 1], "model_channels": 128, "channel_mult": [2, 2, 2], "augment_dim": 9,
    "img_resolution": 32, "img_channels": 3, "label_dim": 0,
}  # fmt: skip
IMAGENET = {
    "model_type": "DhariwalUNet", "model_channels": 192, "channel_mult": [1, 2, 3, 4], "img_resolution": 64,
    "img_channels": 3, "label_dim": 1000,
}  # fmt: skip


def state_of(folder):
    (path, *_) = sorted((folder / "state").glob("*.json"), reverse=True)
    with StateStore(folder / "state", json.loads(path.read_text())["digest"]) as store:
        return store.load()


@pytest.mark.parametrize("method", ["gdd", "gdd-i"])
def test_run_goes_on_where_it_stopped(tmp_path, teacher, method, monkeypatch):
    spec = {**GDD, "augment": {"p": 0.1}, "teacher": teacher, "method": method}
    distill(spec, tmp_path / "straight")
    logs = read_jsonl(tmp_path / "straight/train.jsonl")
    assert {name for record in logs for name in record["losses"]} == {"real_or_fake", "r1", "fooling"}
    interrupt_after(distill, spec, tmp_path / "resumed", monkeypatch, 96)
    record, tensors, _ = state_of(tmp_path / "resumed")
    steps = record["nimg"] // 16
    # Penalties are steps of the discriminator's optimizer.
    assert int(tensors["discriminator/adam/steps"]) == steps + -(-steps // 4)
    assert int(tensors["generator/adam/steps"]) == steps
    distill(spec, tmp_path / "resumed")
    assert results(tmp_path / "resumed") == results(tmp_path / "straight")


def test_generator_is_the_teacher_in_gdds_preconditioning(tmp_path, teacher):
    path = distill({**GDD, "teacher": teacher, "total_kimg": 0.016}, tmp_path)
    _, metadata = load_network(path)
    assert metadata["network"]["class"] == "GDDPrecond"
    assert metadata["sampler"] == {"kind": "one_step", "init_sigma": 80.0}
    trainer = student_trainer({**GDD, "teacher": teacher})
    start, _ = load_network(teacher)
    for one, other in zip(trainer.generator.net.parameters(), start.parameters(), strict=True):
        assert torch.equal(one, other)
    z = torch.randn(2, 1, 8, 8)
    assert not torch.equal(trainer.generator.net(80 * z, torch.tensor(80.0)), start(80 * z, torch.tensor(80.0)))


def test_defaults_are_the_official_ones(teacher):
    trainer = student_trainer(
        {**GDD, "teacher": teacher, "ema_half_life_kimg": None, "options": {"backbones": ["digits"]}}
    )
    judge, penalty, generator = trainer.steps
    assert (penalty.network, penalty.stream, penalty.every) == (judge.network, judge.stream, 16)
    # Golden: lr × 16/17 and β₂ = 0.99^(16/17) of the discriminator; the generator's are plain.
    assert judge.network.lr == pytest.approx(1e-3 * 16 / 17)
    assert judge.network.adam.betas == pytest.approx((0, 0.99 ** (16 / 17)))
    assert (generator.network.lr, generator.network.adam.betas) == (1e-3, (0.0, 0.99))
    assert (trainer.recipe.init_sigma, trainer.recipe.ema_half_life_kimg) == (80.0, 500)
    assert [step.weights(64) for step in trainer.steps] == [{"real_or_fake": 64}, {"r1": 16}, {"fooling": 64}]
    assert generator.network.net.init_config["kwargs"]["dropout"] == 0


def test_patience_counts_from_the_first_image_where_no_term_joins_later(tmp_path, teacher):
    GIVEN.clear()
    watched = {"monitor": "tests.training.toy:make_curve", "kwargs": {"values": [2.0, 1.0, *[3.0] * 9]}}
    evaluation = {"every_kimg": 0.016, "patience": 3, **watched}
    path = distill({**GDD, "teacher": teacher, "adversarial_kimg": 200.0, "evaluation": evaluation}, tmp_path)
    assert read_metadata(path)["last_nimg"] == 64


def test_innate_training_changes_only_what_is_not_frozen(tmp_path, teacher, capsys):
    path = distill({**GDD, "teacher": teacher, "method": "gdd-i", "total_kimg": 0.064}, tmp_path)
    start, _ = load_network(teacher)
    net, _ = load_network(path)
    changed = {
        name
        for (name, before), after in zip(start.named_parameters(), net.parameters(), strict=True)
        if not torch.equal(before, after)
    }
    frozen = {name for name, _ in net.named_parameters() if INNATE.match(name)}
    assert frozen
    assert not frozen & changed
    assert {"model.enc.8x8_conv.weight", "model.enc.8x8_block0.norm0.weight"} <= changed
    share = sum(v.numel() for n, v in net.named_parameters() if n in frozen) / sum(v.numel() for v in net.parameters())
    assert f"gdd-i: {100 * share:.1f} % of the generator's parameters stay as the teacher's" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("network", "share"),
    [(CIFAR10, 84.4), ({**CIFAR10, "img_resolution": 64, "channel_mult": [1, 2, 2, 2]}, 83.8), (IMAGENET, 78.8)],
)
def test_share_of_frozen_parameters_of_the_published_networks(network, share):
    with torch.device("meta"):
        net = build_network({"class": "GDDPrecond", "kwargs": network})
    assert round(100 * freeze_innate(net), 1) == share


def test_digest_tells_settings_that_were_left_out_from_those_of_other_methods(teacher):
    spec = {**GDD, "teacher": teacher, "options": {}}
    digest = lambda **more: student_digest(DistillConfig(**{**spec, **more}), "data", {"teacher": "x"})
    plain = digest()
    assert digest(init_sigma=80.0, betas=(0.0, 0.99)) == plain
    assert len({plain, digest(init_sigma=2.5), digest(betas=(0.0, 0.999)), digest(method="gdd-i")}) == 4
    sid = digest(method="sida")
    assert digest(method="sida", init_sigma=2.5, betas=(0.0, 0.999)) == sid
    assert digest(method="sida", betas=(0.0, 0.99)) != sid


INSTANCE = {
    **of_method("instance", STUDENT), "total_kimg": 0.32, "warmup_kimg": None,
    "evaluation": None, "options": {"num_steps": 3},
}  # fmt: skip


def test_loss_is_the_distance_to_what_the_teachers_sampler_draws(teacher):
    net, _ = load_network(teacher)
    z, labels = latents_for_seeds(range(4), (1, 8, 8)), torch.eye(10)[[3, 1, 4, 1]]
    (step,) = student_trainer({**INSTANCE, "teacher": teacher, "options": {"num_steps": 5}}).steps
    with torch.no_grad():
        drawn = heun(net, z, labels, num_steps=5).to(torch.float32)
    terms = step.loss(MicroBatch(torch.zeros_like(z), labels, draws={"z": z}))
    assert torch.equal(terms["instance"], drawn.square())


def test_a_run_goes_on_where_it_stopped_and_its_images_come_nearer_to_the_teachers(resumes, teacher):
    folder = resumes({**INSTANCE, "teacher": teacher, "ema_half_life_kimg": 0.01}, 96)
    assert {name for record in read_jsonl(folder / "train.jsonl") for name in record["losses"]} == {"instance"}
    start, _ = load_network(teacher)
    net, metadata = load_network(folder / "network.safetensors")
    assert metadata["sampler"] == {"kind": "one_step", "init_sigma": 80.0}
    z, labels = latents_for_seeds(range(64), (1, 8, 8)), torch.eye(10)[torch.arange(64) % 10]
    with torch.no_grad():
        target = heun(start, z, labels, num_steps=3)
        before, after = ((one_step(one, z, labels, 80.0) - target).square().mean() for one in (start, net))
    assert after < 0.95 * before


def test_defaults_are_gdds_with_which_it_is_compared(teacher):
    trainer = student_trainer({**INSTANCE, "teacher": teacher, "options": {}})
    (step,) = trainer.steps
    assert (trainer.recipe.init_sigma, step.network.adam.betas, step.network.clip_value) == (80.0, (0.0, 0.99), None)
    assert step.network.net.init_config["class"] == "EDMPrecond"
    assert step.network.net.init_config["kwargs"]["dropout"] == 0
