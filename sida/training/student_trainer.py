"""Trainer of students of all methods: optimizer steps on the images of a generator."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from sida.losses import Draws
from sida.runtime.randomness import generator as random_generator
from sida.training.averages import Average, ema_beta
from sida.training.batches import Batch, seed_layers, step_draws
from sida.training.flat import Resumable, joint_state, load_joint_state
from sida.training.logs import IterationRecord
from sida.training.micro_batches import EagerRunner, GraphRunner, MicroBatchRunner, MicroBatchSpec, OptimizerStep
from sida.training.optimized_network import join
from sida.training.ranks import Ranks
from sida.training.schedule import Phase, Schedule

#: ``batches(stream, nimg, with_images)``: micro-batches of one step; without images, placeholders of their shape.
Batches = Callable[[str, int, bool], Sequence[Batch]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainerSettings:
    """Settings of a student's trainer that are common to all methods.

    Attributes:
        seed: Run seed of all draws.
        init_sigma: σ_init of the generator.
        ema_half_life_kimg: Half-life of the average, in thousands of images.
        ema_rampup_ratio: The half-life is at most this share of the images seen; None means no limit.
        cuda_graphs: On a GPU, record each micro-batch's kernels once and replay them.
    """

    seed: int = 0
    init_sigma: float = 2.5
    ema_half_life_kimg: float = 500.0
    ema_rampup_ratio: float | None = 0.05
    cuda_graphs: bool = True


class StudentTrainer:
    """Does optimizer steps on the images of a generator, the generator's step last, and averages its weights.

    Each step draws new images of the current generator. All networks other than the one that the step optimizes are
    frozen, in evaluation mode if they have one. In the warm-up phase the generator's forward and backward passes are
    skipped; this changes no other draw, because draws depend on counters only.

    Args:
        steps: Optimizer steps in the order of an iteration; the generator's comes last.
        schedule: Phases by images seen.
        settings: Seed, noise level and average.

    Attributes:
        networks: Optimized networks by name, in the steps' order.
        generator: The last of the networks.
        ema: Average of the generator, the product of the run.
        batches: Source of images and labels, set before the first iteration; all streams have equally many images.
    """

    batches: Batches

    def __init__(self, steps: Sequence[OptimizerStep], schedule: Schedule, settings: TrainerSettings) -> None:
        self.steps, self.schedule, self.settings = list(steps), schedule, settings
        self.rank, self.world_size = 0, 1
        self.networks = {step.name: step.network for step in steps}
        self.generator = steps[-1].network
        self.ema = Average(self.generator)
        self._parts: dict[str, Resumable] = {**self.networks, "ema": self.ema}
        self.device = self.generator.flat.vector.device
        plain = EagerRunner(self.generator, settings.init_sigma)
        replayed = settings.cuda_graphs and self.device.type == "cuda"
        self._run: MicroBatchRunner = GraphRunner(plain, list(self.networks.values())) if replayed else plain

    @property
    def snapshots(self) -> dict[str, tuple[torch.nn.Module, dict[str, Any]]]:
        """See :class:`sida.training.loop.Trainer`."""
        return {"": (self.ema.net, {})}

    def begun(self, pixels: int) -> float:
        """Images after which all phases of the steps' terms have begun, given C·H·W."""
        return self.schedule.begun(name for step in self.steps for name in step.weights(pixels))

    def join(self, ranks: Ranks, shard: bool = False) -> None:
        """Joins several processes that train together; call it before the first iteration.

        Args:
            ranks: Processes that train together.
            shard: Whether to shard optimizer state, gradients and average (:class:`sida.training.flat.Shards`).
        """
        self.rank, self.world_size = ranks.rank, ranks.world_size
        for network in dict.fromkeys(self.networks.values()):
            join(network, ranks, shard)
        if self.generator.shards is not None:
            self.ema.shard(self.generator.shards)

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
        half_life = self.settings.ema_half_life_kimg * 1000
        self.ema.update(ema_beta(nimg, images, half_life, self.settings.ema_rampup_ratio))
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
            seed_layers(self.settings.seed, stream, nimg, position, self.device)
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
        shapes, seed = [images.shape for images, _ in batches], self.settings.seed
        own = step_draws(seed, stream, nimg, self.rank, shapes, self.device, step.level, self.world_size, step.draws)
        # Names missing from a mapping keep the run's draw.
        return own if given is None else [{**drawn, **mapping} for drawn, mapping in zip(own, given)]

    def _augment(self, step: OptimizerStep, stream: str, nimg: int, position: int) -> Any:
        if step.augment is None:
            return None
        # The stream of ψ's first step has a separate name, on which the draws of recorded runs depend.
        purpose = "augment" if stream == "psi" else f"augment-{stream}"
        pipe, source = step.augment, random_generator(self.settings.seed, purpose, nimg, position)
        return lambda images: pipe(images, generator=source)

    def weight_rms(self) -> dict[str, float | None]:
        """See :class:`sida.training.loop.Trainer`."""
        return {name: network.weight_rms() for name, network in self.networks.items()}

    def state(self) -> dict[str, torch.Tensor]:
        """Returns everything that a resumed run needs as named tensors (references), without frozen networks."""
        return joint_state(self._parts)

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Restores a :meth:`state`."""
        load_joint_state(self._parts, state)
