"""Residuals of SiD's three identities, and decomposition of an imperfect ψ's error, by deterministic quadrature.

With y = x + σn, φ's denoiser f_φ, the generator's own E[x|y] = f*, an imperfect f_ψ = f* + ε, δ* = f_φ − f* and the
Fisher divergence J = E|δ*|²:

    1, 2   E[x|y] = y + σ² ∇ ln p(y)                                     (data; generator)
    3      E δ·(f_φ − x) = E δ·δ*, so L_α = (1 − α) J where ε = 0
    value  L_α = (1 − α) J − (1 − 2α) E δ*·ε − α E|ε|²
    slope  ∇L_α = ½∇J + (½ − α) ∇' E|δ*|² + E ε·∂f* − (1 − 2α) ∇' E δ*·ε − α ∇' E|ε|²

where ∇' differentiates y only, with the functions of y fixed, as a generator's step does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from .mixtures import Mixture
from .quadrature import ExactLoss, as_images, normal_grid

#: Nodes along the axis of the modes (exact up to rounding at the levels below), and across it (exact for polynomials).
NODES, ACROSS = 96, 3
#: Noise levels in units of the modes' width, up to levels at which the modes overlap.
LEVELS = (1.0, 2.0, 6.0)

Error = Callable[[Tensor], Tensor]


def wavy(scale: float, size: float = 0.1) -> Error:
    """An error ε(y) of ψ that is neither a shift nor a change of width, float64 ``(R, P, 2)`` like y."""
    return lambda y: size * scale * torch.stack([torch.cos(y[..., 0] / scale), torch.tanh(y[..., 0] / scale)], -1)


@dataclass(frozen=True)
class Expectation:
    """Expectations at one noise level, for one generator (R = 1) with shared mode scales.

    Attributes:
        target: Mixture of the data.
        generator: Mixture of the generator, whose means and scales may require gradients.
        sigma: The noise level.
        nodes: Number of nodes along the axis of the modes, and across it.
    """

    target: Mixture
    generator: Mixture
    sigma: float
    nodes: tuple[int, int] = (NODES, ACROSS)

    def points(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Images x and noisy images y ``(1, P, 2)``, noise ``(P, 2)`` and shares ``(P,)``."""
        along, across = self.nodes
        grid, shares = normal_grid(along, across, along, across)
        images = self.generator.samples(grid[:, :2])
        noise = grid[:, 2:].repeat(self.generator.modes, 1)
        shares = shares.repeat(self.generator.modes) / self.generator.modes
        return images, images + self.sigma * noise, noise, shares

    def loss(self, alpha: float, error: Error | None = None) -> Tensor:
        """The generator's loss, by the suite's code, summed over pixels; φ and ψ are constant for gradients."""
        images, _, noise, shares = self.points()
        level = torch.as_tensor(self.sigma, dtype=torch.float64)
        frozen = Mixture(self.generator.means.detach(), self.generator.scales.detach())

        def network(mixture: Mixture, error: Error | None) -> Callable[..., Tensor]:
            def net(noisy: Tensor, *_: object) -> Tensor:
                places = noisy.reshape(1, -1, 2)
                denoised = mixture.denoise(places, level)
                return as_images(denoised if error is None else denoised + error(places))

            return net

        loss = _AtLevel(alphas=alpha, level=self.sigma)
        terms = loss.generator_loss(
            network(self.target, None),
            network(frozen, error),
            as_images(images),
            None,
            draws={"noise": as_images(noise)},
        )
        return (shares * terms.sid.sum((1, 2, 3))).sum()

    def fisher(self) -> float:
        """Fisher divergence J."""
        with torch.no_grad():
            _, places, _, shares = self.points()
            level = torch.as_tensor(self.sigma, dtype=torch.float64)
            gap = self.target.denoise(places, level) - self.generator.denoise(places, level)
            return float((shares * gap[0].square().sum(-1)).sum())

    def decomposition(self, alpha: float, error: Error) -> dict[str, Tensor]:
        """Right-hand sides of the module's formulas: ``fisher`` J, and the summands of ``value`` and ``slope``.

        The slope's summands are 0-dim; the formula adds up their gradients by the generator's parameters.
        """
        _, places, _, shares = self.points()
        level = torch.as_tensor(self.sigma, dtype=torch.float64)
        frozen = Mixture(self.generator.means.detach(), self.generator.scales.detach())
        still = places.detach()

        def mean(values: Tensor) -> Tensor:
            return (shares * values[0].sum(-1)).sum()

        def gap(mixture: Mixture, y: Tensor) -> Tensor:
            return self.target.denoise(y, level) - mixture.denoise(y, level)

        whole = mean(gap(self.generator, places).square())
        moved = gap(frozen, places)
        return {
            "fisher": whole,
            "cross": mean(moved * error(places)),
            "square": mean(error(places).square()),
            "half": 0.5 * whole,
            "alpha": (0.5 - alpha) * mean(moved.square()),
            "follow": mean(error(still) * self.generator.denoise(still, level)),
            "error": -(1 - 2 * alpha) * mean(moved * error(places)),
            "second": -alpha * mean(error(places).square()),
        }


class _AtLevel(ExactLoss):
    """The loss at one noise level instead of random ones."""

    def __init__(self, alphas: Tensor | float, level: float) -> None:
        super().__init__(alphas=alphas)
        self.level = level

    def generator_sigma(self, images: Tensor, draws: object = None) -> Tensor:
        return torch.full((len(images), 1, 1, 1), self.level, dtype=images.dtype)


def score_residual(mixture: Mixture, sigma: float, reach: float = 4.0) -> float:
    """Identities 1 and 2: largest |E[x|y] − y − σ²∇ ln p(y)| on a grid, relative to the largest |y|."""
    axis = torch.linspace(-reach, reach, 41, dtype=torch.float64)
    places = torch.cartesian_prod(axis, axis)[None].requires_grad_()
    level = torch.as_tensor(sigma, dtype=torch.float64)
    (score,) = torch.autograd.grad(mixture.log_density(places, level).sum(), places)
    residual = mixture.denoise(places, level) - places - sigma**2 * score
    return float(residual.detach().abs().max() / reach)


def projection_residual(expected: Expectation, alphas: Iterable[float]) -> float:
    """Identity 3: largest |L_α − (1 − α) J| over α, relative to J."""
    fisher = expected.fisher()
    return max(abs(float(expected.loss(alpha).detach()) - (1 - alpha) * fisher) / fisher for alpha in alphas)


def error_residuals(expected: Expectation, alphas: Iterable[float], error: Error) -> tuple[float, float]:
    """Largest relative residuals of the formulas of the value and of the slope with an imperfect ψ."""
    parameters = [expected.generator.means, expected.generator.scales]
    values, slopes = [], []
    for alpha in alphas:
        loss, parts = expected.loss(alpha, error), expected.decomposition(alpha, error)
        value = (1 - alpha) * parts["fisher"] - (1 - 2 * alpha) * parts["cross"] - alpha * parts["square"]
        values.append(float((loss - value).detach().abs() / parts["fisher"].detach()))
        slope = torch.autograd.grad(loss, parameters, retain_graph=True)
        summed = sum(parts[name] for name in ("half", "alpha", "follow", "error", "second"))
        expected_slope = torch.autograd.grad(torch.as_tensor(summed), parameters)
        size = max(float(part.abs().max()) for part in expected_slope)
        slopes += [float((one - other).abs().max()) / size for one, other in zip(slope, expected_slope)]
    return max(values), max(slopes)


def divisor_error(pixels: int, scale: float, width: float, sigma: float, draws: int = 20_000) -> float:
    """Error of identity 3 with the loss's own divisor c = mean |x − f_φ| of a sample: |E δ·(f* − x)/c| over E δ²/c.

    Args:
        pixels: Independent pixels of an image.
        scale: Standard deviation of the data.
        width: Standard deviation of the generator.
        sigma: Noise level.
        draws: Number of samples, with a fixed seed; the error of the result is a few thousandths.
    """
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn((2, draws, pixels), generator=generator, dtype=torch.float64)
    images = width * latents
    noisy = images + sigma * noise
    true, own = (s**2 / (s**2 + sigma**2) * noisy for s in (scale, width))
    divisor = (images - true).abs().mean(1, keepdim=True)
    gap = true - own
    return float(abs((gap * (own - images) / divisor).mean()) / (gap.square() / divisor).mean())
