"""Audit mode: published and measured numbers side by side, or stacked where the columns are model sizes."""

from __future__ import annotations

from eval.results import agreement
from eval.tables.bold import best_rows
from eval.tables.cells import empty_cell, heading, measured_cell, published_cell, rule_above, text_cell
from eval.tables.layout import ColumnSpec, TableLayout
from eval.tables.lines import Line, Source
from eval.tables.model import Cell, Column, Row

LEGEND = (f"Δ = measured − published; {agreement.LEGEND}.",)


def side_by_side(layout: TableLayout, lines: list[Line]) -> tuple[list[Column], list[Row]]:
    """Each metric becomes three columns: published, measured, difference."""
    columns: list[Column] = []
    for column in layout.columns:
        if column.metric is None:
            columns.append(heading(column))
        else:
            title = heading(column).title
            columns += [Column(head, None, True, title) for head in ("published", "measured", "Δ")]
    best = _best(layout, lines)
    rows = []
    for number, line in enumerate(lines):
        cells: list[Cell] = []
        for column in layout.columns:
            if column.id not in line.sources:
                cells.append(text_cell(column, lines, number))
            else:
                cells += _three(column, line, number, best)
        rows.append(Row(tuple(cells), rule_above(lines, number), line.spec.continues))
    return columns, rows


def stacked(layout: TableLayout, lines: list[Line]) -> tuple[list[Column], list[Row]]:
    """Each row of ours becomes three lines (published, measured, difference); quoted rows stay one line."""
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


def _best(layout: TableLayout, lines: list[Line]) -> dict[str, dict[str, set[int]]]:
    return {"published": best_rows(layout, lines, "published"), "measured": best_rows(layout, lines, "measured")}


def _three(column: ColumnSpec, line: Line, number: int, best: dict[str, dict[str, set[int]]]) -> list[Cell]:
    """Published, measured and difference of one place; neither side ever stands in for the other."""
    source = line.sources[column.id]
    bold = {side: number in rows.get(column.id, ()) for side, rows in best.items()}
    printed = empty_cell(source) if source.empty else published_cell(source, bold["published"])
    # Quoted rows are never measured here: their place is blank and not 'not measured'.
    expected = line.ours and source.published is not None
    own = measured_cell(column, source, bold["measured"]) if source.estimate or expected else Cell(kind="blank")
    return [printed, own, difference_cell(column, source)]


def difference_cell(column: ColumnSpec, source: Source) -> Cell:
    """Measured minus published with the verdict of rule EQ; blank unless both are there."""
    if source.published is None or source.estimate is None:
        return Cell(kind="blank")
    compared = agreement.agreement(source.estimate, source.published)
    decimals = max(column.decimals, 2)
    text = f"{compared.difference * column.scale:+.{decimals}f}".replace("-", "−")
    return Cell(text, "difference", agreement=compared.outcome)
