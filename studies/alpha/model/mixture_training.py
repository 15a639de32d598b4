"""Training of generators of a two-mode mixture by the suite's loss on fixed points, with an exact or a lagging ψ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .mixtures import Mixture, two_modes
from .quadrature import ExactLoss, NoiseLevels, as_images, noise_levels, normal_grid

#: Size of means and scales, in the units of the data, beyond which a run has diverged and no longer moves.
AWAY = 50.0
#: Number of recorded distances.
RECORDS = 100


@dataclass(frozen=True)
class Problem:
    """Data with two modes, noise levels and fixed latents and noise.

    Attributes:
        target: Mixture of the data.
        levels: Noise levels of both steps.
        latents: z ``(P, 2)``.
        noise: n of each mode's latents, ``(2·P, 2)``.
    """

    target: Mixture
    levels: NoiseLevels
    latents: Tensor
    noise: Tensor

    def start(self, runs: int) -> Mixture:
        """Initial generators, as in a distillation: nearly one point between the modes."""
        shrunk = two_modes(0.2 * float(self.target.means[0, 1, 0]), 0.2 * float(self.target.scales[0, 0]), runs)
        # The means must not start on the axis of symmetry, which they would never leave.
        return Mixture(shrunk.means + 0.05 * float(self.target.scales[0, 0]), shrunk.scales)

    def theta_slope(self, generator: Mixture, psi: Mixture, alphas: Tensor) -> Mixture:
        """Slopes of the generators' losses by mean and scale, with fixed φ and ψ; α by run ``(R,)``."""
        levels = self.levels
        leaves = Mixture(generator.means.detach().requires_grad_(), generator.scales.detach().requires_grad_())
        divisor = self._by_sample(1 / self._weights, len(alphas))
        per_run = divisor.numel() // len(alphas)
        loss = ExactLoss(alphas=alphas.repeat_interleave(per_run).view(-1, 1, 1, 1), divisor=divisor)
        draws = {"t": self._by_sample(torch.tensor(levels.times), len(alphas)), "noise": self._noise(len(alphas))}
        images = self._images(leaves)
        terms = loss.generator_loss(self._network(self.target), self._network(psi), images, None, draws=draws)
        shares = self._by_sample(torch.tensor(levels.generator_shares), len(alphas))
        total = (shares * terms.sid).sum() / (per_run / len(levels.times))
        return Mixture(*torch.autograd.grad(total, [leaves.means, leaves.scales]))

    def psi_slope(self, generator: Mixture, psi: Mixture) -> Mixture:
        """Slopes of ψ's losses by mean and scale."""
        levels, runs = self.levels, len(generator.means)
        leaves = Mixture(psi.means.detach().requires_grad_(), psi.scales.detach().requires_grad_())
        draws = {"sigma_normal": self._by_sample(torch.tensor(levels.normals), runs), "noise": self._noise(runs)}
        terms = ExactLoss().fake_score_loss(self._network(leaves), self._images(generator).detach(), None, draws=draws)
        shares = self._by_sample(torch.tensor(levels.fake_score_shares), runs)
        total = (shares * terms.denoising).sum() / (len(shares) / runs / len(levels.normals))
        return Mixture(*torch.autograd.grad(total, [leaves.means, leaves.scales]))

    @property
    def rates(self) -> tuple[float, float]:
        """Rates, as for one Gaussian, of a mode's mean towards the data's, and of ψ's mean towards the generator's."""
        scale, levels = float(self.target.scales[0, 0]), self.levels
        kept = [torch.tensor(scale**2 / (scale**2 + sigma**2)) for sigma in (levels.generator, levels.fake_score)]
        theta = (torch.tensor(levels.generator_shares) * self._weights * (1 - kept[0]) ** 2).sum()
        weights = torch.tensor(levels.fake_score_shares * levels.fake_score_weights)
        # Each mode has half of the samples.
        return float(theta) / 2, float(2 * (weights * (1 - kept[1]) ** 2).sum()) / 2

    @property
    def _weights(self) -> Tensor:
        """Weights 1/E|x − f_φ| of one mode, by level of the generator's step."""
        sigma, scale = torch.tensor(self.levels.generator), self.target.scales[0, 0]
        return 1 / (math.sqrt(2 / math.pi) * sigma * scale / (sigma**2 + scale**2).sqrt())

    def _images(self, generator: Mixture) -> Tensor:
        """Images of all runs, repeated for every level."""
        points = generator.samples(self.latents)
        return as_images(points[:, None].expand(-1, len(self.levels.times), -1, -1))

    def _noise(self, runs: int) -> Tensor:
        return as_images(self.noise.expand(runs, len(self.levels.times), -1, -1))

    def _by_sample(self, values: Tensor, runs: int) -> Tensor:
        """Values by level as ``(N, 1, 1, 1)``."""
        return values[None, :, None].expand(runs, -1, len(self.noise)).reshape(-1, 1, 1, 1)

    @staticmethod
    def _network(mixture: Mixture) -> Any:
        """The denoiser of one mixture for all runs, or of one mixture for each run, as a network."""

        def net(noisy: Tensor, sigma: Tensor, *_: Any, **__: Any) -> Tensor:
            runs = len(mixture.means)
            denoised = mixture.denoise(noisy.reshape(runs, -1, 2), sigma.double().reshape(runs, -1))
            return as_images(denoised)

        return net

    def divergence(self, generator: Mixture) -> Tensor:
        """KL(generator ‖ data) in nats ``(R,)``, by Gauss-Hermite quadrature of each mode."""
        grid, shares = normal_grid(16, 16)
        places = generator.samples(grid)
        nought = torch.zeros((), dtype=torch.float64)
        gap = generator.log_density(places, nought) - self._of_all(places, nought)
        return (gap * shares.repeat(generator.modes) / generator.modes).sum(-1)

    def _of_all(self, places: Tensor, sigma: Tensor) -> Tensor:
        return self.target.log_density(places.reshape(1, -1, 2), sigma).reshape(places.shape[:-1])


def problem(distance: float, scale: float, levels: int, points: int, t_max: float) -> Problem:
    """The problem with fixed, evenly spread latents and noise; arguments as of :class:`AnalyticSettings`."""
    engine = torch.quasirandom.SobolEngine(4, scramble=True, seed=0)
    normal = torch.distributions.Normal(0.0, 1.0).icdf(engine.draw(max(1, points // 2), dtype=torch.float64))
    # Each point has its mirror image, so that means are exactly zero.
    normal = torch.cat([normal, -normal])[:points]
    quadrature = noise_levels(ExactLoss(t_max=t_max), levels)
    return Problem(two_modes(distance, scale), quadrature, normal[:, :2], normal[:, 2:].repeat(2, 1))


def train(problem: Problem, alphas: Sequence[float], step: float, steps: int, ratio: float | None) -> dict[str, Any]:
    """Trains a generator for each α by gradient descent, ψ's step first.

    Args:
        problem: Data, levels and points.
        alphas: Values of α, including 1.0.
        step: Step size in units of the generator's own rate.
        steps: Number of steps.
        ratio: Rate of ψ over the generator's rate; ψ starts at φ. None: ψ is exact at every step.

    Returns:
        ``steps``: recorded steps. ``distance``: KL(generator ‖ data) by α and step. ``cosine`` by α and step: cosine
        between the slope and the slope of α = 1, at the states of the run with α = 1. ``cross_over_alpha`` by step: the
        size of the slope at α = 0 over the size of the α term at α = 1, at the same states. ``diverged`` by α.
    """
    runs = len(alphas)
    by_run = torch.tensor(list(alphas), dtype=torch.float64)
    theta = problem.start(runs)
    psi = two_modes(float(problem.target.means[0, 1, 0]), float(problem.target.scales[0, 0]), runs)
    rates = problem.rates
    one = list(alphas).index(1.0)
    kept: list[int] = []
    distances, cosines, shares = [], [], []
    for number in range(steps + 1):
        if ratio is None:
            psi = Mixture(theta.means, theta.scales)
        if number % max(1, steps // RECORDS) == 0:
            kept.append(number)
            distances.append(problem.divergence(theta))
            cosine, share = _compared(problem, theta, psi, by_run, one)
            cosines.append(cosine)
            shares.append(share)
        if ratio is not None:
            psi = _moved(psi, problem.psi_slope(theta, psi), ratio * step / rates[1])
        theta = _moved(theta, problem.theta_slope(theta, psi, by_run), step / rates[0])
    return {
        "steps": kept,
        "distance": torch.stack(distances, 1).tolist(),
        "cosine": torch.stack(cosines, 1).tolist(),
        "cross_over_alpha": shares,
        "diverged": (~_inside(theta)).tolist(),
    }


def _compared(problem: Problem, theta: Mixture, psi: Mixture, alphas: Tensor, one: int) -> tuple[Tensor, float]:
    """Cosines of all slopes with that of α = 1, at its state, and the size of the cross term over the α term's."""
    theta, psi = (Mixture(m.means[[one, one]], m.scales[[one, one]]) for m in (theta, psi))
    slope = problem.theta_slope(theta, psi, torch.tensor([0.0, 1.0], dtype=torch.float64))
    cross, both = torch.cat([slope.means.flatten(1), slope.scales], 1)
    every = cross + alphas[:, None] * (both - cross)
    # Slopes vanish at the optimum, and at the start if ψ is φ; then the cosine is NaN.
    sizes = every.norm(dim=1) * both.norm()
    cosine = torch.where(sizes > 1e-12, (every @ both) / sizes, torch.nan)
    added = float((both - cross).norm())
    return cosine, float(cross.norm()) / added if added > 1e-12 else math.inf


def _inside(mixture: Mixture) -> Tensor:
    within = (mixture.means.abs().amax((1, 2)) < AWAY) & (mixture.scales.abs().amax(1) < AWAY)
    return within & ~mixture.means.isnan().any(2).any(1)


def _moved(mixture: Mixture, slope: Mixture, rate: float) -> Mixture:
    moving = _inside(mixture).to(torch.float64) * rate
    return Mixture(mixture.means - moving[:, None, None] * slope.means, mixture.scales - moving[:, None] * slope.scales)
