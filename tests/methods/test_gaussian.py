"""SiD's three score identities, on Gaussians, where scores and gradients are known exactly.

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


def generator_loss(loss: SiDLoss, normal: dict) -> tuple[float, float, float]:
    """Expected loss and its gradients by m and r, at the optimal fake score, without the scale 1/mean |x − f_φ|."""
    place = torch.tensor([M, R], dtype=torch.float64, requires_grad=True)
    images = place[0] + place[1] * normal["z"]
    true, fake = Affine(gain(S)).requires_grad_(False), Affine(gain(R), M).requires_grad_(False)
    draws = {"t": torch.full((len(images), 1, 1, 1), T * 1000 / loss.t_max), "noise": normal["noise"]}
    value = loss.generator_loss(true, fake, images, None, draws=draws).sid.mean()
    value.backward()
    with torch.no_grad():
        scale = float((images - true(images + sigma() * normal["noise"], None)).abs().mean())
    return value.item() * scale, float(place.grad[0]) * scale, float(place.grad[1]) * scale


def fisher(m: float = M, r: float = R) -> float:
    a, b = gain(S), gain(r)
    return ((a - 1) * m) ** 2 + (a - b) ** 2 * (r**2 + sigma() ** 2)


@pytest.mark.parametrize("loss", [SiDLoss, SiDALoss])
@pytest.mark.parametrize("alpha", [0.5, 1.2])
def test_projection_identity_the_loss_is_one_minus_alpha_fisher_divergences(normal, loss, alpha):
    """Identity 3: E δ·x = E δ·f_ψ, because x may be replaced by its mean given y; so E δ (f_φ − x) = J.

    With ψ frozen, ∇L_α = ½ ∇J − (α − ½) ∇E δ²: only α = ½ follows the Fisher divergence itself.
    """
    value, by_m, by_r = generator_loss(loss(alpha=alpha), normal)
    assert value == pytest.approx((1 - alpha) * fisher(), abs=0.01 * fisher())
    step, difference = 1e-5, gain(S) - gain(R)
    # J with the fake score following the generator, and E δ² while it stays, by m and by r.
    following = [
        (fisher(M + step) - fisher(M - step)) / (2 * step),
        (fisher(r=R + step) - fisher(r=R - step)) / (2 * step),
    ]
    frozen = [2 * difference * (gain(S) - 1) * M, 2 * R * difference**2]
    expected = [0.5 * j - (alpha - 0.5) * f for j, f in zip(following, frozen)]
    assert (by_m, by_r) == pytest.approx(expected, rel=0.02, abs=0.002)
