"""Evidence for claims: numbers of measured rows with their training logs, or the published numbers alone."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sida.errors import UserError, counted
from sida.eval.claims.finding import Operand, Side, exact
from sida.eval.contrasts import NotMeasuredError
from sida.eval.results.identity import Identity, comparable, reason_against
from sida.eval.results.logs import Point, has_log, has_metric, log_path, logged_level, read_evaluations, read_log
from sida.eval.results.measurements import Estimate, Measurements
from sida.eval.results.numbers import Number, trainings_of
from sida.eval.results.published import Published, published_number
from sida.eval.results.retraining import Retraining
from sida.eval.results.sheet import SheetRow

#: Columns in which the training seeds of one generator are equal.
_SETTINGS = ("method", "alpha", "recipe", "sampler", "guide", "dataset", "protocol")


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

    def is_printed(self, operand: Operand) -> bool:
        """Whether the published number of an operand counts, and no measurement."""
        return self.by_published or not operand.named

    def measured(self, operand: Operand) -> list[str]:
        """Ids of the measured rows that an operand names; empty for a decision by published numbers."""
        known = {*self.measurements.runs, *self.planned}
        return [] if self.is_printed(operand) else [name for name in operand.rows_in(self.runs) if name in known]

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

    # Numbers, and whether they may be compared

    def numbers(self, operand: Operand, metric: str, across: str = "") -> list[Number]:
        """Numbers that an operand stands for: the published one, or those of its rows that have the metric."""
        if operand.value is not None:
            return []
        names = [] if self.is_printed(operand) else operand.rows_in(self.runs)
        found = [Number.measured(self.measurements, self.runs, [name], metric) for name in names]
        here = [one for one in found if one is not None]
        if operand.published is None:
            return here
        published = Number.of_paper(self.published(operand), metric)
        # A pair that is declared is one of published numbers; each side must be measured like its own.
        if self.is_printed(operand) or (across and here and not published.identity.quoted):
            return [published, *here]
        return here

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
        firsts: dict[str, Number] = {}
        for key, operand in operands.items() if metric else ():
            for number in self.numbers(operand, metric, across):
                if reason := reason_against(number.identity):
                    raise NotMeasuredError("", f"not decided: {number.name}: {reason}")
                first = firsts.setdefault(key if across else "", number)
                if first is not number and (reason := comparable(first.identity, number.identity)):
                    raise NotMeasuredError("", f"not compared: {first.name} and {number.name}: {reason}")
        for column in alike:
            (first_name, first_values), *others = [(str(one), self._values(one, column)) for one in operands.values()]
            for name, values in others:
                if values != first_values:
                    raise NotMeasuredError("", f"not compared: {first_name} and {name} differ in {column}")
            if None in first_values:
                raise NotMeasuredError("", f"it is unknown which {column} {first_name} has")
        self._require_apart(name for operand in operands.values() for name in self.measured(operand))
        return {key: number.identity for key, number in firsts.items()}

    def _values(self, operand: Operand, column: str) -> set[Any]:
        """Values of a column, or lengths, of an operand's rows."""
        return {
            self.length(name) if column == "length" else getattr(self.runs.get(name), column, None)
            for name in self.runs_of(operand)
        }

    def _require_apart(self, names: Iterable[str]) -> None:
        """Requires that rows under one protocol, whose images are drawn alike, are different networks."""
        groups: dict[tuple[Any, ...], list[str]] = {}
        for name in dict.fromkeys(names):
            key = tuple(getattr(self.runs.get(name), column, None) for column in ("sampler", "guide", "protocol"))
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
            values = frozenset((line.metric, line.trial, line.value) for line in self.measurements.of_run(name))
            if (same := results.setdefault((getattr(self.runs.get(name), "teacher", None), values), name)) != name:
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
    ) -> Side:
        """A side of a comparison: its mean with the noise of evaluation and of training.

        Args:
            operand: The generator; with ``seeds`` above 1 all rows that meet its conditions.
            metric: Key of the metric.
            seeds: Least number of training seeds.
            images: Number of training images of the evaluation that counts instead of the kept network.
            other: The generator that it is compared with; its own teacher is a given network, like a released file.

        Raises:
            NotMeasuredError: Not measured, too few seeds, a single trial, or an unknown noise of training.
            UserError: Conditions that match several runs where one counts.
        """
        if operand.value is not None:
            return exact(operand.label, operand.value)
        if seeds > 1 and self.is_printed(operand):
            raise NotMeasuredError("", "the papers report one training of each")
        if seeds > 1:
            return self._side_of_seeds(operand, self.runs_of(operand, seeds), metric, images)
        number = self.number(operand, metric, images)
        std, trials = number.estimate.std or 0.0, number.estimate.trials
        # The scatter of an evaluation is that of the measurement's trials, which are more.
        df = trials - 1.0 if number.printed else max(1.0, len(self.measurements.lines(number.runs[0], metric)) - 1.0)
        rivals = [self.runs.get(rival) for rival in other.rows_in(self.runs)] if other else []
        retraining = [] if number.is_one_network(rivals) else [self.scatter(metric, number.estimate.mean)]
        return Side(self.name_of(number), number.estimate, [(std**2 / trials, df)], retraining)

    def number(self, operand: Operand, metric: str, images: int | None = None) -> Number:
        """The number of an operand that is a single generator, whose noise is known; for arguments see :meth:`side`."""
        if self.is_printed(operand):
            return Number.of_paper(self.published(operand), metric)
        names = self.runs_of(operand)
        if len(names) > 1:
            others = f" and {len(names) - 9:,} more" if len(names) > 9 else ""
            raise UserError("", f"{operand} matches {', '.join(names[:9])}{others}", "pick one run")
        number = self._measured(names[0], metric, images)
        if number.estimate.std is None:
            raise NotMeasuredError("", "a single trial does not show the noise; measure at least two")
        return number

    def name_of(self, number: Number) -> str:
        """Name of a number's generator, for texts."""
        return number.name if number.printed else self.label(number.runs[0])

    def _measured(self, run: str, metric: str, images: int | None) -> Number:
        """The number of the kept network of a row, or of an evaluation during its training."""
        number = Number.measured(self.measurements, self.runs, [run], metric)
        if images is None:
            if number is None:
                raise NotMeasuredError("", f"metric '{metric}' of run '{run}' was not measured")
            return number
        point = next(point for point in self.curve(run, metric) if point.nimg == images)
        # Few trials of an evaluation say little about its noise; the measurement has more.
        with contextlib.suppress(NotMeasuredError):
            noise = self.noise_of_one(run, metric, point) * point.value
            point = dataclasses.replace(point, std=noise or point.std)
        estimate = Estimate(point.value, point.std, point.trials)
        if number is None:
            lines = self.measurements.of_run(run)
            facts = (run,), self.runs.get(run), lines, trainings_of(self.runs, lines)
            number = Number(metric, estimate, Identity(protocol=""), *facts)
        return dataclasses.replace(number, estimate=estimate)

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
            cell[seed] = self._measured(name, metric, images).estimate.mean
        several = f" from {len(blocks)} teachers" * (len(blocks) > 1)
        estimate = Estimate.of([value for cell in blocks.values() for value in cell.values()])
        mean = statistics.fmean(statistics.fmean(cell.values()) for cell in blocks.values())
        label = f"{self.label(names[0])} and {len(names) - 1} more trainings{several}"
        return Side(label, dataclasses.replace(estimate, mean=mean), seeds=blocks)

    def scatter(self, metric: str, mean: float) -> tuple[float, float]:
        """Variance of a repeated training with this mean, and its degrees of freedom."""
        if self.retraining is None or (variance := self.retraining.variance(metric, mean)) is None:
            fault = f"it is unknown how much {metric} scatters when a network is trained again"
            raise NotMeasuredError("", f"{fault}, so a single training is not enough")
        return variance

    def noise_of_one(self, run: str, metric: str, point: Point) -> float:
        """Relative standard deviation of an evaluation of a run by the trials of its measurement.

        Fewer images than these trials have more noise, which is unknown.
        """
        lines = self.measurements.lines(run, metric)
        mean = self.measurements.estimate(run, metric).mean if len(lines) > 1 else 0.0
        if not mean or point.num_samples not in (None, lines[0].n):
            raise NotMeasuredError("", f"it is unknown how much an evaluation of {self.label(run)} scatters")
        return abs((self.measurements.estimate(run, metric).std or 0.0) / mean)

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
        if operand.published is not None and self.is_printed(operand):
            number = self.published(operand)
            if quantity == "nfe" and not number.nfe.isdecimal():
                raise NotMeasuredError("", f"no number of evaluations is printed of {number.row_label}")
            return exact(f"{number.row_label}, published", float(number.nfe) if quantity == "nfe" else number.value)
        if quantity == "nfe":
            names = self.runs_of(operand)
            if len(counts := {float(self.measurements.nfe(name) or 1) for name in names}) > 1:
                raise NotMeasuredError("", f"{operand} names rows of different NFE")
            return exact(self.label(names[0]), counts.pop())
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
