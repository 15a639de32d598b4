"""Schedules by the number of images seen: phases, learning rates and events."""

import dataclasses
import math

from sida.config.recipe import Recipe


@dataclasses.dataclass(frozen=True)
class Phase:
    """Phase of an iteration.

    Attributes:
        update_generator: Whether the generator takes a step (the fake score always does).
        sid_weight: Weight of the SiD term in the generator's loss, in addition to λ_sid.
        adversarial_weight: Weight of the adversarial term, in addition to λ_adv.
        lr_factor: Factor on the learning rates, in [0, 1].
    """

    update_generator: bool
    sid_weight: float
    adversarial_weight: float
    lr_factor: float

    def weight(self, term: str) -> float:
        """Returns the schedule's weight of a term; names that begin with ``adversarial`` share one, others have 1."""
        if term == "sid":
            return self.sid_weight
        return self.adversarial_weight if term.startswith("adversarial") else 1.0


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Phases of a distillation by images seen **before** the iteration (strict ``>``).

        Schedule(warmup_kimg=100, adversarial_kimg=200).at(150_000).update_generator   # True

    Attributes:
        warmup_kimg: Thousands of images for which only the fake score is trained; 0 means no such phase.
        adversarial_kimg: Start of the phase with half the SiD term and half the adversarial term; before it the SiD
            term has its full weight. 0 means from the first image, None never (SiD).
        sid_share: Weight of the SiD term in that phase; the terms that join have the rest of 1.
        total_kimg: Length of the run; only used by the decay of the learning rate.
        lr_decay_start: Fraction of the run after which the rate falls linearly; 1 keeps it constant.
        lr_final: Factor on the learning rate at the end of the run.
        lr_rampup_kimg: Thousands of images over which the rate rises linearly from 0; 0 means no ramp-up.
    """

    warmup_kimg: float = 100
    adversarial_kimg: float | None = Recipe.adversarial_kimg
    sid_share: float = 0.5
    total_kimg: float | None = None
    lr_decay_start: float = Recipe.lr_decay_start
    lr_final: float = Recipe.lr_final
    lr_rampup_kimg: float = 0.0

    def at(self, nimg: int) -> Phase:
        """Returns the phase of the iteration that begins after ``nimg`` images."""
        adversarial = self.adversarial_kimg is not None and _past(nimg, self.adversarial_kimg)
        return Phase(
            update_generator=_past(nimg, self.warmup_kimg),
            sid_weight=self.sid_share if adversarial else 1.0,
            adversarial_weight=1 - self.sid_share if adversarial else 0.0,
            lr_factor=self.lr_factor(nimg),
        )

    @property
    def begun(self) -> float:
        """Images after which all phases have begun."""
        return max(self.warmup_kimg, self.adversarial_kimg or 0.0) * 1000

    def lr_factor(self, nimg: int) -> float:
        """Returns the factor on the learning rates after ``nimg`` images, in [0, 1]."""
        rampup = min(nimg / (self.lr_rampup_kimg * 1000), 1.0) if self.lr_rampup_kimg else 1.0
        if self.total_kimg is None:
            return rampup
        return rampup * linear_decay(nimg / (self.total_kimg * 1000), self.lr_decay_start, self.lr_final)


def _past(nimg: int, kimg: float) -> bool:
    # A threshold of 0 means no phase: the official SiD has no warm-up and steps from image 0 on.
    return kimg == 0 or nimg > kimg * 1000


def linear_decay(progress: float, start: float, final: float) -> float:
    """Factor 1 up to ``start``, then linear to ``final`` at 1 (``progress`` and ``start`` are fractions of the run)."""
    if progress <= start:
        return 1.0
    share = (min(progress, 1.0) - start) / (1 - start) if start < 1 else 0.0
    return (1 - share) + share * final


def teacher_learning_rate(nimg: int, batch_size: int, lr: float, rampup_nimg: float, ref_batches: float) -> float:
    """Learning rate of a published teacher: a linear ramp-up, then ``lr / sqrt(max(t / ref_batches, 1))``.

    The rate is that after t iterations.

    Args:
        nimg: Images seen before the iteration.
        batch_size: Images of an iteration.
        lr: Rate without ramp-up and decay.
        rampup_nimg: Images of the ramp-up; 0 means no ramp-up.
        ref_batches: Iterations after which the rate falls; 0 means never (EDM).

    Source: NVlabs/edm:training/training_loop.py; EDM2 (arXiv:2312.02696), section 3.3 and Table 6.
    """
    decay = math.sqrt(max(nimg / (ref_batches * batch_size), 1.0)) if ref_batches else 1.0
    return lr / decay * (min(nimg / rampup_nimg, 1.0) if rampup_nimg else 1.0)


def points_passed(nimg: int, every: float, per_decade: int | None) -> int:
    """Number of events at or before ``nimg`` images: at multiples of ``every``, or at ``every · 10^(k / per_decade)``.

    Args:
        nimg: Images seen.
        every: Images between two events; on the logarithmic scale, those at the first event.
        per_decade: Number of events per factor of ten; None spaces the events evenly.
    """
    if per_decade is None:
        return int(nimg // every)
    if nimg < every:
        return 0
    # The rounding of a logarithm must not lose an event that is met exactly.
    return math.floor(math.log10(nimg / every) * per_decade + 1e-9) + 1
