"""From a layout, measurements and published numbers to a :class:`~eval.tables.model.Table`.

Three modes: ``paper`` prints the published strings as they were; ``measured`` prints what was measured here;
``audit`` puts both side by side with their difference. A cell never takes its content from the other side.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from eval.results.published import Published
from eval.results.summary import Measurements, require_one_yardstick
from eval.tables import audit
from eval.tables.bold import best_rows
from eval.tables.cells import empty_cell, heading, measured_cell, published_cell, rule_above, text_cell
from eval.tables.headings import header_records, with_headings
from eval.tables.layout import Mode, TableLayout
from eval.tables.lines import Line, resolve
from eval.tables.model import Column, Row, Table
from eval.tables.notes import measured_lines, provenance_notes
from eval.tables.records import table_records
from sida.preset import Run


def build_table(
    layout: TableLayout,
    measurements: Measurements,
    runs: Mapping[str, Run],
    published: Mapping[str, Published] | None = None,
    mode: Mode | None = None,
) -> Table:
    """Builds a table of results.

    Args:
        layout: Columns, rows and bold rule.
        measurements: Measured values (may be empty in ``paper`` mode).
        runs: The sample sheet.
        published: Published numbers by id; needed by ``paper`` and ``audit``.
        mode: Overrides the layout's mode; ``measured`` where neither says.

    Raises:
        UserError: Unknown run, metric or published id; a missing measurement where the layout allows none.
    """
    mode = mode or layout.mode or "measured"
    published = published or {}
    printed_heads = header_records(layout, published, mode)
    layout = with_headings(layout, published)
    lines = resolve(layout, measurements, runs, published, mode)
    require_one_yardstick(measured_lines(lines, measurements), layout.source)
    if mode == "audit":
        columns, rows = (audit.stacked if layout.audit == "rows" else audit.side_by_side)(layout, lines)
    else:
        columns, rows = _one_sided(layout, lines, mode)
    return Table(
        name=Path(layout.source).stem,
        title=layout.title,
        caption=layout.caption,
        mode=mode,
        columns=tuple(columns),
        rows=tuple(rows),
        notes=(
            *layout.notes,
            *(layout.published_notes if mode != "measured" else ()),
            *provenance_notes(lines, measurements),
            *(audit.LEGEND if mode == "audit" else ()),
        ),
        number=layout.number,
        records=[*printed_heads, *table_records(layout, lines, measurements, mode)],
    )


def _one_sided(layout: TableLayout, lines: list[Line], mode: Mode) -> tuple[list[Column], list[Row]]:
    best = best_rows(layout, lines, "published" if mode == "paper" else "measured")
    rows = []
    for number, line in enumerate(lines):
        cells = []
        for column in layout.columns:
            source, bold = line.sources.get(column.id), number in best.get(column.id, ())
            if source is None:
                cells.append(text_cell(column, lines, number))
            elif source.empty:
                cells.append(empty_cell(source))
            else:
                cells.append(published_cell(source, bold) if mode == "paper" else measured_cell(column, source, bold))
        rows.append(Row(tuple(cells), rule_above(lines, number), line.spec.continues))
    return [heading(column) for column in layout.columns], rows
