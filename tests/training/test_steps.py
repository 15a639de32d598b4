"""Generators of several steps: their images and gradients by hand, the drawn number of steps, and what is refused."""

import copy
import json

import pytest
import torch

import sida
from sida.config.lookup import ALLOW
from sida.config.samplers import GeneratorSteps, read_sampler
from sida.eval.measuring.measure import measure
from sida.eval.results.measurements import measurements_of
from sida.eval.results.trial_files import long_rows
from sida.eval.tables.cells import nfe_text
from sida.methods import distill
from sida.methods.method import STEPS
from sida.methods.registry import DistillConfig, resolve_recipe
from sida.methods.sid import SiDLoss
from sida.networks.file import read_metadata, save_network
from sida.sampling.samplers import multi_step, one_step
from sida.training.iteration import Distiller
from sida.training.schedule import Schedule
from tests.eval.measuring.test_measure import data_spec
from tests.near import assert_near, same_bits
from tests.networks.made import random_network
from tests.refused import command, refusal, refused
from tests.training.test_identity import digest
from tests.training.toy import (
    EDM2,
    NETWORK,
    SID_STUDENT,
    assert_recorded,
    interrupt_after,
    iterate,
    of_method,
    recipe,
    results,
)

DOUBLE = {"dtype": torch.float64}
BRIEF = {"total_kimg": 0.096, "evaluation": None, "snapshot_kimg": None}


class Toy(torch.nn.Module):
    """A denoiser with two parameters, in float64."""

    def __init__(self):
        super().__init__()
        self.scale, self.gain = (torch.nn.Parameter(torch.tensor(value, **DOUBLE)) for value in (0.7, 0.3))

    def forward(self, x, sigma, labels=None):
        return self.scale * x / (1 + sigma) + self.gain * torch.tanh(x)

    def from_noise(self, z, labels=None):
        return self.scale * z + self.gain


def drawn(seed):
    return torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(seed), **DOUBLE)


def gradients(net, images):
    return torch.autograd.grad(images.square().sum(), [net.scale, net.gain], retain_graph=True)


@pytest.mark.parametrize("through_all", [False, True], ids=["last", "all"])
@pytest.mark.parametrize(
    ("init_sigma", "step_levels", "second"),
    # t = 2/3 and 1/3; pure noise and t = 1/2.
    [(2.0, "sigma", 1.0), (2.0, "time", 0.5), ("infinite", "time", 1.0)],
)
@pytest.mark.parametrize("fixed", [False, True], ids=["fresh", "fixed"])
def test_two_steps_by_hand(fixed, init_sigma, step_levels, second, through_all):
    net, z, fresh = Toy(), drawn(0), drawn(1)
    start = net.from_noise(z) if init_sigma == "infinite" else net(2.0 * z, torch.tensor(2.0, **DOUBLE))
    noise = z if fixed else fresh
    before = start if through_all else start.detach()
    by_hand = net(before + second * noise, torch.tensor(second, **DOUBLE))
    steps = GeneratorSteps(2, init_sigma, "fixed" if fixed else "fresh", step_levels)
    images = multi_step(net, z, None, steps, lambda x: fresh, through_all=through_all)
    assert_near(images, by_hand)
    assert_near(gradients(net, images), gradients(net, by_hand))
    # The first of the two steps alone learns, too.
    first = multi_step(net, z, None, steps, lambda x: fresh, steps_taken=1, through_all=through_all)
    assert_near(gradients(net, first), gradients(net, start))


def test_levels_fall_in_equal_parts_of_sigma_or_time():
    assert GeneratorSteps(4, 2.0).sigmas == [1.5, 1.0, 0.5]
    times = [sigma / (1 + sigma) for sigma in GeneratorSteps(4, 4.0, levels="time").sigmas]
    assert times == pytest.approx([0.8 * share for share in (0.75, 0.5, 0.25)])
    assert GeneratorSteps(2, "infinite", levels="time").sigmas == [1.0]


@pytest.fixture
def distiller():
    """``distiller(**settings)``: SiD of random networks."""

    def make(**settings):
        kwargs = {**NETWORK["kwargs"], "dropout": 0.0}
        nets = [random_network(NETWORK["class"], kwargs, seed) for seed in (0, 1, 0)]
        return Distiller(*nets, SiDLoss(), Schedule(0, None), recipe(lr=1e-4, **settings))

    return make


def test_both_networks_learn_from_images_of_the_drawn_number_of_steps(distiller):
    made = distiller(num_steps=3, seed=2)
    source = torch.Generator().manual_seed(0)
    batch = (torch.zeros(4, 1, 8, 8), torch.eye(10)[:4])
    names = ("z", "noise", "noise of step 2", "noise of step 3")
    draws = {name: torch.randn(4, 1, 8, 8, generator=source) for name in names}
    draws["sigma_normal"], draws["t"] = (torch.rand(4, 1, 1, 1, generator=source) for _ in range(2))
    taken = {made.taken_steps(nimg): nimg for nimg in range(0, 4000, 4)}
    assert sorted(taken) == [1, 2, 3]
    for steps, nimg in taken.items():
        net = made.generator.net.eval()
        with torch.no_grad():
            images = net(2.5 * draws["z"], 2.5, batch[1])
            for step in range(1, steps):
                sigma = 2.5 * (1 - step / 3)
                images = net(images + sigma * draws[names[step + 1]], sigma, batch[1])
        of_psi = made.loss.fake_score_loss(made.fake_score.net, images, batch[1], draws=draws)
        record = iterate(made, nimg, [batch], draws={"psi": [draws], "generator": [draws]})
        of_theta = made.loss.generator_loss(made.true_score, made.fake_score.net, images, batch[1], draws=draws)
        expected = float(of_psi.denoising.sum().detach()) / 4, 100 * float(of_theta.sid.sum().detach()) / 4
        found = [float(record.losses[name]) for name in ("denoising", "sid")]
        assert found == pytest.approx(expected, rel=1e-4)


def test_the_number_of_steps_is_uniform_and_a_function_of_seed_and_images(distiller):
    made, again, other = (distiller(num_steps=4, seed=seed) for seed in (1, 1, 2))
    drawn = [made.taken_steps(16 * number) for number in range(2000)]
    counts = torch.bincount(torch.tensor(drawn), minlength=5)[1:]
    # Four standard deviations around 500.
    assert (counts - 500).abs().max() < 4 * (2000 * 3 / 16) ** 0.5
    assert drawn != [other.taken_steps(16 * number) for number in range(2000)]
    assert drawn == [again.taken_steps(16 * number) for number in range(2000)]
    alone = distiller(seed=1)
    assert {alone.taken_steps(16 * number) for number in range(20)} == {1}


@pytest.mark.parametrize("given", [{}, {"gradient": "last"}, {"gradient": "all"}], ids=["default", "last", "all"])
def test_the_trainer_learns_through_the_last_step_or_all(distiller, given):
    """The norm of the generator's gradient by hand; by default, the first step's images are constants."""
    made, source = distiller(num_steps=2, grad_clip_value=None, **given), torch.Generator().manual_seed(0)
    labels = torch.eye(10)[:4]
    draws = {name: torch.randn(4, 1, 8, 8, generator=source) for name in ("z", "noise", "noise of step 2")}
    draws["sigma_normal"], draws["t"] = (torch.rand(4, 1, 1, 1, generator=source) for _ in range(2))
    nimg = next(nimg for nimg in range(0, 4000, 4) if made.taken_steps(nimg) == 2)
    net = copy.deepcopy(made.generator.net).eval().requires_grad_()
    # The fake score learns first, also from images of two steps.
    record = iterate(made, nimg, [(torch.zeros(4, 1, 8, 8), labels)], draws={"psi": [draws], "generator": [draws]})
    first = net(2.5 * draws["z"], 2.5, labels)
    first = first if given == {"gradient": "all"} else first.detach()
    images = net(first + 1.25 * draws["noise of step 2"], 1.25, labels)
    terms = made.loss.generator_loss(made.true_score, made.fake_score.net, images, labels, draws=draws)
    (100 * terms.sid.sum() / 4).backward()
    gradients = [parameter.grad for parameter in net.parameters() if parameter.grad is not None]
    expected = sum(float(gradient.square().sum()) for gradient in gradients) ** 0.5
    assert float(record.grad_norms["generator"]) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("ways", [{}, {"noise": "fixed", "gradient": "all", "step_levels": "time"}])
def test_a_resumed_run_of_several_steps_equals_an_uninterrupted_one(tmp_path, teacher, ways):
    spec = {**SID_STUDENT, **BRIEF, "teacher": teacher, "num_steps": 3, **ways}
    distill(spec, tmp_path / "one")
    interrupt_after(distill, spec, tmp_path / "two", 0.048 * 1000)
    distill(spec, tmp_path / "two")
    assert results(tmp_path / "one") == results(tmp_path / "two")
    assert_recorded(f"three steps {', '.join(map(str, ways.values()))}".strip(), tmp_path / "one")


@pytest.fixture(scope="module")
def several(tmp_path_factory, teacher):
    """A generator that learned three steps with fixed noise."""
    spec = {**SID_STUDENT, **BRIEF, "total_kimg": 0.032, "teacher": teacher, "num_steps": 3, "noise": "fixed"}
    return distill(spec, tmp_path_factory.mktemp("several"))


def test_a_generator_draws_with_the_steps_of_its_training(several):
    told = {"kind": "one_step", "init_sigma": 2.5, "num_steps": 3, "noise": "fixed", "step_levels": "sigma"}
    assert read_metadata(several)["sampler"] == told
    generator = sida.load(several)
    assert (generator.sampler.steps, generator.sampler.nfe, generator.sampler.noise) == (3, 3, "fixed")
    images = generator.sample(4)
    assert same_bits(images, sida.load(several, "one_step:3").sample(4))
    assert not same_bits(images, sida.load(several, "one_step:3,noise=fresh").sample(4))
    assert sida.load(several, "one_step:2").sampler.unlike(generator.sampler) == "num_steps=3"
    assert generator.sampler.unlike(read_sampler(told)) == ""
    # One step adds no noise.
    one = read_sampler("one_step:1,noise=fixed")
    assert one.unlike(read_sampler("one_step")) == ""


def test_a_measurement_with_other_steps_says_so_in_its_row(several, tmp_path):
    def measured(**sampler):
        spec = {"run": "x", "method": "sid", "network": str(several), "sampler": {"kind": "one_step", **sampler}}
        nfe = sampler["num_steps"]
        records = measure({**data_spec(), **spec, "nfe": nfe}, tmp_path / str(nfe), [0])
        return records[0], measurements_of(long_rows(records), "x")

    (other, rows), (same, own) = (measured(num_steps=steps, noise="fixed") for steps in (2, 3))
    assert (other["nfe"], other["trained"], rows.trained("x")) == (2, "num_steps=3", "num_steps=3")
    assert ("trained" in same, own.trained("x")) == (False, "")
    assert other["spec_sha256"] != same["spec_sha256"]
    assert {row.trained_on for row in rows.rows} == {read_metadata(several)["device"]}
    assert nfe_text(rows.nfe("x"), rows.trained("x")).startswith("2 (")
    assert nfe_text(own.nfe("x"), own.trained("x")) == "3"


def test_settings_of_steps_are_part_of_the_digest_where_they_are_given():
    given = {**SID_STUDENT, "teacher": "t"}
    defaults = {"num_steps": 1, "noise": "fresh", "gradient": "last", "step_levels": "sigma"}
    assert set(defaults) == set(STEPS)
    assert digest(given) == digest(given, **defaults)
    others = {"num_steps": 2}, {"num_steps": 2, "noise": "fixed"}, {"num_steps": 2, "gradient": "all"}
    assert len({digest(given), *(digest(given, **other) for other in others)}) == 4


@pytest.mark.parametrize(
    ("method", "change", "message"),
    [
        ("sid", {"noise": "fixed"}, "--spec.noise: has no effect with one step; set num_steps"),
        ("sid", {"num_steps": 0}, "--spec.num_steps: must be at least 1"),
        ("sid", {"num_steps": 2, "init_sigma": "infinite"}, "--spec.step_levels: 'sigma' has no levels below"),
        ("gdd", {"num_steps": 2}, "method 'gdd' does not read num_steps; remove it"),
    ],
)
def test_a_fault_is_one_line(tmp_path, teacher, method, change, message):
    spec = {**of_method(method, SID_STUDENT), **BRIEF, "teacher": teacher, **change}
    assert message in refusal(command, "distill", "--spec", json.dumps(spec), "--out", tmp_path / "out")


def test_weights_that_steps_rewrite_do_not_learn_through_all():
    spec = {**of_method("sid", SID_STUDENT), "augment": None, "teacher": "t", "num_steps": 2, "gradient": "all"}
    spec.pop("grad_clip_value", None)
    with pytest.raises(ValueError, match="gradient: 'all' needs weights that a step does not rewrite"):
        resolve_recipe(DistillConfig(**spec), EDM2)
    assert resolve_recipe(DistillConfig(**spec, weight_norm="off"), EDM2).gradient == "all"


FLOW = {**NETWORK, "class": "docs.examples.flow:FlowPrecond"}


def test_an_infinite_level_is_pure_noise_of_flows_alone(tmp_path, monkeypatch):
    monkeypatch.setenv(ALLOW, "docs.examples.flow")
    flow, other = (random_network(of["class"], NETWORK["kwargs"]).eval() for of in (FLOW, NETWORK))
    z, labels = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.eye(10)[:2]
    time = torch.ones(1)
    velocity = flow.body(z, time, labels, None, "decoder", None)
    with torch.no_grad():
        assert_near(one_step(flow, z, labels, "infinite"), z - velocity)
        # A large number comes near.
        far = one_step(flow, z, labels, 1e5)
        assert_near(far, one_step(flow, z, labels, "infinite"), 0.01)
    for name, net in (("flow", flow), ("other", other)):
        save_network(net, tmp_path / f"{name}.safetensors", {})
    assert sida.load(tmp_path / "flow.safetensors", "one_step:2,init_sigma=infinite,step_levels=time").sample(2).any()
    told = "sampler.init_sigma: 'infinite' is a level of flows, and EDMPrecond has no image of pure noise"
    refused(told, sida.load(tmp_path / "other.safetensors", "one_step:init_sigma=infinite").sample, 2)
    given = {**of_method("sid", SID_STUDENT), **BRIEF, "init_sigma": "infinite"}
    refused("student.init_sigma: ", distill, {**given, "teacher": str(tmp_path / "other.safetensors")}, tmp_path / "no")
    path = distill({**given, "teacher": str(tmp_path / "flow.safetensors")}, tmp_path / "run")
    assert read_metadata(path)["sampler"] == {"kind": "one_step", "init_sigma": "infinite"}
    assert sida.load(path).sample(2).shape == (2, 1, 8, 8)
