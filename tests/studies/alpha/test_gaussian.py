"""Closed forms on Gaussians, and three identities of exact scores on mixtures, against the suite's losses."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sida.losses import SiDLoss
from studies.alpha.model.bias import fake_score_loss_slope, loss_slope, slope_errors, unbiased_alpha
from studies.alpha.model.gaussian import (
    Gaussians,
    State,
    denoising_gain,
    frechet,
    linearise,
    resting_alpha,
    restless_above,
)
from studies.alpha.model.identities import (
    Expectation,
    divisor_error,
    error_residuals,
    projection_residual,
    score_residual,
    wavy,
)
from studies.alpha.model.mixtures import Mixture, two_modes
from studies.alpha.model.quadrature import ExactLoss, as_images, noise_levels
from studies.alpha.model.stability import descend, ratios_map, starts_map

LEVELS = noise_levels(SiDLoss(), 8)
EVEN, UNEVEN = Gaussians(np.array([0.5, 0.5]), LEVELS), Gaussians(np.array([2.0, 0.25]), LEVELS)
numbers, widths, alphas = st.floats(-1, 1), st.floats(0.2, 2.0), st.floats(-0.5, 2.0)


def flat(slopes: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    return np.concatenate([np.ravel(part) for part in slopes])


@given(st.tuples(numbers, numbers, numbers, numbers), widths, widths, alphas)
@settings(max_examples=6, deadline=None)
def test_slopes_are_those_of_the_suites_losses(means, r, rho, alpha):
    state = State(np.array(means[:2]), np.array(r), np.array(means[2:]), np.array(rho))
    assert loss_slope(UNEVEN, state, alpha) == pytest.approx(
        flat(UNEVEN.generator_slope(state, alpha)), rel=1e-6, abs=1e-6
    )
    assert fake_score_loss_slope(UNEVEN, state) == pytest.approx(
        flat(UNEVEN.fake_score_slope(state)), rel=1e-6, abs=1e-5
    )


@given(st.tuples(numbers, numbers), widths)
@settings(max_examples=20, deadline=None)
def test_half_is_the_alpha_that_descends_the_fisher_divergence(means, r):
    def fisher(m: np.ndarray, r: float) -> float:
        a, sigma = UNEVEN.gains, LEVELS.generator[:, None]
        b = denoising_gain(r, sigma)
        return float(UNEVEN.weights @ (((1 - a) * m) ** 2 + (a - b) ** 2 * (r**2 + sigma**2)).sum(1))

    m, step = np.array(means), 1e-5
    state = State(m, np.array(r), m, np.array(r))
    by_m, by_r = UNEVEN.fisher_slope(state)
    assert by_r == pytest.approx((fisher(m, r + step) - fisher(m, r - step)) / (2 * step), abs=1e-5)
    shift = np.array([step, 0])
    assert by_m[0] == pytest.approx((fisher(m + shift, r) - fisher(m - shift, r)) / (2 * step), abs=1e-5)
    assert 2 * UNEVEN.generator_slope(state, 0.5)[1] == pytest.approx(by_r, abs=1e-9)
    difference = UNEVEN.generator_slope(state, 1.2)[1] - by_r / 2
    assert abs(difference) > 1e-4 or abs(by_r) < 1e-2


@pytest.mark.parametrize("model", [EVEN, UNEVEN], ids=["even", "uneven"])
@given(alpha=st.floats(-0.2, 1.15))
@settings(max_examples=10, deadline=None)
def test_the_linearised_steps_are_the_derivatives_of_the_real_ones(model, alpha):
    width = model.fixed_point(alpha)
    assert width is not None
    linear, step = linearise(model, width, alpha), 1e-6

    def slopes(m: float, r: float, mu: float, rho: float) -> np.ndarray:
        state = State(np.array([0.0, m]), np.array(width + r), np.array([0.0, mu]), np.array(width + rho))
        theta, psi = model.generator_slope(state, alpha), model.fake_score_slope(state)
        return np.array([theta[0][1], theta[1], psi[0][1], psi[1]])

    jacobian = np.array([(slopes(*d) - slopes(*-d)) / (2 * step) for d in step * np.eye(4)]).T
    own, other, q, p = linear.of_m[1], linear.of_mu[1], linear.follow_m, linear.follow_r
    expected = [[own, 0, other, 0], [0, 0, 0, linear.of_rho], [-q, 0, q, 0], [0, -p, 0, p]]
    assert jacobian == pytest.approx(np.array(expected), abs=1e-4)


def test_at_an_optimum_that_can_be_reached_alpha_is_absent():
    one, other = (linearise(EVEN, 0.5, alpha) for alpha in (-0.25, 1.5))
    assert one.of_m == pytest.approx([0, 0], abs=1e-12)
    assert one.of_mu == pytest.approx(other.of_mu)
    assert one.of_rho == pytest.approx(other.of_rho)
    there, elsewhere = (linearise(UNEVEN, UNEVEN.fixed_point(alpha) or 0, alpha) for alpha in (0.0, 1.0))
    assert abs(there.of_rho - elsewhere.of_rho) > 0.01


@given(st.floats(0.0, 1.0))
@settings(max_examples=6, deadline=None)
def test_only_alphas_from_0_to_1_have_no_false_fixed_point(alpha):
    assert EVEN.stops(alpha, 0.01, 100) == pytest.approx([0.5], rel=1e-6)
    for beyond in (-0.25, 1.2, 1.5):
        assert len(EVEN.stops(beyond, 0.005, 100)) == 2


def test_starts_lead_where_the_false_fixed_points_say():
    found = starts_map(EVEN, np.array([-0.25, 0.5, 1.0, 1.5]), np.array([0.06, 0.3, 4.0, 9.0]), 0.05, 2500)
    assert found["agreement"] == 1
    assert found["outcomes"][0][0] == "narrow"
    assert found["outcomes"][3][3] == "wide"
    assert set(found["outcomes"][1] + found["outcomes"][2]) == {"data"}


def test_a_generator_that_cannot_match_stays_where_the_eigenvalues_say():
    found = ratios_map(UNEVEN, np.array([0.0, 1.0, 1.5]), np.array([0.05, 0.4, 1.5]), 0.05, 2500)
    assert found["agreement"] == 1
    assert found["outcomes"] == [["leaves", "stays", "stays"], ["leaves", "leaves", "stays"], ["leaves"] * 3]
    assert found["needed"][0] < found["needed"][1]
    assert found["needed"][2] is None


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_a_generator_that_cannot_match_rests_where_it_is_said_to(alpha):
    state = State(np.full((1, 2), 0.1), np.array([0.8]), np.zeros((1, 2)), np.array([0.8]))
    last, _ = descend(UNEVEN, state, np.array([alpha]), 0.05 / UNEVEN.own_rate, None, 6000)
    assert last.r[0] == pytest.approx(UNEVEN.fixed_point(alpha), rel=1e-3)


def test_the_best_alpha_for_the_frechet_distance_is_above_the_unbiased_one():
    best = resting_alpha(UNEVEN, 1.125)
    assert UNEVEN.fixed_point(best) == pytest.approx(1.125)
    assert 0.5 < best < (restless_above(UNEVEN) or 0)
    assert frechet(UNEVEN, 1.125) < min(frechet(UNEVEN, UNEVEN.fixed_point(alpha) or 0) for alpha in (0.5, 1.0, 1.2))


def test_errors_of_slopes_vanish_at_half_with_an_exact_fake_score_and_elsewhere_with_a_lagging_one():
    narrow, wide = (unbiased_alpha(EVEN, width) for width in (0.25, 1.0))
    assert narrow < 0
    assert wide > 0.5
    assert unbiased_alpha(EVEN, 0.5) is None
    found = slope_errors(EVEN, np.array([0.5, narrow, wide]))
    assert found["exact"]["narrow"][0] == pytest.approx(0)
    assert found["exact"]["wide"][0] == pytest.approx(0)
    assert found["lagging"]["narrow"][1] == pytest.approx(found["exact"]["narrow"][1])
    assert found["lagging"]["wide"][2] == pytest.approx(found["exact"]["wide"][2])
    assert found["lagging"]["right"] == pytest.approx([0.25] * 3)


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
