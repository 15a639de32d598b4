"""DMD without its regression term: the difference of the two scores, divided by the teacher's error of each image."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from sida.config.recipe import SCORE_SETTINGS
from sida.config.settings import NotNegative, Range, Settings
from sida.errors import SettingError
from sida.methods.method import Method, Passes

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
Level = Annotated[int, Range(least=0, most=999)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DMDOptions(Settings):
    """Levels and optimizer of distribution matching. Defaults are official (DMD2's code for ImageNet 64).

    Attributes:
        generator_levels: Smallest and largest index of the generator's noise levels, of 1000 Karras levels from 0.002
            to 80.
        fake_score_levels: Smallest and largest index of the fake score's noise levels.
        weight_decay: Decoupled weight decay (AdamW) of generator and fake score.
        clip_norm: Largest norm of the generator's gradient; 0 means no clipping.
        fake_score_clip_norm: Largest norm of the gradient of the fake score and its heads; 0 means no clipping.
        lr_rampup_kimg: Thousands of images over which the rates rise linearly from 0 (500 steps in the official code);
            0 means no ramp-up.
    """

    generator_levels: tuple[Level, Level] = (20, 980)
    fake_score_levels: tuple[Level, Level] = (0, 999)
    weight_decay: NotNegative = 0.01
    clip_norm: NotNegative = 10.0
    fake_score_clip_norm: NotNegative = 10.0
    lr_rampup_kimg: NotNegative = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("generator_levels", "fake_score_levels"):
            low, high = getattr(self, name)
            if low > high:
                raise SettingError(name, f"the first index must not be above the second, got {low} and {high}")


DMD = Method(
    name="dmd",
    title="DMD without regression",
    about="the difference of the two scores, normalised for each image; no real images; starts from the teacher",
    start="teacher",
    real_images=False,
    loss="sida.methods.matching:DMDLoss",
    options=DMDOptions,
    reads=MATCHING_SETTINGS,
    passes=Passes(generator=5),
    defaults=MATCHING_DEFAULTS,
)
