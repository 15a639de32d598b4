"""Levels and weights by settings: SiD-DiT's and DMDR's losses in a flow's time, rewritten by hand in float64."""

import dataclasses
import json
import math

import pytest
import torch
from scipy.stats import beta
from torch.nn.functional import softplus

from sida.config.lookup import ALLOW, ROOT
from sida.config.settings import load_yaml
from sida.methods.levels import DIVISORS, beta_at
from sida.methods.registry import DistillConfig
from sida.methods.sid import SiDALoss, SiDLoss
from sida.networks.file import read_metadata, save_network
from sida.noise import score_weight, sigma_of_time
from sida.training import train_teacher
from sida.training.teacher import EDMLoss, VelocityLoss
from tests.golden.vectors import load_tensors
from tests.near import assert_near
from tests.networks.made import random_network
from tests.refused import command, refusal, refused
from tests.training.toy import DATASET, EDM2, NETWORK, TEACHER, iterate, student_trainer

DOUBLE = {"dtype": torch.float64}
SHAPE = (5, 2, 4, 4)
LEVELS = {"level_distribution": "lognormal", "P_mean": math.log(2), "P_std": 1.6}
SID_DIT = {**LEVELS, "gamma": "velocity", "score_weight": "one_minus_t"}


def velocity(seed):
    """A field v(x_t, t) of straight paths with a parameter, and its logits."""
    weight = torch.randn(2, 2, generator=torch.Generator().manual_seed(seed), **DOUBLE)
    return lambda x, t: torch.tanh(torch.einsum("ij,njhw->nihw", weight, x) * (1 + t)) + t * x


class Flow:
    """The field as a denoiser, with logits."""

    def __init__(self, seed):
        self.velocity = velocity(seed)

    def logits(self, x, t):
        return (3 * self.velocity(x, t)).mean(1, keepdim=True)

    def __call__(self, x, sigma, labels=None, *, augment_labels=None, return_flag="decoder", decode=None):
        t, x_t = sigma / (1 + sigma), x / (1 + sigma)
        denoised = (x_t - t * self.velocity(x_t, t))[:decode]
        return denoised if return_flag == "decoder" else (denoised, self.logits(x_t, t))


TRUE, FAKE = Flow(0), Flow(1)


@pytest.fixture
def given():
    source = torch.Generator().manual_seed(7)
    of = lambda *shape: torch.randn(*shape, generator=source, **DOUBLE)
    numbers = of(SHAPE[0], 1, 1, 1)
    draws = {"sigma_normal": numbers, "noise": of(*SHAPE)}
    return of(*SHAPE).requires_grad_(), of(*SHAPE), draws, torch.sigmoid(math.log(2) + 1.6 * numbers)


def denoised(net, x_t, t):
    return x_t - t * net.velocity(x_t, t)


def by_hand(x, draws, t, alpha, weight):
    """SiD-DiT's loss of the generator: sums over values, before the factor 100 / batch."""
    x_t = (1 - t) * x + t * draws["noise"]
    true, fake = denoised(TRUE, x_t, t), denoised(FAKE, x_t, t)
    return weight * (true - fake) * ((true - x) - alpha * (true - fake))


def same(found, expected, x):
    assert_near(found, expected)
    gradients = (torch.autograd.grad(value.sum(), x, retain_graph=True)[0] for value in (found, expected))
    assert_near(*gradients)


@pytest.mark.parametrize("alpha", [1.0, 1.2])
@pytest.mark.parametrize("cls", [SiDLoss, SiDALoss])
def test_sid_dit_is_a_recipe_of_sid_and_sida(given, cls, alpha):
    (x, real, draws, t), loss = given, cls(alpha=alpha, **SID_DIT)
    terms = loss.generator_loss(TRUE, FAKE, x, None, draws=draws)
    same(terms.sid, by_hand(x, draws, t, alpha, 1 - t), x)
    # The fake score's loss is a plain square of velocities.
    error = FAKE.velocity((1 - t) * x + t * draws["noise"], t) - (draws["noise"] - x)
    same(loss.fake_score_loss(FAKE, x, None, real, draws=draws).denoising, error.square(), x)


def test_sid_dits_discriminator_has_weight_one_and_its_generator_the_weight_of_the_score(given):
    x, real, draws, t = given
    loss = SiDALoss(**SID_DIT, pool="sample", discriminator_gamma="constant", sigma_data=1.0)
    of_fake, of_real = (FAKE.logits((1 - t) * images + t * draws["noise"], t) for images in (x, real))
    mean = lambda values: values.mean(dim=(1, 2, 3), keepdim=True)
    apart = (mean(softplus(of_fake)) + mean(softplus(-of_real))) / 2
    same(loss.fake_score_loss(FAKE, x, None, real, draws=draws).discriminator, apart, x)
    fooling = mean(softplus(-of_fake.clamp(-10, 10))) * (1 - t)
    same(loss.generator_loss(TRUE, FAKE, x, None, draws=draws).adversarial, fooling, x)


@pytest.mark.parametrize("name", DIVISORS)
def test_weights_are_those_of_sid_dits_script(given, name):
    x, _, draws, t = given
    weight = {
        "one_minus_t": 1 - t, "one_minus_t_squared": (1 - t) ** 2, "inverse_t": 1 / t, "inverse_t_squared": 1 / t**2,
        "snr": ((1 - t) / t) ** 2, "snr_sqrt": (1 - t) / t,
    }[name]  # fmt: skip
    loss = SiDLoss(alpha=1.0, **LEVELS, score_weight=name)
    found = loss.generator_loss(TRUE, FAKE, x, None, draws=draws).sid
    assert_near(found, by_hand(x, draws, t, 1.0, weight))


def test_a_derived_target_and_divisor_reach_all_terms(given):
    x, real, draws, t = given

    class Own(SiDALoss):
        def target(self, x, noisy, sigma):
            return 0.5 * x + noisy / (1 + sigma)

        def divisor(self, x, true, sigma):
            return 2 + sigma

    loss, sigma = Own(**LEVELS), t / (1 - t)
    noisy = x + sigma * draws["noise"]
    wanted, true, fake = 0.5 * x + noisy / (1 + sigma), TRUE(noisy, sigma), FAKE(noisy, sigma)
    terms = loss.generator_loss(TRUE, FAKE, x, None, draws=draws)
    same(terms.sid, (true - fake) * ((true - wanted) - (true - fake)) / (2 + sigma), x)
    logits = FAKE.logits((1 - t) * x + t * draws["noise"], t)
    same(terms.adversarial, softplus(-logits).mean() / (2 + sigma), x)
    for images in (real, None):
        found = loss.fake_score_loss(FAKE, x, None, images, draws=draws).denoising
        same(found, score_weight(sigma, 0.5) * (fake - wanted).square(), x)


def test_a_beta_distribution_without_a_length_stays():
    assert beta_at(9_000_000, 4.0, 1.5, 0.0) == (4.0, 1.5)


@pytest.mark.parametrize("nimg", [0, 2_560_000, 5_120_000, 9_000_000])
def test_times_follow_a_beta_distribution_that_becomes_uniform(nimg):
    loss = SiDLoss(level_distribution="beta", time_beta=(4.0, 1.5, 5120.0))
    loss.begin(nimg)
    # Both steps draw a time, and nothing in place of it.
    assert [*loss.generator_draws()] == [*loss.fake_score_draws()] == ["t", "noise"]
    share = {0: 1.0, 2_560_000: 0.5}.get(nimg, 0.0)
    expected = 1 + 3 * share, 1 + 0.5 * share
    assert beta_at(nimg, *loss.time_beta) == pytest.approx(expected)
    draws = torch.linspace(0.001, 0.999, 999, **DOUBLE).reshape(-1, 1, 1, 1)
    for sigma in (loss.generator_sigma({"t": draws}), loss.fake_score_sigma({"t": draws})):
        found = (sigma / (1 + sigma)).flatten().numpy()
        assert_near(found, beta(*expected).ppf(draws.flatten().numpy()), 2e-4)


def test_a_teachers_velocity_loss_equals_sits():
    """Recorded by SiT's own code with its network's outputs; its time is that of the data."""
    arrays, _ = load_tensors("sit/sit_train")
    y, noise, share = arrays["in/x1"], arrays["draw/noise"], arrays["draw/t"].reshape(-1, 1, 1, 1)

    def net(x, sigma, labels, augment_labels):
        assert_near(x / (1 + sigma), share * y + (1 - share) * noise)
        return share * y + (1 - share) * noise + (1 - share) * arrays["out/pred"]

    found = VelocityLoss()(net, y, None, draws={"t": 1 - share, "noise": noise})
    assert_near(found.mean(dim=(1, 2, 3)), arrays["out/loss"])
    assert [*VelocityLoss.DRAWS] == ["t", "noise"]
    assert [*EDMLoss.DRAWS] == ["sigma_normal", "noise"]


def test_levels_of_times_at_the_ends_are_finite():
    sigma = sigma_of_time(torch.tensor([0.0, 0.5, 1.0]))
    assert sigma[1] == 1
    assert torch.isfinite(sigma).all()
    assert torch.isfinite(score_weight(sigma, 0.5, "velocity")).all()


FLOW = {**NETWORK, "class": "docs.examples.flow:FlowPrecond"}


@pytest.mark.parametrize(("method", "name"), [("sid", "sid-dit"), ("sida", "sida-dit"), ("dmd", "dmdr")])
def test_the_recipes_are_read_and_train(method, name, monkeypatch, tmp_path):
    monkeypatch.setenv(ALLOW, "docs.examples.flow")
    given = load_yaml(ROOT / "config/recipes/flows.yaml")[name]
    save_network(random_network(FLOW["class"], NETWORK["kwargs"]), tmp_path / "flow.safetensors", {})
    spec = {"name": "x", "method": method, "dataset": DATASET, "teacher": str(tmp_path / "flow.safetensors")}
    config = DistillConfig(**{**spec, **given, "batch_size": 16})
    trainer = student_trainer(
        dataclasses.replace(config, warmup_kimg=0, adversarial_kimg=0.0) if method == "sida" else config
    )
    batch = (torch.zeros(16, 1, 8, 8), torch.eye(10).repeat(2, 1)[:16])
    record = iterate(trainer, 3_000_000, [batch])
    assert all(math.isfinite(value) for value in record.losses.values())
    loss = trainer.loss
    if method == "dmd":
        assert (trainer.steps[0].repeats, loss.time_beta, loss._set) == (
            5,
            (4.0, 1.5, 5120.0),
            beta_at(3_000_000, 4, 1.5, 5120),
        )
    else:
        same = {"level_distribution", "P_std", "gamma", "score_weight"}
        assert {key: getattr(loss, key) for key in same} == {key: SID_DIT[key] for key in same}
        assert (loss.P_mean, loss.alpha, loss.lambda_sid) == (math.log(2), {"sid": 1.2, "sida": 1.0}[method], 100)
    if method == "sida":
        # The code multiplies both adversarial losses by C·H·W, where the score terms are sums.
        weights = loss.weights(4096)
        assert (weights["adversarial"], weights["discriminator"]) == (4096, 4096)


FAULTS = [
    ("sid", {"time_beta": [4, 1.5, 10]}, "--spec.time_beta: has no effect without level_distribution beta"),
    ("sid", {"level_distribution": "beta", "t_max": 700}, "--spec.t_max: has no effect with level_distribution"),
    ("sid", {"level_distribution": "beta", "P_mean": 0}, "--spec.P_mean: has no effect with level_distribution beta"),
    ("dmd", {"P_std": 1}, "--spec.P_std: has no effect on levels by indices"),
    ("dmd2", {"options": {"r1_alpha": 0.2}}, "--spec.options.r1_alpha: has no effect without r1_weight"),
    ("dmd", {"level_distribution": "lognormal", "options": {"generator_levels": [1, 9]}}, "options.generator_levels"),
    (
        "realuid",
        {
            "P_mean": 0,
            "P_std": 2,
            "alpha": 1,
            "gamma": "snr",
            "score_weight": "one_minus_t",
            "sigma_data": 1,
            "t_max": 700,
        },
        "method 'realuid' does not read P_mean, P_std, alpha, gamma, score_weight, sigma_data, t_max; remove",
    ),
    (
        "realuid",
        {"level_distribution": "beta", "time_beta": [4, 1.5, 10]},
        "method 'realuid' does not read level_distribution, time_beta; remove",
    ),
    ("sid", {"score_weight": "error2"}, "--spec.score_weight: must be one of error, one_minus_t"),
]


@pytest.mark.parametrize(("method", "change", "message"), FAULTS)
def test_a_setting_without_effect_is_refused(tmp_path, method, change, message):
    spec = {"name": "x", "method": method, "dataset": DATASET, "teacher": "t", "total_kimg": 1, "batch_size": 16}
    text = json.dumps({**spec, "lr": 1e-4, **change})
    assert message in refusal(command, "distill", "--spec", text, "--out", tmp_path / "out")


def test_a_velocity_trains_a_teacher_and_reads_no_levels(tmp_path):
    spec = {**TEACHER, "total_kimg": 0.032, "snapshot_kimg": None, "loss": "velocity"}
    path = train_teacher(spec, tmp_path / "run")
    assert read_metadata(path)["nimg"] == 32
    refused("teacher.P_std: has no effect with the loss 'velocity'", train_teacher, {**spec, "P_std": 1.0}, tmp_path)
    headed = {**spec, "network": EDM2, "augment": None}
    refused("loss: 'velocity' does not train the log-variance head", train_teacher, headed, tmp_path / "other")
