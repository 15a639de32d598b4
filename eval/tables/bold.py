"""Which cells are bold: the best printed value of a column among the candidate rows."""

from __future__ import annotations

from typing import Literal

from eval.tables.layout import BoldSpec, ColumnSpec, TableLayout
from eval.tables.lines import Line, Source

Side = Literal["published", "measured"]


def best_rows(layout: TableLayout, lines: list[Line], side: Side) -> dict[str, set[int]]:
    """Row numbers of the best value by column id, separately for published and measured numbers.

    Values are compared as printed, so rows that print the same best value are all bold.
    """
    best: dict[str, set[int]] = {}
    for column in layout.columns:
        if layout.bold is None or column.metric is None or column.direction is None:
            continue
        if layout.bold.columns is not None and column.id not in layout.bold.columns:
            continue
        values = {}
        for number, line in enumerate(lines):
            value = _printed_value(column, line.sources[column.id], side)
            if value is not None and _candidate(layout.bold, line):
                values[number] = value
        if values:
            winner = (min if column.direction == "lower" else max)(values.values())
            best[column.id] = {number for number, value in values.items() if value == winner}
    return best


def _candidate(bold: BoldSpec, line: Line) -> bool:
    if not line.spec.candidate or (bold.families is not None and line.family not in bold.families):
        return False
    if line.nfe is None:
        return bold.max_nfe is None
    return line.nfe >= bold.min_nfe and (bold.max_nfe is None or line.nfe <= bold.max_nfe)


def _printed_value(column: ColumnSpec, source: Source, side: Side) -> float | None:
    if side == "published":
        return source.published.value if source.published else None
    return None if source.estimate is None else round(source.estimate.mean * column.scale, column.decimals)
