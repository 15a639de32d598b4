"""Simulated descents on Gaussians, compared with the predictions of the closed forms."""

from __future__ import annotations

from typing import Any

import numpy as np

from .gaussian import Gaussians, State, linearise
from .quadrature import Array

#: Widths that count as collapsed, and as grown without end, in units of the data's width.
COLLAPSED, AWAY = 0.02, 200.0
#: Distance from rest at the start of a stability test, relative to the width at rest.
NUDGE = 1e-3
#: Largest distance from rest at the end of a stability test that counts as stable, relative to the width at rest.
NEAR_REST = 0.1
#: σ_init of all published generators.
INIT_SIGMA = 2.5


def descend(
    model: Gaussians, state: State, alpha: Array, theta_rate: float, psi_rate: Array | None, steps: int, keep: int = 0
) -> tuple[State, list[Array]]:
    """Gradient descent of many generators at once: in each step ψ moves first, then the generator with the new ψ.

    Args:
        model: The data and its levels.
        state: Initial states, ``(runs, 2)`` and ``(runs,)``.
        alpha: α of each run, ``(runs,)``.
        theta_rate: Learning rate of the generator.
        psi_rate: Learning rate of each ψ, ``(runs,)``; None: ψ is exact at every step.
        steps: Number of steps.
        keep: Number of steps between two recorded distances from the start (largest of |m|, |μ|, |Δr|, |Δρ|); 0
            records none.

    Returns:
        The last states, and the recorded distances ``(runs,)``. A run whose width leaves [collapsed, away] stops there.
    """
    size = float(np.sqrt(np.prod(model.scales)))
    rest, trace = state, []
    for step in range(steps):
        if psi_rate is None:
            state = State(state.m, state.r, state.m, np.abs(state.r))
        else:
            by_mu, by_rho = model.fake_score_slope(state)
            rho = np.abs(state.rho - psi_rate * by_rho)
            state = State(state.m, state.r, state.mu - psi_rate[:, None] * by_mu, rho)
        by_m, by_r = model.generator_slope(state, alpha)
        width = np.abs(state.r)
        moving = (width > COLLAPSED * size) & (width < AWAY * size) & (np.abs(state.m).max(-1) < AWAY * size)
        rate = np.where(moving, theta_rate, 0.0)
        state = State(state.m - rate[:, None] * by_m, state.r - rate * by_r, state.mu, state.rho)
        if keep and step % keep == 0:
            means = np.maximum(np.abs(state.m), np.abs(state.mu)).max(-1)
            widths = np.maximum(np.abs(state.r - rest.r), np.abs(state.rho - rest.rho))
            trace.append(np.maximum(means, widths))
    return state, trace


def starts_map(model: Gaussians, alphas: Array, starts: Array, rate: float, steps: int) -> dict[str, Any]:
    """Final widths of generators with other initial widths and an exact ψ, and their prediction by the closed form.

    Args:
        model: Data of one width s.
        alphas: Values of α.
        starts: Initial widths over s.
        rate: Step in units of the generator's own rate.
        steps: Number of steps.

    Returns:
        ``outcomes`` by α and start (``data``, ``narrow``, ``wide`` or ``between``), ``predicted`` likewise, the false
        fixed points ``low`` and ``high`` by α (or null), ``official_start`` and ``agreement``.
    """
    s = float(model.scales[0])
    runs = np.repeat(alphas, len(starts)), np.tile(starts, len(alphas)) * s
    nought = np.zeros((len(runs[0]), 2))
    state = State(nought + 0.1 * s, runs[1].copy(), nought, runs[1])
    last, _ = descend(model, state, runs[0], rate / model.own_rate, None, steps)
    outcomes = [_named(width / s) for width in np.abs(last.r)]
    rows, low, high = [], [], []
    for alpha in alphas:
        false = [width / s for width in model.stops(float(alpha), COLLAPSED * s, AWAY * s) if abs(width / s - 1) > 1e-3]
        low.append(max((width for width in false if width < 1), default=None))
        high.append(min((width for width in false if width > 1), default=None))
        rows.append([_side(float(start), low[-1], high[-1]) for start in starts])
    found = [outcomes[len(starts) * row : len(starts) * (row + 1)] for row in range(len(alphas))]
    # Initial width of a generator in a distillation: the teacher's denoiser applied to σ_init·z at σ_init.
    official = s * INIT_SIGMA / (s**2 + INIT_SIGMA**2)
    return {"outcomes": found, "predicted": rows, "low": low, "high": high, "official_start": official} | _agreed(
        found, rows
    )


def _named(width: float) -> str:
    if width <= 1.5 * COLLAPSED:
        return "narrow"
    if width >= 0.9 * AWAY:
        return "wide"
    return "data" if abs(width - 1) < 0.05 else "between"


def _side(start: float, low: float | None, high: float | None) -> str:
    if low is not None and start < low:
        return "narrow"
    return "wide" if high is not None and start > high else "data"


def ratios_map(model: Gaussians, alphas: Array, ratios: Array, rate: float, steps: int) -> dict[str, Any]:
    """Whether a generator that cannot match the data returns to its point of rest, by α and ψ's rate.

    Args:
        model: Data of two widths.
        alphas: Values of α.
        ratios: Rates of ψ over the generator's rate.
        rate: Step in units of the generator's own rate.
        steps: Number of steps.

    Returns:
        ``needed`` the least ratio by α (null: none suffices), ``outcomes`` and ``predicted`` (``stays`` or ``leaves``)
        by α and ratio, and ``agreement``.
    """
    fisher = model.fixed_point(0.5)
    assert fisher is not None  # the Fisher divergence grows at both ends
    theta_rate, unit = rate / model.own_rate, rate / model.following_rate(fisher)
    widths = [model.fixed_point(float(alpha)) for alpha in alphas]
    needed: list[float | None] = []
    predicted = []
    for alpha, width in zip(alphas, widths):
        if width is None:
            needed.append(None)
            predicted.append(["leaves"] * len(ratios))
            continue
        linear = linearise(model, width, float(alpha))
        least = linear.needed() * model.following_rate(fisher) / model.own_rate
        needed.append(least if np.isfinite(least) else None)
        radii = [linear.radius(theta_rate, ratio * unit) for ratio in ratios]
        predicted.append(["stays" if radius < 1 else "leaves" for radius in radii])
    # Without a point of rest the start is the minimum of the Fisher divergence.
    rest = np.repeat([width or fisher for width in widths], len(ratios))
    stays = _stays(model, rest, np.repeat(alphas, len(ratios)), theta_rate, np.tile(ratios, len(alphas)) * unit, steps)
    outcomes = [stays[len(ratios) * row : len(ratios) * (row + 1)] for row in range(len(alphas))]
    return {"needed": needed, "outcomes": outcomes, "predicted": predicted} | _agreed(outcomes, predicted)


def _stays(model: Gaussians, rest: Array, alpha: Array, theta_rate: float, psi_rate: Array, steps: int) -> list[str]:
    """Starts near a point of rest; a run stays if its distance shrinks and is small at the end."""
    means = np.repeat(NUDGE * rest[:, None], 2, 1)
    state = State(means, rest * (1 + NUDGE), means.copy(), rest.copy())
    _, trace = descend(model, state, alpha, theta_rate, psi_rate, steps, keep=1)
    distances = np.array(trace)
    third = steps // 3
    early, late = distances[:third].max(0), distances[-third:].max(0)
    return [
        "stays" if after < before and after < NEAR_REST * width else "leaves"
        for before, after, width in zip(early, late, rest)
    ]


def _agreed(found: list[list[str]], predicted: list[list[str]]) -> dict[str, float]:
    pairs = [pair for one, other in zip(found, predicted) for pair in zip(one, other)]
    return {"agreement": sum(a == b for a, b in pairs) / len(pairs)}
