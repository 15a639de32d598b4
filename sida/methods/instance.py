"""Instance-based distillation: the generator learns to reproduce the teacher's image of the same latent.

Source: see :class:`sida.methods.instance.InstanceLoss`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from sida.training.iteration import OptimizerStep
from sida.training.optimized_network import OptimizedNetwork

if TYPE_CHECKING:
    from sida.methods.build import Parts
    from sida.training.student_trainer import StudentTrainer
import dataclasses

import torch

from sida.losses.terms import Terms, dropped_count, finite_mask, keep
from sida.sampling.samplers import heun


@dataclasses.dataclass(eq=False)
class InstanceLoss:
    """``(G(z) − Φ(z))²``, where Φ is the teacher's deterministic sampler.

    Each latent occurs once: pairs are computed when needed, and no pairs are stored.

    Attributes:
        num_steps: Steps of Heun's method (:func:`sida.sampling.heun`), whose state is float64.

    Source: Luhman & Luhman (arXiv:2101.02388), whose student also starts from the teacher. They use DDIM's sampler and
    pairs computed before the training.
    """

    num_steps: int = 18

    def targets(self, teacher: torch.nn.Module, z: torch.Tensor, class_labels: torch.Tensor | None) -> torch.Tensor:
        """Returns Φ(z), float32 ``(N, C, H, W)``, without gradient.

        Args:
            teacher: Frozen denoiser.
            z: Unit normal latents ``(N, C, H, W)``.
            class_labels: ``(N, label_dim)`` or None.
        """
        with torch.no_grad():
            return heun(teacher, z, class_labels, self.num_steps).to(torch.float32)

    def generator_loss(
        self, teacher: torch.nn.Module, images: torch.Tensor, class_labels: torch.Tensor | None, z: torch.Tensor
    ) -> Terms:
        """Returns the term ``instance``, per element ``(N', C, H, W)``, of the generator's images of latents ``z``."""
        error = images - self.targets(teacher, z, class_labels)
        mask = finite_mask(error)
        return Terms({"instance": keep(mask, error)[0].square()}, dropped_count(mask))


def make_instance(parts: Parts) -> StudentTrainer:
    """Returns the trainer of a configuration."""
    config, teacher = parts.config, parts.true_score
    loss = cast(InstanceLoss, parts.method.loss(parts))
    generator = OptimizedNetwork(
        parts.copy(parts.initial, config.weight_norm),
        config.lr,
        config.generator_betas or config.betas,
        config.eps,
        compile=config.compile,
    )
    step = OptimizerStep(
        "generator",
        generator,
        lambda given: loss.generator_loss(teacher, given.images, given.class_labels, (given.draws or {})["z"]),
        lambda pixels: {"instance": 1.0},
        "generator",
    )
    return parts.trainer([step])
