"""The one loop body of every method: learners that take turns, whatever their networks, losses and terms are."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from sida.data.augment import AugmentPipe
from sida.losses import Draws, FakeScoreTerms, GeneratorTerms, Round, Terms
from sida.randomness import generator as random_generator
from sida.sampling.one_step import one_step
from sida.training.averages import Average, ema_beta
from sida.training.batches import seed_layers, step_draws
from sida.training.learner import Learner, Reduce, Resumable, join, joint_state, load_joint_state
from sida.training.meter import IterationRecord
from sida.training.ranks import Ranks
from sida.training.schedule import Phase, Schedule

#: ``(images (N, C, H, W), class_labels (N, label_dim) or None)``.
Batch = tuple[torch.Tensor, torch.Tensor | None]
#: ``batches(stream, with_images)``: the accumulation rounds of one step; without images only their shape counts.
Batches = Callable[[str, bool], Sequence[Batch]]


@dataclasses.dataclass(frozen=True)
class Player:
    """A learner, and what a step of it makes smaller.

    A player may share its learner with another one (a penalty with a step of its own), then under the same name. What
    must survive a resume beside parameters and optimizer is a buffer of the learner's network.

    Attributes:
        name: Of the learner, in states and logs.
        learner: Takes the step.
        loss: Terms of a round.
        weights: Factor of each term by its name, given C·H·W.
        stream: Name of its own order of images and draws.
        level: Draw that decides σ: ``sigma_normal`` (normal) or ``t`` (uniform).
        real_images: Whether its loss sees real images.
        augment: Augmentation that its loss gets; None is off.
        steps: Steps in an iteration, each on images and draws of its own.
        every: It takes part in each iteration of this number only.
    """

    name: str
    learner: Learner
    loss: Callable[[Round], GeneratorTerms | FakeScoreTerms | Terms]
    weights: Callable[[int], Mapping[str, float]]
    stream: str
    level: str = "t"
    real_images: bool = False
    augment: AugmentPipe | None = None
    steps: int = 1
    every: int = 1

    def streams(self) -> list[str]:
        """Names of the streams of an iteration's steps."""
        return [self.stream, *(f"{self.stream}-{step}" for step in range(2, self.steps + 1))]


class Turns:
    """Players that step one after the other on the images of a generator, the last of them, and its average.

    The images of a turn are the current generator's, drawn anew; all learners but the player's are frozen in
    evaluation mode. While the schedule holds the generator back, its forward and backward passes are skipped; nothing
    else notices, because draws depend on counters only.

    Args:
        players: In the order of an iteration; the generator's comes last.
        schedule: Phases by images seen.
        seed: Run seed of all draws.
        init_sigma: σ_init of the generator.
        ema_half_life: Half-life of the average, in images.
        ema_rampup_ratio: The half-life is at most this share of the images seen; None is no limit.
        rank: Number of this device.
        world_size: Number of devices; the average's step counts the images of all of them.
        reduce: Averages a gradient vector over devices, in place (:data:`sida.training.learner.Reduce`).

    Attributes:
        learners: Learners by name, in the players' order.
        generator: The last of them.
        ema: Its average: a run's product.
    """

    def __init__(
        self,
        players: Sequence[Player],
        schedule: Schedule,
        *,
        seed: int,
        init_sigma: float = 2.5,
        ema_half_life: float = 500_000,
        ema_rampup_ratio: float | None = 0.05,
        rank: int = 0,
        world_size: int = 1,
        reduce: Reduce | None = None,
    ) -> None:
        self.players, self.schedule, self.init_sigma = list(players), schedule, init_sigma
        self.ema_half_life, self.ema_rampup_ratio = ema_half_life, ema_rampup_ratio
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.learners = {player.name: player.learner for player in players}
        for learner in self.learners.values():
            learner.reduce = reduce
        self.generator = players[-1].learner
        self.ema = Average(self.generator)
        self._parts: dict[str, Resumable] = {**self.learners, "ema": self.ema}
        self.device = self.generator.flat.vector.device

    def join(self, ranks: Ranks, shard: bool = False) -> None:
        """Makes this one of several processes that train together; to be called before the first iteration.

        Args:
            ranks: The processes.
            shard: Cut optimizer, gradients and average into pieces (:class:`sida.training.shards.Shards`).
        """
        self.rank, self.world_size = ranks.rank, ranks.world_size
        for learner in dict.fromkeys(self.learners.values()):
            join(learner, ranks, shard)
        if self.generator.shards is not None:
            self.ema.shard(self.generator.shards)

    def take(self, nimg: int, batches: Batches, draws: Mapping[str, Sequence[Draws]] | None = None) -> IterationRecord:
        """Each player's steps, then one step of the average.

        Args:
            nimg: Images seen before this iteration, over all devices.
            batches: Rounds by stream; every stream's have as many images.
            draws: Replace the random tensors of streams, one mapping per round; what a mapping leaves out is drawn as
                without it.
        """
        phase, record, draws = self.schedule.at(nimg), IterationRecord(), draws or {}
        last = self.players[-1]
        images = self.world_size * sum(len(like) for like, _ in batches(last.stream, False))
        for player in self.players:
            held_back = player is last and not phase.update_generator
            if held_back or nimg // images % player.every:
                continue
            for stream in player.streams():
                rounds = batches(stream, player.real_images)
                given = self._draws(player, stream, nimg, rounds, draws.get(stream))
                self._step(player, stream, nimg, rounds, given, phase, record)
        self.ema.update(ema_beta(nimg, images, self.ema_half_life, self.ema_rampup_ratio))
        return record

    def _step(
        self,
        player: Player,
        stream: str,
        nimg: int,
        batches: Sequence[Batch],
        draws: Sequence[Draws],
        phase: Phase,
        record: IterationRecord,
    ) -> None:
        total = sum(len(images) for images, _ in batches)
        weights = player.weights(batches[0][0][0].numel())
        for learner in self.learners.values():
            learner.train() if learner is player.learner else learner.eval()
        position = self.rank * total
        for (like, labels), given in zip(batches, draws):
            seed_layers(self.seed, stream, nimg, position, self.device)
            augment = self._augment(player, stream, nimg, position)
            position += len(like)
            with torch.set_grad_enabled(player.learner is self.generator):
                images = one_step(self.generator.call, given["z"], labels, self.init_sigma)
            terms = player.loss(Round(images, labels, like if player.real_images else None, augment, given))
            record.samples += len(images)
            record.nan_samples += terms.nan_count
            weighted = []
            for name, per_element in terms.items():
                value = per_element.sum() * (weights[name] / total)
                record.add_loss(name, value)
                # A term of weight 0 costs no backward pass.
                if weight := phase.weight(name):
                    weighted.append(value if weight == 1 else weight * value)
            if weighted:
                sum(weighted[1:], weighted[0]).backward()
        record.add_step(player.name, player.learner.step(phase.lr_factor))

    def _draws(
        self, player: Player, stream: str, nimg: int, batches: Sequence[Batch], given: Sequence[Draws] | None
    ) -> Sequence[Draws]:
        if given is not None and all({"z", "noise", player.level} <= mapping.keys() for mapping in given):
            return given
        shapes = [images.shape for images, _ in batches]
        own = step_draws(self.seed, stream, nimg, self.rank, shapes, self.device, player.level, self.world_size)
        # What a mapping leaves out stays the run's own draw.
        return own if given is None else [{**drawn, **mapping} for drawn, mapping in zip(own, given)]

    def _augment(self, player: Player, stream: str, nimg: int, position: int) -> Any:
        if player.augment is None:
            return None
        # ψ's first step has the name that it had when there was no other player.
        purpose = "augment" if stream == "psi" else f"augment-{stream}"
        pipe, source = player.augment, random_generator(self.seed, purpose, nimg, position)
        return lambda images: pipe(images, generator=source)

    def state(self) -> dict[str, torch.Tensor]:
        """Everything a resumed run needs, as named tensors (references, not copies); frozen networks are not in it."""
        return joint_state(self._parts)

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Puts a :meth:`state` back."""
        load_joint_state(self._parts, state)
