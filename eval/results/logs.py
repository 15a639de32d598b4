"""Curves of metrics over training, from the logs of this suite.

A results folder has ``students/<run>/train.jsonl`` and ``evaluations.jsonl``, and ``teachers/<name>/train.jsonl``.
Stored results have all of them in one ``logs.jsonl.gz``, whose records name their log.
Readers take the path of a log in both.
"""

import functools
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median, stdev
from typing import Any

from sida.errors import UserError, exact
from sida.eval.results.measurements import Estimate
from sida.files.atomic import read_jsonl
from sida.files.ordinary import file_below, ordinary_files

#: Logs of a folder of stored results, together.
PACKED = "logs.jsonl.gz"
_LOG = re.compile(r"students/[^/]+/(evaluations|train)\.jsonl|teachers/[^/]+/train\.jsonl")
#: Numeric fields of a record besides metrics and losses.
_NUMBERS = ("nimg", "num_samples", "seconds", "img_per_s", "memory_mb", "memory_reserved_mb")


@dataclass(frozen=True)
class Point:
    """One evaluation: training images, mean, sample std over trials (or seeds), number of trials, samples of each."""

    nimg: int
    value: float
    std: float | None = None
    trials: int = 1
    num_samples: int | None = None


@dataclass(frozen=True)
class Curve:
    """The evaluations of one training run, or of several seeds pooled.

    Attributes:
        run: Id of the (first) run.
        label: Name in the legend.
        points: Evaluations, in order of images seen.
        over: Origin of standard deviations: ``trials`` or ``seeds``.
        runs: Ids of all runs.
        method: Method of the runs.
        alpha: α of the runs.
        kept: Images seen by the kept network of the run; None: at the lowest value of this curve.
    """

    run: str
    label: str
    points: tuple[Point, ...]
    over: str = "trials"
    runs: tuple[str, ...] = field(default=())
    kept: int | None = None
    method: str = ""
    alpha: float | None = None

    @property
    def best(self) -> Point:
        """Evaluation of the kept generator."""
        kept_points = [point for point in self.points if point.nimg == self.kept]
        return kept_points[0] if kept_points else min(self.points, key=lambda point: point.value)


def read_evaluations(path: str | Path, metric: str) -> tuple[Point, ...]:
    """Reads a metric from ``evaluations.jsonl``, in order of images seen; a NaN as infinity, since the run diverged.

    Raises:
        UserError: A missing file, a line without the metric, or no line.
    """
    points = []
    for number, record in enumerate(read_log(path), start=1):
        if metric not in record or "nimg" not in record:
            keys = ", ".join(sorted(record))
            raise UserError(
                f"{path}:{number}", f"no '{metric}' in this evaluation (it has {keys})", "change the layout"
            )
        # JSON has no NaN; the log has null.
        where = f"{path}:{number}: {metric}"
        value = math.nan if record[metric] is None else _number(record[metric], where)
        value = math.inf if math.isnan(value) else value
        trials, std = record.get(f"{metric}_trials") or [value], record.get(f"{metric}_std")
        if not isinstance(trials, list):
            raise UserError(f"{where}_trials", "must be a list of numbers", "train the run again")
        std = _number(std, f"{where}_std") if std is not None and len(trials) > 1 else None
        points.append(Point(int(record["nimg"]), value, std, len(trials), record.get("num_samples")))
    if not points:
        raise UserError(path, "holds no evaluation yet", "let the run reach its first one")
    return tuple(sorted({point.nimg: point for point in points}.values(), key=lambda point: point.nimg))


def has_metric(path: Path, metric: str) -> bool:
    """Whether a log holds evaluations, all of them of a metric."""
    records = read_log(path)
    return bool(records) and all(metric in record for record in records)


def kept_images(path: Path) -> int | None:
    """Images seen by the kept network of a training: at the lowest value of the log's selection metric."""
    # Logs of custom monitors need not name the metric (see sida.training.loop).
    values = {int(record["nimg"]): record.get(str(record.get("selection", "fd"))) for record in read_log(path)}
    numbers = {nimg: _number(value, f"{path}: selection") for nimg, value in values.items() if value is not None}
    return min(numbers, key=lambda nimg: numbers[nimg]) if numbers else None


def read_log(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Records of ``train.jsonl`` or ``evaluations.jsonl``, in the order of the file.

    Raises:
        UserError: A damaged line, a line without the images seen, or a value that is not a number.
    """
    records = read_jsonl(path) if os.path.isfile(path) else _packed_logs(Path(path).parents[2]).get(_name_of(path))
    if records is None:
        raise UserError(path, "no such log", "train the run, for evaluations with an 'evaluation' in its recipe")
    for number, record in enumerate(records, start=1):
        for key in _NUMBERS:
            if key in record or key == "nimg":
                is_null = key != "nimg" and record[key] is None
                value = 0.0 if is_null else _number(record.get(key), f"{path}:{number}: {key}")
                if not 0 <= value < 1e18:
                    raise UserError(f"{path}:{number}: {key}", f"cannot be {exact(value)}", "train the run again")
    return records


#: Quantities of ``train.jsonl`` in other units than the log's: the key of each in the records, and its unit's number.
UNITS: dict[str, tuple[str, Callable[[float], float]]] = {
    "memory_allocated_gb": ("memory_mb", lambda size: size / 1024),
    "memory_reserved_gb": ("memory_reserved_mb", lambda size: size / 1024),
    "seconds_per_kimg": ("img_per_s", lambda rate: 1000 / rate),
    "hours_per_10M": ("img_per_s", lambda rate: 1e7 / rate / 3600),
    "days_per_100M": ("img_per_s", lambda rate: 1e8 / rate / 86400),
}
#: Quantities of which the largest value counts, as in Table 8.
_LARGEST = ("memory_allocated_gb", "memory_reserved_gb", "memory_reserved_mb")
#: Standard error of a median of normal values, as a multiple of that of their mean.
_MEDIAN = 1.2533


def logged_level(ticks: Sequence[Mapping[str, Any]], quantity: str) -> Estimate | None:
    """Level of a key of ``train.jsonl`` or of a quantity of :data:`UNITS`; None if no record has it.

    It is the median with its spread; for most memory the maximum, without a spread. The first record does not count: it
    includes the start-up.
    """
    key, in_unit = UNITS.get(quantity, (quantity, float))
    values = [in_unit(_number(tick[key], key)) for tick in ticks[1:] or ticks if tick.get(key)]
    if not values:
        return None
    if quantity in _LARGEST:
        return Estimate(max(values), 0.0, len(values))
    return Estimate(median(values), _MEDIAN * stdev(values) if len(values) > 1 else None, len(values))


def has_log(path: str | os.PathLike[str]) -> bool:
    """Whether a log is a file, or in the ``logs.jsonl.gz`` of its folder."""
    return os.path.isfile(path) or _name_of(path) in _packed_logs(Path(path).parents[2])


def log_path(folder: str | os.PathLike[str], run: str, log: str, kind: str = "students") -> Path:
    """Path of a log of a results folder, which may be missing or in its ``logs.jsonl.gz``.

    Args:
        folder: The folder.
        run: Run or teacher.
        log: ``train`` or ``evaluations``.
        kind: ``students`` or ``teachers``.

    Raises:
        UserError: The name of the run leads out of the folder, or something on the way is a link.
    """
    return file_below(folder, f"{kind}/{run}/{log}.jsonl")


def logs_of(folder: Path) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yields all logs of a folder by their paths in it, with their records."""
    # Evaluations come first.
    names = sorted(filter(_LOG.fullmatch, ordinary_files(folder)), key=lambda name: (name[0], Path(name).name, name))
    for name in names or _packed_logs(folder):
        yield name, read_log(folder / name)


def _name_of(path: str | os.PathLike[str]) -> str:
    return "/".join(Path(path).parts[-3:])


def _packed_logs(folder: Path) -> Mapping[str, list[dict[str, Any]]]:
    """Records by log of a folder's ``logs.jsonl.gz``; empty without one."""
    path = file_below(folder, PACKED)
    return _unpacked(path, path.stat().st_mtime_ns) if path.is_file() else {}


@functools.lru_cache(2)
def _unpacked(path: Path, changed: int) -> Mapping[str, list[dict[str, Any]]]:
    logs: dict[str, list[dict[str, Any]]] = {}
    for number, record in enumerate(read_jsonl(path), start=1):
        name = record.pop("log", None)
        if not isinstance(name, str):
            raise UserError(f"{path}:{number}", "names no log", "take the file from the repository again")
        logs.setdefault(name, []).append(record)
    return logs


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UserError(where, "must be a number", "train the run again")
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _mean_point(nimg: int, values: list[float], num_samples: int | None = None) -> Point:
    mean, n = sum(values) / len(values), len(values)
    std = math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1)) if n > 1 else None
    return Point(nimg, mean, std, n, num_samples)


def pool(curves: list[Curve], label: str) -> Curve:
    """Pools the curves of several seeds: mean and sample std at the evaluations that all seeds have."""
    if len(curves) == 1:
        return replace(curves[0], label=label)
    by_run = [{point.nimg: point for point in curve.points} for curve in curves]
    points = []
    for nimg in sorted(set.intersection(*map(set, by_run))):
        evaluations = [points_of[nimg] for points_of in by_run]
        points.append(_mean_point(nimg, [point.value for point in evaluations], evaluations[0].num_samples))
    names = tuple(curve.run for curve in curves)
    if not points:
        raise UserError("", f"runs {', '.join(names)} share no evaluation point", "use the same evaluation.every_kimg")
    return replace(curves[0], label=label, points=tuple(points), over="seeds", runs=names, kept=None)


def first_at_or_below(points: tuple[Point, ...], level: float, shift: float = 0.0) -> int | None:
    """Images seen when the value (plus ``shift`` standard errors) first falls to ``level``; ``None`` if never."""
    for point in points:
        error = shift * (point.std or 0.0) / math.sqrt(point.trials)
        if point.value + error <= level:
            return point.nimg
    return None
