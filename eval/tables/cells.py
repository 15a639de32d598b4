"""Cells and rows of the three modes: published strings, measured means with their spread, or both.

Audit mode prints both side by side, or one below the other if the columns are model sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from eval.results import agreement
from eval.results.identity import comparable
from eval.results.summary import Estimate
from eval.tables.layout import BoldSpec, ColumnSpec, TableLayout
from eval.tables.lines import CellSource, TableLine
from eval.tables.model import Cell, Column, Row


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
    mean, spread = printed(column, source.estimate)
    return Cell(mean, "measured", spread, bold)


def printed(column: ColumnSpec, estimate: Estimate) -> tuple[str, str | None]:
    """Mean and spread with the column's decimals and scale."""
    mean = f"{estimate.mean * column.scale:.{column.decimals}f}"
    if not column.spread or estimate.std is None:
        return mean, None
    return mean, f"{estimate.std * column.scale:.{column.decimals}f}"


def heading(column: ColumnSpec, group: str = "") -> Column:
    """Heading of a layout's column."""
    direction = column.direction if column.arrow else None
    number = column.metric is not None or column.field in ("nfe", "seeds")
    return Column(column.head, direction, number, group, name=column.field == "label")


Side = Literal["published", "measured"]


def best_rows(layout: TableLayout, lines: list[TableLine], side: Side) -> dict[str, set[int]]:
    """Row numbers of the best value by column id, separately for published and measured numbers.

    Values are compared as printed, so rows that print the same best value are all bold. Published numbers are ranked as
    the paper ranks them. No measured value is bold if the measured values are not comparable with each other, or if a
    published number of a row that is not measured beats it.
    """
    best: dict[str, set[int]] = {}
    for column in layout.columns:
        if layout.bold is None or column.metric is None or column.direction is None:
            continue
        if layout.bold.columns is not None and column.id not in layout.bold.columns:
            continue
        shown = {n: line.sources[column.id] for n, line in enumerate(lines) if _candidate(layout.bold, line)}
        values = {
            n: value for n, source in shown.items() if (value := _printed_value(column, source, side)) is not None
        }
        if not values or (side == "measured" and not _one_identity([shown[number] for number in values])):
            continue
        rivals = [source.published.value for n, source in shown.items() if source.published and n not in values]
        winner = (min if column.direction == "lower" else max)([*values.values(), *rivals])
        best[column.id] = {number for number, value in values.items() if value == winner}
    return best


def _one_identity(sources: Sequence[CellSource]) -> bool:
    """Whether all measured values may be compared with each other."""
    found = [source.identity for source in sources if source.identity is not None]
    return all(comparable(found[0], other) is None for other in found[1:])


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


AUDIT_LEGEND = (f"Δ = measured − published; {agreement.LEGEND}.",)


def side_by_side(layout: TableLayout, lines: list[TableLine]) -> tuple[list[Column], list[Row]]:
    """Columns and rows with three columns per metric: published, measured, difference; for ``run`` columns one."""
    columns: list[Column] = []
    for column in layout.columns:
        if column.metric is None:
            columns.append(heading(column))
        else:
            title, heads = heading(column).title, ("measured",) if column.run else ("published", "measured", "Δ")
            columns += [Column(head, None, True, title) for head in heads]
    best = _best(layout, lines)
    rows = []
    for number, line in enumerate(lines):
        cells: list[Cell] = []
        for column in layout.columns:
            if column.id not in line.sources:
                cells.append(text_cell(column, lines, number))
            elif column.run:
                source = line.sources[column.id]
                cells.append(measured_cell(column, source) if line.ours else Cell(kind="blank"))
            else:
                cells += _three(column, line, number, best)
        rows.append(Row(tuple(cells), rule_above(lines, number), line.spec.continues))
    return columns, rows


def stacked(layout: TableLayout, lines: list[TableLine]) -> tuple[list[Column], list[Row]]:
    """Columns and rows with three lines per own row (published, measured, difference), and one line per quoted row."""
    columns = [heading(column) for column in layout.columns]
    place = next((i for i, column in enumerate(layout.columns) if column.metric is not None), len(columns))
    columns.insert(place, Column(""))
    best = _best(layout, lines)
    rows = []
    for number, line in enumerate(lines):
        threes = {column.id: _three(column, line, number, best) for column in layout.columns if column.metric}
        for i, name in enumerate(("published", "measured", "Δ") if line.ours else ("published",)):
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


def _best(layout: TableLayout, lines: list[TableLine]) -> dict[str, dict[str, set[int]]]:
    return {"published": best_rows(layout, lines, "published"), "measured": best_rows(layout, lines, "measured")}


def _three(column: ColumnSpec, line: TableLine, number: int, best: dict[str, dict[str, set[int]]]) -> list[Cell]:
    """Cells for the published number, the measurement and the difference."""
    source = line.sources[column.id]
    bold = {side: number in rows.get(column.id, ()) for side, rows in best.items()}
    printed = empty_cell(source) if source.empty else published_cell(source, bold["published"])
    # Quoted rows are never measured here, so the cell is blank and not 'not measured'.
    expected = line.ours and source.published is not None
    own = measured_cell(column, source, bold["measured"]) if source.estimate or expected else Cell(kind="blank")
    return [printed, own, difference_cell(column, source)]


def difference_cell(column: ColumnSpec, source: CellSource) -> Cell:
    """Cell of measured − published with the verdict of rule EQ; blank if they are not compared."""
    compared = source.compared
    if not isinstance(compared, agreement.Agreement):
        return Cell(kind="blank")
    decimals = max(column.decimals, 2)
    text = f"{compared.difference * column.scale:+.{decimals}f}".replace("-", "−")
    return Cell(text, "difference", agreement=compared.outcome)
