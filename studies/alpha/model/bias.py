"""Effect of an imperfect ψ on the generator's slope, by α, in closed form on Gaussians."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .gaussian import Gaussians, State, denoising_gain
from .quadrature import Array, ExactLoss, as_images, normal_grid

#: Lag of ψ's mean behind the generator's mean, as a share of the generator's distance from the data.
LAG = 0.25
#: Widths of the generator over the data's width: too narrow, right, too wide.
GENERATOR_WIDTHS = {"narrow": 0.5, "right": 1.0, "wide": 2.0}


def slope_errors(model: Gaussians, alphas: Array) -> dict[str, Any]:
    """Relative error of ∂L/∂m against ½ ∂J/∂m, with an exact ψ and with a ψ whose mean lags behind.

    Returns:
        ``exact`` and ``lagging``: by width (:data:`GENERATOR_WIDTHS`) a list over α; ``zero``: by width the α at which
        the lag adds no error (the error is linear in the lag), or null.
    """
    scale = float(model.scales[0])
    shape = (len(alphas), 2)
    found: dict[str, Any] = {"exact": {}, "lagging": {}, "zero": {}}
    for name, width in GENERATOR_WIDTHS.items():
        wide = np.full(len(alphas), width * scale)
        for kind, behind in (("exact", 0.0), ("lagging", LAG)):
            # The generator moved from 1 + lag towards 0, and ψ's mean is still at 1 + lag.
            state = State(np.ones(shape), wide, np.full(shape, 1.0 + behind), wide)
            by_m = model.generator_slope(state, alphas)[0][:, 0]
            true = 0.5 * model.fisher_slope(state)[0][:, 0]
            found[kind][name] = (by_m / true - 1).tolist()
        found["zero"][name] = unbiased_alpha(model, width * scale)
    return found


def unbiased_alpha(model: Gaussians, width: float) -> float | None:
    """The α at which a lag of ψ's mean does not change ∂L/∂m: −E (1 − b)(1 − a) / 2E (1 − b)(a − b); or None."""
    a = model.gains[:, 0]
    b = denoising_gain(width, model.levels.generator)
    below = 2 * model.weights @ ((1 - b) * (a - b))
    if abs(below) < 1e-9 * float(model.weights @ (1 - b)):
        return None
    return float(-(model.weights @ ((1 - b) * (1 - a))) / below)


def closed_form_residual(model: Gaussians, alphas: Array, states: int = 8) -> float:
    """Largest relative difference of the closed form from autograd on the suite's losses, at random states.

    Quadrature with three nodes per variable is exact, since all integrands are polynomials of degree 2.
    """
    random = np.random.default_rng(0)
    worst = 0.0
    for _ in range(states):
        m, mu = random.normal(size=(2, 2))
        r, rho = random.uniform(0.3, 2.0, 2)
        alpha = float(random.choice(alphas))
        state = State(m, np.array(r), mu, np.array(rho))
        expected = np.concatenate([np.ravel(part) for part in model.generator_slope(state, alpha)])
        found = loss_slope(model, state, alpha)
        worst = max(worst, float(np.abs(found - expected).max() / np.abs(expected).max()))
        expected = np.concatenate([np.ravel(part) for part in model.fake_score_slope(state)])
        found = fake_score_loss_slope(model, state)
        worst = max(worst, float(np.abs(found - expected).max() / np.abs(expected).max()))
    return worst


def loss_slope(model: Gaussians, state: State, alpha: float) -> Array:
    """∂L/∂m and ∂L/∂r, ``(3,)``, of the suite's loss, by autograd on a quadrature."""
    levels = model.levels
    grid, shares = normal_grid(3, 3, 3, 3)
    leaves = [torch.tensor(value, requires_grad=True) for value in (state.m, state.r)]
    points = (leaves[0] + leaves[1] * grid[:, :2]).expand(len(levels.times), -1, -1)
    each = len(grid)
    scales = torch.tensor(model.scales).view(1, 2, 1, 1)
    mu, rho = torch.tensor(state.mu).view(1, 2, 1, 1), torch.tensor(state.rho)

    def teacher(noisy: torch.Tensor, sigma: torch.Tensor, *_: object) -> torch.Tensor:
        return scales**2 / (scales**2 + sigma.double() ** 2) * noisy

    def fake(noisy: torch.Tensor, sigma: torch.Tensor, *_: object) -> torch.Tensor:
        return mu + rho**2 / (rho**2 + sigma.double() ** 2) * (noisy - mu)

    divisor = torch.tensor(levels.generator_shares / model.weights).repeat_interleave(each).view(-1, 1, 1, 1)
    times = torch.tensor(levels.times).repeat_interleave(each)
    draws = {"t": times, "noise": as_images(grid[:, 2:].expand(len(levels.times), -1, -1))}
    terms = ExactLoss(alphas=alpha, divisor=divisor).generator_loss(teacher, fake, as_images(points), None, draws=draws)
    weights = (torch.tensor(levels.generator_shares)[:, None] * shares).flatten()
    slopes = torch.autograd.grad((weights * terms.sid.sum((1, 2, 3))).sum(), leaves)
    return np.concatenate([part.numpy().ravel() for part in slopes])


def fake_score_loss_slope(model: Gaussians, state: State) -> Array:
    """Slopes by μ and ρ, ``(3,)``, of the suite's loss of ψ, by autograd on a quadrature."""
    levels = model.levels
    grid, shares = normal_grid(3, 3, 3, 3)
    leaves = [torch.tensor(value, requires_grad=True) for value in (state.mu, state.rho)]
    points = (torch.tensor(state.m) + torch.tensor(state.r) * grid[:, :2]).expand(len(levels.times), -1, -1)

    def fake(noisy: torch.Tensor, sigma: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        mean = leaves[0].view(1, 2, 1, 1)
        return mean + leaves[1] ** 2 / (leaves[1] ** 2 + sigma.double() ** 2) * (noisy - mean)

    noise = as_images(grid[:, 2:].expand(len(levels.times), -1, -1))
    draws = {"sigma_normal": torch.tensor(levels.normals).repeat_interleave(len(grid)), "noise": noise}
    terms = ExactLoss().fake_score_loss(fake, as_images(points), None, draws=draws)
    weights = (torch.tensor(levels.fake_score_shares)[:, None] * shares).flatten()
    slopes = torch.autograd.grad((weights * terms.denoising.sum((1, 2, 3))).sum(), leaves)
    return np.concatenate([part.numpy().ravel() for part in slopes])
