"""DMD2: distribution matching with heads that judge noisy images, on the fake score's encoder or on the teacher's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sida.config.method_options import DMD2Options
from sida.methods.dmd import MATCHING_DEFAULTS, MATCHING_SETTINGS
from sida.methods.method import Method, Passes

if TYPE_CHECKING:
    from sida.losses import ScoreLoss
    from sida.methods.build import Parts
    from sida.methods.distiller import Distiller


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


def _loss(parts: Parts) -> ScoreLoss:
    from sida.losses.matching import DMD2Loss

    return parts.make(DMD2Loss, options=parts.options)


DMD2 = Method(
    name="dmd2",
    title="DMD2",
    about="distribution matching and a discriminator on the fake score's encoder; starts from the teacher",
    start="teacher",
    real_images=True,
    loss=_loss,
    psi_steps=5,
    options=DMD2Options,
    trainer=make_dmd2,
    reads=(MATCHING_SETTINGS | {"real_source"}) - {"augment", "fake_score_weight_norm"},
    passes=Passes(generator=5, generator_encoder=2, fake_score_encoder=6),
    defaults=MATCHING_DEFAULTS,
)
