"""Losses of consistency (ECT, CD): a diffusion network learns one output for all noise levels of a path."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

import torch

from sida.losses.terms import (
    Draws,
    Net,
    Terms,
    dropped_count,
    edm_weight,
    finite_mask,
    keep,
    lognormal_sigma,
    sigma_normal,
    sigma_of_t,
    uniform,
    unit_noise,
)


@dataclasses.dataclass(eq=False)
class ECTLoss:
    """``w(t, r) (√(‖D(y + t n; t) − T‖² + c²) − c)`` with ``T = stopgrad D(y + r n; r)``, or y itself where r = 0.

    Both evaluations have the same noise n and the same dropout mask; ``ln t ~ N(P_mean, P_std²)`` and

        r = max(0, t (1 − q^{−(s+1)} (1 + k sigmoid(−b t))))         in stage s.

    Attributes:
        P_mean: Mean of ln t.
        P_std: Standard deviation of ln t.
        sigma_data: Standard deviation of the data, for the weight ``edm``.
        q: Factor by which the step from t to r becomes smaller from stage to stage.
        k: Amount by which steps are larger at small t.
        b: Rate at which this amount decays with t.
        c: Constant of the pseudo-Huber distance; 0 is the Euclidean distance.
        weighting: ``step``: w = 1/(t − r); ``edm``: w = 1/t² + 1/σ_data².
        stage: s, counted from 0; the trainer advances it.

    Source: ECT (arXiv:2406.14548); locuslab/ect:training/loss.py.
    """

    P_mean: float = -1.1
    P_std: float = 2.0
    sigma_data: float = 0.5
    q: float = 2.0
    k: float = 8.0
    b: float = 1.0
    c: float = 0.0
    weighting: Literal["step", "edm"] = "step"
    stage: int = 0

    def lower_level(self, t: torch.Tensor) -> torch.Tensor:
        """Level r(t), with the shape and dtype of t."""
        step = self.q ** -(self.stage + 1) * (1 + self.k * torch.sigmoid(-self.b * t))
        return (t * (1 - step)).clamp_min(0)

    def generator_loss(
        self,
        net: Net,
        real_images: torch.Tensor,
        class_labels: torch.Tensor | None,
        draws: Draws | None = None,
    ) -> Terms:
        """Term ``consistency``, float32 ``(N', 1, 1, 1)``.

        Args:
            net: The generator, in training mode.
            real_images: ``(N, C, H, W)``.
            class_labels: Classes of the images, ``(N, label_dim)``, or None.
            draws: ``sigma_normal`` ``(N, 1, 1, 1)`` and ``noise`` ``(N, C, H, W)`` replace the random ones.
        """
        t = lognormal_sigma(sigma_normal(draws, real_images), self.P_mean, self.P_std)
        r = self.lower_level(t)
        noise = unit_noise(draws, real_images)
        # A network has no level 0; its output there is not used.
        above = torch.addcmul(real_images, t, noise), t
        below = torch.addcmul(real_images, r, noise), torch.where(r > 0, r, t)
        denoised, target = _outputs(net, above, below, class_labels)
        target = torch.where(r > 0, target, real_images)
        distance = (denoised - target).square().sum(dim=(1, 2, 3), keepdim=True)
        weight = 1 / (t - r) if self.weighting == "step" else edm_weight(t, self.sigma_data)
        value = ((distance + self.c**2).sqrt() - self.c) * weight
        return _finite(value)


@dataclasses.dataclass(eq=False)
class CDLoss:
    """``w(t) mean |D(y + t n; t) − stopgrad D(x_r; r)|²`` at neighbouring levels t > r of a Karras grid.

    x_r is reached from y + t n by one step of the teacher's Heun sampler. Both evaluations of D have the same dropout
    mask. The target is the trained network itself.

    Attributes:
        teacher: Denoiser that the path follows, ``net(x, sigma, class_labels)``.
        levels: Levels of the grid, from 80 down to 0.002.
        distance: ``l2``: mean of squares, ``l1``: mean of magnitudes.
        weighting: ``uniform``: w = 1; ``snr+1``: w = 1/t² + 1.

    Source: consistency models (arXiv:2303.01469, algorithm 2); openai/consistency_models:cm/karras_diffusion.py, and
    for the target openai/consistency_models_cifar10:jcm/losses.py.
    """

    teacher: Net
    levels: int = 18
    distance: Literal["l2", "l1"] = "l2"
    weighting: Literal["uniform", "snr+1"] = "uniform"

    def pair(self, draw: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Levels t and r < t of a draw, uniform in [0, 1), with its shape and dtype."""
        steps = self.levels - 1
        index = (draw * steps).floor().clamp(max=steps - 1)
        return sigma_of_t(1 - index / steps), sigma_of_t(1 - (index + 1) / steps)

    def generator_loss(
        self,
        net: Net,
        real_images: torch.Tensor,
        class_labels: torch.Tensor | None,
        draws: Draws | None = None,
    ) -> Terms:
        """Term ``consistency``, as :meth:`ECTLoss.generator_loss`, but that ``t`` replaces the draw of the level."""
        t, r = self.pair(uniform(draws, real_images))
        x = torch.addcmul(real_images, t, unit_noise(draws, real_images))
        with torch.no_grad():
            slope = (x - self.teacher(x, t, class_labels)) / t
            euler = x + (r - t) * slope
            below = x + (r - t) * (slope + (euler - self.teacher(euler, r, class_labels)) / r) / 2
        denoised, target = _outputs(net, (x, t), (below, r), class_labels)
        difference = denoised - target
        error = difference.square() if self.distance == "l2" else difference.abs()
        weight = 1 / t.square() + 1 if self.weighting == "snr+1" else 1.0
        return _finite(error.mean(dim=(1, 2, 3), keepdim=True) * weight)


def _outputs(
    net: Net,
    above: tuple[torch.Tensor, torch.Tensor],
    below: tuple[torch.Tensor, torch.Tensor],
    class_labels: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs for two noisy images and levels with one dropout mask; the second one without gradient."""
    rewind = _rewind(above[0].device)
    denoised = net(*above, class_labels)
    rewind()
    with torch.no_grad():
        return denoised, net(*below, class_labels)


def _finite(value: torch.Tensor) -> Terms:
    mask = finite_mask(value)
    return Terms({"consistency": keep(mask, value)[0]}, dropped_count(mask))


def _rewind(device: torch.device) -> Callable[[], object]:
    """Returns a function that restores the present state of a device's global torch generator."""
    cuda = device.type == "cuda"
    source = torch.cuda.default_generators[device.index or 0] if cuda else torch.default_generator
    state = source.get_state()
    return lambda: source.set_state(state)
