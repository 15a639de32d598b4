"""Cells and rows of the three modes: published strings, measured means with their spread, or both.

The rows of a layout are resolved against the sample sheet, the measurements and the published numbers. Audit mode
prints the published number, the measured one and their difference in lines below each other.
"""

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sida.errors import UserError, suggestion
from sida.eval.results.agreement import LEGEND, Agreement, agreement_of, trainings_of
from sida.eval.results.identity import Identity, comparable
from sida.eval.results.published import Published, published_number
from sida.eval.results.sheet import SheetRow, exposure_of
from sida.eval.results.summary import Estimate, Measurement, Measurements
from sida.eval.tables.layout import ColumnSpec, Mode, RowSpec, TableLayout, expand
from sida.eval.tables.model import BLANK, DASH, Cell, Column, Rank, Row
from sida.methods.method import Exposure

#: Reason for a cell without a comparison whose released file is later than the printed number.
LATER = "the measured file is of a later version than the published number"


@dataclass(frozen=True)
class CellSource:
    """Data of a number cell; the published number and the measurement may each be missing.

    Attributes:
        metric: Key of the metric in the measurements.
        published: The published number.
        runs: Ids of the runs whose measurement the cell shows: one, or several training seeds.
        estimate: Measurement of the run, or of several (``trials`` then counts training seeds).
        empty: Cell for a column without a number by layout.
        compared: Comparison of measured and published number by rule EQ, or the reason why there is none.
        identity: Identity of the measured values.
        lines: Lines of ``measurements.csv`` behind the estimate.
        trainings: Number of trainings of this suite behind the measurement; 0 for other networks.
    """

    metric: str
    published: Published | None = None
    runs: tuple[str, ...] = ()
    estimate: Estimate | None = None
    empty: Cell | None = None
    compared: Agreement | str | None = None
    identity: Identity | None = None
    lines: Sequence[Measurement] = ()
    trainings: int = 0

    @property
    def identities(self) -> list[Identity]:
        """Identities of the values that the cell can show."""
        of_published = None if self.published is None else self.published.identity
        return [identity for identity in (of_published, self.identity) if identity is not None]

    @property
    def run(self) -> str | None:
        """The first of the runs."""
        return self.runs[0] if self.runs else None


@dataclass(frozen=True)
class TableLine:
    """A body row: its spec, its run in the sample sheet, and its sources by column id.

    A row is *ours* if it has a run of this suite; others have published numbers only. A *guest* was added to a finished
    table. An *added* row is a guest with the numbers that a file of ``--add`` prints.
    """

    spec: RowSpec
    run: SheetRow | None
    nfe: int | None
    sources: dict[str, CellSource]
    trained: str = ""  # see sida.eval.results.summary.Measurements.trained
    where: str = ""  # place in the layout
    first: str = ""  # id of the first run of its cells

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
        """Whether the row is about a run of this suite, and not only a published number."""
        return self.spec.run is not None

    @property
    def added(self) -> bool:
        """Whether the row shows published numbers of a file that was added (``--add``)."""
        return self.spec.scored and not self.ours

    def text(self, field: str) -> str:
        """Content of a text column."""
        if field in ("family", "label"):
            return str(getattr(self, field))
        if field == "seeds":
            # Real images have no training.
            return "" if self.run is not None and self.run.method == "data" else str(1 + len(self.spec.pool))
        if field == "saw":
            exposure = next((i.exposure for source in self.sources.values() for i in source.identities), None)
            return "unknown" if exposure is None else exposure.words
        text = getattr(self.spec, field)
        if text is not None:
            return str(text)
        return nfe_text(self.nfe, self.trained) if field == "nfe" else ""


def nfe_text(nfe: int | None, trained: str) -> str:
    """Network evaluations per image, with the steps of the training where they are others."""
    return "" if not nfe else f"{nfe} (trained with {trained})" if trained else str(nfe)


def resolve(
    layout: TableLayout, runs: Mapping[str, SheetRow], mode: Mode, added: Mapping[str, Published] | None = None
) -> list[TableLine]:
    """All rows of a layout with the runs and published numbers of their cells, without measurements.

    Args:
        layout: Columns and rows.
        runs: The sample sheet.
        mode: Mode of the table.
        added: Published numbers of added rows by id.

    Raises:
        UserError: Unknown run or published id.
    """
    lines = []
    for where, spec in expand(layout, runs):
        if mode == "measured":
            spec = dataclasses.replace(spec, label=spec.measured_label or spec.label)
        columns = [column for column in layout.columns if column.metric is not None]
        sources = {column.id: _source(layout, spec, column, where, mode, added or {}) for column in columns}
        for source in sources.values():
            _require_listed(source.runs, runs, mode, where)
        first = next((source.run for source in sources.values() if source.run), spec.run or "")
        nfe = int(spec.nfe) if spec.nfe and spec.nfe.isdecimal() and len(spec.nfe) < 10 else None
        line = TableLine(spec, runs.get(first), nfe, sources, where=where, first=first)
        if mode != "measured" or line.ours or line.added:
            lines.append(line)
    return lines


def _source(
    layout: TableLayout, spec: RowSpec, column: ColumnSpec, where: str, mode: Mode, added: Mapping[str, Published]
) -> CellSource:
    """Runs and published number of the cell of a row (with its place ``where``) in a column."""
    runs = layout.runs_of(spec, column) if mode != "paper" or spec.scored else ()
    empty = None
    if mode != "measured":  # blank cells of the paper may have measurements
        empty = DASH if column.id in spec.dash else BLANK if column.id in spec.blank else None
    published = None
    if empty is None and spec.published is not None and column.run is None:
        slug = str(column.metric).replace("_", "-")
        key = spec.published.replace("{column}", column.key).replace("{metric}", slug)
        if spec.scored:
            published = added.get(key)
        elif mode != "measured":
            published = published_number(key, where.rpartition(".")[0] + ".published")
    return CellSource(str(column.metric), published, runs, empty=empty)


def _require_listed(names: Sequence[str], runs: Mapping[str, SheetRow], mode: Mode, where: str) -> None:
    """Refuses ids with a name in braces that has no value, and in mode measured rows that are not in the sheet."""
    for run in names:
        if run not in runs and "{" in run:
            fault = f"'{run}' has a name in braces that is neither 'column' nor a key of vars"
            raise UserError(where, fault, "set it")
        if run not in runs and mode == "measured":
            hint = suggestion(run, runs)
            raise UserError(where, f"unknown run '{run}': the sample sheet does not list it{hint}")


def with_measurements(
    lines: Iterable[TableLine], measurements: Measurements, runs: Mapping[str, SheetRow]
) -> list[TableLine]:
    """Rows of :func:`resolve` with their measurements, which are compared with the published numbers.

    Raises:
        UserError: A row pools values that are not comparable, or a trial has no value.
    """
    data, rows = _Data(measurements, runs), []
    for line in lines:
        sources = {
            name: data.measured(source, is_later=name in line.spec.later, where=line.where)
            for name, source in line.sources.items()
        }
        nfe = measurements.nfe(line.first) if line.nfe is None else line.nfe
        rows.append(dataclasses.replace(line, sources=sources, nfe=nfe, trained=measurements.trained(line.first)))
    return rows


def require_poolable(identities: Mapping[str, Identity], metric: str, where: str) -> None:
    """Refuses to pool runs whose values are not comparable.

    Args:
        identities: Identity of each run's values.
        metric: Key of the metric.
        where: Place of the row, for errors.
    """
    (first, identity), *others = identities.items()
    for name, other in others:
        if reason := comparable(identity, other):
            raise UserError(where, f"pools '{first}' and '{name}', which are not comparable: {metric}: {reason}")


@dataclass(frozen=True)
class _Data:
    """Measurements from which the cells of a table are filled."""

    measurements: Measurements
    runs: Mapping[str, SheetRow]

    def measured(self, source: CellSource, is_later: bool, where: str) -> CellSource:
        """A source with its measurement, which may be compared with its published number."""
        measurements, runs, metric = self.measurements, source.runs, source.metric
        if not runs or not all(measurements.has(name, metric) for name in runs):
            return source
        estimates = [measurements.estimate(name, metric, where) for name in runs]
        estimate = estimates[0] if len(runs) == 1 else Estimate.of([one.mean for one in estimates])
        lines = [line for name in runs for line in measurements.lines(name, metric)]
        trainings = trainings_of(self.runs, lines)
        compared: Agreement | str | None = None
        if source.published is not None:
            compared = LATER if is_later else agreement_of(estimate, lines, source.published, trainings)
        if pair := measurements.one_network(runs):
            raise UserError(where, f"pools '{pair[0]}' and '{pair[1]}', which are one network", "train one again")
        require_poolable({name: measurements.identity(name, metric) for name in runs}, metric, where)
        return dataclasses.replace(
            source,
            estimate=estimate,
            compared=compared,
            identity=dataclasses.replace(lines[0].identity, exposure=self._exposure(runs)),
            lines=lines,
            trainings=trainings,
        )

    def _exposure(self, names: Sequence[str]) -> Exposure | None:
        """Exposure of the generators of measured runs, together; None if the exposure of one run is unknown."""
        exposure = Exposure()
        for name in names:
            run_exposure = exposure_of(self.measurements.of_run(name)[0], self.runs.get(name))
            if run_exposure is None:
                return None
            exposure |= run_exposure
        return exposure


def without_unlike(layout: TableLayout, lines: Sequence[TableLine]) -> tuple[list[TableLine], list[str]]:
    """Empties cells of guest rows whose value is not comparable with any other of its column; returns rows and notes.

    Raises:
        UserError: A score that was added has such a value.
    """
    rows, notes = list(lines), []
    for column in layout.columns:
        sources = {number: line.sources[column.id] for number, line in enumerate(rows) if column.id in line.sources}
        guests = [number for number in sources if rows[number].spec.guest]
        beside = set(guests)
        identities = {
            source.identity: 0 for number, source in sources.items() if source.identity and number not in beside
        }
        identities |= {source.published.identity: 0 for source in sources.values() if source.published is not None}
        for number in guests:
            line, source = rows[number], sources[number]
            if source.identity is None:
                continue
            if line.spec.scored:
                require_in_column(source.identity, identities, f"--add: '{source.run}', column '{column.id}'")
            elif why := unlike(source.identity, identities):
                empty = dataclasses.replace(source, estimate=None, identity=None, lines=(), empty=DASH)
                rows[number] = dataclasses.replace(line, sources={**line.sources, column.id: empty})
                notes.append(
                    f"{column.head} of {line.label} is left out: it is not comparable with the others ({why})."
                )
                continue
            identities[source.identity] = 0
    return rows, notes


def unlike(identity: Identity, identities: Collection[Identity]) -> str | None:
    """Reason why a value is comparable with none of a column's known values; None if it is, or if none is known."""
    reasons = [comparable(identity, other) for other in identities if not other.quoted]
    return min(map(str, reasons), key=len) if reasons and None not in reasons else None


def require_in_column(identity: Identity, identities: Collection[Identity], where: str) -> None:
    """Refuses a value that is comparable with none of a column's known values.

    Raises:
        UserError: The message has the reason, and the protocol to score under.
    """
    if why := unlike(identity, identities):
        protocols = " or ".join(dict.fromkeys(f"'{other.protocol}'" for other in identities if not other.quoted))
        raise UserError(
            where,
            f"measured under {identity}, which is not comparable with the column's numbers ({why})",
            f"score the images under protocol {protocols}",
        )


Side = Literal["published", "measured"]
#: Ranks of the best values and of those that these do not beat, by side, column id and row number.
Best = Mapping[tuple[Side, str, int], Rank]


SIDES = ("published", "measured", "Δ")
AUDIT_LEGEND = f"Δ = measured − published; {LEGEND}."


def heading(column: ColumnSpec) -> Column:
    """Heading of a layout's column."""
    direction, is_name = column.direction if column.arrow else None, column.field == "label"
    is_number = column.metric is not None or column.field == "nfe"
    return Column(column.head, direction, is_number, is_name, column.metric is None and not is_name)


def grid(layout: TableLayout, lines: list[TableLine], mode: Mode, best: Best) -> tuple[list[Column], list[Row]]:
    """Columns and rows of a table.

    A row has one line; in audit mode a row of ours has three (published, measured, difference), named by a column.
    """
    columns = [heading(column) for column in layout.columns]
    first_metric = next((i for i, column in enumerate(layout.columns) if column.metric is not None), len(columns))
    audit = mode == "audit" and any(line.ours for line in lines)
    if audit:
        columns.insert(first_metric, Column(""))
    rows = []
    for number, line in enumerate(lines):
        differs = any(isinstance(source.compared, Agreement) for source in line.sources.values())
        sides: Sequence[str] = ("",) if not audit else SIDES[: 2 + differs if line.ours else 1]
        for i, side in enumerate(sides):
            cells = [_cell(column, lines, number, mode, side, best) for column in layout.columns]
            if audit:
                cells.insert(first_metric, Cell(side))
            beside_ours = audit and number > 0 and (line.ours or lines[number - 1].ours)
            family = number > 0 and (line.spec.rule or line.family != lines[number - 1].family)
            rows.append(Row(tuple(cells), i == 0 and (family or beside_ours), i > 0 or line.spec.continues))
    return columns, rows


def _cell(column: ColumnSpec, lines: list[TableLine], number: int, mode: Mode, side: str, best: Best) -> Cell:
    """A cell of a row, in audit mode of one of its lines."""
    line, source = lines[number], lines[number].sources.get(column.id)
    if source is None:
        repeats_family = column.field == "family" and number > 0 and line.family == lines[number - 1].family
        is_hidden = repeats_family or (column.field == "label" and line.spec.continues) or side not in ("", SIDES[0])
        text = "" if is_hidden else line.text(str(column.field))
        return Cell(text) if text else BLANK
    if side == "Δ":
        return difference_cell(column, source)
    is_measured = side == "measured" or (not side and line.ours and (mode == "measured" or line.spec.scored))
    # Quoted rows are never measured here, so the cell is blank and not 'not measured'.
    if is_measured and (source.estimate or not side or source.published or column.run):
        rank = best.get(("measured", column.id, number))
        return source.empty if source.empty and not source.estimate else measured_cell(column, source, rank)
    if is_measured:
        return BLANK
    return source.empty or published_cell(source, best.get(("published", column.id, number)))


def mark_of(identity: Identity) -> str:
    """Sign of a network or of images that a generator was exposed to, which make its value special.

    ¶: held-out images of the metric, or not stated; ‡: a network of the metric trained it; §: a network that learned
    from the same labels did.
    """
    return "¶" if identity.held_out_fault else "‡" if identity.exposed("loss") else "§" if identity.related else ""


def published_cell(source: CellSource, rank: Rank | None) -> Cell:
    """Cell of a published number exactly as printed; blank if there is no such number."""
    if source.published is None:
        return BLANK
    mark = mark_of(source.published.identity)
    return Cell(source.published.text, "published", source.published.std or None, rank, mark=mark)


def measured_cell(column: ColumnSpec, source: CellSource, rank: Rank | None = None) -> Cell:
    """Cell of a measured mean with its sample standard deviation, or 'not measured'."""
    if source.estimate is None:
        return Cell(kind="missing")
    mean, std = source.estimate.mean, source.estimate.std if column.spread else None
    spread = None if std is None else f"{std * column.scale:,.{column.decimals}f}"
    mark = mark_of(source.identity) if source.identity else ""
    return Cell(f"{mean * column.scale:,.{column.decimals}f}", "measured", spread, rank, mark=mark)


def difference_cell(column: ColumnSpec, source: CellSource) -> Cell:
    """Cell of measured − published with the verdict of rule EQ; blank if they are not compared."""
    agreement = source.compared
    if not isinstance(agreement, Agreement):
        return BLANK
    text = f"{agreement.difference * column.scale:+,.{max(column.decimals, 2)}f}".replace("-", "−")
    return Cell(text, "difference", agreement=agreement.outcome)
