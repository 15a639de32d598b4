"""Score distillation: a generator trained by a teacher and by a fake score of the generator's images."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from sida.data.augment import AugmentPipe
from sida.errors import UserError
from sida.losses import ScoreLoss
from sida.networks.fused import Kernels, convert_frozen_weights, use_fused_kernels
from sida.runtime.graphs import compiled
from sida.training.micro_batches import OptimizerStep
from sida.training.optimized_network import OptimizedNetwork
from sida.training.schedule import Schedule
from sida.training.student_trainer import StudentTrainer, TrainerSettings

#: Settings that weight the terms of a loss.
LAMBDAS = ("lambda_sid", "lambda_adv", "lambda_d", "lambda_fake_score")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillerSettings(TrainerSettings):
    """Settings of score distillation; names are those of a recipe (:class:`sida.methods.recipe.Recipe`).

    Attributes:
        lr: Learning rate of θ.
        fake_score_lr: Learning rate of ψ; None takes ``lr``.
        betas: Adam's β₁ and β₂.
        generator_betas: Adam's β₁ and β₂ of θ; None takes ``betas``.
        eps: Adam's ε: 1e-8 in float32, 1e-6 with float16.
        lambda_sid: Weight of the SiD term.
        lambda_adv: Weight of the adversarial term, in addition to the factor C·H·W.
        lambda_d: Weight of the discriminator term: 1 for EDM, 100 for EDM2 in the paper.
        lambda_fake_score: Weight of ψ's denoising term.
        grad_clip_value: Largest absolute value in ψ's gradients (1 in SiDA on EDM networks); 0 means no clipping.
        weight_decay: Decoupled weight decay of θ and ψ.
        clip_norm: Largest norm of θ's gradient; 0 means no clipping.
        fake_score_clip_norm: Largest norm of ψ's gradient; 0 means no clipping.
        compile: Whether to run the networks through ``torch.compile``.
        kernels: ``torch``, or ``fused`` for the kernels of :mod:`sida.kernels` (on a GPU; results round differently).
        recompute: With fused kernels, recompute the activations before convolutions in the backward pass.
    """

    lr: float
    fake_score_lr: float | None = None
    betas: tuple[float, float] = (0.0, 0.999)
    generator_betas: tuple[float, float] | None = None
    eps: float = 1e-8
    lambda_sid: float = 100.0
    lambda_adv: float = 0.01
    lambda_d: float = 1.0
    lambda_fake_score: float = 1.0
    grad_clip_value: float = 0.0
    weight_decay: float = 0.0
    clip_norm: float = 0.0
    fake_score_clip_norm: float = 0.0
    compile: bool = False
    kernels: Kernels = "torch"
    recompute: bool = False


class Distiller(StudentTrainer):
    """Trains a fake score ψ and a generator θ against a teacher φ, and averages θ.

        distiller = Distiller(phi, psi, theta, SiDALoss(), Schedule(), DistillerSettings(lr=1e-5))
        distiller.batches = lambda stream, nimg, with_images: [(images, labels)]
        record = distiller.iteration(nimg)

    An iteration is one or more ψ steps on images of the current θ, a θ step through the new ψ, and an update of the
    average: algorithm 1 of SiDA (arXiv:2410.14919) in the official code's order, modes and scales (golden facts 5-13).

    Args:
        true_score: φ; the trainer freezes it, with fused kernels in the precision of its maps.
        fake_score: ψ; usually a copy of φ.
        generator: θ; a copy of φ, or for SiD2A of a distilled generator.
        loss: Losses of the method. ``loss.uses_real_images`` decides whether ψ's
            discriminator gets real images; ``loss.weights`` are the factors of the terms.
        schedule: Phases by images seen.
        settings: Rates, weights and average.
        augment: Augmentation of ψ's batches; None means none. θ's batches are never augmented.
        psi_steps: Number of ψ steps in an iteration.
        others: Further optimizer steps, between those of ψ and θ.
    """

    def __init__(
        self,
        true_score: torch.nn.Module,
        fake_score: torch.nn.Module,
        generator: torch.nn.Module,
        loss: ScoreLoss,
        schedule: Schedule,
        settings: DistillerSettings,
        *,
        augment: AugmentPipe | None = None,
        psi_steps: int = 1,
        others: Sequence[OptimizerStep] = (),
    ) -> None:
        if not isinstance(loss, ScoreLoss):
            kind = type(loss).__name__
            raise UserError(
                f"loss: {kind} has no fake score, which this loop trains; take SiDLoss or one derived from it"
            )
        self.loss, self.true_score = loss, true_score.eval().requires_grad_(False)
        lambdas = {name: getattr(settings, name) for name in LAMBDAS}
        fused, lr = settings.kernels == "fused", settings.lr
        for net in (true_score, fake_score, generator) if fused else ():
            use_fused_kernels(net, recompute=settings.recompute)
        if fused:
            # The networks' convolutions use this layout; otherwise each call would convert the weights.
            true_score.to(memory_format=torch.channels_last)
            convert_frozen_weights(true_score)
        phi = compiled(true_score) if settings.compile else true_score
        psi_lr = lr if settings.fake_score_lr is None else settings.fake_score_lr
        ways: dict[str, Any] = {"compile": settings.compile, "fused": fused, "weight_decay": settings.weight_decay}
        clip, psi_norm, norm = settings.grad_clip_value, settings.fake_score_clip_norm, settings.clip_norm
        self.fake_score = psi = OptimizedNetwork(
            fake_score, psi_lr, settings.betas, settings.eps, clip or None, clip_norm=psi_norm or None, **ways
        )
        betas = settings.generator_betas or settings.betas
        theta = OptimizedNetwork(generator, lr, betas, settings.eps, clip_norm=norm or None, **ways)
        weights = lambda pixels: loss.weights(lambdas, pixels)
        psi_level, *psi_draws = loss.fake_score_draws()
        level, *draws = loss.generator_draws()
        steps = [
            OptimizerStep(
                "fake_score",
                psi,
                lambda given: loss.fake_score_loss(psi.call, *given),
                weights,
                "psi",
                psi_level,
                real_images=loss.uses_real_images,
                augment=augment,
                repeats=psi_steps,
                draws=tuple(psi_draws),
            ),
            *others,
            OptimizerStep(
                "generator",
                theta,
                lambda given: loss.generator_loss(phi, psi.call, given.images, given.class_labels, given.draws),
                weights,
                "generator",
                level,
                draws=tuple(draws),
            ),
        ]
        super().__init__(steps, schedule, settings)
