"""SiD on Gaussians in closed form: gradients of both steps, fixed points, and their linear stability.

Data N(0, diag s²), generator x = m + r z, ψ the denoiser of N(μ, ρ²). At noise level σ, with the gains
a = s²/(s² + σ²) by axis and b = ρ²/(ρ² + σ²), and d = (a − b) m − (1 − b) μ, the generator's step descends by

    ∂L/∂m = −(1 − a) d − (1 − a)(a − b) m − 2α (a − b) d
    ∂L/∂r = 2r Σ (b − a)[(1 − a) − α (b − a)]                                (sum over axes)

averaged over levels with 1/E|x − f_φ|, and ψ's by

    ∂/∂μ = 2w (1 − b)² (μ − m)
    ∂/∂ρ = 4w b (1 − b)/ρ Σ [b σ² − (1 − b)(r² + (m − μ)²)].

All are sums over axes, so the formulas hold in any number of dimensions. Derivation: studies/alpha/README.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .quadrature import Array, NoiseLevels


@dataclass(frozen=True)
class State:
    """Means ``(..., 2)`` and widths ``(...)`` of generators (m, r) and their ψ (μ, ρ)."""

    m: Array
    r: Array
    mu: Array
    rho: Array


@dataclass(frozen=True)
class Gaussians:
    """Closed forms for data N(0, diag s²) with given noise levels.

    Attributes:
        scales: s by axis, ``(2,)``.
        levels: Noise levels of both steps.
    """

    scales: Array
    levels: NoiseLevels

    @property
    def gains(self) -> Array:
        """Gains a of the data, ``(levels, 2)``."""
        return denoising_gain(self.scales, self.levels.generator[:, None])

    @property
    def weights(self) -> Array:
        """Weight of each level in the generator's step, ``(levels,)``: its share over E|x − f_φ| of the data."""
        spread = self.levels.generator[:, None] * np.sqrt(self.gains)
        return self.levels.generator_shares / (math.sqrt(2 / math.pi) * spread.mean(1))

    @property
    def own_rate(self) -> float:
        """Rate of the generator's mean towards the data's for equal widths: E (1 − a)², mean over axes."""
        return float(self.weights @ ((1 - self.gains) ** 2).mean(1))

    def following_rate(self, width: float) -> float:
        """Rate of ψ's mean towards the generator's, 2 E w (1 − b)²."""
        return float(2 * self._fake_score_weights @ (1 - denoising_gain(width, self.levels.fake_score)) ** 2)

    @property
    def _fake_score_weights(self) -> Array:
        return self.levels.fake_score_shares * self.levels.fake_score_weights

    def generator_slope(self, state: State, alpha: Array | float) -> tuple[Array, Array]:
        """∂L/∂m ``(..., 2)`` and ∂L/∂r ``(...)`` of many states at once, summed over axes.

        Args:
            state: The states.
            alpha: α of each, broadcastable to ``(...)``.
        """
        a, weights = self.gains, self.weights
        gap = a - denoising_gain(state.rho[..., None, None], self.levels.generator[:, None])
        m, mu, alpha = state.m[..., None, :], state.mu[..., None, :], np.asarray(alpha)[..., None, None]
        d = gap * m - (1 - a + gap) * mu
        by_m = -(1 - a) * d - (1 - a) * gap * m - 2 * alpha * gap * d
        by_r = (-gap * ((1 - a) + alpha * gap)).sum(-1)
        return np.einsum("...li,l->...i", by_m, weights), 2 * state.r * (by_r @ weights)

    def fake_score_slope(self, state: State) -> tuple[Array, Array]:
        """Slopes of ψ's loss by μ ``(..., 2)`` and ρ ``(...)``, summed over axes."""
        sigma, weights = self.levels.fake_score, self._fake_score_weights
        b = denoising_gain(state.rho[..., None], sigma)
        behind = state.mu - state.m
        by_mu = 2 * ((1 - b) ** 2 @ weights)[..., None] * behind
        spread = len(self.scales) * state.r[..., None] ** 2 + (behind**2).sum(-1)[..., None]
        by_rho = b * (1 - b) * (len(self.scales) * b * sigma**2 - (1 - b) * spread)
        return by_mu, 4 * (by_rho @ weights) / state.rho

    def fisher_slope(self, state: State) -> tuple[Array, Array]:
        """∂J/∂m and ∂J/∂r of the Fisher divergence, with an exact ψ (μ and ρ of the state are not used)."""
        a, weights = self.gains, self.weights
        b = denoising_gain(state.r[..., None, None], self.levels.generator[:, None])
        by_m = 2 * np.einsum("li,l->i", (1 - a) ** 2, weights) * state.m
        return by_m, 2 * state.r * (((a - b) * (a + b - 2)).sum(-1) @ weights)

    def pull(self, width: float, alpha: float) -> float:
        """(∂L/∂r)/2r with ρ = r = ``width``, whose zeros are the widths at which the generator stops."""
        gap = denoising_gain(width, self.levels.generator)[:, None] - self.gains
        return float(self.weights @ (gap * ((1 - self.gains) - alpha * gap)).sum(1))

    def stops(self, alpha: float, low: float, high: float, count: int = 800) -> list[float]:
        """Zeros of :meth:`pull` between two widths, ascending."""
        grid = np.geomspace(low, high, count)
        values = np.array([self.pull(width, alpha) for width in grid])
        found = [float(width) for width, value in zip(grid, values) if value == 0]
        for index in np.flatnonzero(values[:-1] * values[1:] < 0):
            found.append(self._bisect(alpha, grid[index], grid[index + 1]))
        return sorted(found)

    def _bisect(self, alpha: float, low: float, high: float) -> float:
        rising = self.pull(high, alpha) > 0
        for _ in range(80):
            middle = math.sqrt(low * high)
            low, high = (low, middle) if (self.pull(middle, alpha) > 0) == rising else (middle, high)
        return math.sqrt(low * high)

    def fixed_point(self, alpha: float) -> float | None:
        """The stable width of the descent: the smallest zero at which the pull rises, or None."""
        ends = 0.01 * float(self.scales.min()), 100 * float(self.scales.max())
        rising = [
            w for w in self.stops(alpha, *ends) if self.pull(w * 1.0001, alpha) > 0 > self.pull(w / 1.0001, alpha)
        ]
        return rising[0] if rising else None


@dataclass(frozen=True)
class LinearisedSteps:
    """The linearised steps at a fixed point with m = μ = 0, ρ = r.

    Attributes:
        of_m: ∂²L/∂m∂m by axis, ``(2,)``.
        of_mu: ∂²L/∂m∂μ by axis, ``(2,)``.
        follow_m: Rate of ψ's mean towards the generator's.
        of_rho: ∂²L/∂r∂ρ.
        follow_r: Rate of ψ's width towards the generator's.
    """

    of_m: Array
    of_mu: Array
    follow_m: float
    of_rho: float
    follow_r: float

    def needed(self) -> float:
        """Least rate of ψ over the generator's rate for which small steps are stable, or infinity.

        A block [[of_m, of_mu], [−q, q]] with q = ratio·follow_m is stable if its trace and determinant are positive;
        the block of the widths, with of_m = 0, is stable if ``of_rho`` is positive.
        """
        if self.of_rho <= 0 or bool((self.of_m + self.of_mu <= 0).any()):
            return math.inf
        return max(0.0, float((-self.of_m / self.follow_m).max()))

    def radius(self, theta_rate: float, psi_rate: float) -> float:
        """Spectral radius of one iteration: ψ's step, then the generator's step with the new ψ."""
        blocks = [(m, mu, self.follow_m) for m, mu in zip(self.of_m, self.of_mu)] + [(0.0, self.of_rho, self.follow_r)]
        radii = []
        for own, other, follow in blocks:
            q = psi_rate * follow
            psi = np.array([[1.0, 0.0], [q, 1 - q]])
            theta = np.array([[1 - theta_rate * own, -theta_rate * other], [0.0, 1.0]])
            radii.append(np.abs(np.linalg.eigvals(theta @ psi)).max())
        return float(max(radii))


def linearise(model: Gaussians, width: float, alpha: float) -> LinearisedSteps:
    """The second derivatives of both losses at m = μ = 0, ρ = r = ``width``."""
    a, weights = model.gains, model.weights
    b = denoising_gain(width, model.levels.generator)[:, None]
    gap = a - b
    of_m = -2 * weights @ (gap * ((1 - a) + alpha * gap))
    of_mu = weights @ ((1 - b) * ((1 - a) + 2 * alpha * gap))
    of_rho = float(4 * weights @ (b * (1 - b) * ((1 - a) + 2 * alpha * gap)).sum(1))
    own = denoising_gain(width, model.levels.fake_score)
    weighted = model.levels.fake_score_shares * model.levels.fake_score_weights
    follow_r = float(8 * len(model.scales) * weighted @ (own * (1 - own) ** 2))
    return LinearisedSteps(of_m, of_mu, model.following_rate(width), of_rho, follow_r)


def denoising_gain(width: Array | float, sigma: Array) -> Array:
    """Gain of the best denoiser, width²/(width² + σ²)."""
    return np.square(width) / (np.square(width) + np.square(sigma))


def at_rest(model: Gaussians, alphas: Array) -> dict[str, Any]:
    """Widths and distances at rest.

    Returns:
        By α, with null where the generator never comes to rest: ``widths``, ``frechet`` (Fréchet distance Σ (r − s)²),
        ``reverse_kl`` (KL(generator ‖ data) in nats). Further ``fisher_width`` and ``frechet_width``, the widths of the
        least Fisher divergence (α = ½) and Fréchet distance, and ``frechet_alpha``, the α that rests at the latter.
    """
    widths = [model.fixed_point(float(alpha)) for alpha in alphas]
    best = float(model.scales.mean())
    return {
        "widths": widths,
        "frechet": [None if width is None else frechet(model, width) for width in widths],
        "reverse_kl": [None if width is None else reverse_kl(model, width) for width in widths],
        "fisher_width": model.fixed_point(0.5),
        "frechet_width": best,
        "frechet_alpha": resting_alpha(model, best),
    }


def resting_alpha(model: Gaussians, width: float) -> float:
    """The α for which ``width`` is a zero of the pull, which is affine in α."""
    at_zero, at_one = model.pull(width, 0.0), model.pull(width, 1.0)
    return at_zero / (at_zero - at_one)


def frechet(model: Gaussians, width: float) -> float:
    """Fréchet distance of N(0, width²) and the data: Σ (width − s)²."""
    return float(((width - model.scales) ** 2).sum())


def reverse_kl(model: Gaussians, width: float) -> float:
    """KL(generator ‖ data) in nats."""
    ratio = (width / model.scales) ** 2
    return float(0.5 * (ratio - 1 - np.log(ratio)).sum())


def restless_above(model: Gaussians, most: float = 4.0) -> float | None:
    """The α above which the generator widens without end, or None if it is larger than ``most``."""
    low, high = 1.0, most
    if model.fixed_point(high) is not None:
        return None
    for _ in range(24):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if model.fixed_point(middle) is not None else (low, middle)
    return high
