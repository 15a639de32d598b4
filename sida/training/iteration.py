"""The training iteration of all methods: optimizer steps on images of the generator, then a step of its average.

:meth:`Iterations.iteration` does the steps of one iteration, :meth:`Iterations._take_step` one step on its
micro-batches, and :class:`EagerRunner` one micro-batch: images, loss, gradient.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch

from sida.config.recipe import ResolvedConfig
from sida.data.augment import AugmentPipe
from sida.losses import Draws, MicroBatch, Terms
from sida.losses.terms import Augment
from sida.machine import generator as random_generator
from sida.sampling.samplers import one_step
from sida.training.averages import Average, ema_beta
from sida.training.batches import Batch, seed_layers, step_draws
from sida.training.logs import IterationRecord
from sida.training.optimizer import OptimizedNetwork
from sida.training.schedule import Phase, Schedule

#: ``batches(stream, nimg, with_images)``: micro-batches of one step; images that it does not see may be of the device
#: ``meta``, with a shape alone.
Batches = Callable[[str, int, bool], Sequence[Batch]]


@dataclasses.dataclass(frozen=True)
class OptimizerStep:
    """One kind of optimizer step of an iteration: the network that it changes, and the loss that it reduces.

    Two steps may share a network (a penalty with a step of its own), under one name. State that a resumed run needs
    beside parameters and optimizer is a buffer of the module.

    Attributes:
        name: Of the network, in states and logs.
        network: Takes the step.
        loss: Terms of a micro-batch.
        weights: Factor of each term by its name, given C·H·W.
        stream: Name of its own order of images and draws.
        level: Draw that decides σ: ``sigma_normal`` (normal) or ``t`` (uniform).
        real_images: Whether its loss sees real images.
        augment: Augmentation that its loss gets; None is off.
        repeats: Steps in an iteration, each on images and draws of its own.
        every: Iterations from one step to the next.
        draws: Names of further draws of its loss, see :func:`sida.training.batches.step_draws`.
        generates: Whether its loss sees the generator's images; else real images are in their place, too.
    """

    name: str
    network: OptimizedNetwork
    loss: Callable[[MicroBatch], Terms]
    weights: Callable[[int], Mapping[str, float]]
    stream: str
    level: str = "t"
    real_images: bool = False
    augment: AugmentPipe | None = None
    repeats: int = 1
    every: int = 1
    draws: tuple[str, ...] = ()
    generates: bool = True

    def streams(self) -> list[str]:
        """Names of the streams of an iteration's steps."""
        return [self.stream, *(f"{self.stream}-{step}" for step in range(2, self.repeats + 1))]


@dataclasses.dataclass(frozen=True)
class MicroBatchSpec:
    """Facts of a micro-batch's computation, apart from its tensors.

    Attributes:
        step: Optimizer step that the micro-batch belongs to.
        factors: Factor of each term's sum before it is logged, by the term's name.
        shares: The schedule's weights of the terms; one of 0 costs no backward pass.
    """

    step: OptimizerStep
    factors: Mapping[str, float]
    shares: Mapping[str, float]

    def key(self, terms: Sequence[str]) -> tuple[object, ...]:
        """Equal for micro-batches that run the same kernels, if the step's loss has these terms."""
        return (self.step.stream, *((name, self.factors[name], self.shares[name]) for name in terms))


@dataclasses.dataclass
class MicroBatchResult:
    """Losses of a micro-batch; the network holds its gradient.

    Attributes:
        losses: Terms by name, times their factors; 0-dim.
        nan_count: Samples that were dropped.
    """

    losses: dict[str, torch.Tensor]
    nan_count: torch.Tensor | int


class MicroBatchRunner(Protocol):
    """Computes losses and gradients of micro-batches."""

    def __call__(self, spec: MicroBatchSpec, batch: Batch, draws: Draws, augment: Augment | None) -> MicroBatchResult:
        """Computes one micro-batch and adds its gradient to the network's."""


class EagerRunner:
    """Runs micro-batches kernel by kernel.

    Args:
        generator: Gives the images; in training mode for its own micro-batches.
        init_sigma: Its σ_init.
    """

    def __init__(self, generator: OptimizedNetwork, init_sigma: float) -> None:
        self.generator, self.init_sigma = generator, init_sigma

    def __call__(self, spec: MicroBatchSpec, batch: Batch, draws: Draws, augment: Augment | None) -> MicroBatchResult:
        """See :class:`MicroBatchRunner`."""
        return self.loss_and_gradient(spec, self.images(spec.step, batch, draws), batch, draws, augment)

    def images(self, step: OptimizerStep, batch: Batch, draws: Draws) -> torch.Tensor:
        """The generator's images, with a gradient in its own step; real images for a step that sees those alone."""
        if not step.generates:
            return batch[0]
        with torch.set_grad_enabled(step.network is self.generator):
            return one_step(self.generator.call, draws["z"], batch[1], self.init_sigma)

    def loss_and_gradient(
        self, spec: MicroBatchSpec, images: torch.Tensor, batch: Batch, draws: Draws, augment: Augment | None
    ) -> MicroBatchResult:
        """The step's loss on images, and its gradient."""
        real, labels = batch
        terms = spec.step.loss(MicroBatch(images, labels, real if spec.step.real_images else None, augment, draws))
        losses, weighted = {}, []
        for name, per_element in terms.items():
            value = per_element.sum() * spec.factors[name]
            losses[name] = value.detach()
            if share := spec.shares[name]:
                weighted.append(value if share == 1 else share * value)
        if weighted:
            sum(weighted[1:], weighted[0]).backward()
        return MicroBatchResult(losses, terms.nan_count)


class Iterations:
    """Does optimizer steps on the images of a generator, the generator's step last, and averages its weights.

    Each step draws new images of the current generator. All networks other than the one that the step optimizes are
    frozen, in evaluation mode if they have one. In the warm-up phase the generator's forward and backward passes are
    skipped; this changes no other draw, because draws depend on counters only.

    :class:`sida.training.student_trainer.StudentTrainer` sets the attributes.
    """

    steps: list[OptimizerStep]
    schedule: Schedule
    recipe: ResolvedConfig
    networks: dict[str, OptimizedNetwork]
    ema: Average
    batches: Batches
    rank: int
    world_size: int
    device: torch.device
    _run: MicroBatchRunner

    def iteration(self, nimg: int, draws: Mapping[str, Sequence[Draws]] | None = None) -> IterationRecord:
        """Does each optimizer step, then one step of the average.

        Args:
            nimg: Images seen before this iteration, over all devices.
            draws: Replacements for the random tensors of streams, one mapping per micro-batch: ``z``, ``noise`` and the
                step's level, see :func:`sida.training.batches.step_draws`. Names missing from a mapping are drawn.
        """
        phase, record, draws = self.schedule.at(nimg), IterationRecord(), draws or {}
        last = self.steps[-1]
        images = self.world_size * sum(len(like) for like, _ in self.batches(last.stream, nimg, False))
        for step in self.steps:
            held_back = step is last and not phase.update_generator
            if held_back or nimg // images % step.every:
                continue
            for stream in step.streams():
                micro_batches = self.batches(stream, nimg, step.real_images)
                given = self._draws(step, stream, nimg, micro_batches, draws.get(stream))
                self._take_step(step, stream, nimg, micro_batches, given, phase, record)
        half_life = self.recipe.ema_half_life_kimg * 1000
        self.ema.update(ema_beta(nimg, images, half_life, self.recipe.ema_rampup_ratio))
        return record

    def _take_step(
        self,
        step: OptimizerStep,
        stream: str,
        nimg: int,
        batches: Sequence[Batch],
        draws: Sequence[Draws],
        phase: Phase,
        record: IterationRecord,
    ) -> None:
        total = sum(len(images) for images, _ in batches)
        weights = step.weights(batches[0][0][0].numel())
        for network in self.networks.values():
            network.train() if network is step.network else network.eval()
        position = self.rank * total
        factors = {name: weight / total for name, weight in weights.items()}
        spec = MicroBatchSpec(step, factors, {name: phase.weight(name) for name in weights})
        for batch, given in zip(batches, draws):
            seed_layers(self.recipe.seed, stream, nimg, position, self.device)
            augment = self._augment(step, stream, nimg, position)
            outcome = self._run(spec, batch, given, augment)
            position += len(batch[0])
            record.samples += len(batch[0])
            record.nan_samples += outcome.nan_count
            for name, value in outcome.losses.items():
                record.add_loss(name, value)
        record.add_step(step.name, step.network.step(phase.lr_factor))

    def _draws(
        self, step: OptimizerStep, stream: str, nimg: int, batches: Sequence[Batch], given: Sequence[Draws] | None
    ) -> Sequence[Draws]:
        if given is not None and len(given) != len(batches):
            raise ValueError(f"draws: {len(given)} mappings for the {len(batches)} micro-batches of '{stream}'")
        names = {"z", "noise", step.level, *step.draws}
        if given is not None and all(names <= mapping.keys() for mapping in given):
            return given
        shapes, seed = [images.shape for images, _ in batches], self.recipe.seed
        own = step_draws(seed, stream, nimg, self.rank, shapes, self.device, step.level, self.world_size, step.draws)
        # Names missing from a mapping keep the run's draw.
        return own if given is None else [{**drawn, **mapping} for drawn, mapping in zip(own, given)]

    def _augment(self, step: OptimizerStep, stream: str, nimg: int, position: int) -> Any:
        if step.augment is None:
            return None
        # The stream of ψ's first step has a separate name, on which the draws of recorded runs depend.
        purpose = "augment" if stream == "psi" else f"augment-{stream}"
        pipe, source = step.augment, random_generator(self.recipe.seed, purpose, nimg, position)
        return lambda images: pipe(images, generator=source)
