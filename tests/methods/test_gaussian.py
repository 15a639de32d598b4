"""SiD's three score identities and the bias that α leaves, on Gaussians, where scores and gradients are known exactly.

Data N(0, s²), generator x = m + r z, noisy y = x + σ n. Tweedie's formula makes both denoisers affine:
f_φ(y) = a y with a = s²/(s² + σ²), f_ψ(y) = m + b (y − m) with b = r²/(r² + σ²). With δ = f_φ − f_ψ the Fisher
divergence is J = E δ² and, ψ held at its optimum, the generator's loss is E δ (f_φ − x) − α E δ².
"""

from __future__ import annotations

import math

import pytest
import torch

from sida.methods.sid import SiDALoss, SiDLoss
from sida.noise import sigma_of_t
from sida.training.teacher import EDMLoss

S, M, R, T = 0.7, 0.3, 1.1, 0.45
SHAPE = (256, 1, 64, 64)  # a million draws; within an image |x − f_φ| averages to a constant, up to 1 %


class Affine(torch.nn.Module):
    """The denoiser ``offset + gain (y − offset)`` as a network; its logits are zero."""

    def __init__(self, gain: float, offset: float = 0.0) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(gain, dtype=torch.float64))
        self.offset = torch.nn.Parameter(torch.tensor(offset, dtype=torch.float64))

    def forward(self, noisy, sigma, class_labels=None, augment_labels=None, return_flag=None):
        denoised = self.offset + self.gain * (noisy - self.offset)
        return denoised if return_flag is None else (denoised, torch.zeros(len(noisy), 1, 2, 2))


def sigma() -> float:
    return float(sigma_of_t(torch.tensor(T)))


def gain(scale: float) -> float:
    return scale**2 / (scale**2 + sigma() ** 2)


@pytest.fixture(scope="module")
def normal():
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(SHAPE, generator=generator, dtype=torch.float64) for name in ("z", "noise")}


@pytest.mark.parametrize("loss", [SiDLoss(), EDMLoss()], ids=["fake score", "teacher"])
@pytest.mark.parametrize(("mean", "scale"), [(0.0, S), (M, R)], ids=["data", "generator"])
def test_tweedie_identities_the_best_denoiser_is_the_score_of_the_noisy_images(normal, loss, mean, scale):
    """Identities 1 (data, teacher) and 2 (generator, fake score): E[x|y] = y + σ² ∇ ln p(y)."""
    images = mean + scale * normal["z"]
    level = (math.log(sigma()) - loss.P_mean) / loss.P_std
    draws = {"sigma_normal": torch.full((len(images), 1, 1, 1), level), "noise": normal["noise"]}

    def gradient(net: Affine) -> tuple[float, float]:
        if isinstance(loss, EDMLoss):
            loss(net, images, draws=draws).mean().backward()
        else:
            loss.fake_score_loss(net, images, None, draws=draws).denoising.mean().backward()
        return float(net.gain.grad), float(net.offset.grad)

    assert gradient(Affine(gain(scale), mean)) == pytest.approx((0, 0), abs=0.02)
    assert abs(gradient(Affine(gain(scale) + 0.05, mean))[0]) > 0.2
    assert abs(gradient(Affine(gain(scale), mean + 0.2))[1]) > 0.1


def generator_loss(loss: SiDLoss, normal: dict, m: float = M, r: float = R) -> tuple[float, float, float]:
    """Expected loss and its gradients by m and r, at the optimal fake score, without the scale 1/mean |x − f_φ|."""
    place = torch.tensor([m, r], dtype=torch.float64, requires_grad=True)
    images = place[0] + place[1] * normal["z"]
    true, fake = Affine(gain(S)).requires_grad_(False), Affine(gain(r), m).requires_grad_(False)
    draws = {"t": torch.full((len(images), 1, 1, 1), T * 1000 / loss.t_max), "noise": normal["noise"]}
    value = loss.generator_loss(true, fake, images, None, draws=draws).sid.mean()
    value.backward()
    with torch.no_grad():
        scale = float((images - true(images + sigma() * normal["noise"], None)).abs().mean())
    return value.item() * scale, float(place.grad[0]) * scale, float(place.grad[1]) * scale


def fisher(m: float = M, r: float = R) -> float:
    a, b = gain(S), gain(r)
    return ((a - 1) * m) ** 2 + (a - b) ** 2 * (r**2 + sigma() ** 2)


def fisher_gradient(m: float = M, r: float = R) -> tuple[float, float]:
    """By m and r, with the fake score following the generator."""
    step = 1e-5
    return (
        (fisher(m + step, r) - fisher(m - step, r)) / (2 * step),
        (fisher(m, r + step) - fisher(m, r - step)) / (2 * step),
    )


def frozen_gradient(m: float = M, r: float = R) -> tuple[float, float]:
    """Gradient of E δ² by m and r while the fake score stays where it is."""
    a, b = gain(S), gain(r)
    return 2 * (a - b) * (a - 1) * m, 2 * r * (a - b) ** 2


@pytest.mark.parametrize("loss", [SiDLoss, SiDALoss])
@pytest.mark.parametrize("alpha", [0.5, 1.2])
def test_projection_identity_the_loss_is_one_minus_alpha_fisher_divergences(normal, loss, alpha):
    """Identity 3: E δ·x = E δ·f_ψ, because x may be replaced by its mean given y; so E δ (f_φ − x) = J.

    With ψ frozen, ∇L_α = ½ ∇J − (α − ½) ∇E δ²: only α = ½ follows the Fisher divergence itself.
    """
    value, by_m, by_r = generator_loss(loss(alpha=alpha), normal)
    assert value == pytest.approx((1 - alpha) * fisher(), abs=0.01 * fisher())
    expected = [0.5 * j - (alpha - 0.5) * f for j, f in zip(fisher_gradient(), frozen_gradient())]
    assert (by_m, by_r) == pytest.approx(expected, rel=0.02, abs=0.002)


def test_alpha_above_one_has_a_false_fixed_point_and_runs_away_beyond_it(normal):
    """At m = 0 the gradient by r is 2r (a − b)[(a − 1) − α(a − b)]: for α > 1 it also vanishes at b = a + (1 − a)/α."""
    a = gain(S)
    b = a + (1 - a) / 1.5
    false = sigma() * math.sqrt(b / (1 - b))
    inside, outside = 0.8 * false, 1.3 * false
    assert inside > S
    slopes = {
        alpha: [generator_loss(SiDLoss(alpha), normal, 0.0, r)[2] for r in (inside, outside)] for alpha in (1.0, 1.5)
    }
    assert min(slopes[1.0]) > 0  # descent narrows a generator that is too wide
    assert slopes[1.5][0] > 0 > slopes[1.5][1]
    assert generator_loss(SiDLoss(1.5), normal, 0.0, false)[2] == pytest.approx(0, abs=0.01)
