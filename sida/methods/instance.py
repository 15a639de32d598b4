"""Instance-based distillation: the generator learns to reproduce the teacher's image of the same latent.

Each latent occurs once: pairs are computed when needed, and no pairs are stored.

Source: Luhman & Luhman (arXiv:2101.02388), whose student also starts from the teacher. They use DDIM's sampler and
pairs computed before the training.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated

from sida import sampling, training
from sida.config.saw import Saw
from sida.config.settings import Range, Settings
from sida.late import Tensor, torch
from sida.methods.gdd import GDD_OFFICIAL
from sida.methods.method import Method, Parts, Passes


@dataclasses.dataclass(frozen=True, kw_only=True)
class InstanceOptions(Settings):
    """Settings of the teacher's images that the generator imitates.

    Attributes:
        num_steps: Steps of Heun's deterministic method, from the σ_max of EDM's sampler; 2n − 1 evaluations of the
            teacher for each training image.
    """

    num_steps: Annotated[int, Range(least=2)] = 18

    @property
    def passes(self) -> Passes:
        """Work of the method with these options."""
        return Passes(fake_score=0, generator=3 + 2 * self.num_steps - 1)


def make_instance(parts: Parts) -> training.StudentTrainer:
    """Returns the trainer of a configuration, with the loss ``(G(z) − Φ(z))²``; Φ is the teacher's Heun sampler."""

    def loss(given: training.MicroBatch) -> dict[str, Tensor]:
        with torch.no_grad():
            wanted = sampling.heun(parts.true_score, given.draws["z"], given.class_labels, parts.options.num_steps)
        (error,) = given.whole(given.images - wanted.to(torch.float32))
        return {"instance": error.square()}

    generator = parts.optimized(parts.copy(parts.initial, parts.config.weight_norm))
    step = training.OptimizerStep("generator", generator, loss, lambda pixels: {"instance": 1.0}, "generator")
    return training.StudentTrainer([step], parts.schedule(), parts.config)


INSTANCE = Method(
    name="instance",
    title="Instance",
    about="squared error to the teacher's image of the same latent; starts from the teacher",
    start="teacher",
    real_images=False,
    saw=Saw(),
    options=InstanceOptions,
    trainer=make_instance,
    reads=("guidance", "weight_norm"),
    # It has no official code: the input σ_max · z of EDM's sampler, and GDD's settings, since tables compare the two.
    official=GDD_OFFICIAL,
)
