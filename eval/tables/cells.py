"""Cells and rows of the three modes: published strings, measured means with their spread, or both.

The rows of a layout are resolved against the sample sheet, the measurements and the published numbers. Audit mode
prints both numbers side by side, or one below the other if the columns are model sizes.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from eval.effects.contrast import Effect
from eval.results.identity import Identity, comparable
from eval.results.published import LEGEND, Agreement, Published, agreement_of, published_number
from eval.results.sheet import SheetRow
from eval.results.summary import Estimate, Measurements
from eval.tables.layout import TRIAL_FIELDS, BoldSpec, ColumnSpec, EffectSpec, Mode, RowSpec, TableLayout, expand
from eval.tables.model import Cell, Column, Row
from sida.errors import UserError, suggestion
from sida.files.text_files import read_csv

#: Reason for a cell without a comparison whose released file is later than the printed number.
LATER = "what was measured is of a later version than the published number"


@dataclass(frozen=True)
class CellSource:
    """Data of a number cell; the published number and the measurement may each be missing.

    Attributes:
        metric: Key of the metric in the measurements.
        published: The published number.
        run: Id of the run whose measurement the cell shows.
        pool: Further runs with other training seeds, pooled with ``run``.
        estimate: Measurement of the run, or of the pool (``trials`` then counts training seeds).
        empty: ``"blank"`` or ``"dash"`` if the paper prints no number and nothing was measured.
        compared: Comparison of measured and published number by rule EQ, or the reason why there is none.
        effect: Columns of effects: the difference from another row.
        against: Label of the other row.
        identity: Identity of the measured values.
    """

    metric: str
    published: Published | None = None
    run: str | None = None
    estimate: Estimate | None = None
    empty: str | None = None
    pool: tuple[str, ...] = ()
    effect: Effect | None = None
    against: str = ""
    compared: Agreement | str | None = None
    identity: Identity | None = None

    @property
    def runs(self) -> list[str]:
        """Runs whose measurements the cell shows."""
        return [] if self.run is None else [self.run, *self.pool]


@dataclass(frozen=True)
class TableLine:
    """A body row: its spec, its run in the sample sheet, its key in the layout, and its sources by column id."""

    spec: RowSpec
    run: SheetRow | None
    where: str
    nfe: int | None
    sources: dict[str, CellSource]
    tuning: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def family(self) -> str:
        """Group of the row."""
        return self.spec.family or (self.run.family if self.run else "")

    @property
    def label(self) -> str:
        """Name of the row."""
        return self.spec.label or (self.run.label if self.run else "")

    @property
    def ours(self) -> bool:
        """Whether the row is about a run of this suite, and not only a quoted number."""
        return self.spec.run is not None or self.where.endswith(".where")

    def text(self, field: str) -> str:
        """Content of a text column."""
        if field in ("family", "label"):
            return str(getattr(self, field))
        if field == "seeds":
            return str(1 + len(self.spec.pool)) if self.run is not None and self.run.method != "data" else ""
        if field in TRIAL_FIELDS:
            return self.tuning.get(field, "")
        given = getattr(self.spec, field)
        if given is not None:
            return str(given)
        return str(self.nfe) if field == "nfe" and self.nfe else ""


def resolve(
    layout: TableLayout,
    measurements: Measurements,
    runs: Mapping[str, SheetRow],
    published: Mapping[str, Published],
    mode: Mode,
) -> list[TableLine]:
    """All rows of a layout with the data of their cells.

    Raises:
        UserError: Unknown run, metric or published id, or a missing measurement that the layout does not allow.
    """
    lines = []
    tunings = read_tunings(Path(layout.source).parent / layout.trials_of) if layout.trials_of else {}
    data = _Data(layout, measurements, runs, published, mode)
    for where, spec in expand(layout, runs):
        if mode == "measured":
            spec = dataclasses.replace(spec, label=spec.measured_label or spec.label)
        sources = {
            column.id: data.source(spec, column, number, where)
            for number, column in enumerate(layout.columns)
            if column.metric is not None
        }
        first = next((source.run for source in sources.values() if source.run), spec.run or "")
        nfe = int(spec.nfe) if spec.nfe and spec.nfe.isdecimal() and len(spec.nfe) < 10 else measurements.nfe(first)
        run = runs.get(first)
        line = TableLine(spec, run, where, nfe, sources, tunings.get((run and run.recipe) or "", {}))
        if mode != "measured" or line.ours:
            lines.append(line)
    return lines


def read_tunings(path: Path) -> dict[str, dict[str, str]]:
    """Text columns about tunings by recipe, METHOD-TEACHER, from the trials that ``sida tune`` wrote.

    Range and share of diverged runs are those of the settings drawn at first, which are equally many for all methods;
    seconds are those of the longest trials.

    Raises:
        UserError: No such file, or a missing column.
    """
    found: dict[str, list[dict[str, str]]] = {}
    columns, records = read_csv(path)
    for key in ("method", "teacher", "kimg", "trial", "diverged", "seconds"):
        if key not in columns:
            raise UserError(path, f"column '{key}' is missing", "write the file by `sida tune`")
    metric = columns[columns.index("trial") + 1]
    for _, record in records:
        found.setdefault(f"{record['method']}-{record['teacher']}", []).append(record)
    texts = {}
    for recipe, trials in found.items():
        lengths = [float(trial["kimg"]) for trial in trials]
        first = [trial for trial, length in zip(trials, lengths) if length == min(lengths)]
        drawn = [trial for trial in first if trial["trial"].isdecimal()]
        values = [float(trial[metric]) for trial in drawn]
        longest = [float(trial["seconds"]) for trial, length in zip(trials, lengths) if length == max(lengths)]
        texts[recipe] = {
            "settings": str(len(first)),
            "settings_range": f"{min(values):.1f} / {statistics.median(values):.1f} / {max(values):.1f}",
            "settings_diverged": f"{sum(trial['diverged'] == 'yes' for trial in drawn)} of {len(drawn)}",
            "seconds_per_kimg": f"{statistics.mean(longest) / max(lengths):.1f}",
        }
    return texts


@dataclass(frozen=True)
class _Data:
    """Data from which the cells of a table are resolved."""

    layout: TableLayout
    measurements: Measurements
    runs: Mapping[str, SheetRow]
    published: Mapping[str, Published]
    mode: Mode

    def source(self, spec: RowSpec, column: ColumnSpec, number: int, where: str) -> CellSource:
        """Data of the cell of a row (with its place ``where``) in a column (with its number)."""
        layout, measurements = self.layout, self.measurements
        metric = str(layout.metrics.get(str(column.metric), column.metric))
        empty = None
        if self.mode != "measured":  # blank cells of the paper may have measurements
            empty = "dash" if column.id in spec.dash else "blank" if column.id in spec.blank else None
        printed = self._printed(spec, column, where) if empty is None else None
        run = self._run_id(spec, column, where) if self.mode != "paper" else None
        if run is None and self.mode != "measured":
            return CellSource(metric, printed, empty=empty)
        pool = tuple(column.run_of(name) for name in spec.pool)
        names = [name for name in (run, *pool) if name is not None]
        if layout.missing == "error" or self.mode == "measured":
            self._check(spec, number, where, names, metric)
        if not names or (layout.missing == "mark" and not all(measurements.has(name, metric) for name in names)):
            return CellSource(metric, printed, run, None, empty, pool)
        estimates = [measurements.estimate(name, metric, where) for name in names]
        for name, estimate in zip(names, estimates):
            if layout.trials is not None and estimate.trials != layout.trials:
                fault = f"run '{name}' has {estimate.trials} trials of '{metric}'"
                raise UserError(
                    where, f"{fault}, but the layout's trials is {layout.trials}", "measure the missing ones"
                )
        pooled = Estimate.of([estimate.mean for estimate in estimates]) if spec.pool else estimates[0]
        compared: Agreement | str | None = None
        if printed is not None:
            lines = [line for name in names for line in measurements.lines(name, metric)]
            compared = LATER if column.id in spec.later else agreement_of(pooled, lines, printed)
        identity = measurements.identity(names[0], metric)
        for name in names[1:]:
            if reason := comparable(identity, measurements.identity(name, metric)):
                fault = f"pools '{names[0]}' and '{name}', which are not comparable: {metric}: {reason}"
                raise UserError(where, fault)
        return CellSource(metric, printed, run, pooled, empty, pool, compared=compared, identity=identity)

    def _printed(self, spec: RowSpec, column: ColumnSpec, where: str) -> Published | None:
        if spec.published is None or self.mode == "measured" or column.run is not None:
            return None
        slug = str(column.metric).replace("_", "-")
        key = spec.published.replace("{column}", column.key).replace("{metric}", slug)
        return published_number(self.published, key, where.rpartition(".")[0] + ".published")

    def _run_id(self, spec: RowSpec, column: ColumnSpec, where: str) -> str | None:
        if spec.run is None:
            return None
        run = self.layout.run_id(spec.run, column)
        if "{" in run:
            raise UserError(where, f"'{run}' has a name in braces that is neither 'column' nor a key of vars", "set it")
        return run

    def _check(self, spec: RowSpec, number: int, where: str, names: list[str], metric: str) -> None:
        """Refuses rows that are not in the sheet, and metrics that were measured for no row; names the layout's key."""
        if not names and where.endswith(".where"):
            raise UserError(
                where, f"no run of the sample sheet matches {dict(spec.where or {})}", "change the condition"
            )
        for run in names:
            if run not in self.runs:
                near = suggestion(run, self.runs)
                raise UserError(where, f"unknown run '{run}': the sample sheet does not list it{near}")
        known = self.measurements.metrics
        if known and metric not in known:
            raise UserError(
                f"{self.layout.source}: columns[{number}].metric",
                f"'{metric}' was not measured in {self.measurements.source}{suggestion(metric, known)}",
                "add it to the protocol or remove the column",
            )


def require_added_comparable(lines: Sequence[TableLine], layout: TableLayout, added: Collection[str]) -> None:
    """Refuses an added row whose value is comparable with no known number of its column.

    Raises:
        UserError: There is such a row; the message has the reason and the protocol to score under.
    """
    for column in layout.columns:
        sources = [line.sources[column.id] for line in lines if column.id in line.sources]
        known = [source.identity for source in sources if source.identity is not None and source.run not in added]
        known += [source.published.identity for source in sources if source.published is not None]
        for source in sources:
            if source.run in added and source.identity is not None:
                require_in_column(source.identity, known, f"--add: '{source.run}', column '{column.id}'")
                known.append(source.identity)


def require_in_column(identity: Identity, known: Sequence[Identity], where: str) -> None:
    """Refuses a value that is comparable with none of a column's known values.

    Raises:
        UserError: The message has the reason, and the protocol to score under.
    """
    named = [other for other in known if not other.quoted]
    reasons = [comparable(identity, other) for other in named]
    if reasons and None not in reasons:
        protocols = " or ".join(dict.fromkeys(f"'{other.protocol}'" for other in named))
        raise UserError(
            where,
            f"measured under {identity}, which is not comparable with the column's numbers "
            f"({min(map(str, reasons), key=len)})",
            f"score the images under protocol {protocols}",
        )


def text_cell(column: ColumnSpec, lines: list[TableLine], number: int) -> Cell:
    """Cell of a text column; a family is named in its first row only."""
    line = lines[number]
    repeated = column.field == "family" and number > 0 and not new_family(lines, number)
    if repeated or (column.field == "label" and line.spec.continues):
        return Cell(kind="blank")
    text = line.text(str(column.field))
    return Cell(text) if text else Cell(kind="blank")


def new_family(lines: list[TableLine], number: int) -> bool:
    """Whether a new family begins with this line."""
    return lines[number].family != lines[number - 1].family


def rule_above(lines: list[TableLine], number: int) -> bool:
    """Whether a line is drawn above a row: a new family begins, or the layout requests it."""
    return number > 0 and (lines[number].spec.rule or new_family(lines, number))


def empty_cell(source: CellSource) -> Cell:
    """Cell that is blank, or a dash, by layout."""
    return Cell(kind="dash" if source.empty == "dash" else "blank")


def published_cell(source: CellSource, bold: bool = False) -> Cell:
    """Cell of a published number exactly as printed; blank without one."""
    if source.published is None:
        return Cell(kind="blank")
    return Cell(source.published.text, "published", source.published.std or None, bold)


def measured_cell(column: ColumnSpec, source: CellSource, bold: bool = False) -> Cell:
    """Cell of a measured mean with its sample standard deviation, or 'not measured'."""
    if source.estimate is None:
        return Cell(kind="missing")
    mean, std = source.estimate.mean, source.estimate.std if column.spread else None
    spread = None if std is None else f"{std * column.scale:.{column.decimals}f}"
    return Cell(f"{mean * column.scale:.{column.decimals}f}", "measured", spread, bold)


def heading(column: ColumnSpec) -> Column:
    """Heading of a layout's column."""
    direction = column.direction if column.arrow else None
    number = column.metric is not None or column.field in ("nfe", "seeds")
    return Column(column.head, direction, number, name=column.field == "label")


Side = Literal["published", "measured"]
#: Best values: side, column id and row number of each.
Best = Set[tuple[Side, str, int]]


def compared(layout: TableLayout, lines: Sequence[TableLine]) -> list[dict[int, TableLine]]:
    """Groups of rows whose values are compared with each other, by row number."""
    groups: dict[str, dict[int, TableLine]] = {}
    for number, line in enumerate(lines):
        groups.setdefault(line.family if layout.compare == "family" else "", {})[number] = line
    return list(groups.values())


def best_values(layout: TableLayout, lines: list[TableLine]) -> Best:
    """Best values of the columns, separately for published and measured numbers.

    Values are compared as printed, so rows that print the same best value are all bold. Published numbers are ranked as
    the paper ranks them. No measured value is bold if the measured values are not comparable with each other, or if a
    published number of a row that is not measured beats it.
    """
    best = set[tuple[Side, str, int]]()
    for column in layout.columns:
        if layout.bold is None or column.metric is None or column.direction is None:
            continue
        if layout.bold.columns is not None and column.id not in layout.bold.columns:
            continue
        for group in compared(layout, lines):
            shown = {n: line.sources[column.id] for n, line in group.items() if _candidate(layout.bold, line)}
            for side in get_args(Side):
                best |= {(side, column.id, number) for number in _best_of(shown, column, side)}
    return best


def _best_of(shown: Mapping[int, CellSource], column: ColumnSpec, side: Side) -> set[int]:
    values = {n: value for n, source in shown.items() if (value := _printed_value(column, source, side)) is not None}
    found = [source.identity for n, source in shown.items() if n in values and source.identity is not None]
    if not values or (side == "measured" and any(comparable(found[0], other) for other in found[1:])):
        return set()
    rivals = [source.published.value for n, source in shown.items() if source.published and n not in values]
    winner = (min if column.direction == "lower" else max)([*values.values(), *rivals])
    return {number for number, value in values.items() if value == winner}


def _candidate(bold: BoldSpec, line: TableLine) -> bool:
    if not line.spec.candidate or (bold.families is not None and line.family not in bold.families):
        return False
    if line.nfe is None:
        return bold.max_nfe is None
    return line.nfe >= bold.min_nfe and (bold.max_nfe is None or line.nfe <= bold.max_nfe)


def _printed_value(column: ColumnSpec, source: CellSource, side: Side) -> float | None:
    if side == "published":
        return source.published.value if source.published else None
    return None if source.estimate is None else round(source.estimate.mean * column.scale, column.decimals)


SIDES = ("published", "measured", "Δ")
AUDIT_LEGEND = f"Δ = measured − published; {LEGEND}."


def grid(layout: TableLayout, lines: list[TableLine], mode: Mode, best: Best) -> tuple[list[Column], list[Row]]:
    """Columns and rows with a line for each row.

    Audit mode has three columns per metric: published, measured, difference; for ``run`` columns one.
    """
    rows = []
    for number, line in enumerate(lines):
        cells = [cell for column in layout.columns for cell in _cells(column, lines, number, mode, best)]
        rows.append(Row(tuple(cells), rule_above(lines, number), line.spec.continues))
    return [head for column in layout.columns for head in _heads(column, mode)], rows


def _heads(column: ColumnSpec, mode: Mode) -> list[Column]:
    if mode != "audit" or column.metric is None:
        return [heading(column)]
    title, heads = heading(column).title, ("measured",) if column.run else SIDES
    return [Column(head, None, True, title) for head in heads]


def _cells(column: ColumnSpec, lines: list[TableLine], number: int, mode: Mode, best: Best) -> list[Cell]:
    """Cells of a row under the headings of a column."""
    line = lines[number]
    source = line.sources.get(column.id)
    if source is None:
        return [text_cell(column, lines, number)]
    if mode == "audit":
        if column.run:
            return [measured_cell(column, source) if line.ours else Cell(kind="blank")]
        return _three(column, line, number, best)
    if column.effect:
        return [effect_cell(column, source)]
    if source.empty:
        return [empty_cell(source)]
    if mode == "paper":
        return [published_cell(source, ("published", column.id, number) in best)]
    return [measured_cell(column, source, ("measured", column.id, number) in best)]


def stacked(layout: TableLayout, lines: list[TableLine], best: Best) -> tuple[list[Column], list[Row]]:
    """Columns and rows with three lines per own row (published, measured, difference), and one line per quoted row."""
    columns = [heading(column) for column in layout.columns]
    place = next((i for i, column in enumerate(layout.columns) if column.metric is not None), len(columns))
    columns.insert(place, Column(""))
    rows = []
    for number, line in enumerate(lines):
        threes = {column.id: _three(column, line, number, best) for column in layout.columns if column.metric}
        for i, name in enumerate(SIDES if line.ours else SIDES[:1]):
            cells: list[Cell] = []
            for column in layout.columns:
                if column.id in threes:
                    cells.append(threes[column.id][i])
                else:
                    cells.append(text_cell(column, lines, number) if i == 0 else Cell(kind="blank"))
            cells.insert(place, Cell(name))
            beside_ours = number > 0 and (line.ours or lines[number - 1].ours)
            rule = i == 0 and (rule_above(lines, number) or beside_ours)
            rows.append(Row(tuple(cells), rule, i > 0 or line.spec.continues))
    return columns, rows


def _three(column: ColumnSpec, line: TableLine, number: int, best: Best) -> list[Cell]:
    """Cells for the published number, the measurement and the difference."""
    source = line.sources[column.id]
    printed = empty_cell(source) if source.empty else published_cell(source, ("published", column.id, number) in best)
    own = Cell(kind="blank")
    # Quoted rows are never measured here, so the cell is blank and not 'not measured'.
    if source.estimate or (line.ours and source.published is not None):
        own = measured_cell(column, source, ("measured", column.id, number) in best)
    return [printed, own, difference_cell(column, source)]


def difference_cell(column: ColumnSpec, source: CellSource) -> Cell:
    """Cell of measured − published with the verdict of rule EQ; blank if they are not compared."""
    compared = source.compared
    if not isinstance(compared, Agreement):
        return Cell(kind="blank")
    decimals = max(column.decimals, 2)
    text = f"{compared.difference * column.scale:+.{decimals}f}".replace("-", "−")
    return Cell(text, "difference", agreement=compared.outcome)


#: Mark of an average over teachers that differ, which is that of the verdict “depends on the teacher”.
DIFFER = "≠"


def effect_cell(column: ColumnSpec, source: CellSource) -> Cell:
    """Cell of an effect: ``−1.48 [−1.60, −1.36]``, or in standard deviations; a dash in the row ``against``."""
    if source.empty:
        return Cell(kind="dash")
    if source.effect is None:
        return Cell(kind="missing")
    return Cell(effect_text(source.effect, column.decimals, column.scale, column.effect), "difference")


def effect_text(effect: Effect, decimals: int, scale: float = 1.0, spec: EffectSpec | None = None) -> str:
    """An effect as text, with typographic minus signs, and with a mark where its teachers differ."""
    mark = f" {DIFFER}" if effect.blocks_differ else ""
    if spec and spec.show == "standardised":
        return f"{effect.standardised:+.1f}{mark}".replace("-", "−").replace("inf", "∞")
    value, low, high = (number * scale for number in (effect.value, effect.low, effect.high))
    return f"{value:+.{decimals}f} [{low:.{decimals}f}, {high:.{decimals}f}]{mark}".replace("-", "−")
