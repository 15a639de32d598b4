"""DMD without its regression term, and DMD2, which has a discriminator.

Both follow the difference of the two scores, divided by the teacher's error of each image. DMD2 adds heads that judge
noisy images, on the fake score's encoder or on the teacher's. Losses and networks are made in
:mod:`sida.methods.matching`.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from sida.config.recipe import SCORE_SETTINGS
from sida.config.settings import Count, NotNegative, Positive, Range, Settings
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class DMD2Options(DMDOptions):
    """Discriminator of DMD2, beside levels and optimizer. Values left out are official (ImageNet 64).

    Attributes:
        features: ``fake-score``: heads judge by the fake score's encoder, which learns from them, too; ``teacher``: by
            the frozen teacher's, and the heads alone learn.
        heads: ``last``: one head on the encoder's last block; ``all``: one on the last block of each resolution.
        gan_weight: Weight of the generator's adversarial term.
        discriminator_weight: Weight of the discriminator's term.
        fake_score_steps: Steps of fake score and heads for each step of the generator.
        weighted: Whether the fake score's loss is weighted over noise levels (``gamma``); else all levels weigh 1.
        own_draws: Whether generated images are judged at levels and with noise of their own; else as the two scores
            denoise them.
        same_noise: Whether real images get levels and noise of the generated ones; else their own.
        noisy: Whether images are judged with noise; else without, at the least level.
        r1_weight: Weight of the approximate R1 penalty; 0 leaves it out.
        r1_alpha: Standard deviation of that penalty's noise.
        error_eps: Added to the teacher's error that the difference of the scores is divided by.
    """

    features: Literal["fake-score", "teacher"] = "fake-score"
    heads: Literal["last", "all"] = "last"
    gan_weight: NotNegative = 3e-3
    discriminator_weight: NotNegative = 1e-2
    fake_score_steps: Count = 5
    weighted: bool = True
    own_draws: bool = True
    same_noise: bool = False
    noisy: bool = True
    r1_weight: NotNegative = 0.0
    r1_alpha: Positive = 0.1
    error_eps: NotNegative = 0.0

    @property
    def unread(self) -> frozenset[str]:
        """Settings that a method with these options does not read."""
        return frozenset() if self.weighted else frozenset({"gamma"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.own_draws and self.same_noise:
            raise SettingError(
                "same_noise", "needs generated images that are judged as they are denoised", "set own_draws to false"
            )
        if not (self.noisy or self.own_draws):
            raise SettingError(
                "noisy", "generated images are judged as they are denoised, with noise", "set own_draws to true"
            )


DMD2 = Method(
    name="dmd2",
    title="DMD2",
    about="distribution matching and a discriminator on the fake score's encoder; starts from the teacher",
    start="teacher",
    real_images=True,
    loss="sida.methods.matching:DMD2Loss",
    psi_steps=5,
    options=DMD2Options,
    trainer="sida.methods.matching:make_dmd2",
    reads=(MATCHING_SETTINGS | {"real_source"}) - {"augment", "fake_score_weight_norm"},
    passes=Passes(generator=5, generator_encoder=2, fake_score_encoder=6),
    defaults=MATCHING_DEFAULTS,
)
