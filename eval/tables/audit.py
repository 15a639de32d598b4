"""Audit mode: published and measured numbers side by side, or stacked where the columns are model sizes."""

from __future__ import annotations

from eval.agreement import agreement
from eval.tables.bold import best_rows
from eval.tables.cells import empty_cell, heading, measured_cell, published_cell, rule_above, text_cell
from eval.tables.layout import ColumnSpec, TableLayout
from eval.tables.lines import Line, Source
from eval.tables.model import Cell, Column, Row

LEGEND = (
    "Δ = measured − published; ✓ within, ✗ outside the combined uncertainty (three standard errors of the difference, "
    "at least 1 %; 2 % where no spread was published; 0.01 for precision and recall).",
)


def side_by_side(layout: TableLayout, lines: list[Line]) -> tuple[list[Column], list[Row]]:
    """Each metric becomes three columns: published, measured, difference."""
    columns: list[Column] = []
    for column in layout.columns:
        if column.metric is None:
            columns.append(heading(column))
        else:
            title = heading(column).title
            columns += [Column(head, None, True, title) for head in ("published", "measured", "Δ")]
    best = {side: best_rows(layout, lines, side) for side in ("published", "measured")}
    rows = []
    for number, line in enumerate(lines):
        cells: list[Cell] = []
        for column in layout.columns:
            source = line.sources.get(column.id)
            if source is None:
                cells.append(text_cell(column, lines, number))
            elif source.empty:
                cells += [empty_cell(source), Cell(kind="blank"), Cell(kind="blank")]
            else:
                bold = {side: number in best[side].get(column.id, ()) for side in best}
                cells.append(published_cell(source, bold["published"]))
                cells.append(_own(line, column, source, bold["measured"]))
                cells.append(difference_cell(column, source))
        rows.append(Row(tuple(cells), rule_above(lines, number)))
    return columns, rows


def stacked(layout: TableLayout, lines: list[Line]) -> tuple[list[Column], list[Row]]:
    """Each row of ours becomes three lines (published, measured, difference); quoted rows stay one line."""
    columns = [heading(column) for column in layout.columns]
    place = next((i for i, column in enumerate(layout.columns) if column.metric is not None), len(columns))
    columns.insert(place, Column("source"))
    best = {side: best_rows(layout, lines, side) for side in ("published", "measured")}
    rows = []
    for number, line in enumerate(lines):
        kinds = ("published", "measured", "difference") if line.ours else ("published",)
        for kind in kinds:
            cells: list[Cell] = []
            for column in layout.columns:
                source = line.sources.get(column.id)
                if source is None:
                    cells.append(text_cell(column, lines, number) if kind == "published" else Cell(kind="blank"))
                elif source.empty:
                    cells.append(empty_cell(source) if kind == "published" else Cell(kind="blank"))
                elif kind == "published":
                    cells.append(published_cell(source, number in best["published"].get(column.id, ())))
                elif kind == "measured":
                    cells.append(measured_cell(column, source, number in best["measured"].get(column.id, ())))
                else:
                    cells.append(difference_cell(column, source))
            cells.insert(place, Cell("Δ" if kind == "difference" else kind))
            rows.append(
                Row(tuple(cells), kind == "published" and (rule_above(lines, number) or _after_own(lines, number)))
            )
    return columns, rows


def _after_own(lines: list[Line], number: int) -> bool:
    return number > 0 and (lines[number].ours or lines[number - 1].ours)


def _own(line: Line, column: ColumnSpec, source: Source, bold: bool) -> Cell:
    """Quoted rows are never measured here, so their place is blank and not 'not measured'."""
    if not line.ours or (source.published is None and source.estimate is None):
        return Cell(kind="blank")
    return measured_cell(column, source, bold)


def difference_cell(column: ColumnSpec, source: Source) -> Cell:
    """Measured minus published with the verdict of rule EQ; blank unless both are there."""
    if source.published is None or source.estimate is None:
        return Cell(kind="blank")
    compared = agreement(source.estimate, source.published)
    decimals = max(column.decimals, 2)
    text = f"{compared.difference * column.scale:+.{decimals}f}".replace("-", "−")
    return Cell(text, "difference", within=compared.within)
