"""The iteration of all trainings: optimizer steps one after another, and the averages.

A step draws images and noise, adds up loss and gradient over its micro-batches, and changes one network. A method is a
list of such steps: for most methods ψ's steps, then θ's. ψ is the fake score or a discriminator; θ is the generator.
A teacher has one step.
"""

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from sida.config.families import NULL_LABEL
from sida.config.kernels import require_kernels, use_kernels
from sida.config.recipe import EvaluationPoints, ResolvedConfig, TeacherConfig
from sida.config.samplers import GeneratorSteps, Sampler
from sida.data.augment import AugmentPipe
from sida.errors import say
from sida.machine import generator
from sida.noise import Draws
from sida.training.batches import Augment, Batch, seed_layers, step_draws
from sida.training.logs import IterationRecord, LogRecords
from sida.training.optimizer import Average, NamedTensors, OptimizedNetwork, Resumable, ema_beta
from sida.training.processes import ALONE, Interruption, Ranks
from sida.training.schedule import Phase, Schedule, points_passed
from sida.training.steps import NORM, EagerRunner, GraphRunner, OptimizerStep, Z

#: ``batches(stream, nimg, with_images)``: micro-batches of one step; images that it does not see may be of the device
#: ``meta``, with a shape alone.
Batches = Callable[[str, int, bool], Sequence[Batch]]


class Trainer:
    """Repeats an iteration of optimizer steps, and averages networks; its state is all that a resumed run needs.

    All networks other than the one that a step optimizes are frozen, in evaluation mode if they have one. In the
    warm-up phase the last step is skipped; this changes no other draw, because draws depend on counters only.

    Args:
        steps: Optimizer steps in the order of an iteration; the last is that of the product.
        schedule: Phases by images seen.
        config: Seed and half-life of the average.
        averages: Averages by name; the first is the product of the run.
        resumable: Further parts by name whose state a resumed run needs.

    Attributes:
        batches: Source of images and labels, set before the first iteration; all streams have equally many images.
        generator_steps: Steps of the generator.
        through_all: Whether the generator learns through all of its steps, or through the last one taken.
        networks: Optimized networks by name.
        ema: Averaged network, the product of the run.
        ranks: Processes that train together.
        sampler: Sampler of the pictures.
        evaluate: Measures the product on the ranks, until this rank is asked to end; the average with the lowest
            selection value is the run's result. None makes the last average the result.
        evaluation_points: Times of evaluations.
        provenance: Metadata of the product that only this kind of training has.
        max_nan_share: Largest permitted share of samples dropped for a NaN.
        begun: Images after which all phases of the method have begun, and evaluations count for ``patience``.
        faults: Context of an iteration, in which exceptions of a method from outside become one line.
    """

    batches: Batches
    generator_steps = GeneratorSteps()
    through_all = False
    sampler: Sampler
    evaluate: Callable[[torch.nn.Module, Interruption, Ranks], dict[str, Any]] | None = None
    evaluation_points: EvaluationPoints | None = None
    provenance: Mapping[str, Any] = {}
    max_nan_share = 1.0
    faults: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext

    def __init__(
        self,
        steps: Sequence[OptimizerStep],
        schedule: Schedule,
        config: ResolvedConfig | TeacherConfig,
        averages: Mapping[str, Average],
        resumable: Mapping[str, Resumable] | None = None,
    ) -> None:
        self.steps, self.schedule, self.config, self.begun = list(steps), schedule, config, schedule.begun
        self.networks, self.averages = {step.name: step.network for step in steps}, dict(averages)
        self._parts: dict[str, Resumable] = {**self.networks, **averages, **(resumable or {})}
        self.ema, self.ranks = next(iter(self.averages.values())), ALONE
        self.device = steps[-1].network.flat.vector.device
        self._run = EagerRunner(steps[-1].network, self.generator_steps, self.through_all)

    @property
    def snapshots(self) -> dict[str, tuple[torch.nn.Module, dict[str, Any]]]:
        """Networks of a snapshot, the product first, with additions to the header, by the suffix of file names."""
        return {"": (self.ema.net, {})}

    def lost(self, ticks: LogRecords) -> str | None:
        """Returns the reason to reject the last network, given the log's records, or None."""
        return None

    def join(self, ranks: Ranks) -> None:
        """Joins several processes that train together; call it before the first iteration."""
        self.ranks = ranks
        for network in self.networks.values():
            network.ranks = ranks

    def state(self) -> NamedTensors:
        """Returns the state with the keys ``network/name``, as references and without frozen networks."""
        parts = self._parts.items()
        return {f"{part}/{name}": value for part, owner in parts for name, value in owner.state().items()}

    def load(self, state: NamedTensors) -> None:
        """Restores a :meth:`state`."""
        for part, owner in self._parts.items():
            prefix = f"{part}/"
            owner.load({name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)})

    def taken_steps(self, nimg: int) -> int:
        """Steps of the generator in the iteration after ``nimg`` images, equal on all ranks: uniform in 1 … n."""
        count = self.generator_steps.count
        if count == 1:
            return 1
        return 1 + int(torch.randint(count, (), generator=generator(self.config.seed, "num_steps", nimg)))

    def iteration(self, nimg: int, draws: Mapping[str, Sequence[Draws]] | None = None) -> IterationRecord:
        """Does all steps and updates the averages.

        Args:
            nimg: Images seen before this iteration, over all devices.
            draws: Replacements for the random tensors of streams, one mapping per micro-batch. Names missing from a
                mapping are drawn.
        """
        self.begin(nimg)
        phase, record, replacements = self.schedule.at(nimg), IterationRecord(), draws or {}
        *_, last = self.steps
        images = self.ranks.world_size * sum(len(like) for like, _ in self.batches(last.stream, nimg, False))
        tick = (self.config.tick_kimg * 1000, None)
        first = nimg == 0 or points_passed(nimg, *tick) > points_passed(nimg - images, *tick)
        for step in self.steps:
            if nimg // images % step.every == 0 and (step is not last or phase.update_generator):
                for stream in step.streams():
                    self._take_step(
                        step, stream, nimg, phase, replacements.get(stream, ()), record, first and step is last
                    )
        self.update_averages(nimg, images)
        if (kernels := last.network.kernels) is not None and not self.ranks.rank and (news := kernels.news()):
            say(f"kernels: {news}")
        return record

    def begin(self, nimg: int) -> None:
        """Prepares for the iteration that begins after ``nimg`` images."""

    def update_averages(self, nimg: int, images: int) -> None:
        """Moves the averages after a step of ``images`` images that began after ``nimg`` images."""
        half_life = self.config.ema_half_life_kimg * 1000
        self.ema.update(ema_beta(nimg, images, half_life, self.config.ema_rampup_ratio))

    def _take_step(
        self,
        step: OptimizerStep,
        stream: str,
        nimg: int,
        phase: Phase,
        replacements: Sequence[Draws],
        record: IterationRecord,
        norms: bool,
    ) -> None:
        """Adds up the gradients of a stream's micro-batches, and steps; ``norms`` measures the first one's terms."""
        batches, seed = self.batches(stream, nimg, step.real_images), self.config.seed
        assert all(images.shape[1:] == batches[0][0].shape[1:] for images, _ in batches)
        steps_taken, shapes = self.taken_steps(nimg), [images.shape for images, _ in batches]
        kinds = step.draws_for(steps_taken, self.generator_steps.noise)
        draws = step_draws(seed, stream, nimg, shapes, self.device, kinds, self.ranks)
        total = sum(len(images) for images, _ in batches)
        weights = {"": 1.0} if step.weights is None else step.weights(batches[0][0].shape[1:].numel())
        scales = {name: (weight / total, phase.weight(name)) for name, weight in weights.items()}
        # Without the suffix for the first streams, because recorded runs drew with these names.
        purpose = "augment" if stream in ("psi", "teacher") else f"augment-{stream}"
        for network in self.networks.values():
            network.set_training(network is step.network)

        position = self.ranks.rank * total
        for number, (images, labels) in enumerate(batches):
            tensors = {**draws[number], **(replacements[number] if replacements else {})}
            if step.labels is not None and labels is not None and labels.shape[1]:
                labels = step.labels(labels, tensors)
            tensors |= {} if labels is None else {"labels": labels}
            tensors |= {"real": images} if step.real_images else {}
            seed_layers(seed, stream, nimg, position, self.device)
            augment: Augment | None = step.augment
            if step.augment is not None:
                source = generator(seed, purpose, nimg, position)
                augment = functools.partial(step.augment, generator=source)
            losses = self._run(step, scales, tensors, augment, steps_taken, norms and number == 0)
            record.nan_samples += losses.pop("nan_count")
            for name, value in losses.items():
                if name.startswith(NORM):
                    record.term_norms[name.removeprefix(NORM)] = value
                    continue
                record.losses[name] = record.losses[name] + value if name in record.losses else value
            position += len(images)
        record.samples += total
        report = step.network.step(phase.lr_factor)
        record.grad_norms[step.name] = report.norm
        record.bad_gradients = record.bad_gradients + report.replaced


class StudentTrainer(Trainer):
    """Trains a generator θ, and the networks that its losses need, and averages θ.

    Each step draws new images of the current generator.

    Args:
        steps: Optimizer steps in the order of an iteration; the generator's comes last.
        schedule: Phases by images seen.
        recipe: Seed, noise level, steps (``num_steps``, ``noise``, ``step_levels``, ``gradient``), average and CUDA
            graphs.
        graphs: Whether a step can be recorded and replayed as a CUDA graph.
        resumable: Further parts by name whose state a resumed run needs.

    Attributes:
        config: The recipe.
        generator: The last of the networks.
    """

    config: ResolvedConfig

    def __init__(
        self,
        steps: Sequence[OptimizerStep],
        schedule: Schedule,
        recipe: ResolvedConfig,
        graphs: bool = True,
        resumable: Mapping[str, Resumable] | None = None,
    ) -> None:
        self.generator, self.max_nan_share = steps[-1].network, recipe.max_nan_share
        # Trainer's constructor reads these two.
        self.through_all, self.generator_steps = recipe.gradient == "all", recipe.generator_steps
        step_settings = {"num_steps": recipe.num_steps, "noise": recipe.noise, "step_levels": recipe.step_levels}
        sampler: dict[str, Any] = {"kind": "one_step", "init_sigma": recipe.init_sigma}
        sampler |= step_settings if recipe.num_steps > 1 else {}
        self.sampler = Sampler(**sampler)
        guidance: dict[str, Any] = {} if recipe.guidance == 1 else {"guidance": recipe.guidance}
        guidance |= {"guide": NULL_LABEL} if recipe.guide == NULL_LABEL else {}
        self.provenance = {**guidance, "sampler": sampler}
        super().__init__(steps, schedule, recipe, {"ema": Average(self.generator)}, resumable)
        if graphs and recipe.cuda_graphs and self.device.type == "cuda":
            self._run = GraphRunner([*self.networks.values()], self.generator, self.generator_steps, self.through_all)


class Distiller(StudentTrainer):
    """Trains a fake score ψ and a generator θ against a teacher φ, and averages θ.

        distiller = Distiller(phi, psi, theta, SiDALoss(), Schedule(), recipe_of("sida", lr=1e-5))
        distiller.batches = lambda stream, nimg, with_images: [(images, labels)]
        record = distiller.iteration(nimg)

    An iteration is one or more ψ steps on images of the current θ, a θ step through the new ψ, and an update of the
    average: algorithm 1 of SiDA (arXiv:2410.14919) in the official code's order, modes and scales.

    Args:
        true_score: φ; the trainer freezes it, with the recipe's kernels in the precision of its maps.
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
        further_steps: Makes further steps of an iteration, between ψ's and θ's, with the optimized ψ.
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
        further_steps: Callable[[OptimizedNetwork], Sequence[OptimizerStep]] = lambda fake_score: (),
        graphs: bool = True,
    ) -> None:
        self.loss, self.true_score = loss, true_score.eval().requires_grad_(False)
        kernels = require_kernels(recipe.kernels)
        if kernels is not None:
            use_kernels(kernels.network, true_score)
            if kernels.network.channels_last:
                # Without this layout each call would convert the weights.
                true_score.to(memory_format=torch.channels_last)
            kernels.network.convert_frozen_weights(true_score)
        common: dict[str, Any] = {"eps": recipe.eps, "kernels": kernels, "weight_decay": weight_decay}
        self.fake_score = psi = OptimizedNetwork(
            fake_score, recipe.fake_score_lr or recipe.lr, recipe.betas,
            clip_value=recipe.grad_clip_value, clip_norm=fake_score_clip_norm, **common,
        )  # fmt: skip
        betas = recipe.generator_betas or recipe.betas
        theta = OptimizedNetwork(generator, recipe.lr, betas, clip_norm=clip_norm, **common)
        psi_loss = functools.partial(loss.fake_score_terms, fake_score)
        theta_loss = functools.partial(loss.generator_terms, true_score, fake_score)
        psi_draws, theta_draws = {**Z, **loss.fake_score_draws()}, {**Z, **loss.generator_draws()}
        psi_step = OptimizerStep(
            "fake_score",
            psi,
            psi_loss,
            "psi",
            loss.weights,
            psi_draws,
            loss.fake_score_labels,
            real_images=loss.uses_real_images,
            augment=augment,
            repeats=psi_steps,
        )
        theta_step = OptimizerStep("generator", theta, theta_loss, "generator", loss.weights, theta_draws)
        super().__init__([psi_step, *further_steps(psi), theta_step], schedule, recipe, graphs)

    def begin(self, nimg: int) -> None:
        """See :meth:`Trainer.begin`; a loss may have levels that move."""
        if hasattr(self.loss, "begin"):
            self.loss.begin(nimg)
