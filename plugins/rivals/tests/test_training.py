"""Trainings: steps as released, resumed bit by bit, without NaN samples."""

import dataclasses

import pytest
import torch

from sida.config.registries import FOLDER
from sida.config.settings import load_yaml
from sida.methods import METHODS, distill
from sida.networks.file import load_network
from sida.plugins.rivals.consistency import stage_at
from sida.sampling import SeedStreams, heun
from sida.training.batches import MicroBatch
from tests.golden.vectors import load
from tests.near import assert_near, is_copy, same_bits
from tests.training.test_processes import two_train_as_one
from tests.training.toy import COMMON, iterate, of_method, own_betas_of_the_generator, resumes, student_trainer

SLOW = pytest.mark.slow

GAN, UID = {"kl", "denoising", "gan", "discriminator"}, {"sid", "denoising", "real"}
SIDA = {"sid", "adversarial", "denoising", "discriminator"}
FD_OPTIONS = {"judges": ["digits", "glyphs"], "decay": 0.9}
#: What a resumed run of a method, its own options and its losses are.
RUNS = {
    "diff-instruct": ({}, {"kl", "denoising"}),
    "dmd": ({}, {"kl", "denoising"}),
    "dmd2": ({}, GAN),
    "f-distill": ({"divergence": "js", "decay": 0.5, "bins": 3}, GAN),
    "ect": ({"stage_kimg": 0.016}, {"consistency"}),
    "cd": ({}, {"consistency"}),
    "uni-instruct": ({"divergence": "chi-square", "ratio": "logits"}, SIDA | {"adversarial_sid"}),
    "realuid": ({}, UID),
    "realsid": ({"space": "noise"}, UID),
    "instance": ({"num_steps": 3}, {"instance"}),
    "fd-loss": ({**FD_OPTIONS, "population": 40, "lr_rampup_kimg": 0.032}, {"fd", "fd_digits", "fd_glyphs"}),
}
#: Marks of a method: quick tests take the one with a single network.
MARKS = {method: [] if method == "ect" else [SLOW] for method in RUNS}
CLASSES = {"cd": "GDDPrecond", "ect": "ECTPrecond"}
RECIPES = load_yaml(FOLDER / "rivals/recipes/rivals.yaml")


def spec_of(method, teacher, **more):
    start = {"init": teacher, "batch_gpu": None} if method == "fd-loss" else {}
    options = {**RUNS[method][0], **more.pop("options", {})}
    return {**of_method(method, COMMON), **start, "teacher": teacher, "options": options, **more}


ADAM, ADAMW = ("Adam", (0.0, 0.999), 0.0, None), ("Adam", (0.9, 0.999), 0.01, 10.0)
RADAM = ("RAdam", (0.9, 0.999), 0.0, None)


@pytest.mark.parametrize(
    ("method", "init_sigma", "psi_steps", "optimizers"),
    [
        ("diff-instruct", 1.0, 1, {"fake_score": ADAM, "generator": ADAM}),
        ("dmd", 80.0, 1, {"fake_score": ADAMW, "generator": ADAMW}),
        ("dmd2", 80.0, 5, {"fake_score": ADAMW, "generator": ADAMW}),
        ("f-distill", 80.0, 4, {"fake_score": (*ADAMW[:3], None), "generator": ADAMW}),
        ("ect", 80.0, 0, {"generator": RADAM}),
        ("cd", 80.0, 0, {"generator": RADAM}),
        ("uni-instruct", 2.5, 1, {"fake_score": ADAM, "generator": ADAM}),
        ("realuid", 2.5, 5, {"fake_score": (*ADAM[:3], 1.0), "generator": (*ADAM[:3], 1.0)}),
        ("realsid", 2.5, 1, {"fake_score": ADAM, "generator": ADAM}),
        # GDD's with which it is compared.
        ("instance", 80.0, 0, {"generator": ("Adam", (0.0, 0.99), 0.0, None)}),
    ],
)
def test_steps_and_optimizers_are_the_official_ones(teacher, method, init_sigma, psi_steps, optimizers):
    """Their losses: test_losses.py."""
    trainer = student_trainer(spec_of(method, teacher))
    streams = [stream for step in trainer.steps for stream in step.streams()]
    assert streams == [*["psi", "psi-2", "psi-3", "psi-4", "psi-5"][:psi_steps], "generator"]
    found = {
        name: (type(network.adam).__name__, network.adam.betas, network.weight_decay, network.clip_norm)
        for name, network in trainer.networks.items()
    }
    assert found == optimizers
    assert trainer.config.init_sigma == init_sigma


@pytest.mark.parametrize("method", RUNS)
def test_a_method_says_whether_it_sees_real_images(teacher, method):
    trainer = student_trainer(spec_of(method, teacher))
    # The judges of fd-loss know the data by its statistics.
    expected = method == "fd-loss" or any(step.real_images for step in trainer.steps)
    assert METHODS[method].real_images == expected


@pytest.mark.parametrize("method", [pytest.param(method, marks=marks) for method, marks in MARKS.items()])
def test_the_generator_may_have_betas_of_its_own(teacher, method):
    own_betas_of_the_generator(spec_of(method, teacher))


def test_loss_of_instance_is_the_distance_to_what_the_teachers_sampler_draws(teacher):
    z, labels = SeedStreams(range(4)).randn((1, 8, 8)), torch.eye(10)[[3, 1, 4, 1]]
    (step,) = student_trainer(spec_of("instance", teacher, options={"num_steps": 5})).steps
    with torch.no_grad():
        drawn = heun(load_network(teacher)[0], z, labels, num_steps=5).to(torch.float32)
    terms = step.loss(MicroBatch(torch.zeros_like(z), labels, draws={"z": z}))
    assert_near(terms["instance"], drawn.square())


@pytest.mark.parametrize(
    ("method", "more"),
    [
        *(pytest.param(method, {}, marks=marks) for method, marks in MARKS.items()),
        pytest.param("fd-loss", {"options": {"statistics": "queue"}}, marks=SLOW),
    ],
)
def test_run_resumes_bit_by_bit(tmp_path, teacher, monkeypatch, method, more):
    resumes(spec_of(method, teacher, **more), RUNS[method][1], tmp_path, monkeypatch, CLASSES.get(method))


@pytest.mark.parametrize("recipe", [name for name in RECIPES if name.startswith("realuid")])
def test_recipes_of_realuid_start_as_released(teacher, recipe):
    given = RECIPES[recipe]
    spec = spec_of("realuid", teacher, **{key: given[key] for key in ("options", "lr", "ema_half_life_kimg", "fp16")})
    trainer = student_trainer(spec)
    again = student_trainer(spec)
    before = {name: network.flat.vector for name, network in trainer.networks.items()}
    copied = given["options"].get("fake_score_start") == "teacher"
    assert is_copy(before["fake_score"], before["generator"]) == copied
    assert same_bits(before["fake_score"], again.fake_score.flat.vector)
    assert trainer.schedule.at(0).lr_factor == 0 < trainer.schedule.at(16).lr_factor


# A NaN among the logits of uni-instruct reaches all samples, as in SiDA's official code.
@pytest.mark.parametrize("method", ["diff-instruct", "dmd", "dmd2", "f-distill", "ect", "cd", "realuid", "realsid"])
def test_nan_samples_are_left_out(teacher, method):
    trainer = student_trainer(spec_of(method, teacher, batch_gpu=None))
    batch = (torch.zeros(16, 1, 8, 8), torch.eye(10)[torch.arange(16) % 10])
    noise = torch.randn(16, 1, 8, 8)
    noise[3] = float("nan")
    record = iterate(trainer, 0, [batch], draws={step.stream: [{"noise": noise}] for step in trainer.steps})
    assert int(record.nan_samples) == len(trainer.steps)
    assert all(torch.isfinite(value) for value in record.losses.values())
    for network in trainer.networks.values():
        assert torch.isfinite(network.flat.vector).all()
    assert all(torch.isfinite(value).all() for value in trainer.state().values())


def test_heads_on_the_teacher_leave_its_weights_and_learn_alone(teacher):
    options = {"features": "teacher", "heads": "all", "own_draws": False}
    trainer = student_trainer(spec_of("dmd2", teacher, options=options))
    score = trainer.fake_score.net
    assert {name.split(".")[0] for name, _ in score.named_parameters()} == {"score", "heads"}
    x, labels = torch.randn(2, 1, 8, 8), torch.eye(10)[:2]
    score(x, torch.ones(2), labels, return_flag="logits").sum().backward()
    assert all(p.grad is None for p in score.score.parameters())
    assert any(p.grad.any() for p in score.heads.parameters())
    assert all(p.grad is None for p in trainer.true_score.parameters())


def test_stages_begin_as_in_the_official_loop():
    arrays, _ = load("field/ect_schedule")
    for batch, kimg, ticks, iterations, images, stage, _ in arrays["stages"].tolist():
        # A tick ends with an iteration.
        length = -(-kimg * 1000 // batch) * batch * ticks / 1000
        assert stage_at(int(images), int(batch), length) == stage
        if iterations:
            assert stage_at(int(images - batch), int(batch), length) == stage - 1


def test_a_step_of_fd_loss_draws_its_own_classes(teacher):
    trainer, seen = student_trainer(spec_of("fd-loss", teacher)), []
    (step,) = trainer.steps
    trainer.steps = [dataclasses.replace(step, loss=lambda given: seen.append(given.class_labels) or step.loss(given))]
    iterate(trainer, 0, [(torch.zeros(16, 1, 8, 8), torch.eye(10)[[0] * 16])])
    assert seen[0].shape == (16, 10)
    assert len(set(seen[0].argmax(1).tolist())) > 3


# Ratios are a round's, and heads need no batch; with equal rounds both orders of adding agree.
@pytest.mark.parametrize(
    ("method", "close"),
    [
        pytest.param("dmd", 1e-3, marks=SLOW),
        pytest.param("f-distill", 0.02, marks=SLOW),
        pytest.param("fd-loss", 1e-3, marks=SLOW),
    ],
)
def test_two_processes_train_as_one(tmp_path, teacher, method, close):
    # Of several steps both processes take the same number.
    steps = {"num_steps": 3} if method == "dmd" else {}
    two_train_as_one(distill, spec_of(method, teacher, lr=1e-5, **steps), tmp_path, close)
