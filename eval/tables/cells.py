"""Cells from sources: published strings as they were, measured means with their spread."""

from __future__ import annotations

from eval.results.summary import Estimate
from eval.tables.layout import ColumnSpec
from eval.tables.lines import Line, Source
from eval.tables.model import Cell, Column


def text_cell(column: ColumnSpec, lines: list[Line], number: int) -> Cell:
    """A text column's cell; a family is named on its first row only."""
    line = lines[number]
    repeated = column.field == "family" and number > 0 and not new_family(lines, number)
    if repeated or (column.field == "label" and line.spec.continues):
        return Cell(kind="blank")
    text = line.text(str(column.field))
    return Cell(text) if text else Cell(kind="blank")


def new_family(lines: list[Line], number: int) -> bool:
    """Whether another family begins with this line."""
    return lines[number].family != lines[number - 1].family


def rule_above(lines: list[Line], number: int) -> bool:
    """Whether a line is drawn above a row: another family begins, or the layout says so."""
    return number > 0 and (lines[number].spec.rule or new_family(lines, number))


def empty_cell(source: Source) -> Cell:
    """The cell of a place where, by layout, nothing belongs."""
    return Cell(kind="dash" if source.empty == "dash" else "blank")


def published_cell(source: Source, bold: bool = False) -> Cell:
    """A published number exactly as printed; blank where the paper has none."""
    if source.published is None:
        return Cell(kind="blank")
    return Cell(source.published.text, "published", source.published.std or None, bold)


def measured_cell(column: ColumnSpec, source: Source, bold: bool = False) -> Cell:
    """A measured mean with its sample standard deviation, or 'not measured'."""
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
