"""Evidence for claims: measured rows with their training logs, or the published numbers alone."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sida.errors import UserError, counted
from sida.eval.claims.finding import Operand
from sida.eval.contrasts import (
    DECIDING,
    Blocks,
    Interval,
    NotMeasuredError,
    difference,
    interval_of,
    joint,
    mean_interval,
)
from sida.eval.results.conditions import matching
from sida.eval.results.identity import Identity, comparable, reason_against
from sida.eval.results.logs import Point, has_log, has_metric, log_path, logged_level, read_evaluations, read_log
from sida.eval.results.numbers import Number, trainings_of
from sida.eval.results.published import Published, published_number
from sida.eval.results.retraining import Retraining
from sida.eval.results.sheet import SheetRow, exposure_of
from sida.eval.results.summary import Estimate, Measurements

#: Standard errors with this coverage where the noise is known.
Z = 2.6
#: Columns in which the training seeds of one generator are equal.
_SETTINGS = ("method", "alpha", "recipe", "sampler", "guide", "dataset", "protocol")
#: Variances with their degrees of freedom.
_Parts = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Side:
    """One side of a comparison.

    Attributes:
        name: The generator, for texts.
        estimate: Mean and spread; of training seeds the mean of the teachers' means.
        noise: Variances of the mean.
        retraining: Variance of a repeated training, of a single one that represents its method. All sides have it from
            one estimate.
        seeds: Values of training seeds by teacher; empty for a single training.
    """

    name: str
    estimate: Estimate
    noise: _Parts = ()
    retraining: _Parts = ()
    seeds: Blocks = field(default_factory=dict)

    @property
    def mean(self) -> float:
        """The mean."""
        return self.estimate.mean

    @property
    def text(self) -> str:
        """Mean and spread with the name."""
        return f"{show(self.estimate)} ({self.name})"

    def variances(self, factor: float) -> list[tuple[float, float]]:
        """Variances of ``factor`` times the mean, without that of a repeated training."""
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
        retraining = joint(_scaled(self.retraining, factor) + _scaled(other.retraining, other_factor))
        return interval_of(value, self.variances(factor) + other.variances(other_factor) + retraining, DECIDING)


def _exact(name: str, value: float) -> Side:
    """A number without noise."""
    return Side(name, Estimate(value, 0.0, 1), [(0.0, 1)])


def _scaled(parts: _Parts, factor: float) -> list[tuple[float, float]]:
    """Variances of ``factor`` times a value."""
    return [(factor**2 * variance, df) for variance, df in parts]


@dataclass(frozen=True)
class Evidence:
    """Measurements, training logs and published numbers that decide claims.

    All methods raise :class:`~sida.eval.contrasts.NotMeasuredError`, with the reason, where nothing is decided.

    Attributes:
        measurements: Measured values.
        runs: Rows of the sample sheet by id.
        results: Results of the preset, with the training logs.
        by_published: Decide from the published numbers themselves instead of measurements.
        retraining: Scatter of a single training; a metric without it is not decided by a single training.
        planned: Rows that will be measured, for a check of claims before the first job: they count as measured, and no
            number of theirs is known.
    """

    measurements: Measurements
    runs: Mapping[str, SheetRow]
    results: Path | None = None
    by_published: bool = False
    retraining: Retraining | None = None
    planned: Collection[str] = ()

    # Rows

    def row_ids(self, operand: Operand) -> list[str]:
        """Ids of the rows that an operand names."""
        if operand.run is not None:
            return [operand.run]
        return [row.run for row in matching(self.runs, operand.where)] if operand.where else []

    def measured(self, operand: Operand) -> list[str]:
        """Ids of the measured rows that an operand names; empty for a decision by published numbers."""
        known = {*self.measurements.runs, *self.planned}
        return [] if self.by_published else [name for name in self.row_ids(operand) if name in known]

    def runs_of(self, operand: Operand, seeds: int = 1) -> list[str]:
        """Ids of the measured rows that an operand names, at least as many as training seeds are asked for."""
        if not operand.named:
            raise NotMeasuredError("", f"no run here of {operand.published}")
        names = self.measured(operand)
        if not names:
            raise NotMeasuredError("", f"no measurement of {operand}")
        if len(names) < seeds:
            have = counted(len(names), "training seed")
            raise NotMeasuredError("", f"{have}; this claim is about training and needs {seeds}")
        return names

    def run_of(self, operand: Operand) -> str:
        """Id of the one measured row that an operand names."""
        names = self.runs_of(operand)
        if len(names) > 1:
            raise NotMeasuredError("", f"{operand} names {len(names)} rows; this rule is about one training")
        return names[0]

    def label(self, run: str) -> str:
        """Label of a run with its number of function evaluations."""
        nfe = self.measurements.nfe(run)
        text = self.runs[run].label if run in self.runs else run
        return f"{text}, NFE {nfe}" if nfe and nfe > 1 else text

    def length(self, name: str) -> int | None:
        """Images of a training and of the one that it starts from; None without their logs."""
        row = self.runs.get(name)
        before = self.length(row.init) if row is not None and row.init else 0
        if before is None or self.results is None:
            return None
        paths = [log_path(self.results, name, log) for log in ("train", "evaluations")]
        lengths = [int(record["nimg"]) for path in paths if has_log(path) for record in read_log(path)]
        return before + max(lengths) if lengths else None

    # Whether values may be compared

    def require_comparable(
        self, operands: Mapping[str, Operand], metric: str, across: str, alike: Sequence[str]
    ) -> dict[str, Identity]:
        """Requires that operands may be compared; returns the identities of their values.

        Args:
            operands: Operands by key.
            metric: Key of the metric; empty where no values of a metric are compared.
            across: Reason why values of other identities may be compared; empty: they may not.
            alike: Columns of the sheet, or ``length`` (images of the trainings), in which the operands are equal.

        Returns:
            The first identity of each operand by key; without ``across`` one identity represents all.
        """
        identities: dict[str, tuple[str, Identity]] = {}
        for key, operand in operands.items() if metric else ():
            for name, identity in self._identities(operand, metric, across):
                if reason := reason_against(identity):
                    raise NotMeasuredError("", f"not decided: {name}: {reason}")
                other, first = identities.setdefault(key if across else "", (name, identity))
                if first is not identity and (reason := comparable(first, identity)):
                    raise NotMeasuredError("", f"not compared: {other} and {name}: {reason}")
        for column in alike:
            (first_name, first_values), *others = [(str(one), self._values(one, column)) for one in operands.values()]
            for name, values in others:
                if values != first_values:
                    raise NotMeasuredError("", f"not compared: {first_name} and {name} differ in {column}")
            if None in first_values:
                raise NotMeasuredError("", f"it is unknown which {column} {first_name} has")
        self._require_apart(name for operand in operands.values() for name in self.measured(operand))
        return {key: identity for key, (_, identity) in identities.items()}

    def _identities(self, operand: Operand, metric: str, across: str) -> Iterator[tuple[str, Identity]]:
        """Name and identity of each value that an operand stands for."""
        if operand.value is not None:
            return
        rows = self.measurements
        names = [] if self.by_published else [name for name in self.row_ids(operand) if rows.has(name, metric)]
        if operand.published is not None:
            number = self.published(operand)
            # A pair that is declared is one of published numbers; each side must be measured like its own.
            if self.by_published or not operand.named or (across and names and not number.identity.quoted):
                yield f"{number.row_label}, published", number.identity
                if self.by_published or not operand.named:
                    return
        for name in names:
            exposure = exposure_of(rows.of_run(name)[0], self.runs.get(name))
            yield f"run '{name}'", dataclasses.replace(rows.identity(name, metric), exposure=exposure)

    def _values(self, operand: Operand, column: str) -> set[Any]:
        """Values of a column, or lengths, of an operand's rows."""
        names = self.runs_of(operand)
        return {
            self.length(name) if column == "length" else getattr(self.runs.get(name), column, None) for name in names
        }

    def _require_apart(self, names: Iterable[str]) -> None:
        """Requires that rows under one protocol, whose images are drawn alike, are different networks."""
        groups: dict[tuple[Any, ...], list[str]] = {}
        for name in dict.fromkeys(names):
            row = self.runs.get(name)
            key = tuple(getattr(row, column, None) for column in ("sampler", "guide", "protocol"))
            groups.setdefault(key, []).append(name)
        for group in groups.values():
            if pair := self.measurements.one_network(group):
                raise NotMeasuredError("", f"not compared: rows '{pair[0]}' and '{pair[1]}' are one network")

    def _require_alike(self, names: Sequence[str]) -> None:
        """Requires that measured rows are trainings of one generator: equal settings and lengths, different values."""
        facts = {name: {**self._settings(name), "length": self.length(name)} for name in names}
        first = facts[names[0]]
        if first["length"] is None:
            raise NotMeasuredError("", f"it is unknown how many images the training of row '{names[0]}' had")
        results: dict[Any, str] = {}
        for name, other in facts.items():
            for key in first | other:
                if first.get(key) != other.get(key):
                    raise NotMeasuredError("", f"not compared: rows '{names[0]}' and '{name}' differ in {key}")
            # A network that was saved again has another digest and the same values.
            result = getattr(self.runs.get(name), "teacher", None), self.measurements.values(name)
            if (same := results.setdefault(result, name)) != name:
                raise NotMeasuredError("", f"not compared: rows '{same}' and '{name}' have equal values")

    def _settings(self, name: str) -> dict[str, Any]:
        """Columns of a row and of the rows that it starts from; teacher and seed may differ."""
        if (row := self.runs.get(name)) is None:
            return {}
        start = {f"{key} of its start": value for key, value in self._settings(row.init).items()} if row.init else {}
        return {column: getattr(row, column) for column in _SETTINGS} | start

    # Sides of a comparison

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
            NotMeasuredError: Not measured, too few seeds, a single trial, or an unknown noise of training.
            UserError: Conditions that match several runs where one counts.
        """
        if operand.value is not None:
            return _exact(operand.label, operand.value)
        if self.by_published or not operand.named:
            return self._published_side(operand, metric, seeds, retraining)
        names = self.runs_of(operand, seeds)
        if seeds > 1:
            return self._side_of_seeds(operand, names, metric, images)
        if len(names) > 1:
            others = f" and {len(names) - 9:,} more" if len(names) > 9 else ""
            raise UserError("", f"{operand} matches {', '.join(names[:9])}{others}", "pick one run")
        (name,) = names
        estimate = self._mean(name, metric, images)
        if estimate.std is None:
            raise NotMeasuredError("", "a single trial does not show the noise; measure at least two")
        noise = [(estimate.std**2 / estimate.trials, max(1.0, len(self.measurements.trials(name, metric)) - 1.0))]
        rivals = [self.runs.get(rival) for rival in self.row_ids(other)] if other else []
        counts = retraining and not self.number(name, metric, estimate).is_one_network(rivals)
        of_training = [self.retraining_noise(metric, estimate.mean)] if counts else []
        return Side(self.label(name), estimate, noise, of_training)

    def number(self, run: str, metric: str, estimate: Estimate) -> Number:
        """The number of a measured row with this mean."""
        lines = self.measurements.lines(run, metric) or self.measurements.of_run(run)
        facts = (run,), self.runs.get(run), lines, trainings_of(self.runs, lines)
        return Number(metric, estimate, lines[0].identity, *facts)

    def _side_of_seeds(self, operand: Operand, names: Sequence[str], metric: str, images: int | None) -> Side:
        self._require_alike(names)
        # A row without a seed has the preset's.
        blank = next((name for name in names if self.runs[name].seed is None), None)
        written = next((name for name in names if self.runs[name].seed is not None), None)
        if blank and written:
            fault = f"whether rows '{blank}', without a seed, and '{written}' have different ones"
            raise NotMeasuredError("", f"it is unknown {fault}; write each seed into the sheet")
        blocks: dict[str, dict[int | None, float]] = {}
        for name in names:
            cell, seed = blocks.setdefault(self.runs[name].teacher or "", {}), self.runs[name].seed
            if seed in cell:
                raise NotMeasuredError("", f"{operand} names two trainings with one seed; run '{name}' is the second")
            cell[seed] = self._mean(name, metric, images).mean
        several = f" from {len(blocks)} teachers" * (len(blocks) > 1)
        estimate = Estimate.of([value for cell in blocks.values() for value in cell.values()])
        mean = statistics.fmean(statistics.fmean(cell.values()) for cell in blocks.values())
        label = f"{self.label(names[0])} and {len(names) - 1} more trainings{several}"
        return Side(label, dataclasses.replace(estimate, mean=mean), seeds=blocks)

    def _published_side(self, operand: Operand, metric: str, seeds: int, retraining: bool) -> Side:
        if seeds > 1:
            raise NotMeasuredError("", "the papers report one training of each")
        printed = self.published(operand)
        number = Number.of_paper(printed, metric)
        counts = retraining and not number.is_one_network()
        of_training = [self.retraining_noise(metric, printed.value)] if counts else []
        noise = [number.noise] if number.noise else []
        return Side(f"{printed.row_label}, published", number.estimate, noise, of_training)

    def retraining_noise(self, metric: str, mean: float) -> tuple[float, float]:
        """Variance of a repeated training with this mean, and its degrees of freedom."""
        if self.retraining is None or (variance := self.retraining.variance(metric, mean)) is None:
            fault = f"it is unknown how much {metric} scatters when a network is trained again"
            raise NotMeasuredError("", f"{fault}, so a single training is not enough")
        return variance

    def mean(self, run: str, metric: str) -> Estimate:
        """Measured mean of a metric of a run."""
        if not self.measurements.has(run, metric):
            raise NotMeasuredError("", f"metric '{metric}' of run '{run}' was not measured")
        return self.measurements.estimate(run, metric)

    def _mean(self, run: str, metric: str, images: int | None) -> Estimate:
        """Measured mean of the kept network, or the mean of an evaluation during training."""
        if images is None:
            return self.mean(run, metric)
        point = next(point for point in self.curve(run, metric) if point.nimg == images)
        # Few trials of an evaluation say little about its noise; the measurement has more.
        noise = (self.noise_of_one(run, metric, point) or 0.0) * point.value
        return Estimate(point.value, noise or point.std, point.trials)

    def noise_of_one(self, run: str, metric: str, point: Point) -> float | None:
        """Relative standard deviation of an evaluation of a run by the trials of its measurement.

        None without trials, or if these have another number of images: fewer images have more noise.
        """
        lines = self.measurements.lines(run, metric)
        if len(lines) < 2 or point.num_samples not in (None, lines[0].n):
            return None
        estimate = self.measurements.estimate(run, metric)
        return abs((estimate.std or 0.0) / estimate.mean) if estimate.mean else None

    def published(self, operand: Operand) -> Published:
        """The published number of an operand.

        Raises:
            NotMeasuredError: The operand names none.
            UserError: No number has this id.
        """
        if operand.published is None:
            raise NotMeasuredError("", f"no published number for {operand}")
        return published_number(operand.published, "")

    # Training logs

    def curve(self, run: str, metric: str) -> tuple[Point, ...]:
        """Evaluations of a run during training, in which a NaN is infinity."""
        path = self._log(run, "evaluations")
        if not has_metric(path, metric):
            raise NotMeasuredError("", f"the training log of run '{run}' has no '{metric}'")
        return read_evaluations(path, metric)

    def require_curves(self) -> None:
        """Refuses a decision by published numbers: no paper prints its curves as numbers."""
        if self.by_published:
            raise NotMeasuredError("", "the papers print the curves only as pictures")

    def curves(self, runs: Sequence[str], metric: str) -> list[tuple[Point, ...]]:
        """Evaluations of runs that are compared with each other: finite, and of equally many images."""
        curves = [self.curve(run, metric) for run in runs]
        for run, points in zip(runs, curves):
            if not_finite := [point.nimg for point in points if not math.isfinite(point.value)]:
                raise NotMeasuredError("", f"{metric} of run '{run}' after {not_finite[0]:,} images is not a number")
        if len(sizes := {point.num_samples for points in curves for point in points} - {None}) > 1:
            counts = " and ".join(f"{size:,}" for size in sorted(filter(None, sizes)))
            raise NotMeasuredError("", f"not compared: evaluations of {', '.join(runs)} use {counts} images")
        return curves

    def equal_images(self, operands: Iterable[Operand], metric: str, seeds: int) -> int:
        """The largest number of images after which all rows of the operands were evaluated."""
        self.require_curves()
        names = [name for operand in operands for name in self.runs_of(operand, seeds)]
        common = set.intersection(*({p.nimg for p in points if p.nimg > 0} for points in self.curves(names, metric)))
        if not common:
            raise NotMeasuredError("", f"no evaluation after equally many images of {', '.join(names)}")
        return max(common)

    def quantity(self, operand: Operand, quantity: str, gpus: str) -> Side:
        """A side of a comparison of a quantity of the training logs of runs on such cards, or of ``nfe``."""
        if operand.published is not None and (self.by_published or not operand.named):
            number = self.published(operand)
            if quantity == "nfe" and not number.nfe.isdecimal():
                raise NotMeasuredError("", f"no number of evaluations is printed of {number.row_label}")
            return _exact(f"{number.row_label}, published", float(number.nfe) if quantity == "nfe" else number.value)
        if quantity == "nfe":
            names = self.runs_of(operand)
            if len(counts := {float(self.measurements.nfe(name) or 1) for name in names}) > 1:
                raise NotMeasuredError("", f"{operand} names rows of different NFE")
            return _exact(self.label(names[0]), counts.pop())
        if self.by_published:
            raise NotMeasuredError("", f"no training log of {operand}")
        run = self.run_of(operand)
        if not (ticks := read_log(self._log(run, "train"))):
            raise NotMeasuredError("", f"no training log of run '{run}'")
        count, _, card = gpus.partition(" × ")
        cards = str(ticks[-1].get("gpus") or "no GPU")
        if gpus and (not cards.startswith(f"{count} × ") or card not in cards):
            raise NotMeasuredError("", f"run '{run}' was trained on {cards}; this is about {gpus}")
        if (estimate := logged_level(ticks, quantity)) is None:
            raise NotMeasuredError("", f"the training log of run '{run}' has no '{quantity}'")
        if estimate.std is None:
            raise NotMeasuredError("", "a single record does not show the noise")
        return Side(self.label(run), estimate, [(estimate.std**2 / estimate.trials, max(1, estimate.trials - 1))])

    def _log(self, run: str, log: str) -> Path:
        path = log_path(self.results, run, log) if self.results else None
        if path is None or not has_log(path):
            raise NotMeasuredError("", f"no training log of run '{run}'")
        return path


def show(estimate: Estimate) -> str:
    """Mean and spread as text, ``4.08 ± 0.10``, with enough digits for the spread."""
    if not estimate.std:
        return f"{estimate.mean:.4g}"
    decimals = max(0, 1 - math.floor(math.log10(estimate.std)))
    return f"{estimate.mean:.{decimals}f} ± {estimate.std:.{decimals}f}"
