"""The iteration of all methods, and the trainer that repeats it: ψ's steps, θ's step, and the average of θ.

ψ is the fake score, or the discriminator in its place; θ is the generator. :mod:`sida.training.micro_batches` computes
the loss and gradient of one micro-batch of a step.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from sida.config.recipe import ResolvedConfig
from sida.config.samplers import Sampler
from sida.data.augment import AugmentPipe
from sida.kernels import require_fused
from sida.noise import Draws, uniform_labels, unit_noise
from sida.training.averages import Average, ema_beta
from sida.training.batches import Batch, seed_layers, step_draws
from sida.training.logs import IterationRecord
from sida.training.loop import Trainer
from sida.training.micro_batches import EagerRunner, GraphRunner, OptimizerStep, seeded
from sida.training.optimizer import OptimizedNetwork, Resumable
from sida.training.schedule import Phase, Schedule

#: ``batches(stream, nimg, with_images)``: micro-batches of one step; images that it does not see may be of the device
#: ``meta``, with a shape alone.
Batches = Callable[[str, int, bool], Sequence[Batch]]


class StudentTrainer(Trainer):
    """Trains a generator θ, and the networks that its losses need, and averages θ.

    Each step draws new images of the current generator. All networks other than the one that the step optimizes are
    frozen, in evaluation mode if they have one. In the warm-up phase the generator's forward and backward passes are
    skipped; this changes no other draw, because draws depend on counters only.

    Args:
        steps: Optimizer steps in the order of an iteration; the generator's comes last.
        schedule: Phases by images seen.
        recipe: Seed, noise level, average and CUDA graphs.
        graphs: Whether a step can be recorded and replayed as a CUDA graph.
        kept: Further parts by name whose state a resumed run needs.

    Attributes:
        generator: The last of the networks.
        batches: Source of images and labels, set before the first iteration; all streams have equally many images.
    """

    batches: Batches

    def __init__(
        self,
        steps: Sequence[OptimizerStep],
        schedule: Schedule,
        recipe: ResolvedConfig,
        graphs: bool = True,
        kept: Mapping[str, Resumable] | None = None,
    ) -> None:
        self.steps, self.schedule, self.recipe = list(steps), schedule, recipe
        self.generator, self.begun = steps[-1].network, schedule.begun
        self.max_nan_share = recipe.max_nan_share
        self.sampler = Sampler(kind="one_step", init_sigma=recipe.init_sigma)
        networks = {step.name: step.network for step in steps}
        super().__init__(networks, {"ema": Average(self.generator)}, kept)
        self.device = self.generator.flat.vector.device
        self._run = EagerRunner(self.generator, recipe.init_sigma)
        if graphs and recipe.cuda_graphs and self.device.type == "cuda":
            self._run = GraphRunner(self.generator, recipe.init_sigma, [*self.networks.values()])

    @property
    def provenance(self) -> dict[str, Any]:
        """See :class:`sida.training.loop.Trainer`."""
        guidance = {} if self.recipe.guidance == 1 else {"guidance": self.recipe.guidance}
        return {**guidance, "sampler": {"kind": "one_step", "init_sigma": self.recipe.init_sigma}}

    def iteration(self, nimg: int, draws: Mapping[str, Sequence[Draws]] | None = None) -> IterationRecord:
        """Does the steps of ψ, one step of θ and one of the average.

        Args:
            nimg: Images seen before this iteration, over all devices.
            draws: Replacements for the random tensors of streams, one mapping per micro-batch: ``z`` and the draws of
                the step's loss. Names missing from a mapping are drawn.
        """
        phase, record, given = self.schedule.at(nimg), IterationRecord(), draws or {}
        *psi_steps, theta_step = self.steps
        images = self.ranks.world_size * sum(len(like) for like, _ in self.batches(theta_step.stream, nimg, False))
        for step in psi_steps:
            if nimg // images % step.every == 0:
                for stream in step.streams():
                    self._take_step(step, stream, nimg, phase, given.get(stream), record)
        if phase.update_generator:
            self._take_step(theta_step, theta_step.stream, nimg, phase, given.get(theta_step.stream), record)
        half_life = self.recipe.ema_half_life_kimg * 1000
        self.ema.update(ema_beta(nimg, images, half_life, self.recipe.ema_rampup_ratio))
        return record

    def _take_step(
        self,
        step: OptimizerStep,
        stream: str,
        nimg: int,
        phase: Phase,
        given: Sequence[Draws] | None,
        record: IterationRecord,
    ) -> None:
        """Adds up the gradients of a stream's micro-batches, and steps."""
        batches, seed = self.batches(stream, nimg, step.real_images), self.recipe.seed
        shapes, kinds = [images.shape for images, _ in batches], {"z": unit_noise, **step.draws}
        draws: Sequence[Draws] = step_draws(seed, stream, nimg, shapes, self.device, kinds, self.ranks)
        if given is not None:
            draws = [{**drawn, **mapping} for drawn, mapping in zip(draws, given, strict=True)]
        total = sum(len(images) for images, _ in batches)
        weights = step.weights(batches[0][0][0].numel())
        scales = {name: (weight / total, phase.weight(name)) for name, weight in weights.items()}
        # The stream of ψ's first step has a separate name, on which the draws of recorded runs depend.
        purpose = "augment" if stream == "psi" else f"augment-{stream}"
        for network in self.networks.values():
            network.train() if network is step.network else network.eval()
        position = self.ranks.rank * total
        for (images, labels), drawn in zip(batches, draws):
            if step.uniform_labels and labels is not None:
                labels = uniform_labels(drawn["label"], labels.shape[1]).to(labels)
            seed_layers(seed, stream, nimg, position, self.device)
            augment = seeded(step.augment, seed, purpose, nimg, position)
            losses, dropped = self._run(step, scales, (images, labels), drawn, augment)
            record.nan_samples += dropped
            for name, value in losses.items():
                record.add_loss(name, value)
            position += len(images)
        record.samples += total
        record.add_step(step.name, step.network.step(phase.lr_factor))


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
        loss: A :class:`sida.methods.method.ScoreLoss`; its ``uses_real_images`` decides whether ψ's discriminator gets
            real images.
        schedule: Phases by images seen.
        recipe: Rates and average (:func:`sida.methods.registry.recipe_of`).
        weight_decay: Decoupled weight decay of ψ and θ.
        clip_norm: Largest norm of θ's gradient; 0 is off.
        fake_score_clip_norm: Largest norm of ψ's gradient; 0 is off.
        augment: Augmentation of ψ's batches; None means none. θ's batches are never augmented.
        psi_steps: Number of ψ steps in an iteration.
        graphs: Whether a step can be recorded and replayed as a CUDA graph.
    """

    def __init__(
        self,
        true_score: torch.nn.Module,
        fake_score: torch.nn.Module,
        generator: torch.nn.Module,
        loss: Any,
        schedule: Schedule,
        recipe: ResolvedConfig,
        *,
        weight_decay: float = 0.0,
        clip_norm: float = 0.0,
        fake_score_clip_norm: float = 0.0,
        augment: AugmentPipe | None = None,
        psi_steps: int = 1,
        graphs: bool = True,
    ) -> None:
        self.loss, self.true_score = loss, true_score.eval().requires_grad_(False)
        fused = recipe.kernels == "fused"
        for net in (true_score, fake_score, generator) if fused else ():
            require_fused().use_fused_kernels(net)
        if fused:
            # The networks' convolutions use this layout; otherwise each call would convert the weights.
            true_score.to(memory_format=torch.channels_last)
            require_fused().convert_frozen_weights(true_score)
        ways: dict[str, Any] = {"fused": fused, "weight_decay": weight_decay}
        self.fake_score = psi = OptimizedNetwork(
            fake_score,
            recipe.fake_score_lr or recipe.lr,
            recipe.betas,
            recipe.eps,
            recipe.grad_clip_value or None,
            clip_norm=fake_score_clip_norm or None,
            **ways,
        )
        betas = recipe.generator_betas or recipe.betas
        theta = OptimizedNetwork(generator, recipe.lr, betas, recipe.eps, clip_norm=clip_norm or None, **ways)
        psi_step = OptimizerStep(
            "fake_score",
            psi,
            lambda given: loss.fake_score_terms(psi.net, given),
            loss.weights,
            "psi",
            loss.fake_score_draws(),
            real_images=loss.uses_real_images,
            augment=augment,
            repeats=psi_steps,
        )
        theta_step = OptimizerStep(
            "generator",
            theta,
            lambda given: loss.generator_terms(true_score, psi.net, given),
            loss.weights,
            "generator",
            loss.generator_draws(),
        )
        super().__init__([psi_step, theta_step], schedule, recipe, graphs)
