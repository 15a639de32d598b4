"""Evidence for claims: measured rows with their training logs, or the published numbers alone."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval.claims.finding import Operand
from eval.contrasts import DECIDING, Blocks, Interval, NotMeasuredError, difference, interval_of, joint, mean_interval
from eval.results.agreement import PUBLISHED_TRIALS, is_given, trainings_of
from eval.results.conditions import matching
from eval.results.identity import Identity, comparable, reason_against
from eval.results.logs import Point, has_log, has_metric, log_path, logged, read_evaluations, read_log
from eval.results.published import Published, published_number
from eval.results.retraining import KNOWN, Retraining
from eval.results.sheet import SheetRow, exposure_of
from eval.results.summary import Estimate, Measurements
from sida.errors import UserError

#: Standard errors with this coverage where the noise is known.
Z = 2.6
#: Columns in which the training seeds of one generator are equal.
_SETTINGS = ("method", "alpha", "recipe", "sampler", "guide", "dataset", "protocol")
#: The median of n values scatters this many times as much as their mean.
_MEDIAN = 1.2533


@dataclass(frozen=True)
class Side:
    """One side of a comparison.

    Attributes:
        name: The generator, for texts.
        estimate: Mean and spread.
        noise: Variances of the mean with their degrees of freedom.
        retraining: Variance of a repeated training, of a single one that represents its method. All sides have it from
            one estimate.
        seeds: Values of training seeds by teacher; empty for a single training.
    """

    name: str
    estimate: Estimate
    noise: Sequence[tuple[float, float]] = ()
    retraining: Sequence[tuple[float, float]] = ()
    seeds: Blocks = field(default_factory=dict)

    @property
    def mean(self) -> float:
        """Mean, of training seeds the mean of the teachers' means."""
        if not self.seeds:
            return self.estimate.mean
        return statistics.fmean(statistics.fmean(cell.values()) for cell in self.seeds.values())

    @property
    def text(self) -> str:
        """Mean and spread with the name."""
        return f"{show(dataclasses.replace(self.estimate, mean=self.mean))} ({self.name})"

    def variances(self, factor: float) -> list[tuple[float, float]]:
        """Variances of ``factor`` times the mean with their degrees of freedom, without that of a repeated training."""
        noise = self.noise
        if self.seeds:
            interval = mean_interval(self.seeds)
            noise = [(interval.standard_error**2, interval.df)]
        return _scaled(noise, factor)

    def minus(self, other: Side, value: float, factor: float, other_factor: float) -> Interval:
        """Interval of ``value``, which is ``factor · mean − other_factor · other.mean`` up to a shift.

        With training seeds of both sides, the interval is Welch's within teachers.
        """
        if self.seeds and other.seeds and factor:
            scale = other_factor / factor
            scaled = {name: {seed: scale * mean for seed, mean in cell.items()} for name, cell in other.seeds.items()}
            interval = difference(self.seeds, scaled, DECIDING)
            return interval.moved(factor, value - factor * interval.value)
        parts = self.variances(factor) + other.variances(other_factor)
        retraining = _scaled(self.retraining, factor) + _scaled(other.retraining, other_factor)
        return interval_of(value, parts + joint(retraining), DECIDING)


def _exact(name: str, value: float) -> Side:
    """A number without noise."""
    return Side(name, Estimate(value, 0.0, 1), [(0.0, 1)])


def _scaled(parts: Sequence[tuple[float, float]], factor: float) -> list[tuple[float, float]]:
    """Variances of ``factor`` times a value."""
    return [(factor**2 * variance, df) for variance, df in parts]


@dataclass(frozen=True)
class Evidence:
    """Measurements, training logs and published numbers that decide claims.

    Attributes:
        by_published: Decide from the published numbers themselves instead of measurements.
        results: Results of the preset, with the training logs.
        retraining: Scatter of a single training; a metric without it is not decided by a single training.
    """

    measurements: Measurements
    runs: Mapping[str, SheetRow]
    results: Path | None = None
    by_published: bool = False
    retraining: Retraining | None = None

    def side(
        self,
        operand: Operand,
        metric: str,
        seeds: int = 1,
        images: int | None = None,
        *,
        other: Operand | None = None,
        retraining: bool = True,
    ) -> Side:
        """A side of a comparison: its mean with the noise of evaluation and of training.

        Args:
            operand: The generator; with ``seeds`` above 1 all rows that meet its conditions.
            metric: Key of the metric.
            seeds: Least number of training seeds.
            images: Number of training images of the evaluation that counts instead of the kept network.
            other: The generator that it is compared with; its own teacher is a given network, like a released file.
            retraining: Whether a single training represents its method, so that its noise contains that of a repeated
                training.

        Raises:
            NotMeasuredError: Not measured, not published, too few seeds, a single trial, or an unknown noise of
                training.
            UserError: Conditions that match several runs where one counts.
        """
        if operand.value is not None:
            return _exact(operand.label, operand.value)
        if self.by_published or not operand.named:
            return self._published_side(operand, metric, seeds, retraining)
        names = self.runs_of(operand, seeds)
        if seeds == 1:
            if len(names) > 1:
                others = f" and {len(names) - 9:,} more" if len(names) > 9 else ""
                raise UserError("", f"{operand} matches {', '.join(names[:9])}{others}", "pick one run")
            estimate = self._mean(names[0], metric, images)
            if estimate.std is None:
                raise NotMeasuredError("", "a single trial does not show the noise; measure at least two")
            noise = [
                (estimate.std**2 / estimate.trials, max(1.0, len(self.measurements.trials(names[0], metric)) - 1.0))
            ]
            trainings = trainings_of(self.runs, self.measurements.of_run(names[0]))
            rivals = [self.runs.get(name) for name in self._row_ids(other)] if other else []
            counts = retraining and not is_given(self.runs.get(names[0]), trainings, rivals)
            of_training = [self._retraining_noise(metric, estimate.mean)] if counts else []
            return Side(self.label(names[0]), estimate, noise, of_training)
        self.require_alike(names)
        self._require_seeds(names)
        blocks: dict[str, dict[int | None, float]] = {}
        for name in names:
            row = self.runs[name]
            cell = blocks.setdefault(row.teacher or "", {})
            if row.seed in cell:
                raise NotMeasuredError("", f"{operand} names two trainings with one seed; run '{name}' is the second")
            cell[row.seed] = self._mean(name, metric, images).mean
        several = f" from {len(blocks)} teachers" * (len(blocks) > 1)
        name = f"{self.label(names[0])} and {len(names) - 1} more trainings{several}"
        return Side(name, Estimate.of([value for cell in blocks.values() for value in cell.values()]), seeds=blocks)

    def _require_seeds(self, names: Sequence[str]) -> None:
        """Requires that all rows have a written seed or none has: a row without one has the preset's."""
        blank, written = (
            [name for name in names if (self.runs[name].seed is None) is empty] for empty in (True, False)
        )
        if blank and written:
            fault = f"whether rows '{blank[0]}', without a seed, and '{written[0]}' have different ones"
            raise NotMeasuredError("", f"it is unknown {fault}; write each seed into the sheet")

    def _published_side(self, operand: Operand, metric: str, seeds: int, retraining: bool) -> Side:
        if seeds > 1:
            raise NotMeasuredError("", "the papers report one training of each")
        number = self.published(operand)
        estimate = Estimate(number.value, float(number.std) if number.std else 0.0, PUBLISHED_TRIALS)
        noise = [((estimate.std or 0.0) ** 2 / PUBLISHED_TRIALS, PUBLISHED_TRIALS - 1.0)]
        # Teachers, of which the lowest of three runs is published, are given networks.
        retraining = retraining and not number.lowest_of
        of_training = [self._retraining_noise(metric, estimate.mean)] if retraining else []
        return Side(f"{number.row_label}, published", estimate, noise, of_training)

    def retraining_std(self, metric: str) -> tuple[float, float]:
        """Relative standard deviation of a repeated training, and its degrees of freedom.

        Raises:
            NotMeasuredError: It is unknown.
        """
        if self.retraining is None or metric not in self.retraining.std:
            fault = f"it is unknown how much {metric} scatters when a network is trained again"
            raise NotMeasuredError("", f"{fault}, so a single training is not enough")
        return self.retraining.std[metric], self.retraining.df or KNOWN

    def _retraining_noise(self, metric: str, mean: float) -> tuple[float, float]:
        std, df = self.retraining_std(metric)
        return (std * mean) ** 2, df

    def _mean(self, run: str, metric: str, images: int | None) -> Estimate:
        """Measured mean of the kept network, or the mean of an evaluation during training."""
        if images is None:
            if not self.measurements.has(run, metric):
                raise NotMeasuredError("", f"metric '{metric}' of run '{run}' was not measured")
            return self.measurements.estimate(run, metric)
        point = next(point for point in self.curve(run, metric) if point.nimg == images)
        # Few trials of an evaluation say little about its noise; the measurement has more.
        noise = (self.noise_of_one(run, metric, point) or 0.0) * point.value
        return Estimate(point.value, noise or point.std, point.trials)

    def equal_images(self, operands: Iterable[Operand], metric: str, seeds: int) -> int:
        """The largest number of images after which all rows of the operands were evaluated.

        Raises:
            NotMeasuredError: There is none, or a row has no curve.
        """
        self.require_curves()
        names = [name for operand in operands for name in self.runs_of(operand, seeds)]
        common = set.intersection(*({p.nimg for p in points if p.nimg > 0} for points in self.curves(names, metric)))
        if not common:
            raise NotMeasuredError("", f"no evaluation after equally many images of {', '.join(names)}")
        return max(common)

    def require_curves(self) -> None:
        """Refuses a decision by published numbers: no paper prints its curves as numbers."""
        if self.by_published:
            raise NotMeasuredError("", "the papers print the curves only as pictures")

    def require_gpus(self, run: str, gpus: str) -> None:
        """Requires that a run was trained on the cards that a claim about time or memory names (``8 × V100``).

        Raises:
            NotMeasuredError: The run was trained on other cards.
        """
        number, _, card = gpus.partition(" × ")
        cards = str(self.ticks(run)[-1].get("gpus") or "no GPU")
        if gpus and (not cards.startswith(f"{number} × ") or card not in cards):
            raise NotMeasuredError("", f"run '{run}' was trained on {cards}; this is about {gpus}")

    def run_of(self, operand: Operand) -> str:
        """Id of the one measured row that an operand names.

        Raises:
            NotMeasuredError: No row has been measured, or several have.
        """
        names = self.runs_of(operand)
        if len(names) > 1:
            raise NotMeasuredError("", f"{operand} names {len(names)} rows; this rule is about one training")
        return names[0]

    def runs_of(self, operand: Operand, seeds: int = 1) -> list[str]:
        """Ids of the measured rows that an operand names, at least as many as training seeds are asked for.

        Raises:
            NotMeasuredError: Too few of them are in the sample sheet and the measurements.
        """
        if not operand.named:
            raise NotMeasuredError("", f"no run here of {operand.published}")
        names = self.measured(operand)
        if not names:
            raise NotMeasuredError("", f"no measurement of {operand}")
        if len(names) < seeds:
            have = f"{len(names)} training seed{'s' * (len(names) > 1)}"
            raise NotMeasuredError("", f"{have}; this claim is about training and needs {seeds}")
        return names

    def require_alike(self, names: Sequence[str], apart: str = "") -> None:
        """Requires that rows are trainings of one generator: equal settings and lengths, and different values.

        Args:
            names: Ids of measured rows, at least one unless ``apart`` is ``length``.
            apart: Column (or ``length``) in which they may differ.

        Raises:
            NotMeasuredError: Two of them differ in more than teacher and seed, or have equal values.
        """
        facts = {name: {**self._settings(name), "length": self.length(name)} for name in names}
        if apart != "length" and facts[names[0]]["length"] is None:
            raise NotMeasuredError("", f"it is unknown how many images the training of row '{names[0]}' had")
        for name in names:
            first, other_facts = facts[names[0]], facts[name]
            for key in first | other_facts:
                if key != apart and first.get(key) != other_facts.get(key):
                    raise NotMeasuredError("", f"not compared: rows '{names[0]}' and '{name}' differ in {key}")
        known: dict[Any, str] = {}
        for name in names if not apart else []:
            # A network that was saved again has another digest and the same values.
            result = getattr(self.runs.get(name), "teacher", None), self.measurements.values(name)
            if (other := known.setdefault(result, name)) != name:
                raise NotMeasuredError("", f"not compared: rows '{other}' and '{name}' have equal values")

    def require_apart(self, names: Iterable[str]) -> None:
        """Requires that measured rows under one protocol, whose images are drawn alike, are different networks.

        Raises:
            NotMeasuredError: Two of them are one network.
        """
        alike: dict[tuple[Any, ...], list[str]] = {}
        for name in dict.fromkeys(names):
            row = self.runs.get(name)
            key = tuple(getattr(row, column, None) for column in ("sampler", "guide", "protocol"))
            alike.setdefault(key, []).append(name)
        for group in alike.values():
            if pair := self.measurements.one_network(group):
                raise NotMeasuredError("", f"not compared: rows '{pair[0]}' and '{pair[1]}' are one network")

    def measured(self, operand: Operand) -> list[str]:
        """Ids of the measured rows that an operand names; empty for a decision by published numbers."""
        return [] if self.by_published else [n for n in self._row_ids(operand) if n in self.measurements.runs]

    def require_common(self, operands: Iterable[Operand], columns: Sequence[str]) -> None:
        """Requires that operands have equal values of columns, or ``length``: images of the trainings.

        Raises:
            NotMeasuredError: They differ, or it is unknown.
        """
        for column in columns:
            sides = {str(operand): self._values(operand, column) for operand in operands}
            first, *others = sides.items()
            if differing := next((name for name, values in others if values != first[1]), None):
                raise NotMeasuredError("", f"not compared: {first[0]} and {differing} differ in {column}")
            if None in first[1]:
                raise NotMeasuredError("", f"it is unknown which {column} {first[0]} has")

    def _values(self, operand: Operand, column: str) -> set[Any]:
        names = self.runs_of(operand)
        if column == "length":
            return {self.length(name) for name in names}
        return {getattr(self.runs[name], column) if name in self.runs else None for name in names}

    def _settings(self, name: str) -> dict[str, Any]:
        """Columns of a row and of the rows that it starts from; teacher and seed may differ."""
        if (row := self.runs.get(name)) is None:
            return {}
        start = {f"{key} of its start": value for key, value in self._settings(row.init).items()} if row.init else {}
        return {column: getattr(row, column) for column in _SETTINGS} | start

    def length(self, name: str) -> int | None:
        """Images of a training and of the one that it starts from; None without their logs."""
        row = self.runs.get(name)
        before = self.length(row.init) if row is not None and row.init else 0
        if before is None or self.results is None:
            return None
        paths = [log_path(self.results, name, log) for log in ("train", "evaluations")]
        lengths = [int(record["nimg"]) for path in paths if has_log(path) for record in read_log(path)]
        return before + max(lengths) if lengths else None

    def _row_ids(self, operand: Operand) -> list[str]:
        if operand.run is not None:
            return [operand.run]
        return [run.run for run in matching(self.runs, operand.where)] if operand.where else []

    def identities(self, operands: Mapping[str, Operand], metric: str, across: str) -> dict[str, Identity]:
        """Identities of the values that are compared, by operand; without ``across`` the first one represents all.

        Args:
            operands: Operands by key.
            metric: Key of the metric.
            across: Reason why values of other identities may be compared; empty: they may not.

        Raises:
            NotMeasuredError: Values that may not be compared.
        """
        identities: dict[str, tuple[str, Identity]] = {}
        for key, operand in operands.items():
            for name, identity in self._identities(operand, metric, across):
                if reason := reason_against(identity):
                    raise NotMeasuredError("", f"not decided: {name}: {reason}")
                other, first = identities.setdefault(key if across else "", (name, identity))
                if first is not identity and (reason := comparable(first, identity)):
                    raise NotMeasuredError("", f"not compared: {other} and {name}: {reason}")
        return {key: identity for key, (_, identity) in identities.items()}

    def _identities(self, operand: Operand, metric: str, across: str) -> list[tuple[str, Identity]]:
        if operand.value is not None:
            return []
        if operand.published is not None and (self.by_published or not operand.named):
            number = self.published(operand)
            return [(f"{number.row_label}, published", number.identity)]
        names = [] if self.by_published else self._row_ids(operand)
        names = [name for name in names if self.measurements.has(name, metric)]
        identities = [(f"run '{name}'", self._identity(name, metric)) for name in names]
        if not across or operand.published is None or not identities:
            return identities
        # A pair that is declared is one of published numbers; each side must be measured like its own.
        number = self.published(operand)
        return (
            identities if number.identity.quoted else [(f"{number.row_label}, published", number.identity), *identities]
        )

    def _identity(self, run: str, metric: str) -> Identity:
        exposure = exposure_of(self.measurements.of_run(run)[0], self.runs.get(run))
        return dataclasses.replace(self.measurements.identity(run, metric), exposure=exposure)

    def noise_of_one(self, run: str, metric: str, point: Point) -> float | None:
        """Relative standard deviation of an evaluation of a run by the trials of its measurement.

        None without trials, or if these have another number of images: fewer images have more noise.
        """
        lines = self.measurements.lines(run, metric)
        if len(lines) < 2 or point.num_samples not in (None, lines[0].n):
            return None
        estimate = self.measurements.estimate(run, metric)
        return abs((estimate.std or 0.0) / estimate.mean) if estimate.mean else None

    def label(self, run: str) -> str:
        """Label of a run with its number of function evaluations."""
        nfe = self.measurements.nfe(run)
        text = self.runs[run].label if run in self.runs else run
        return f"{text}, NFE {nfe}" if nfe and nfe > 1 else text

    def published(self, operand: Operand) -> Published:
        """The published number of an operand.

        Raises:
            NotMeasuredError: The operand names none.
            UserError: No number has this id.
        """
        if operand.published is None:
            raise NotMeasuredError("", f"no published number for {operand}")
        return published_number(operand.published, "")

    def curve(self, run: str, metric: str) -> tuple[Point, ...]:
        """Evaluations of a run during training, in which a NaN is infinity.

        Raises:
            NotMeasuredError: The run has no log, or its log does not have the metric.
        """
        path = self._log(run, "evaluations")
        if not has_metric(path, metric):
            raise NotMeasuredError("", f"the training log of run '{run}' has no '{metric}'")
        return read_evaluations(path, metric)

    def curves(self, runs: Sequence[str], metric: str) -> list[tuple[Point, ...]]:
        """Evaluations of runs that are compared with each other.

        Raises:
            NotMeasuredError: As :meth:`curve`, evaluations of different numbers of images, or a NaN.
        """
        curves = [self.curve(run, metric) for run in runs]
        for run, points in zip(runs, curves):
            if not_finite := [point.nimg for point in points if not math.isfinite(point.value)]:
                raise NotMeasuredError("", f"{metric} of run '{run}' after {not_finite[0]:,} images is not a number")
        if len(sizes := {point.num_samples for points in curves for point in points} - {None}) > 1:
            counts = " and ".join(f"{size:,}" for size in sorted(filter(None, sizes)))
            raise NotMeasuredError("", f"not compared: evaluations of {', '.join(runs)} use {counts} images")
        return curves

    def ticks(self, run: str) -> list[dict[str, Any]]:
        """Records of a run's ``train.jsonl``.

        Raises:
            NotMeasuredError: The run has no log, or its log is empty.
        """
        if records := read_log(self._log(run, "train")):
            return records
        raise NotMeasuredError("", f"no training log of run '{run}'")

    def _log(self, run: str, log: str) -> Path:
        path = log_path(self.results, run, log) if self.results else None
        if path is None or not has_log(path):
            raise NotMeasuredError("", f"no training log of run '{run}'")
        return path

    def quantity(self, operand: Operand, quantity: str, gpus: str) -> Side:
        """A side of a comparison of a quantity of the training logs, or of ``nfe``.

        Raises:
            NotMeasuredError: No row or several, a log without the quantity or its noise, or other cards than ``gpus``.
        """
        is_published = operand.published is not None and (self.by_published or not operand.named)
        if is_published:
            number = self.published(operand)
            if quantity == "nfe" and not number.nfe.isdecimal():
                raise NotMeasuredError("", f"no number of evaluations is printed of {number.row_label}")
            value = float(number.nfe) if quantity == "nfe" else number.value
            return _exact(f"{number.row_label}, published", value)
        if quantity == "nfe":
            names = self.runs_of(operand)
            if len(counts := {float(self.measurements.nfe(name) or 1) for name in names}) > 1:
                raise NotMeasuredError("", f"{operand} names rows of different NFE")
            return _exact(self.label(names[0]), counts.pop())
        if self.by_published:
            raise NotMeasuredError("", f"no training log of {operand}")
        run = self.run_of(operand)
        self.require_gpus(run, gpus)
        estimate = logged_quantity(self.ticks(run), quantity, run)
        if estimate.std is None:
            raise NotMeasuredError("", "a single record does not show the noise")
        return Side(self.label(run), estimate, [(estimate.std**2 / estimate.trials, max(1, estimate.trials - 1))])


def logged_quantity(ticks: Sequence[Mapping[str, Any]], quantity: str, run: str) -> Estimate:
    """Median and spread of a logged quantity over the ticks without the first, which includes the start-up.

    For reserved memory: the maximum, without a spread.

    Raises:
        NotMeasuredError: No record has it.
    """
    key = {"seconds_per_kimg": "img_per_s", "memory_reserved_gb": "memory_reserved_mb"}.get(quantity, quantity)
    if not (values := logged(ticks, key)):
        raise NotMeasuredError("", f"the training log of run '{run}' has no '{key}'")
    if key == "memory_reserved_mb":
        # Reserved memory only grows; Table 8 prints the maximum, in units of 1024 MiB.
        return Estimate(max(values) / (1024 if quantity == "memory_reserved_gb" else 1), 0.0, len(values))
    if quantity == "seconds_per_kimg":
        values = [1000 / value for value in values]
    spread = _MEDIAN * statistics.stdev(values) if len(values) > 1 else None
    return Estimate(statistics.median(values), spread, len(values))


def show(estimate: Estimate) -> str:
    """Mean and spread as text, ``4.08 ± 0.10``, with enough digits for the spread."""
    if not estimate.std:
        return f"{estimate.mean:.4g}"
    decimals = max(0, 1 - math.floor(math.log10(estimate.std)))
    return f"{estimate.mean:.{decimals}f} ± {estimate.std:.{decimals}f}"
