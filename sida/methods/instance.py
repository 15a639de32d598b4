"""Instance-based distillation: the generator learns to reproduce the teacher's image of the same latent.

Each latent occurs once: pairs are computed when needed, and no pairs are stored.

Source: Luhman & Luhman (arXiv:2101.02388), whose student also starts from the teacher. They use DDIM's sampler and
pairs computed before the training.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

from sida.config.settings import Range, Settings
from sida.methods.gdd import GDD_DEFAULTS
from sida.methods.method import Method

if TYPE_CHECKING:
    from sida.losses import MicroBatch, Terms
    from sida.methods.distiller import Parts
    from sida.training.student_trainer import StudentTrainer


@dataclasses.dataclass(frozen=True, kw_only=True)
class InstanceOptions(Settings):
    """Settings of the teacher's images that the generator imitates.

    Attributes:
        num_steps: Steps of Heun's deterministic method, from the σ_max of EDM's sampler; 2n − 1 evaluations of the
            teacher for each training image.
    """

    num_steps: Annotated[int, Range(least=2)] = 18


def make_instance(parts: Parts) -> StudentTrainer:
    """Returns the trainer of a configuration, with the loss ``(G(z) − Φ(z))²``; Φ is the teacher's Heun sampler."""
    import torch

    from sida.losses import Terms
    from sida.losses.terms import dropped_count, finite_mask, keep
    from sida.sampling.samplers import heun
    from sida.training.iteration import OptimizerStep

    def loss(given: MicroBatch) -> Terms:
        assert given.draws is not None
        with torch.no_grad():
            wanted = heun(parts.true_score, given.draws["z"], given.class_labels, parts.options.num_steps)
        error = given.images - wanted.to(torch.float32)
        mask = finite_mask(error)
        return Terms({"instance": keep(mask, error)[0].square()}, dropped_count(mask))

    generator = parts.optimized(parts.copy(parts.initial, parts.config.weight_norm))
    step = OptimizerStep("generator", generator, loss, lambda pixels: {"instance": 1.0}, "generator")
    return parts.trainer([step])


INSTANCE = Method(
    name="instance",
    title="Instance",
    about="squared error to the teacher's image of the same latent; starts from the teacher",
    start="teacher",
    real_images=False,
    options=InstanceOptions,
    trainer=make_instance,
    reads=frozenset({"guidance", "weight_norm"}),
    # It has no official code: the input σ_max · z of EDM's sampler, and GDD's settings, since tables compare the two.
    defaults=GDD_DEFAULTS,
)
