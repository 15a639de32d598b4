"""DMD without its regression term: the difference of the two scores, divided by the teacher's error of each image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sida.config.method_options import DMDOptions
from sida.config.recipe import SCORE_SETTINGS
from sida.methods.method import Method, Passes

if TYPE_CHECKING:
    from sida.losses import ScoreLoss
    from sida.methods.build import Parts

#: Settings of score distillation that distribution matching reads.
MATCHING_SETTINGS = SCORE_SETTINGS - {
    "P_mean", "P_std", "alpha", "grad_clip_value", "lambda_sid", "logvar", "t_max",
}  # fmt: skip
#: Default settings. The half-life of the average is short, because the official code has no average.
MATCHING_DEFAULTS = {
    "edm": {
        "betas": (0.9, 0.999), "init_sigma": 80.0, "dropout": 0.0, "ema_half_life_kimg": 500.0, "warmup_kimg": 0.0,
        "weight_norm": None, "fake_score_weight_norm": None,
    },
}  # fmt: skip


def _loss(parts: Parts) -> ScoreLoss:
    from sida.losses.matching import DMDLoss

    return parts.make(DMDLoss, options=parts.options)


DMD = Method(
    name="dmd",
    title="DMD without regression",
    about="the difference of the two scores, normalised for each image; no real images; starts from the teacher",
    start="teacher",
    real_images=False,
    loss=_loss,
    options=DMDOptions,
    reads=MATCHING_SETTINGS,
    passes=Passes(generator=5),
    defaults=MATCHING_DEFAULTS,
)
