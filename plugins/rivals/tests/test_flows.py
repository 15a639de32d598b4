"""Levels and weights of DMDR's recipe in a flow's time, rewritten by hand in float64."""

import math

import pytest
import torch

from sida.plugins.rivals.dmd import DMD2Loss, DMD2Options, DMDLoss, DMDOptions
from tests.methods.test_flows import DOUBLE, FAKE, LEVELS, TRUE, denoised, given, same
from tests.near import assert_near

__all__ = ["given"]  # a fixture


def test_dmdrs_recipe_is_one_of_dmd(given):
    """mean ((x − sg[x − g])²)/2 with g by the teacher's mean error, and the plain mean of squares of velocities."""
    x, _, draws, _ = given
    options = DMDOptions(error_eps=1e-8, fake_score_steps=5, clip_norm=1.0, fake_score_clip_norm=1.0)
    loss = DMDLoss(options, level_distribution="beta", time_beta=(4.0, 1.5, 5120.0), gamma="velocity")
    uniform = torch.rand(5, 1, 1, 1, generator=torch.Generator().manual_seed(1), **DOUBLE)
    draws = {"t": uniform, "noise": draws["noise"]}
    t = loss._time(uniform)
    x_t = (1 - t) * x + t * draws["noise"]
    true, fake = denoised(TRUE, x_t, t).detach(), denoised(FAKE, x_t, t).detach()
    direction = (fake - true) / ((x - true).abs().mean(dim=(1, 2, 3), keepdim=True) + 1e-8).detach()
    found = loss.generator_loss(TRUE, FAKE, x, None, draws=draws).kl
    assert_near(found, direction.square() / 2)
    assert_near(torch.autograd.grad(found.sum(), x)[0], direction)
    error = FAKE.velocity(x_t, t) - (draws["noise"] - x)
    same(loss.fake_score_loss(FAKE, x, None, draws=draws).denoising, error.square(), x)
    assert loss.weights(32) == {"kl": 1 / 32, "denoising": 1 / 32}


def test_levels_of_dmd2s_discriminator_are_those_of_the_settings():
    loss = DMD2Loss(DMD2Options(), **LEVELS)
    wanted = ["sigma_normal", "noise", "fake_sigma_normal", "fake_noise"]
    assert [*loss.generator_draws()] == wanted
    assert [*loss.fake_score_draws()] == [*wanted, "real_sigma_normal", "real_noise"]
    draws = {f"{of}{name}": torch.full((1, 1, 1, 1), 2.0) for of in ("", "real_") for name in ("sigma_normal", "noise")}
    _, level = loss.discriminator_input(torch.zeros(1, 1, 2, 2), "real_", torch.ones(1), draws)
    assert float(level) == pytest.approx(2 * math.exp(3.2))
