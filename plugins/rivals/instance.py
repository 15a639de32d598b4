"""Instance-based distillation: regression to the teacher's image of each latent."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from sida import sampling, training
from sida.config.settings import Range, Settings
from sida.late import Tensor, torch
from sida.methods.gdd import GDD_OFFICIAL
from sida.methods.method import Exposure, Method, Parts, Passes


@dataclasses.dataclass(frozen=True, kw_only=True)
class InstanceOptions(Settings):
    """Settings of the teacher's images that the generator of instance-based distillation imitates.

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
    """Returns the trainer with the loss ``(G(z) − Φ(z))²``; Φ is the teacher's Heun sampler.

    Each latent occurs once: pairs are computed when needed, and no pairs are stored.

    Source: Luhman & Luhman (arXiv:2101.02388), whose student also starts from the teacher. They use DDIM's sampler and
    pairs computed before the training.
    """

    def loss(batch: training.MicroBatch) -> dict[str, Tensor]:
        with torch.no_grad():
            target = sampling.heun(parts.true_score, batch.draws["z"], batch.class_labels, parts.options.num_steps)
        (error,) = batch.drop_nan(batch.images - target.to(torch.float32))
        return {"instance": error.square()}

    generator = parts.optimized(parts.copy(parts.initial, parts.config.weight_norm))
    step = training.OptimizerStep("generator", generator, loss, "generator")
    return training.StudentTrainer([step], parts.schedule(), parts.config)


INSTANCE = Method(
    name="instance",
    title="Instance",
    about="squared error to the teacher's image of the same latent; starts from the teacher",
    saw=Exposure(),
    options=InstanceOptions,
    trainer=make_instance,
    reads=("guidance", "weight_norm"),
    # No official code exists: the input is σ_max · z as in EDM's sampler, the settings are GDD's, which tables compare.
    official=GDD_OFFICIAL,
)
