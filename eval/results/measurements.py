"""Reads ``measurements.csv`` and computes means and sample standard deviations over trials.

The file is long and tidy: one line per (run, trial, metric). All tables, figures and verdicts take their numbers from
:class:`Measurements`, so its checks (duplicates, gaps between trials, NaN) apply to all of them.
"""

from __future__ import annotations

import functools
import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from sida.config.settings import Finite, Natural, Pattern, from_texts
from sida.errors import SettingError, UserError, settings_in, suggestion
from sida.eval.metrics.kinds import value_fault
from sida.eval.results.csv_files import csv_text, parse_csv
from sida.eval.results.identity import Identity, comparable, read_exposure
from sida.files.ordinary import file_below
from sida.files.text_files import read_text

#: Digest of a file; empty where there is none or it is unknown.
_Digest = Annotated[str, Pattern("[0-9a-f]*", "a digest in hexadecimal digits")]
#: Settings of a sampler, such as ``num_steps=4``.
_Settings = Annotated[str, Pattern(r"([a-z_]+=\w+(,[a-z_]+=\w+)*)?", "settings such as num_steps=4")]
#: See :attr:`sida.eval.results.identity.Identity.held_out`.
_Share = Annotated[str, Pattern(r"(\d+/[1-9]\d*|unknown)?", "such as 3/50, or unknown")]


@dataclass(frozen=True)
class Measurement:
    """One line of ``measurements.csv``: a metric of one trial of one generator."""

    run: str
    method: str
    trial: Natural
    metric: str
    value: Finite
    _: KW_ONLY
    n: Natural
    seed_first: Natural | None = None
    seed_last: Natural | None = None
    nfe: Natural | None = None
    kept_at: Natural | None = None  # images seen by the network that its training kept
    protocol: str
    settings: str
    classes: str
    resolution: str
    reference_sha256: _Digest
    extractor_sha256: _Digest = ""  # empty for a metric without a feature network
    network_sha256: str
    device: str
    code_version: str
    date: str
    origin: str = ""  # the group that measured it; empty for this suite
    saw: str = ""  # networks that the generator was exposed to, where the record has them
    held_out: _Share = ""
    order: str = ""  # order of images of files, where it is not the stored one
    trained: _Settings = ""  # steps of the generator's training where the sampler takes others
    trained_on: str = ""  # device of the generator's training, as its network says; empty if unknown

    @functools.cached_property
    def identity(self) -> Identity:
        """Identity of the value; equal for all trials of a run and metric."""
        return Identity(
            protocol=self.protocol,
            settings=self.settings,
            n=self.n,
            seed0=None if self.seed_first is None else self.seed_first - self.trial * self.n,
            classes=self.classes,
            resolution=self.resolution,
            reference=self.reference_sha256,
            extractor=self.extractor_sha256,
            held_out=self.held_out,
        )


#: Columns that follow where a line has a value in one of them.
FURTHER = ("origin", "saw", "held_out", "order", "trained", "trained_on")
#: Columns of all measurements of this suite.
MEASUREMENT_COLUMNS = tuple(column.name for column in fields(Measurement) if column.name not in FURTHER)
_OPTIONAL = {"kept_at"}
#: Columns about the generator, which all lines of a run have in common.
_OF_GENERATOR = ("method", "nfe", "kept_at", "network_sha256", "trained", "saw")
#: Columns whose cells may be empty: they have no value then.
_NUMBERS = ("n", "seed_first", "seed_last", "nfe", "kept_at")


@dataclass(frozen=True)
class Estimate:
    """Mean of a metric over trials with the sample standard deviation (ddof 1; ``None`` for a single trial)."""

    mean: float
    std: float | None
    trials: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate:
        """Summarises at least one value."""
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))

    @property
    def standard_error(self) -> float | None:
        """Standard error of the mean; ``None`` for a single trial."""
        return None if self.std is None else self.std / math.sqrt(self.trials)


def image_seeds(rows: Iterable[Measurement]) -> list[int]:
    """First and last image seeds of all lines that have them."""
    return [seed for row in rows for seed in (row.seed_first, row.seed_last) if seed is not None]


def kept_at(rows: Iterable[Measurement]) -> dict[str, int | None]:
    """Images seen by the kept network of each run; 0: the start of the training, None: unknown, or no training."""
    return {row.run: row.kept_at for row in rows}


def measurements_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Text of ``measurements.csv``: the columns of all rows, and of :data:`FURTHER` those with a value in a row."""
    columns = (*MEASUREMENT_COLUMNS, *(name for name in FURTHER if any(row.get(name) for row in rows)))
    return csv_text(columns, [{name: row.get(name) for name in columns} for row in rows])


def measured_days(rows: Iterable[Measurement]) -> str:
    """Day of the measurements, or the first and the last day: ``2026-11-20 to 2026-11-21``."""
    days = sorted({row.date[:10] for row in rows})
    return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"


class Measurements:
    """Measured values: lines of one or several presets, by run and by metric of a run.

    Args:
        rows: The lines.
        source: File named in errors.

    Raises:
        UserError: Trials of a metric that are not 0, 1, 2, ... once each, or that contradict each other (other
            settings, equal or overlapping seeds), or lines of one run about two generators (another network, ``nfe`` or
            ``saw``).
    """

    def __init__(self, rows: Iterable[Measurement], source: str = "measurements.csv") -> None:
        self.source = source
        self.rows = list(rows)
        self._runs: dict[str, list[Measurement]] = {}
        self._lines: dict[tuple[str, str], list[Measurement]] = {}
        self._estimates: dict[tuple[str, str], Estimate] = {}  # the rules of curves ask at each evaluation
        for row in self.rows:
            self._runs.setdefault(row.run, []).append(row)
            self._lines.setdefault((row.run, row.metric), []).append(row)
        for (run, metric), lines in self._lines.items():
            lines.sort(key=lambda line: line.trial)
            if fault := _contradiction(lines):
                remedy = "measure it and collect the measurements again"
                raise UserError(source, f"run '{run}', metric '{metric}': {fault}", remedy)
        for run, lines in self._runs.items():
            if fault := _two_generators(lines):
                raise UserError(source, f"run '{run}': {fault}", "give each generator a run of its own, or correct it")

    @property
    def runs(self) -> list[str]:
        """Measured runs in the order of the file."""
        return list(self._runs)

    @property
    def metrics(self) -> list[str]:
        """Measured metrics in the order of the file."""
        return list(dict.fromkeys(row.metric for row in self.rows))

    def has(self, run: str, metric: str) -> bool:
        """Whether a metric was measured for a run."""
        return (run, metric) in self._lines

    def of_run(self, run: str) -> list[Measurement]:
        """All lines of a run."""
        return list(self._runs.get(run, ()))

    def lines(self, run: str, metric: str) -> list[Measurement]:
        """The lines of a metric of a run, by trial (empty when not measured)."""
        return list(self._lines.get((run, metric), ()))

    def one_network(self, runs: Iterable[str]) -> tuple[str, str] | None:
        """Two of some runs whose network is one file, so that they are one training; None without such a pair."""
        networks: dict[str, str] = {}
        for run in runs:
            # All lines of a run have one network.
            digest = next((row.network_sha256 for row in self._runs.get(run, ())), "")
            if digest and (other := networks.setdefault(digest, run)) != run:
                return other, run
        return None

    def identity(self, run: str, metric: str) -> Identity:
        """Identity of a metric of a measured run, equal for its trials.

        Raises:
            UserError: The run or metric was not measured.
        """
        self.estimate(run, metric)
        return self._lines[run, metric][0].identity

    def estimate(self, run: str, metric: str, where: str = "") -> Estimate:
        """Mean ± sample std over the trials of a metric.

        Args:
            run: Id of a measured run.
            metric: Key of a measured metric.
            where: File and key that asked, e.g. ``"config/tables/main.yaml: columns[3].metric"``.

        Raises:
            UserError: The run or metric was not measured, or a trial does not have this metric.
        """
        if known := self._estimates.get((run, metric)):
            return known
        if run not in self._runs:
            raise UserError(where, f"run '{run}' has no measurement in {self.source}{suggestion(run, self.runs)}")
        if not self.has(run, metric):
            hint = suggestion(metric, {row.metric for row in self._runs[run]})
            fault = f"metric '{metric}' was not measured for run '{run}' in {self.source}{hint}"
            raise UserError(where, fault, "add it to the protocol or remove it here")
        values = [line.value for line in self._lines[run, metric]]
        if len(values) <= max(row.trial for row in self._runs[run]):
            fault = f"run '{run}': trial {len(values)} has no metric '{metric}' in {self.source}"
            raise UserError(where, fault, "measure it again")
        estimate = self._estimates[run, metric] = Estimate.of(values)
        return estimate

    def nfe(self, run: str) -> int | None:
        """Network evaluations per image of a run; ``None`` for the data themselves."""
        return next((row.nfe for row in self._runs.get(run, ())), None)

    def trained(self, run: str) -> str:
        """Steps of a generator's training where it was measured with others, such as ``num_steps=4``; else empty."""
        return next((row.trained for row in self._runs.get(run, ())), "")


def measurements_file(path: str | Path) -> Path:
    """File with the measurements of a results folder, or the file itself; its ``.gz`` if only that is there.

    Raises:
        UserError: In a folder it is a link, a pipe or a device.
    """
    path = Path(path)
    if path.is_dir():
        path, packed = (file_below(path, f"measurements.csv{suffix}") for suffix in ("", ".gz"))
    else:
        packed = path.with_name(f"{path.name}.gz")
    return packed if packed.is_file() and not path.is_file() else path


def _contradiction(lines: Sequence[Measurement]) -> str | None:
    """Reason why lines, sorted by trial, cannot be the trials of one run and metric, or None."""
    first = lines[0]
    for number, line in enumerate(lines):
        if line.trial != number:
            return f"trial {line.trial} occurs twice" if line.trial < number else f"trial {number} is missing"
        start, last = line.seed_first, line.seed_last
        if start is not None and last is not None and last - start + 1 != line.n:
            return f"trial {number} has {line.n:,} images, and the seeds {start} to {last}"
    with_seeds = [line for line in lines if line.seed_first is not None]
    ends = sorted((line.seed_first or 0, line.seed_last or line.seed_first or 0, line.trial) for line in with_seeds)
    for (_, last_seed, one), (next_seed, _, other) in itertools.pairwise(ends):
        if next_seed <= last_seed:
            return f"trials {one} and {other} have equal or overlapping seeds"
    for line in lines:
        if why := comparable(first.identity, line.identity):
            return f"trials {first.trial} and {line.trial} are not comparable ({why})"
    if len(lines) > 1 and first.settings.startswith("frechet") and len({line.value for line in lines}) == 1:
        return f"all {len(lines)} trials have the value {first.value!r}, which other images cannot give"
    return None


def _two_generators(lines: Sequence[Measurement]) -> str | None:
    """Reason why lines cannot be about one generator, or None; readers take such a column from one of them."""
    for name in _OF_GENERATOR:
        values = list(dict.fromkeys(getattr(line, name) for line in lines))
        if name == "saw" and len(values) > 1:
            # Networks have no order, and several names.
            values = list({frozenset(str(read_exposure(words)).split()): words for words in values}.values())
        if len(values) > 1:
            return f"{name}: {' and '.join(repr('' if value is None else str(value)) for value in values)}"
    return None


def load_measurements(path: str | Path) -> Measurements:
    """Reads ``measurements.csv``, also compressed (``.gz``).

    Args:
        path: The file, or its folder.

    Raises:
        UserError: Missing file or column, a damaged row, a cell of the wrong type, NaN or infinity (file and line are
            named), duplicates or missing trials.
    """
    path = measurements_file(path)
    if not path.is_file():
        raise UserError(path, "no such measurements", "run `sida measure` or the workflow first")
    return Measurements(_parsed(read_text(path, newline=""), str(path)), str(path))


def measured_in(path: str | Path | None) -> Measurements:
    """The measurements of a file or folder as :func:`load_measurements` reads them; none if they do not exist."""
    if path is None or not measurements_file(path).is_file():
        return Measurements([], "no measurements")
    return load_measurements(path)


def measurements_of(rows: Iterable[Mapping[str, Any]], source: str) -> Measurements:
    """Checks rows by column as lines of a ``measurements.csv``; see :func:`load_measurements`."""
    return Measurements(checked_lines(rows, source), source)


def checked_lines(rows: Iterable[Mapping[str, Any]], source: str) -> list[Measurement]:
    """Checks each row by column as a line of a ``measurements.csv``.

    Raises:
        UserError: A column is missing, or a cell is of the wrong type; the message names run and trial.
    """
    _, lines = parse_csv(csv_text((*MEASUREMENT_COLUMNS, *FURTHER), rows), source)
    return [_line(record, f"{source}: run '{record['run']}', trial {record['trial']}") for _, record in lines]


@functools.lru_cache(2)
def _parsed(text: str, path: str) -> tuple[Measurement, ...]:
    """Parses the text; cached, since pages read one file for each of their tables and figures."""
    columns, lines = parse_csv(text, path)
    if missing := [name for name in MEASUREMENT_COLUMNS if name not in {*columns, *_OPTIONAL}]:
        raise UserError(path, f"column '{missing[0]}' is missing", "collect the measurements again")
    return tuple(_line(record, f"{path}:{line}") for line, record in lines)


def _line(record: Mapping[str, str | None], where: str) -> Measurement:
    cells = {name: record.get(name, "") for name in (*MEASUREMENT_COLUMNS, *FURTHER)}
    if missing := [name for name in MEASUREMENT_COLUMNS if cells[name] is None]:
        remedy = "the file was cut off: delete it, so that it is collected again"
        raise UserError(where, f"column '{missing[0]}' is missing in this line", remedy)
    texts = {name: (text or "").strip() for name, text in cells.items()}
    values = {name: text for name, text in texts.items() if text or name not in _NUMBERS}
    line = from_texts(Measurement, values, f"{where}:")
    if reason := value_fault(line.settings, line.value):
        raise SettingError(f"{where}: value", *reason)
    if line.saw:
        with settings_in(where):
            read_exposure(line.saw)
    return line
