"""The one loop body of every method: learners that take turns, whatever their networks, losses and terms are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from sida.losses import Draws
from sida.runtime.randomness import generator as random_generator
from sida.training.averages import Average, ema_beta
from sida.training.batches import seed_layers, step_draws
from sida.training.learner import Reduce, join
from sida.training.meter import IterationRecord
from sida.training.player import Batch, Batches, Player
from sida.training.ranks import Ranks
from sida.training.resumable import Resumable, joint_state, load_joint_state
from sida.training.rounds import PlainRounds, ReplayedRounds, Rounds, RoundSpec
from sida.training.schedule import Phase, Schedule


class Turns:
    """Players that step one after the other on the images of a generator, the last of them, and its average.

    The images of a turn are the current generator's, drawn anew; all learners but the player's are frozen, in
    evaluation mode where they have one. While the schedule holds the generator back, its forward and backward passes
    are skipped; nothing else notices, because draws depend on counters only.

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
        cuda_graphs: On a GPU, record each round's kernels once and replay them.

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
        cuda_graphs: bool = True,
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
        plain = PlainRounds(self.generator, init_sigma)
        replayed = cuda_graphs and self.device.type == "cuda"
        self._rounds: Rounds = ReplayedRounds(plain, list(self.learners.values())) if replayed else plain

    def begun(self, pixels: int) -> float:
        """Images after which all phases of the players' terms have begun, given C·H·W."""
        return self.schedule.begun(name for player in self.players for name in player.weights(pixels))

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
        factors = {name: weight / total for name, weight in weights.items()}
        spec = RoundSpec(player, factors, {name: phase.weight(name) for name in weights})
        for batch, given in zip(batches, draws):
            seed_layers(self.seed, stream, nimg, position, self.device)
            augment = self._augment(player, stream, nimg, position)
            outcome = self._rounds(spec, batch, given, augment)
            position += len(batch[0])
            record.samples += len(batch[0])
            record.nan_samples += outcome.nan_count
            for name, value in outcome.losses.items():
                record.add_loss(name, value)
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

    def weight_rms(self) -> dict[str, float | None]:
        """See :meth:`sida.training.learner.Learner.weight_rms`, by learner."""
        return {name: learner.weight_rms() for name, learner in self.learners.items()}

    def state(self) -> dict[str, torch.Tensor]:
        """Everything a resumed run needs, as named tensors (references, not copies); frozen networks are not in it."""
        return joint_state(self._parts)

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Puts a :meth:`state` back."""
        load_joint_state(self._parts, state)
