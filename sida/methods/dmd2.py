"""DMD2: distribution matching with heads that judge noisy images, on the fake score's encoder or on the teacher's."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

from sida.config.settings import Count, NotNegative, Positive
from sida.errors import SettingError
from sida.methods.dmd import MATCHING_DEFAULTS, MATCHING_SETTINGS, DMDOptions
from sida.methods.method import Method, Passes

if TYPE_CHECKING:
    from sida.methods.build import Parts
    from sida.methods.distiller import Distiller


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


def make_dmd2(parts: Parts, bins: int = 0) -> Distiller:
    """Teacher, fake score with heads, and generator of a configuration.

    Args:
        parts: Settings and networks.
        bins: Length of the buffer ``ratios`` beside the heads; 0 is none.
    """
    import torch

    from sida.discriminator.backbones import FakeScoreWithHeads
    from sida.methods.build import make_score_distiller
    from sida.runtime.randomness import derive_seed

    options = parts.options
    teacher = parts.teacher if options.features == "teacher" else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(parts.config.seed, "discriminator"))
        score = FakeScoreWithHeads(parts.copy(parts.teacher, None), teacher, options.heads == "all", bins)
    # Ratios are added up over processes within a step, which a recorded graph should not do.
    return make_score_distiller(parts, fake_score=score, psi_steps=options.fake_score_steps, graphs=not bins)


DMD2 = Method(
    name="dmd2",
    title="DMD2",
    about="distribution matching and a discriminator on the fake score's encoder; starts from the teacher",
    start="teacher",
    real_images=True,
    loss="sida.methods.matching:DMD2Loss",
    psi_steps=5,
    options=DMD2Options,
    trainer=make_dmd2,
    reads=(MATCHING_SETTINGS | {"real_source"}) - {"augment", "fake_score_weight_norm"},
    passes=Passes(generator=5, generator_encoder=2, fake_score_encoder=6),
    defaults=MATCHING_DEFAULTS,
)
