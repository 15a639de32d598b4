"""Score distillation: a generator trained by a teacher and by a fake score of the generator's images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from sida.config.recipe import ResolvedConfig
from sida.data.augment import AugmentPipe
from sida.errors import UserError
from sida.losses import ScoreLoss
from sida.methods.dmd import DMDOptions
from sida.networks.fused import convert_frozen_weights, use_fused_kernels
from sida.runtime.graphs import compiled
from sida.training.iteration import OptimizerStep
from sida.training.optimized_network import OptimizedNetwork
from sida.training.schedule import Schedule
from sida.training.student_trainer import StudentTrainer

#: Settings that weight the terms of a loss.
LAMBDAS = ("lambda_sid", "lambda_adv", "lambda_d", "lambda_fake_score")


class Distiller(StudentTrainer):
    """Trains a fake score ψ and a generator θ against a teacher φ, and averages θ.

        distiller = Distiller(phi, psi, theta, SiDALoss(), Schedule(), recipe_of("sida", lr=1e-5))
        distiller.batches = lambda stream, nimg, with_images: [(images, labels)]
        record = distiller.iteration(nimg)

    An iteration is one or more ψ steps on images of the current θ, a θ step through the new ψ, and an update of the
    average: algorithm 1 of SiDA (arXiv:2410.14919) in the official code's order, modes and scales.

    Args:
        true_score: φ; the trainer freezes it, with fused kernels in the precision of its maps.
        fake_score: ψ; usually a copy of φ.
        generator: θ; a copy of φ, or for SiD2A of a distilled generator.
        loss: Losses of the method. ``loss.uses_real_images`` decides whether ψ's
            discriminator gets real images; ``loss.weights`` are the factors of the terms.
        schedule: Phases by images seen.
        recipe: Rates, weights and average (:func:`sida.methods.resolve.recipe_of`).
        optimizer: Weight decay and largest norms of gradients; None has neither.
        augment: Augmentation of ψ's batches; None means none. θ's batches are never augmented.
        psi_steps: Number of ψ steps in an iteration.
        others: Further optimizer steps, between those of ψ and θ.
        graphs: Whether a step can be recorded and replayed as a CUDA graph.
    """

    def __init__(
        self,
        true_score: torch.nn.Module,
        fake_score: torch.nn.Module,
        generator: torch.nn.Module,
        loss: ScoreLoss,
        schedule: Schedule,
        recipe: ResolvedConfig,
        *,
        optimizer: DMDOptions | None = None,
        augment: AugmentPipe | None = None,
        psi_steps: int = 1,
        others: Sequence[OptimizerStep] = (),
        graphs: bool = True,
    ) -> None:
        if not isinstance(loss, ScoreLoss):
            kind = type(loss).__name__
            raise UserError(
                "loss", f"{kind} has no fake score, which this loop trains", "take SiDLoss or one derived from it"
            )
        self.loss, self.true_score = loss, true_score.eval().requires_grad_(False)
        lambdas = {name: getattr(recipe, name) for name in LAMBDAS}
        fused, recompute = recipe.kernels == "fused", recipe.recompute
        for net in (true_score, fake_score, generator) if fused else ():
            use_fused_kernels(net, recompute=recompute)
        if fused:
            # The networks' convolutions use this layout; otherwise each call would convert the weights.
            true_score.to(memory_format=torch.channels_last)
            convert_frozen_weights(true_score)
        phi = compiled(true_score) if recipe.compile else true_score
        decay, psi_norm, norm = 0.0, 0.0, 0.0
        if optimizer is not None:
            decay, psi_norm, norm = optimizer.weight_decay, optimizer.fake_score_clip_norm, optimizer.clip_norm
        ways: dict[str, Any] = {"compile": recipe.compile, "fused": fused, "weight_decay": decay}
        psi_lr, clip = recipe.fake_score_lr or recipe.lr, recipe.grad_clip_value or None
        self.fake_score = psi = OptimizedNetwork(
            fake_score, psi_lr, recipe.betas, recipe.eps, clip, clip_norm=psi_norm or None, **ways
        )
        betas = recipe.generator_betas or recipe.betas
        theta = OptimizedNetwork(generator, recipe.lr, betas, recipe.eps, clip_norm=norm or None, **ways)
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
        super().__init__(steps, schedule, recipe, graphs)
