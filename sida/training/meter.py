"""Means over a tick, resumable within the tick."""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Sequence
from typing import Any

import torch

from sida.training.optimized_network import GuardReport
from sida.training.ranks import ALONE, Ranks

#: Groups of values that are averaged over a tick, by name.
GROUPS = ("losses", "grad_norm")
TICK_COUNTS = ("images", "steps", "samples", "nan_count", "bad_gradients", "bad_steps")


@dataclasses.dataclass
class IterationRecord:
    """Losses, gradient norms and counts of one iteration.

    Attributes:
        losses: Losses as back-propagated, without the schedule's weights; 0-dim.
        grad_norms: Gradient norm before clipping of each network that took a step; 0-dim.
        samples: Number of samples in the losses.
        nan_samples: Number of samples dropped for a NaN.
        bad_gradients: Number of gradient entries that are NaN or infinite.
    """

    losses: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)
    grad_norms: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)
    samples: int = 0
    nan_samples: torch.Tensor | int = 0
    bad_gradients: torch.Tensor | int = 0

    def add_loss(self, name: str, value: torch.Tensor) -> None:
        """Adds the share of one micro-batch."""
        value = value.detach()
        self.losses[name] = self.losses[name] + value if name in self.losses else value

    def add_step(self, name: str, report: GuardReport) -> None:
        """Records a network's step."""
        self.grad_norms[name] = report.norm
        self.bad_gradients = self.bad_gradients + report.replaced


def share_records(records: Sequence[IterationRecord], ranks: Ranks) -> None:
    """Combines the records of all ranks, in place.

    Losses are averaged over ranks, as gradients are, and samples are added. Norms and bad entries already belong to the
    averaged gradients.

    Args:
        records: Records of the same iterations on all ranks.
        ranks: Processes that train together.
    """
    if ranks.world_size == 1 or not records:
        return
    rows = [[*record.losses.values(), record.samples, record.nan_samples] for record in records]
    device = next((value.device for row in rows for value in row if isinstance(value, torch.Tensor)), None)
    values = torch.stack([torch.as_tensor(value, device=device).double() for row in rows for value in row])
    ranks.add_up(values)
    sums = iter(values.tolist())
    for record in records:
        record.losses = {name: torch.tensor(next(sums) / ranks.world_size) for name in record.losses}
        record.samples, record.nan_samples = int(next(sums)), int(next(sums))


class TickMeter:
    """Collects iteration records and turns them into one log record.

    Records keep their tensors until the values are needed, so that an iteration does not wait for the GPU. Values are
    added in the order of arrival, so that a resumed run has the same means to the last bit.

    Args:
        ranks: Processes that train together; all collect, and all request values at the same time.
    """

    def __init__(self, ranks: Ranks = ALONE) -> None:
        self._ranks = ranks
        self._pending: list[tuple[IterationRecord, int]] = []
        self._means: dict[str, dict[str, list[float]]] = {group: {} for group in GROUPS}
        self._counts: dict[str, int] = {}
        self._seconds = 0.0
        self._running_since: float | None = None

    def add(self, record: IterationRecord, images: int) -> None:
        """Adds one iteration's record."""
        self._pending.append((record, images))

    def start(self) -> None:
        """Starts or resumes measuring time."""
        self._running_since = time.perf_counter()

    def pause(self) -> None:
        """Stops measuring time, e.g. during an evaluation."""
        if self._running_since is not None:
            self._seconds += time.perf_counter() - self._running_since
            self._running_since = None

    def finish(self) -> dict[str, Any]:
        """Returns the tick's log values and empties the meter.

        Means are over finite values, and null without any. ``nan_count`` counts dropped samples, ``bad_gradients``
        entries, and ``bad_steps`` iterations with such entries.
        """
        self._flush()
        result: dict[str, Any] = {
            group: {name: total / count if count else None for name, (total, count) in values.items()}
            for group, values in self._means.items()
        }
        counts = dict(self._counts)
        images = counts.pop("images", 0)
        result |= {**counts, "img_per_s": images / max(self._seconds, 1e-9), "seconds": self._seconds}
        self._means, self._counts, self._seconds = {group: {} for group in GROUPS}, {}, 0.0
        return result

    def state(self) -> dict[str, Any]:
        """Returns a copy of the plain values from which to resume."""
        self._flush()
        return copy.deepcopy({"means": self._means, "counts": self._counts, "seconds": self._seconds})

    def load(self, state: dict[str, Any]) -> None:
        """Restores a :meth:`state`."""
        self._pending.clear()
        self._means, self._counts, self._seconds = state["means"], state["counts"], state["seconds"]

    def _flush(self) -> None:
        running = self._running_since is not None
        self.pause()
        share_records([record for record, _ in self._pending], self._ranks)
        for record, images in self._pending:
            for group, values in zip(GROUPS, (record.losses, record.grad_norms)):
                for name, value in values.items():
                    entry = self._means[group].setdefault(name, [0.0, 0])
                    number = float(value)
                    if math.isfinite(number):
                        entry[0] += number
                        entry[1] += 1
            bad = int(record.bad_gradients)
            counts = (images, 1, record.samples, int(record.nan_samples), bad, int(bad > 0))
            for name, count in zip(TICK_COUNTS, counts):
                self._counts[name] = self._counts.get(name, 0) + count
        self._pending.clear()
        if running:
            self.start()
