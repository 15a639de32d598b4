"""Score distillation: a generator trained by a teacher and by a fake score, and the trainer of a configuration."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch

from sida.config.augmentation import OFFICIAL_FLAGS
from sida.config.families import Family, WeightNorm
from sida.config.plugins import our_object
from sida.config.recipe import ResolvedConfig
from sida.data import AugmentPipe
from sida.errors import UserError
from sida.kernels import require_fused
from sida.losses import ScoreLoss
from sida.machine import compiled
from sida.methods.dmd import DMDOptions
from sida.methods.method import Method
from sida.networks import architecture, build_network
from sida.networks.unet import checkpoint_blocks
from sida.sampling.samplers import GuidedDenoiser
from sida.training.iteration import OptimizerStep
from sida.training.optimizer import OptimizedNetwork
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
            require_fused().use_fused_kernels(net, recompute=recompute)
        if fused:
            # The networks' convolutions use this layout; otherwise each call would convert the weights.
            true_score.to(memory_format=torch.channels_last)
            require_fused().convert_frozen_weights(true_score)
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


_Loss = TypeVar("_Loss", bound=ScoreLoss)


@dataclasses.dataclass(frozen=True)
class Parts:
    """Parts from which a method builds its trainer (:attr:`sida.methods.Method.trainer`).

    Attributes:
        method: Method of the configuration.
        config: Settings with all defaults resolved.
        options: Options of the method in its dataclass; None for a method without options.
        family: Family of the teacher's network.
        teacher: Teacher, on the device.
        initial: Network from which the generator starts.
        device: Device of the networks.
        where: Place named in errors.
        guide: Guiding network, on the device; None without guidance.
    """

    method: Method
    config: ResolvedConfig
    options: Any
    family: Family
    teacher: torch.nn.Module
    initial: torch.nn.Module
    device: torch.device
    where: str
    guide: torch.nn.Module | None = None

    @property
    def true_score(self) -> torch.nn.Module:
        """Returns φ as the generator's loss uses it: the teacher, with guidance if the recipe has it."""
        if self.guide is None:
            return self.teacher
        return GuidedDenoiser(self.teacher, self.guide, self.config.guidance)

    def copy(self, source: torch.nn.Module, weight_norm: WeightNorm | None) -> torch.nn.Module:
        """Returns a trainable copy of a network with the configured dropout, precision and weight normalisation."""
        network = copy.deepcopy(architecture(source))
        if self.config.dropout is not None:
            network["kwargs"]["dropout"] = self.config.dropout
        if self.device.type == "cuda":
            network["kwargs"]["use_fp16"] = self.config.fp16
        if weight_norm is not None:
            network["kwargs"]["weight_norm"] = weight_norm
        net = build_network(network).to(self.device)
        net.load_state_dict(source.state_dict())
        if self.config.checkpointing:
            checkpoint_blocks(net, f"{self.where}.checkpointing")
        net.half_dtype = getattr(torch, self.config.half)
        return net.requires_grad_(True)

    def initial_as(self, cls: str) -> torch.nn.Module:
        """Returns a network with the initial network's weights and another preconditioning of EDM's networks.

        Args:
            cls: Name of the class.

        Raises:
            UserError: The initial network is not of class EDMPrecond.
        """
        network = architecture(self.initial)
        if network["class"] not in ("EDMPrecond", cls):
            raise UserError(
                f"{self.where}.teacher",
                f"{self.config.method} starts from a network of class EDMPrecond, not "
                f"{network['class']} ({self.config.teacher})",
                "choose another teacher",
            )
        net = build_network({**network, "class": cls}).to(self.device)
        net.load_state_dict(self.initial.state_dict())
        return net

    def make(self, cls: type[_Loss], **own: Any) -> _Loss:
        """Returns a score loss with the settings of the recipe; ``own`` are values of its other fields."""
        return cls.of(self.config, **own)

    def loss(self) -> ScoreLoss:
        """Returns the loss of the method."""
        made = _imported(self.method.loss)
        if isinstance(made, type) and issubclass(made, ScoreLoss):
            return made.of(self.config, self.options)
        loss: ScoreLoss = made(self)
        return loss

    def optimized(self, net: torch.nn.Module, **ways: Any) -> OptimizedNetwork:
        """Returns a generator with the configured optimizer; ``ways`` are further arguments of the class."""
        config = self.config
        betas = config.generator_betas or config.betas
        return OptimizedNetwork(net, config.lr, betas, config.eps, compile=config.compile, **ways)

    def schedule(self) -> Schedule:
        """Returns the configured phases and rates; a method that does not read the setting has no adversarial phase."""
        config = self.config
        return Schedule(
            config.warmup_kimg,
            config.adversarial_kimg if "adversarial_kimg" in self.method.settings else None,
            total_kimg=config.total_kimg,
            lr_decay_start=config.lr_decay_start,
            lr_final=config.lr_final,
            lr_rampup_kimg=self.options.lr_rampup_kimg if isinstance(self.options, DMDOptions) else 0.0,
        )

    def trainer(self, steps: Sequence[OptimizerStep]) -> StudentTrainer:
        """Returns the configured trainer of a method without fake score."""
        return StudentTrainer(steps, self.schedule(), self.config)

    def augment(self, official: Mapping[str, float] = OFFICIAL_FLAGS) -> AugmentPipe | None:
        """Returns the configured augmentation; ``official`` holds the default flags."""
        settings = self.config.augment
        return None if settings is None else AugmentPipe.from_config(settings, f"{self.where}.augment", official)


def _imported(made: Any) -> Any:
    """A loss or trainer of a method, which is imported if only its name is given."""
    return our_object(made) if isinstance(made, str) else made


def method_trainer(parts: Parts) -> StudentTrainer:
    """Returns the trainer of a run's method."""
    trainer: StudentTrainer = (_imported(parts.method.trainer) or make_score_distiller)(parts)
    return trainer


def make_score_distiller(
    parts: Parts,
    loss: ScoreLoss | None = None,
    others: Sequence[OptimizerStep] = (),
    fake_score: torch.nn.Module | None = None,
    psi_steps: int | None = None,
    graphs: bool = True,
) -> Distiller:
    """Builds the trainer of teacher, fake score and generator.

    Args:
        parts: Settings and networks.
        loss: Loss; None makes that of the method.
        others: Further steps between those of fake score and generator.
        fake_score: Fake score; None makes that of the method.
        psi_steps: Steps of the fake score in an iteration; None takes the method's number.
        graphs: Whether a step can be recorded and replayed as a CUDA graph.
    """
    config = parts.config
    if fake_score is None:
        made = parts.method.fake_score
        fake_score = made(parts) if made else parts.copy(parts.teacher, config.fake_score_weight_norm)
    return Distiller(
        parts.true_score,
        fake_score,
        parts.copy(parts.initial, config.weight_norm),
        parts.loss() if loss is None else loss,
        parts.schedule(),
        config,
        optimizer=parts.options if isinstance(parts.options, DMDOptions) else None,
        augment=parts.augment() if "augment" in parts.method.settings else None,
        psi_steps=parts.method.psi_steps if psi_steps is None else psi_steps,
        others=others,
        graphs=graphs,
    )
