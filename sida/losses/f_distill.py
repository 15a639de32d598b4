"""Loss of f-distill: distribution matching of any f-divergence, with images weighted by the density ratio."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal, get_args

import torch

from sida.losses.dmd2 import DMD2Loss
from sida.losses.noise import SIGMA_MAX, SIGMA_MIN

#: Divergences: reverse KL (DMD2's), forward KL, Jensen–Shannon, softened reverse KL, squared Hellinger, Neyman's χ²,
#: Jeffreys.
Divergence = Literal["rkl", "kl", "js", "sf", "sh", "neyman", "jf"]
_EPS = 1e-6


def divergence_weight(ratio: torch.Tensor, divergence: Divergence) -> torch.Tensor:
    """Weight ``h = r² f''(r)``, up to a factor, of the direction of the reverse KL in f-distill.

    Args:
        ratio: r = p_data / p_generator, above 0, any shape.
        divergence: Name of the f-divergence.

    Source: f-distill (arXiv:2502.15681), Table 1; NVlabs/FastGen:fastgen/methods/distribution_matching/f_distill.py.
    """
    weights: dict[str, Callable[[], torch.Tensor]] = {
        "rkl": lambda: torch.ones_like(ratio),
        "kl": lambda: ratio,
        "js": lambda: ratio / (1 + ratio),
        "sf": lambda: 1 / (1 + ratio),
        "sh": ratio.sqrt,
        "neyman": lambda: 1 / ratio.clamp_min(1e-8),
        "jf": lambda: 1 + ratio,
    }
    return weights[divergence]()


@dataclasses.dataclass(eq=False)
class FDistillLoss(DMD2Loss):
    """DMD2's losses with ``kl`` of each image multiplied by h(r) / mean h, r = exp(mean logit of the noisy image).

    First r is divided by its running mean over images of similar noise levels: level σ belongs to one of ``len(means)``
    equal intervals of [0.002, 80], and the mean v of an interval follows ``v ← ρ v + (1 − ρ) mean r``.

    Attributes:
        divergence: Name of the f-divergence, see :func:`divergence_weight`.
        decay: ρ; 0 takes the batch's mean.
        ratio_range: Least and largest r.
        normalised: Whether r is divided by the running mean.
        means: The running means v, changed in place, float32 ``(bins,)``.
        add_up: Function that sums a tensor over devices, in place; None for one device.

    Source: see :func:`divergence_weight`.
    """

    divergence: Divergence = "js"
    decay: float = 0.5
    ratio_range: tuple[float, float] = (0.1, 20.0)
    normalised: bool = True
    means: torch.Tensor = dataclasses.field(default_factory=lambda: torch.ones(10))
    add_up: Callable[[torch.Tensor], object] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.divergence not in get_args(Divergence):
            known = ", ".join(get_args(Divergence))
            raise ValueError(f"divergence: must be one of {known}, got {self.divergence!r}")

    @torch.no_grad()
    def image_weights(self, logits: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """Weight h / mean h of each image, float32 ``(N, 1, 1, 1)``; updates the running means."""
        # The first clamp keeps exp finite.
        ratio = logits.mean(1).clamp(-10, 10).exp().clamp(*self.ratio_range)
        # Images with NaN are dropped later; they must change neither the other images nor the running means.
        whole = ratio.isfinite().to(ratio.dtype)
        ratio = ratio.nan_to_num(1.0)
        if self.normalised:
            ratio = ratio / (self._running_means(ratio, whole, sigma.flatten()) + _EPS)
        weight = divergence_weight(ratio, self.divergence)
        mean = (weight * whole).sum() / whole.sum().clamp_min(1)
        return (weight / (mean + _EPS)).view(-1, 1, 1, 1)

    def _running_means(self, ratio: torch.Tensor, whole: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """Updates the running means by the images with ``whole`` = 1; returns each image's mean ``(N,)``."""
        bins = len(self.means)
        places = ((sigma - SIGMA_MIN) * (bins / (SIGMA_MAX - SIGMA_MIN))).long().clamp(0, bins - 1)
        # A product gives the same sums in each run, index_add_ on a GPU does not.
        inside = (places[:, None] == torch.arange(bins, device=places.device)).to(ratio.dtype)
        sums = torch.stack([ratio * whole, whole]) @ inside
        if self.add_up is not None:
            self.add_up(sums)
        moved = self.means * self.decay + (sums[0] / (sums[1] + _EPS)) * (1 - self.decay)
        self.means.copy_(torch.where(sums[1] > 0, moved, self.means))
        return self.means[places]
