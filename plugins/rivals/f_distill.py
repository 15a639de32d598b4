"""f-distill: DMD2 whose images are weighted by a function of the density ratio, which its heads estimate."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

from sida import training
from sida.config.settings import Count, Fraction, NotNegative, Positive
from sida.errors import SettingError
from sida.late import Tensor, torch
from sida.methods.method import Exposure, Parts
from sida.noise import SIGMA_MAX, SIGMA_MIN
from sida.plugins.rivals.density_ratio import RATIO_RANGE, density_ratio
from sida.plugins.rivals.dmd import DMD2, DMD2Loss, DMD2Options, Level, make_dmd2


@dataclasses.dataclass(frozen=True, kw_only=True)
class FDistillOptions(DMD2Options):
    """Divergence and ratios of f-distill, in addition to DMD2's options. Defaults are those of FastGen (CIFAR-10).

    Attributes:
        divergence: ``rkl`` (reverse KL, which is DMD2), ``kl``, ``js`` (Jensen-Shannon), ``sf`` (softened reverse KL),
            ``sh`` (squared Hellinger), ``neyman`` or ``jf`` (Jeffreys).
        normalised: Whether to divide ratios by their running mean at similar noise levels.
        bins: Intervals of noise levels, each with its own running mean.
        decay: Share that a running mean keeps in a step; 0 takes the batch's mean.
        ratio_range: Smallest and largest ratio, before the division.
    """

    features: Literal["fake-score", "teacher"] = "teacher"
    heads: Literal["last", "all"] = "all"
    generator_levels: tuple[Level, Level] = (2, 998)
    fake_score_levels: tuple[Level, Level] = (2, 998)
    gan_weight: NotNegative = 1e-3
    discriminator_weight: NotNegative = 1.0
    fake_score_steps: Count = 4
    fake_score_clip_norm: NotNegative = 0.0
    weighted: bool = False
    own_draws: bool = False
    error_eps: NotNegative = 1e-6
    divergence: Literal["rkl", "kl", "js", "sf", "sh", "neyman", "jf"] = "kl"
    normalised: bool = True
    bins: Count = 10
    decay: Fraction = 0.0
    ratio_range: tuple[Positive, Positive] = RATIO_RANGE

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.own_draws or not self.noisy:
            fault = "f-distill needs logits of the same noisy images that the scores denoise"
            raise SettingError("own_draws", fault, "set it to false, and noisy to true")


#: Added to the divisors of ratios and of their weights.
_EPS = 1e-6


def divergence_weight(ratio: Tensor, divergence: str) -> Tensor:
    """Weight ``h = r² f''(r)``, up to a factor, of the direction of the reverse KL in f-distill.

    Args:
        ratio: r = p_data / p_generator, above 0, any shape.
        divergence: Name of the f-divergence.

    Source: f-distill (arXiv:2502.15681), Table 1; NVlabs/FastGen:fastgen/methods/distribution_matching/f_distill.py.
    """
    return {
        "rkl": lambda: torch.ones_like(ratio),
        "kl": lambda: ratio,
        "js": lambda: ratio / (1 + ratio),
        "sf": lambda: 1 / (1 + ratio),
        "sh": lambda: ratio.sqrt(),
        "neyman": lambda: 1 / ratio.clamp_min(1e-8),
        "jf": lambda: 1 + ratio,
    }[divergence]()


@dataclasses.dataclass(eq=False)
class FDistillLoss(DMD2Loss):
    """DMD2's losses with ``kl`` of each image multiplied by h(r) / mean h, r = exp(mean logit of the noisy image).

    First r is divided by its running mean over images of similar noise levels: level σ belongs to one of ``len(means)``
    equal intervals of [0.002, 80], and the mean v of an interval follows ``v ← ρ v + (1 − ρ) mean r``.

    Attributes:
        options: Divergence, ρ (``decay``), least and largest r (``ratio_range``), and whether r is divided
            (``normalised``).
        means: The running means v, changed in place, float32 ``(bins,)``.
        add_up: Function that sums a tensor over devices, in place; None for one device.

    Source: see :func:`divergence_weight`.
    """

    options: FDistillOptions = dataclasses.field(default_factory=FDistillOptions)
    means: Tensor = dataclasses.field(default_factory=lambda: torch.ones(10))
    add_up: Callable[[Tensor], object] | None = None

    def image_weights(self, logits: Tensor, sigma: Tensor, batch: training.MicroBatch) -> Tensor:
        """Weight h / mean h of each image, float32 ``(N', 1, 1, 1)``; updates the running means."""
        assert logits.shape[:-1] == (len(sigma),)  # (N', heads)
        with torch.no_grad():
            ratio = density_ratio(logits.mean(1), self.options.ratio_range)
            if self.options.normalised:
                ratio = ratio / (self._running_means(ratio, sigma.flatten(), batch) + _EPS)
            weight = divergence_weight(ratio, self.options.divergence)
            return (weight / (batch.mean(weight) + _EPS)).view(-1, 1, 1, 1)

    def _running_means(self, ratio: Tensor, sigma: Tensor, batch: training.MicroBatch) -> Tensor:
        """Updates the running means; returns each image's mean ``(N',)``."""
        bins = len(self.means)
        bin_index = ((sigma - SIGMA_MIN) * (bins / (SIGMA_MAX - SIGMA_MIN))).long().clamp(0, bins - 1)
        # A matrix product is deterministic; index_add_ on a GPU adds in another order each time.
        one_hot = (bin_index[:, None] == torch.arange(bins, device=bin_index.device)).to(ratio.dtype)
        sums = torch.stack([batch.zero_invalid(ratio), batch.zero_invalid(torch.ones_like(ratio))]) @ one_hot
        if self.add_up is not None:
            self.add_up(sums)
        updated = self.means * self.options.decay + (sums[0] / (sums[1] + _EPS)) * (1 - self.options.decay)
        self.means.copy_(torch.where(sums[1] > 0, updated, self.means))
        return self.means[bin_index]


def make_f_distill(parts: Parts) -> training.Distiller:
    """Returns DMD2's trainer with running means of the density ratios, which are a buffer of the fake score."""
    distiller = make_dmd2(parts, parts.options.bins)
    loss, network = distiller.loss, distiller.fake_score
    loss.means, loss.add_up = network.net.get_buffer("ratios"), lambda values: network.ranks.add_up(values)
    return distiller


F_DISTILL = dataclasses.replace(
    DMD2,
    name="f-distill",
    title="f-distill",
    about="DMD2 whose discriminator weighs the images for an f-divergence; starts from the teacher",
    saw=Exposure(),
    loss=FDistillLoss,
    options=FDistillOptions,
    trainer=make_f_distill,
)
