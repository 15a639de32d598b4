"""Instance-based distillation: one player, the generator, which repeats the teacher's images.

Source: see :class:`sida.methods.instance_loss.InstanceLoss`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from sida.methods.instance_loss import InstanceLoss
from sida.training.learner import Learner
from sida.training.player import Player

if TYPE_CHECKING:
    from sida.methods.build import Parts
    from sida.training.iteration import Turns


def make_instance(parts: Parts) -> Turns:
    """The player of a configuration."""
    config, teacher = parts.config, parts.true_score
    loss = cast(InstanceLoss, parts.method.loss(parts))
    generator = Learner(
        parts.copy(parts.initial, config.weight_norm),
        config.lr,
        config.generator_betas or config.betas,
        config.eps,
        compile=config.compile,
    )
    player = Player(
        "generator",
        generator,
        lambda given: loss.generator_terms(teacher, given),
        lambda pixels: {"instance": 1.0},
        "generator",
    )
    return parts.turns([player])
