"""Logs of a run: means over a tick, ``train.jsonl`` and ``evaluations.jsonl``. Means resume within a tick."""

import copy
import dataclasses
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from sida.training.processes import ALONE, Ranks

LogRecords = Sequence[Mapping[str, Any]]


def without_nan(value: Any) -> Any:
    """Replaces each number of a monitor's record that is not finite by None."""
    if isinstance(value, Mapping):
        return {name: without_nan(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclasses.dataclass
class IterationRecord:
    """Losses, gradient norms and counts of one iteration.

    Attributes:
        losses: Losses as back-propagated, without the schedule's weights; 0-dim.
        grad_norms: Gradient norm before clipping of each network that took a step; 0-dim.
        term_norms: Gradient norm of each term of the product's loss on one micro-batch, 0-dim; empty where it was not
            measured, or with one term.
        samples: Number of samples in the losses.
        nan_samples: Number of samples dropped for a NaN.
        bad_gradients: Number of gradient entries that are NaN or infinite.
    """

    losses: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)
    grad_norms: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)
    term_norms: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)
    samples: int = 0
    nan_samples: torch.Tensor | int = 0
    bad_gradients: torch.Tensor | int = 0


def share_records(records: Sequence[IterationRecord], ranks: Ranks) -> None:
    """Combines the records of all ranks, in place.

    Losses and norms of terms are averaged over ranks, and samples are added. Norms of networks and bad entries already
    belong to the averaged gradients.

    Args:
        records: Records of the same iterations on all ranks.
        ranks: Processes that train together.
    """
    if ranks.world_size == 1 or not records:
        return
    rows = [
        [*record.losses.values(), *record.term_norms.values(), record.samples, record.nan_samples] for record in records
    ]
    device = next((value.device for row in rows for value in row if isinstance(value, torch.Tensor)), None)
    values = torch.stack([torch.as_tensor(value, device=device).double() for row in rows for value in row])
    ranks.add_up(values)
    sums = iter(values.tolist())
    for record in records:
        record.losses = {name: torch.tensor(next(sums) / ranks.world_size) for name in record.losses}
        record.term_norms = {name: torch.tensor(next(sums) / ranks.world_size) for name in record.term_norms}
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
        self._clear()
        self.start()

    def _clear(self) -> None:
        # Sum and number of the values of each name.
        self._means: dict[str, dict[str, list[float]]] = {"losses": {}, "grad_norm": {}, "share": {}}
        self._counts, self._seconds = Counter[str](), 0.0

    def add(self, record: IterationRecord, images: int) -> None:
        """Adds one iteration's record."""
        self._pending.append((record, images))

    def start(self) -> None:
        """Measures time from now on; the time since the last values, e.g. of an evaluation, does not count."""
        self._since = time.perf_counter()

    def finish(self) -> dict[str, Any]:
        """Returns the tick's log values and empties the meter.

        Means are over finite values, and null without any. ``share`` has each term's norm as a share of the sum of all
        terms' norms, where they were measured. ``nan_count`` counts dropped samples, ``bad_gradients`` entries, and
        ``bad_steps`` iterations with such entries.
        """
        self.flush()
        counts, seconds = self._counts, self._seconds
        means = {
            group: {name: total / count if count else None for name, (total, count) in values.items()}
            for group, values in self._means.items()
            if values or group != "share"
        }
        self._clear()
        images = counts.pop("images", 0)
        return {**means, **counts, "img_per_s": images / max(seconds, 1e-9), "seconds": seconds}

    def state(self) -> dict[str, Any]:
        """Returns a copy of the plain values from which to resume."""
        self.flush()
        return copy.deepcopy({"means": self._means, "counts": dict(self._counts), "seconds": self._seconds})

    def load(self, state: dict[str, Any]) -> None:
        """Restores a :meth:`state`."""
        self._means = state["means"]
        self._counts, self._seconds = Counter(state["counts"]), state["seconds"]

    def flush(self) -> None:
        """Adds up the records so far, and the time."""
        share_records([record for record, _ in self._pending], self._ranks)
        for record, images in self._pending:
            # Without a finite norm above 0 the shares are NaN, which no mean counts.
            total = sum(record.term_norms.values())
            shares = {name: norm / total for name, norm in record.term_norms.items()}
            groups = {"losses": record.losses, "grad_norm": record.grad_norms, "share": shares}
            for group, values in groups.items():
                for name, value in values.items():
                    entry = self._means[group].setdefault(name, [0.0, 0])
                    number = float(value)
                    if math.isfinite(number):
                        entry[0] += number
                        entry[1] += 1
            bad, dropped = int(record.bad_gradients), int(record.nan_samples)
            counts = {"samples": record.samples, "nan_count": dropped, "bad_gradients": bad, "bad_steps": int(bad > 0)}
            self._counts.update({"images": images, "steps": 1, **counts})
        self._pending.clear()
        # After reading the values, which waits for the GPU: its work belongs to this tick.
        now = time.perf_counter()
        self._seconds, self._since = self._seconds + now - self._since, now


# Signs of divergence are functions of the log alone, so that a resumed run behaves the same.

#: An evaluation diverges if its selection value is this factor above the best value before it.
FAR_ABOVE_BEST = 3.0
#: Largest shares in a tick: of samples dropped for a NaN, and of iterations with gradients that are not finite.
BAD_SHARES = (0.01, 0.1)
#: Largest last loss of a teacher per value of an image. A network that only shrinks the noisy image has a loss below 4
#: in EDM's weighting.
LOST_LOSS = 100.0


def _bad_shares(tick: Mapping[str, Any]) -> tuple[float, float]:
    return tick["nan_count"] / max(tick["samples"], 1), tick["bad_steps"] / max(tick["steps"], 1)


def hopeless(tick: Mapping[str, Any], max_nan_share: float) -> str | None:
    """Returns the reason to stop a run with too many NaN samples or no valid step, or None.

    Args:
        tick: A record of ``train.jsonl``.
        max_nan_share: Largest permitted share of samples dropped for a NaN.
    """
    dropped, bad = _bad_shares(tick)
    if dropped > max_nan_share:
        share = f"{100 * dropped:.0f} % of the samples up to image {tick['nimg']:,}"
        return f"{share} were NaN (max_nan_share: {max_nan_share})"
    return f"every step up to image {tick['nimg']:,} had NaN or infinite gradients" if bad == 1 else None


def unhealthy(ticks: Sequence[Mapping[str, Any]]) -> list[str]:
    """Describes the faults of the last log record that the record before it does not have.

    Args:
        ticks: Records of ``train.jsonl``, in order.
    """
    now, before = _bad_shares(ticks[-1]), _bad_shares(ticks[-2]) if len(ticks) > 1 else (0.0, 0.0)
    kinds = ("of the samples were NaN", "of the steps had NaN or infinite gradients")
    faults = zip(kinds, BAD_SHARES, now, before)
    return [f"{100 * share:.0f} % {kind}" for kind, limit, share, earlier in faults if earlier <= limit < share]


def selection(record: Mapping[str, Any]) -> tuple[str, Any]:
    """Name and value by which an evaluation is compared with others; the lowest is the best."""
    key = record.get("selection", "fd")
    return key, record.get(key)


def without_numbers(record: Mapping[str, Any]) -> dict[str, Any]:
    """An evaluation with the metrics of a record, whose values are NaN, of images that are not finite."""
    metrics = {key: value for key, value in record.items() if key not in ("nimg", "seconds")}
    return {key: value if key in ("selection", "num_samples") else math.nan for key, value in metrics.items()}


def selected(evaluations: LogRecords) -> list[tuple[int, float]]:
    """Images seen and selection value of each evaluation; infinite if the value is not a number."""
    pairs = [(record["nimg"], selection(record)[1]) for record in evaluations]
    return [(nimg, math.inf if value is None else value) for nimg, value in pairs]


def since_best(values: Sequence[float], min_share: float) -> int:
    """Number of values after the last one that was lower than all before it by more than the share ``min_share``."""
    best, count = math.inf, 0
    for value in values:
        best, count = (value, 0) if value < best * (1 - min_share) else (best, count + 1)
    return count


def rising(evaluations: Sequence[tuple[int, float]], key: str) -> list[str]:
    """Describes the last evaluation if it is far above the best, and the evaluation before it is not.

    Args:
        evaluations: Images seen and value of each evaluation, in order.
        key: Name of the value.
    """

    def far(points: Sequence[tuple[int, float]]) -> bool:
        return len(points) > 1 and points[-1][1] > FAR_ABOVE_BEST * min(value for _, value in points[:-1]) > 0

    if not far(evaluations) or far(evaluations[:-1]):
        return []
    (_, value), (where, best) = evaluations[-1], min(evaluations[:-1], key=lambda point: point[1])
    return [f"{key} = {value:.4g} is {value / best:.1f} times its best ({best:.4g} at image {where:,})"]


def lost(losses: Sequence[float | None], values: int, uncertainty: bool) -> str | None:
    """Returns the reason to reject the last network of a teacher's training, or None.

    Args:
        losses: Mean loss per image of each log record, in order.
        values: Numbers in an image.
        uncertainty: Whether the loss is the logarithm of an error, as with EDM2's uncertainty head.
    """
    known_losses = [loss for loss in losses if loss is not None] or [0.0]
    last, lowest = known_losses[-1], min(known_losses)
    far = last - lowest > values * math.log(FAR_ABOVE_BEST) if uncertainty else last > FAR_ABOVE_BEST * lowest > 0
    if far:
        return f"its last loss per image is {last:.4g}, its lowest {lowest:.4g}"
    if last > LOST_LOSS * values:
        return f"its last loss is {last / values:.4g} for each value of an image, far above the loss without a network"
    return None
