"""The loss of instance-based distillation: the generator repeats what the teacher makes of the same latent."""

from __future__ import annotations

import dataclasses

import torch

from sida.losses.terms import Round, Terms, dropped, intact, keep
from sida.sampling.heun import heun


@dataclasses.dataclass(eq=False)
class InstanceLoss:
    """``(G(z) − Φ(z))²``, Φ the teacher's deterministic sampler.

    Each latent is met once: pairs are made when they are needed, so that nothing but the teacher has to be kept.

    Attributes:
        num_steps: Steps of Heun's method (:func:`sida.sampling.heun`), whose state is float64.

    Source: Luhman & Luhman (arXiv:2101.02388), whose student starts as the teacher, too; their sampler is DDIM's, with
    pairs that were made before the training.
    """

    num_steps: int = 18

    def targets(self, teacher: torch.nn.Module, z: torch.Tensor, class_labels: torch.Tensor | None) -> torch.Tensor:
        """Φ(z), float32 ``(N, C, H, W)``, without gradient.

        Args:
            teacher: Frozen denoiser.
            z: Unit normal latents ``(N, C, H, W)``.
            class_labels: ``(N, label_dim)`` or None.
        """
        with torch.no_grad():
            return heun(teacher, z, class_labels, self.num_steps).to(torch.float32)

    def generator_terms(self, teacher: torch.nn.Module, given: Round) -> Terms:
        """Term ``instance``, per element ``(N', C, H, W)``; the latents are the draws ``z`` of the round."""
        assert given.draws is not None
        error = given.images - self.targets(teacher, given.draws["z"], given.class_labels)
        mask = intact(error)
        return Terms({"instance": keep(mask, error)[0].square()}, dropped(mask))
