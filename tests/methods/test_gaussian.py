"""SiD's projected score identity, on Gaussians, where scores and gradients are known exactly.

Data N(0, s²), generator x = m + r z, noisy y = x + σ n. Tweedie's formula makes both denoisers affine:
f_φ(y) = a y with a = s²/(s² + σ²), f_ψ(y) = m + b (y − m) with b = r²/(r² + σ²). With δ = f_φ − f_ψ the Fisher
divergence is J = E δ² and, ψ held at its optimum, the generator's loss is E δ (f_φ − x) − α E δ².
The losses whose best denoisers these are: test_recorded.py.
"""

from typing import Any

import pytest
import torch

from sida.methods.sid import SiDALoss, SiDLoss
from sida.noise import sigma_of_t

S, M, R, T = 0.7, 0.3, 1.1, 0.45
SIGMA = float(sigma_of_t(torch.tensor(T)))
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


def gain(scale: Any) -> Any:
    return scale**2 / (scale**2 + SIGMA**2)


@pytest.fixture(scope="module")
def normal():
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(SHAPE, generator=generator, dtype=torch.float64) for name in ("z", "noise")}


def fisher(place: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """E δ² of a generator (m, r) and the fake score that is best for another one."""
    a, b, (m, r) = gain(S), gain(fake[1]), place
    return ((a - b) * m - (1 - b) * fake[0]) ** 2 + (a - b) ** 2 * (r**2 + SIGMA**2)


@pytest.mark.parametrize("loss", [SiDLoss, SiDALoss])
@pytest.mark.parametrize("alpha", [0.5, 1.2])
def test_projection_identity_the_loss_is_one_minus_alpha_fisher_divergences(normal, loss, alpha):
    """E δ·x = E δ·f_ψ, because x may be replaced by its mean given y; so E δ (f_φ − x) = J.

    With ψ frozen, ∇L_α = ½ ∇J − (α − ½) ∇E δ²: only α = ½ follows the Fisher divergence itself.
    """
    loss, place = loss(alpha=alpha), torch.tensor([M, R], dtype=torch.float64, requires_grad=True)
    images = place[0] + place[1] * normal["z"]
    true, fake = Affine(gain(S)).requires_grad_(False), Affine(gain(R), M).requires_grad_(False)
    draws = {"t": torch.full((len(images), 1, 1, 1), T * 1000 / loss.t_max), "noise": normal["noise"]}
    value = loss.generator_loss(true, fake, images, None, draws=draws).sid.mean()
    # Without the scale 1/mean |x − f_φ|.
    scale = (images - true(images + SIGMA * normal["noise"], None)).abs().mean().item()
    following, frozen = fisher(place, place), fisher(place, place.detach())
    assert value.item() * scale == pytest.approx((1 - alpha) * following.item(), abs=0.01 * following.item())
    gradient, of_following, of_frozen = (torch.autograd.grad(x, place)[0] for x in (value, following, frozen))
    expected = 0.5 * of_following - (alpha - 0.5) * of_frozen
    assert (gradient * scale).tolist() == pytest.approx(expected.tolist(), rel=0.02, abs=0.002)
