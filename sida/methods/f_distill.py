"""f-distill: DMD2 with the frozen teacher's encoder, whose discriminator weighs the images for any f-divergence."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from sida.config.method_options import FDistillOptions
from sida.methods.dmd2 import DMD2, make_dmd2
from sida.methods.method import Passes

if TYPE_CHECKING:
    from sida.losses import ScoreLoss
    from sida.methods.build import Parts
    from sida.methods.distiller import Distiller


def _loss(parts: Parts) -> ScoreLoss:
    from sida.losses.matching import FDistillLoss

    return parts.make(FDistillLoss, options=parts.options)


def make_f_distill(parts: Parts) -> Distiller:
    """Returns DMD2's trainer with running means of the density ratios."""
    from sida.losses.matching import FDistillLoss

    distiller = make_dmd2(parts, parts.options.bins)
    loss, network = distiller.loss, distiller.fake_score
    assert isinstance(loss, FDistillLoss)
    loss.means = network.net.get_buffer("ratios")
    loss.add_up = lambda values: network.ranks.add_up(values)
    return distiller


F_DISTILL = dataclasses.replace(
    DMD2,
    name="f-distill",
    title="f-distill",
    about="DMD2 whose discriminator weighs the images for an f-divergence; starts from the teacher",
    loss=_loss,
    psi_steps=4,
    options=FDistillOptions,
    trainer=make_f_distill,
    passes=Passes(generator=5, generator_encoder=2, fake_score_encoder=2),
)
