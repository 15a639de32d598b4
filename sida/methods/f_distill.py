"""f-distill: DMD2 with the frozen teacher's encoder, whose discriminator weighs the images for any f-divergence.

The other settings are those of :mod:`sida.methods.dmd`; loss and networks are made in :mod:`sida.methods.matching`.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from sida.config.settings import Count, Fraction, NotNegative, Positive
from sida.errors import SettingError
from sida.methods.dmd import DMD2, DMD2Options, Level
from sida.methods.method import Passes

#: f-divergences: reverse KL (DMD2's), forward KL, Jensen–Shannon, softened reverse KL, squared Hellinger, Neyman's χ²,
#: Jeffreys.
Divergence = Literal["rkl", "kl", "js", "sf", "sh", "neyman", "jf"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FDistillOptions(DMD2Options):
    """Divergence and ratios of f-distill, in addition to DMD2's options. Defaults are those of FastGen (CIFAR-10).

    Attributes:
        divergence: ``rkl`` (reverse KL, which is DMD2), ``kl``, ``js`` (Jensen-Shannon), ``sf`` (softened reverse KL),
            ``sh`` (squared Hellinger), ``neyman`` or ``jf`` (Jeffreys).
        normalised: Whether to divide ratios by their running mean at similar noise levels.
        bins: Number of intervals of noise levels, each with its own running mean.
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
    divergence: Divergence = "kl"
    normalised: bool = True
    bins: Count = 10
    decay: Fraction = 0.0
    ratio_range: tuple[Positive, Positive] = (0.1, 20.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.own_draws:
            raise SettingError(
                "own_draws", "f-distill weighs the noisy images that the scores denoise", "set it to false"
            )


F_DISTILL = dataclasses.replace(
    DMD2,
    name="f-distill",
    title="f-distill",
    about="DMD2 whose discriminator weighs the images for an f-divergence; starts from the teacher",
    loss="sida.methods.matching:FDistillLoss",
    psi_steps=4,
    options=FDistillOptions,
    trainer="sida.methods.matching:make_f_distill",
    passes=Passes(generator=5, generator_encoder=2, fake_score_encoder=2),
)
