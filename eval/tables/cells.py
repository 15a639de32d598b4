"""Cells of the three modes: published strings, measured means with their spread, or both.

A cell of a table takes four steps: :func:`resolve` finds its rows of the sheet and its published number,
:func:`with_measurements` its measured number, :func:`sida.eval.tables.bold.ranked` the ranks of both, and :func:`grid`
prints one of them. Audit mode prints the published number, the measured one and their difference in lines below each
other.
"""

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from sida.errors import UserError, suggestion
from sida.eval.results.identity import Identity, comparable
from sida.eval.results.measurements import Measurements
from sida.eval.results.numbers import LEGEND, Agreement, Number, compare
from sida.eval.results.published import Published, published_number
from sida.eval.results.sheet import SheetRow
from sida.eval.tables.layout import ColumnSpec, Mode, RowSpec, TableLayout, expand
from sida.eval.tables.model import BLANK, DASH, Cell, Column, Rank, Row

Side = Literal["published", "measured"]
#: Reason for a cell without a comparison whose released file is later than the printed number.
LATER = "the measured file is of a later version than the published number"
AUDIT_LEGEND = f"Δ = measured − published; {LEGEND}."
_SIDES = ("published", "measured", "Δ")


@dataclass(frozen=True)
class CellNumbers:
    """Numbers of a cell, each of which may be missing.

    Attributes:
        metric: Key of the metric in the measurements.
        runs: Rows of the sheet whose measurement the cell shows: one, or several training seeds.
        published: The published number.
        measured: The measured one.
        compared: Comparison of both by rule EQ, or the reason why there is none.
        empty: Cell for a column without a number by layout.
        ranks: Ranks of the numbers in their column (:func:`sida.eval.tables.bold.ranked`).
    """

    metric: str
    runs: tuple[str, ...] = ()
    published: Number | None = None
    measured: Number | None = None
    compared: Agreement | str | None = None
    empty: Cell | None = None
    ranks: Mapping[Side, Rank] = field(default_factory=dict)

    @property
    def numbers(self) -> dict[Side, Number]:
        """The numbers that the cell has."""
        sides: dict[Side, Number | None] = {"published": self.published, "measured": self.measured}
        return {side: number for side, number in sides.items() if number is not None}


@dataclass(frozen=True)
class TableLine:
    """A body row: its spec, its run in the sample sheet, and the numbers of its cells by column id.

    A row is *ours* if it has a run of this suite; others have published numbers only. A *guest* was added to a finished
    table. An *added* row is a guest with the numbers that a file of ``--add`` prints.
    """

    spec: RowSpec
    run: SheetRow | None
    nfe: int | None
    cells: dict[str, CellNumbers]
    trained: str = ""  # see sida.eval.results.measurements.Measurements.trained
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
            numbers = (number for cell in self.cells.values() for number in cell.numbers.values())
            exposure = next((number.identity.exposure for number in numbers), None)
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
        cells = {
            column.id: _resolved(layout, spec, column, where, mode, added or {})
            for column in layout.columns
            if column.metric is not None
        }
        names = [run for cell in cells.values() for run in cell.runs]
        _require_listed(names, runs, mode, where)
        first = next(iter(names), spec.run or "")
        nfe = int(spec.nfe) if spec.nfe and spec.nfe.isdecimal() and len(spec.nfe) < 10 else None
        line = TableLine(spec, runs.get(first), nfe, cells, where=where, first=first)
        if mode != "measured" or line.ours or line.added:
            lines.append(line)
    return lines


def _resolved(
    layout: TableLayout, spec: RowSpec, column: ColumnSpec, where: str, mode: Mode, added: Mapping[str, Published]
) -> CellNumbers:
    """Runs and published number of the cell of a row (with its place ``where``) in a column."""
    metric, empty, published = str(column.metric), None, None
    if mode != "measured":  # blank cells of the paper may have measurements
        empty = DASH if column.id in spec.dash else BLANK if column.id in spec.blank else None
    if empty is None and spec.published is not None and column.run is None:
        key = spec.published.replace("{column}", column.key).replace("{metric}", metric.replace("_", "-"))
        if spec.scored:
            published = added.get(key)
        elif mode != "measured":
            published = published_number(key, where.rpartition(".")[0] + ".published")
    runs = layout.runs_of(spec, column) if mode != "paper" or spec.scored else ()
    return CellNumbers(metric, runs, Number.of_paper(published, metric) if published else None, empty=empty)


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
    """Rows of :func:`resolve` with their measured numbers, which are compared with the published ones.

    Raises:
        UserError: A row pools values that are not comparable, or a trial has no value.
    """
    rows = []
    for line in lines:
        cells = {}
        for name, cell in line.cells.items():
            if measured := Number.measured(measurements, runs, cell.runs, cell.metric, line.where):
                if pair := measurements.one_network(cell.runs):
                    fault = f"pools '{pair[0]}' and '{pair[1]}', which are one network"
                    raise UserError(line.where, fault, "train one again")
                identities = {run: measurements.identity(run, cell.metric) for run in cell.runs}
                require_poolable(identities, cell.metric, line.where)
                compared: Agreement | str | None = None
                if cell.published and cell.published.printed:
                    is_later = name in line.spec.later
                    compared = LATER if is_later else compare(measured, cell.published.printed)
                cell = dataclasses.replace(cell, measured=measured, compared=compared)
            cells[name] = cell
        nfe = measurements.nfe(line.first) if line.nfe is None else line.nfe
        rows.append(dataclasses.replace(line, cells=cells, nfe=nfe, trained=measurements.trained(line.first)))
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


def without_unlike(layout: TableLayout, lines: Sequence[TableLine]) -> tuple[list[TableLine], list[str]]:
    """Empties cells of guest rows whose value is not comparable with any other of its column; returns rows and notes.

    Raises:
        UserError: A score that was added has such a value.
    """
    rows, notes = list(lines), []
    for column in (column for column in layout.columns if column.metric):
        cells = [line.cells[column.id] for line in rows]
        here = [cell.measured.identity for line, cell in zip(rows, cells) if cell.measured and not line.spec.guest]
        identities = dict.fromkeys([*here, *(cell.published.identity for cell in cells if cell.published)])
        for number, (line, cell) in enumerate(zip(rows, cells)):
            if cell.measured is None or not line.spec.guest:
                continue
            identity = cell.measured.identity
            if line.spec.scored:
                require_in_column(identity, identities, f"--add: '{cell.runs[0]}', column '{column.id}'")
            elif why := unlike(identity, identities):
                empty = dataclasses.replace(cell, measured=None, empty=DASH)
                rows[number] = dataclasses.replace(line, cells={**line.cells, column.id: empty})
                notes.append(
                    f"{column.head} of {line.label} is left out: it is not comparable with the others ({why})."
                )
                continue
            identities[identity] = None
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


def heading(column: ColumnSpec) -> Column:
    """Heading of a layout's column."""
    direction, is_name = column.direction if column.arrow else None, column.field == "label"
    is_number = column.metric is not None or column.field == "nfe"
    return Column(column.head, direction, is_number, is_name, column.metric is None and not is_name)


def grid(layout: TableLayout, lines: Sequence[TableLine], mode: Mode) -> tuple[list[Column], list[Row]]:
    """Columns and rows of a table.

    A row has one line; in audit mode a row of ours has three (published, measured, difference), named by a column.
    """
    columns = [heading(column) for column in layout.columns]
    first_metric = next((i for i, column in enumerate(layout.columns) if column.metric is not None), len(columns))
    audit = mode == "audit" and any(line.ours for line in lines)
    if audit:
        columns.insert(first_metric, Column(""))
    rows = []
    for above, line in zip([None, *lines], lines):
        differs = any(isinstance(cell.compared, Agreement) for cell in line.cells.values())
        sides: Sequence[str] = ("",) if not audit else _SIDES[: 2 + differs if line.ours else 1]
        for i, side in enumerate(sides):
            cells = [
                _text_cell(column, line, above, is_first=i == 0)
                if column.metric is None
                else _number_cell(column, line, mode, side)
                for column in layout.columns
            ]
            if audit:
                cells.insert(first_metric, Cell(side))
            begins = above is not None and (line.spec.rule or line.family != above.family)
            beside_ours = audit and above is not None and (line.ours or above.ours)
            rows.append(Row(tuple(cells), i == 0 and (begins or beside_ours), i > 0 or line.spec.continues))
    return columns, rows


def _text_cell(column: ColumnSpec, line: TableLine, above: TableLine | None, is_first: bool) -> Cell:
    """A cell about a row; family and label are printed where they change."""
    repeats_family = column.field == "family" and above is not None and line.family == above.family
    is_hidden = repeats_family or (column.field == "label" and line.spec.continues) or not is_first
    text = "" if is_hidden else line.text(str(column.field))
    return Cell(text) if text else BLANK


def _number_cell(column: ColumnSpec, line: TableLine, mode: Mode, side: str) -> Cell:
    """A number of a row, in audit mode of one of its lines."""
    cell = line.cells[column.id]
    if side == "Δ":
        return _difference_cell(column, cell.compared)
    is_measured = side == "measured" or (not side and line.ours and (mode == "measured" or line.spec.scored))
    shown = cell.measured if is_measured else cell.published
    if shown is not None:
        return printed_cell(column, shown, cell.ranks.get("measured" if is_measured else "published"))
    # Quoted rows are never measured here, so the cell is blank and not 'not measured'.
    if is_measured and side and not (cell.published or column.run):
        return BLANK
    return cell.empty or (Cell(kind="missing") if is_measured else BLANK)


def mark_of(identity: Identity) -> str:
    """Sign of a network or of images that a generator was exposed to, which make its value special.

    ¶: held-out images of the metric, or not stated; ‡: a network of the metric trained it; §: a network that learned
    from the same labels did.
    """
    return "¶" if identity.held_out_fault else "‡" if identity.exposed("loss") else "§" if identity.related else ""


def printed_cell(column: ColumnSpec, number: Number, rank: Rank | None = None) -> Cell:
    """Cell of a number: a published one exactly as printed, a measured mean with its sample standard deviation."""
    mark = mark_of(number.identity)
    if (published := number.printed) is not None:
        return Cell(published.text, "published", published.std or None, rank, mark=mark)
    mean, std = number.estimate.mean, number.estimate.std if column.spread else None
    spread = None if std is None else f"{std * column.scale:,.{column.decimals}f}"
    return Cell(f"{mean * column.scale:,.{column.decimals}f}", "measured", spread, rank, mark=mark)


def _difference_cell(column: ColumnSpec, agreement: Agreement | str | None) -> Cell:
    """Cell of measured − published with the verdict of rule EQ; blank if they are not compared."""
    if not isinstance(agreement, Agreement):
        return BLANK
    text = f"{agreement.difference * column.scale:+,.{max(column.decimals, 2)}f}".replace("-", "−")
    return Cell(text, "difference", agreement=agreement.outcome)
