"""Exact scores: the three identities, and the formulas of an imperfect ψ, on random mixtures."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sida.losses import SiDLoss
from studies.alpha.model.identities import (
    Expectation,
    divisor_error,
    error_residuals,
    projection_residual,
    score_residual,
    wavy,
)
from studies.alpha.model.mixtures import Mixture, two_modes
from studies.alpha.model.quadrature import ExactLoss, as_images

widths = st.floats(0.4, 1.0)
places = st.floats(-0.6, 0.6)


def mixture(means: list[list[float]], *scales: float) -> Mixture:
    kinds = {"dtype": torch.float64, "requires_grad": True}
    return Mixture(torch.tensor([means], **kinds), torch.tensor([scales], **kinds))


@given(places, places, widths, widths, st.floats(0.05, 5.0))
@settings(max_examples=25, deadline=None)
def test_the_denoiser_is_the_score_of_the_noisy_density(x, y, one, other, sigma):
    assert score_residual(mixture([[x, y], [-y, x]], one, other), sigma) < 1e-12


def test_a_density_of_noisy_points_integrates_to_one():
    axis = torch.linspace(-8, 8, 401, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)[None]
    density = two_modes(0.8, 0.25).log_density(grid, torch.tensor(0.5, dtype=torch.float64)).exp()
    assert float(density.sum() * (axis[1] - axis[0]) ** 2) == pytest.approx(1, abs=1e-10)


@given(places, widths, st.floats(-0.5, 2.0))
@settings(max_examples=8, deadline=None)
def test_the_suites_loss_is_one_minus_alpha_fisher_divergences(x, width, alpha):
    expected = Expectation(two_modes(0.8, 0.4), mixture([[x, 0.1], [x + 0.5, 0.1]], width, width), 1.5, (24, 3))
    assert projection_residual(expected, [alpha]) < 1e-6


@given(places, widths, st.floats(-0.5, 2.0))
@settings(max_examples=8, deadline=None)
def test_value_and_slope_with_an_imperfect_fake_score_are_as_derived(x, width, alpha):
    expected = Expectation(two_modes(0.8, 0.4), mixture([[x, 0.1], [x + 0.5, 0.1]], width, width), 1.5, (32, 3))
    value, slope = error_residuals(expected, [alpha], wavy(1.0))
    assert (value, slope) == pytest.approx((0, 0), abs=1e-5)


def test_the_identities_can_fail():
    """The same residuals of a wrong teacher (its divergence is another) and of another α are large."""
    generator = mixture([[0.0, 0.1], [0.5, 0.1]], 0.6, 0.6)
    expected = Expectation(two_modes(0.8, 0.4), generator, 1.5, (24, 3))
    fisher = float(expected.decomposition(0.5, wavy(1.0))["fisher"].detach())
    assert abs(float(expected.loss(1.0, wavy(1.0)).detach())) > 1e-3 * fisher
    assert float(expected.loss(0.0).detach()) == pytest.approx(fisher, rel=1e-6)
    assert abs(float(expected.loss(0.9).detach()) / fisher) > 0.09


@given(st.floats(-1, 2))
@settings(max_examples=10, deadline=None)
def test_the_exact_loss_is_the_suites_for_every_alpha(alpha):
    generator = torch.Generator().manual_seed(0)
    images, noise = (torch.randn(16, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    draws = {"t": torch.rand(16, generator=generator), "noise": as_images(noise)}
    true, fake = (lambda y, *_, **__: 0.7 * y), (lambda y, *_, **__: 0.4 * y + 0.1)
    images = as_images(images)
    theirs = SiDLoss(alpha=alpha).generator_loss(true, fake, images, None, draws=draws).sid
    sigma = SiDLoss().generator_sigma(images, draws)
    divisor = (images - true(images + sigma * draws["noise"])).abs().mean((1, 2, 3), keepdim=True)
    ours = ExactLoss(alphas=torch.full((16, 1, 1, 1), alpha, dtype=torch.float64), divisor=divisor)
    assert torch.allclose(ours.generator_loss(true, fake, images, None, draws=draws).sid, theirs, rtol=1e-6, atol=1e-6)


def test_the_loss_s_own_divisor_breaks_the_third_identity_less_with_more_pixels():
    errors = [divisor_error(pixels, 0.5, 0.25, 0.5, 4000) for pixels in (2, 16, 256)]
    assert errors[0] > 0.3 > 5 * errors[1] > 25 * errors[2]
