"""Columns of effects: the difference of a row from another row, with its interval over training seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from eval.effects.contrast import Effect, difference
from eval.results.identity import comparable
from eval.results.sheet import Run
from eval.results.summary import Measurements
from eval.tables.layout import ColumnSpec, EffectSpec, TableLayout
from eval.tables.lines import CellSource, TableLine
from eval.tables.model import Cell
from sida.errors import UserError, suggestion

#: Value of ``against`` for a row without an effect.
NONE = "-"
EFFECT_NOTE = (
    "Differences in brackets: 95 % interval by Welch's t over training seeds, within each teacher and averaged over "
    "teachers; one that holds 0 is not decided."
)
#: Mark of an average over teachers that differ, which is that of the verdict “depends on the teacher”, and its note.
DIFFER = "≠"
DIFFER_NOTE = (
    f"{DIFFER}: an F test finds that the teachers differ by more than their training seeds do (p below 0.05), so the "
    "average speaks about none of them alone."
)


def with_effects(
    layout: TableLayout, lines: list[TableLine], measurements: Measurements, runs: Mapping[str, Run], mode: str
) -> list[TableLine]:
    """Fills the columns of effects of a table's lines.

    Raises:
        UserError: Another mode than ``measured``, an unknown row, or too few training seeds for an interval.
    """
    wanted = [(number, column) for number, column in enumerate(layout.columns) if column.effect]
    if wanted and mode != "measured":
        raise UserError(f"{layout.source}: columns[{wanted[0][0]}].effect: needs mode measured, this is mode {mode}")
    result = []
    for line in lines:
        sources = dict(line.sources)
        for number, column in wanted:
            where = f"{layout.source}: columns[{number}].effect"
            sources[column.id] = _with_effect(column, line, lines, measurements, runs, where)
        result.append(dataclasses.replace(line, sources=sources))
    return result


def _with_effect(
    column: ColumnSpec,
    line: TableLine,
    lines: list[TableLine],
    measurements: Measurements,
    runs: Mapping[str, Run],
    where: str,
) -> CellSource:
    assert column.effect is not None
    source, name = line.sources[column.id], line.spec.against or column.effect.against
    if name == NONE:
        return dataclasses.replace(source, empty="dash")
    other = _row(name, column, line, lines, where)
    if other is line:
        return dataclasses.replace(source, empty="dash")
    against = other.sources[column.id]
    if source.estimate is None or against.estimate is None:
        return dataclasses.replace(source, estimate=None)
    assert source.identity is not None
    assert against.identity is not None
    if reason := comparable(source.identity, against.identity):
        raise UserError(
            f"{where}: '{line.label}' and '{other.label}' are not comparable: {reason}; give the row against: '{NONE}'"
        )
    try:
        effect = difference(_blocks(source, measurements, runs), _blocks(against, measurements, runs))
    except UserError as error:
        raise UserError(
            f"{where}: '{line.label}' against '{other.label}': {error}; pool more seeds, or give the row against: "
            f"'{NONE}'"
        ) from None
    return dataclasses.replace(source, effect=effect, against=other.label)


def _row(name: str, column: ColumnSpec, line: TableLine, lines: list[TableLine], where: str) -> TableLine:
    """Line of a run or label; among several lines with the label, the line of the same family."""
    found = [one for one in lines if name in (one.sources[column.id].run, one.label)]
    if len(found) > 1:
        found = [one for one in found if one.family == line.family]
    if len(found) != 1:
        known = [one.sources[column.id].run or "" for one in lines] + [one.label for one in lines]
        what = "several rows are" if found else "no row of this table is"
        raise UserError(f"{where}.against: {what} '{name}'{suggestion(name, known)}; name a row by its run")
    return found[0]


def _blocks(source: CellSource, measurements: Measurements, runs: Mapping[str, Run]) -> dict[str, list[float]]:
    blocks: dict[str, list[float]] = {}
    for name in source.runs:
        teacher = (runs[name].teacher if name in runs else None) or ""
        blocks.setdefault(teacher, []).append(measurements.estimate(name, source.metric).mean)
    return blocks


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
