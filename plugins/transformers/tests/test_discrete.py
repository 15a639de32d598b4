"""DDPM's sampler with DiT's learned variance, against numbers of the official code."""

import functools
from types import SimpleNamespace

import pytest
import torch

from plugins.transformers.tests.test_networks import one_hot, recorded
from sida.config.samplers import read_sampler
from sida.plugins.transformers.discrete import ddpm, spaced_steps
from sida.plugins.transformers.steps import NoiseSteps, linear_betas
from sida.sampling import Drawer, SeedStreams
from sida.sampling.generate import draw_batch
from sida.sampling.guidance import Guide, Unlabelled
from tests.golden.vectors import load_tensors
from tests.near import FLOAT32, assert_near, relative_error
from tests.refused import refused

STEPS = NoiseSteps(linear_betas(1000, 1e-4, 0.02))


@pytest.fixture(scope="module")
def dit():
    return recorded("dit_sigma")[0], load_tensors("sit/dit_ddpm")[0]


def test_spaced_steps_are_the_official_ones(dit):
    for name, steps in dit[1].items():
        if name.startswith("steps/"):
            assert spaced_steps(int(name.removeprefix("steps/")), 1000) == steps.tolist()


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("guidance", "name"), [(1.0, "ddpm_8"), (1.5, "ddpm_8_guided_1.5")])
def test_samples_equal_dits(dit, guidance, name, dtype):
    """With and without guidance, which the official code has on three of four channels and not on the variance."""
    net, arrays = dit
    fresh, labels = iter(arrays["draw/ddpm_8"]), one_hot(net, arrays["in/z_y"])
    guiding = {"guide": Guide(Unlabelled(net), None, guidance, 3)}
    noise = lambda x: next(fresh).to(x.dtype)
    images = ddpm(net, arrays["in/z"], labels, 8, dtype, noise, **guiding)
    assert images.dtype == dtype
    assert_near(images, arrays[f"out/{name}"])
    assert len([*fresh]) == 1  # The last step adds no noise; the official code draws it without use.


def formula(x, step, class_labels=None):
    """Outputs of about unit scale in each step, so that an error of any step shows."""
    level = (1 - STEPS.alphas_cumprod[step]).sqrt().float()
    return torch.cat([level * x + 0.1 * x.sin(), x.cos()], 1)


def test_all_250_steps_of_a_formula_equal_the_official_ones(dit):
    arrays = dit[1]
    fresh = iter(arrays["draw/formula_250"])
    net = SimpleNamespace(steps=STEPS, at_step=formula)
    images = ddpm(net, arrays["in/formula_z"], None, 250, torch.float32, noise=lambda x: next(fresh))
    assert_near(images, arrays["out/formula_250"])


@torch.no_grad()
def test_draws_depend_on_their_seeds_alone_and_guidance_on_its_interval(dit):
    net = dit[0]
    drawn = functools.partial(drawn_with, net)
    plain, full = drawn(), drawn(guidance=2.0)
    assert_near(drawn(seeds=[1])[0], plain[1], FLOAT32)
    assert relative_error(plain, full) > 1e-3
    assert_near(drawn(guidance=2.0, guidance_min=200.0), plain, FLOAT32)
    assert_near(drawn(guidance=2.0, guidance_max=200.0, guidance_channels=4), full, FLOAT32)
    assert (read_sampler("ddpm:3").nfe, read_sampler("ddpm").nfe) == (3, 250)


def test_the_interval_of_guidance_is_one_of_levels():
    """σ = √((1 − ᾱ) / ᾱ), which grows to 157, and not the noise's share √(1 − ᾱ) below 1."""
    steps = []
    weaker = SimpleNamespace(at_step=lambda x, step, labels: steps.append(step) or formula(x, step))
    net, z = SimpleNamespace(steps=STEPS, at_step=formula), torch.randn(1, 1, 2, 2)
    guide = Guide(weaker, strength=2.0, lowest=0.9, highest=20.0)
    ddpm(net, z, None, 10, noise=torch.randn_like, guide=guide)
    levels = ((1 - STEPS.alphas_cumprod) / STEPS.alphas_cumprod).sqrt()
    expected = [step for step in spaced_steps(10, 1000)[::-1] if 0.9 <= float(levels[step]) <= 20]
    assert steps == expected
    assert 0 < len(expected) < 9


def drawn_with(net, seeds=(0, 1), **given):
    sampler, streams = read_sampler({"kind": "ddpm", "num_steps": 3, **given}), SeedStreams(seeds)
    labels = one_hot(net, torch.tensor([1, 2])[[*seeds]])
    return draw_batch(sampler, net, streams.randn((4, 8, 8)), labels, streams, Unlabelled(net))


def test_networks_without_a_learned_variance_are_refused_before_anything_is_drawn():
    net = recorded("dit_sigma")[0]
    sit = recorded("sit_sigma")[0]
    other = SimpleNamespace(at_step=net.at_step, learn_sigma=True, steps=NoiseSteps(linear_betas(500, 1e-4, 0.02)))
    for networks, steps, place in (
        ((sit,), 3, "sampler.kind"),
        ((SimpleNamespace(at_step=net.at_step, learn_sigma=False),), 3, "sampler.kind"),
        ((net,), 1001, "sampler.num_steps"),
        ((net, sit), 3, "guiding network"),
        ((net, other), 3, "guiding network"),
    ):
        drawer = Drawer(read_sampler(f"ddpm:{steps}" + ",guidance=2" * (len(networks) > 1)), *networks)
        assert refused("ddpm|steps", drawer.draw, range(1), 1).where == place
    refused(r"sampler\.num_steps: must be at least 2", read_sampler, "ddpm:1")
    refused(r"sampler\.rho", read_sampler, "ddpm:4,rho=7")
