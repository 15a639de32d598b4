"""Builds a :class:`~eval.tables.model.Table` from a layout, measurements and published numbers.

There are three modes: ``paper`` prints the published strings; ``measured`` prints measurements; ``audit`` prints both
side by side with their difference. A published cell never shows a measurement, nor the reverse. Notes below a table
give the origin of the numbers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from eval.results.identity import Identity, comparable
from eval.results.published import Published
from eval.results.sheet import Run
from eval.results.stored import FROM_STORED
from eval.results.summary import Measurement, Measurements, image_seeds, kept_at, measured_days, require_comparable
from eval.tables.cells import (
    AUDIT_LEGEND,
    best_rows,
    empty_cell,
    heading,
    measured_cell,
    published_cell,
    rule_above,
    side_by_side,
    stacked,
    text_cell,
)
from eval.tables.effects import DIFFER_NOTE, EFFECT_NOTE, effect_cell, with_effects
from eval.tables.layout import Mode, TableLayout
from eval.tables.lines import TableLine, require_added_comparable, resolve
from eval.tables.model import Column, Row, Table
from eval.tables.records import header_records, table_records, with_headings


def build_table(
    layout: TableLayout,
    measurements: Measurements,
    runs: Mapping[str, Run],
    published: Mapping[str, Published] | None = None,
    mode: Mode | None = None,
    added: Collection[str] = (),
) -> Table:
    """Builds a table of results.

    Args:
        layout: Columns, rows and bold rule.
        measurements: Measured values; may be empty in ``paper`` mode.
        runs: The sample sheet.
        published: Published numbers by id, for ``paper`` and ``audit``.
        mode: Overrides the layout's mode; the default of both is ``measured``.
        added: Runs that were added to the layout's rows (``--add``); each must be comparable with a number of its
            column.

    Raises:
        UserError: Unknown run, metric or published id, or a missing measurement that the layout does not allow.
    """
    mode = mode or layout.mode or "measured"
    published = published or {}
    printed_heads = header_records(layout, published, mode)
    layout = with_headings(_with_columns(layout, measurements), published)
    lines = with_effects(layout, resolve(layout, measurements, runs, published, mode), measurements, runs, mode)
    require_comparable(measured_lines(lines, measurements), layout.source)
    require_added_comparable(lines, layout, added)
    if mode == "audit":
        columns, rows = (stacked if layout.audit == "rows" else side_by_side)(layout, lines)
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
            *comparison_notes(lines),
            *identity_notes(layout, lines),
            *(AUDIT_LEGEND if mode == "audit" else ()),
        ),
        number=layout.number,
        cite=layout.cite,
        records=(*printed_heads, *table_records(layout, lines, measurements, mode)),
    )


def _with_columns(layout: TableLayout, measurements: Measurements) -> TableLayout:
    """The layout without optional columns of metrics that nothing was measured by."""
    measured = {row.metric for row in measurements.rows}
    kept = (column for column in layout.columns if not column.optional or column.metric in measured)
    return replace(layout, columns=tuple(kept))


def _one_sided(layout: TableLayout, lines: list[TableLine], mode: Mode) -> tuple[list[Column], list[Row]]:
    best = best_rows(layout, lines, "published" if mode == "paper" else "measured")
    rows = []
    for number, line in enumerate(lines):
        cells = []
        for column in layout.columns:
            source, bold = line.sources.get(column.id), number in best.get(column.id, ())
            if source is None:
                cells.append(text_cell(column, lines, number))
            elif column.effect:
                cells.append(effect_cell(column, source))
            elif source.empty:
                cells.append(empty_cell(source))
            else:
                cells.append(published_cell(source, bold) if mode == "paper" else measured_cell(column, source, bold))
        rows.append(Row(tuple(cells), rule_above(lines, number), line.spec.continues))
    return [heading(column) for column in layout.columns], rows


_POOLED = (
    "Rows of several training seeds: mean and sample standard deviation of the seeds' means, not of single trials."
)


def provenance_notes(lines: Sequence[TableLine], measurements: Measurements) -> list[str]:
    """Notes on trials, n, seeds, protocol, code version, device and date of the measured cells, and on sources."""
    sources = [source for line in lines for source in line.sources.values()]
    notes = []
    printed = sorted({source.published.source for source in sources if source.published})
    if printed:
        notes.append(f"Published numbers as printed ({', '.join(printed)} in results/published).")
    used = measured_lines(lines, measurements)
    pooled = [_POOLED] if any(source.pool and source.estimate for source in sources) else []
    effects = [source.effect for source in sources if source.effect]
    pooled += [EFFECT_NOTE] if effects else []
    pooled += [DIFFER_NOTE] if any(effect.blocks_differ for effect in effects) else []
    pooled += [*_kept_starts(lines, used), *_of_others(used)]
    return notes + ([_how(used), *pooled, _where(used)] if used else [])


def comparison_notes(lines: Sequence[TableLine]) -> list[str]:
    """Notes on rows that are not compared with published numbers, and on teachers' lowest values."""
    apart: dict[str, list[str]] = {}
    lowest = []
    for source in (source for line in lines for source in line.sources.values()):
        if isinstance(source.compared, str):
            apart.setdefault(source.compared, []).append(str(source.run))
        elif source.compared is not None and source.compared.lowest is not None:
            lowest.append(f"{source.run} {source.compared.lowest:.3f}")
    notes = [f"Not compared: {', '.join(dict.fromkeys(runs))} ({reason})." for reason, runs in apart.items()]
    if lowest:
        notes.append(f"Δ of teachers is that of the lowest of trials 0 to 2, as they publish it: {', '.join(lowest)}.")
    return notes


def identity_notes(layout: TableLayout, lines: Sequence[TableLine]) -> list[str]:
    """Notes on columns whose measured values are not all comparable with each other."""
    notes: dict[str, list[str]] = {}
    for column in layout.columns:
        kinds: list[tuple[Identity, list[str]]] = []
        for source in (line.sources[column.id] for line in lines if column.id in line.sources):
            if source.identity is None:
                continue
            for identity, runs in kinds:
                if comparable(identity, source.identity) is None:
                    runs.append(str(source.run))
                    break
            else:
                kinds.append((source.identity, [str(source.run)]))
        if len(kinds) > 1:
            groups = "; ".join(f"{', '.join(dict.fromkeys(runs))} ({identity})" for identity, runs in kinds)
            reason = comparable(kinds[0][0], kinds[1][0])
            notes.setdefault(f"{groups}. Reason: {reason}", []).append(heading(column).head or column.id)
    return [f"Not comparable with each other in {', '.join(heads)}: {why}." for why, heads in notes.items()]


def measured_lines(lines: Sequence[TableLine], measurements: Measurements) -> list[Measurement]:
    """Lines of ``measurements.csv`` behind the measured cells."""
    return [
        row
        for line in lines
        for source in line.sources.values()
        if source.estimate
        for run in source.runs
        for row in measurements.lines(run, source.metric)
    ]


def _how(rows: list[Measurement]) -> str:
    by_run: dict[str, list[Measurement]] = {}
    for row in rows:
        by_run.setdefault(row.run, []).append(row)
    shapes: dict[tuple[int, int], list[str]] = {}
    for run, lines in by_run.items():
        shapes.setdefault((len({line.trial for line in lines}), lines[0].n), []).append(run)
    common = max(shapes, key=lambda shape: len(shapes[shape]))
    text = f"Mean ± sample standard deviation over {_trials(common[0])} of {common[1]:,} images"
    others = [f"{', '.join(names)}: {_trials(t)} of {n:,}" for (t, n), names in shapes.items() if (t, n) != common]
    text += f" ({'; '.join(others)})" if others else ""
    seeds = image_seeds(rows)
    return text + (f"; image seeds {min(seeds)}–{max(seeds)}." if seeds else ".")


def _kept_starts(lines: Sequence[TableLine], measured: list[Measurement]) -> list[str]:
    """Note on rows whose training kept its initial network; empty without such rows."""
    starts, named = {run for run, at in kept_at(measured).items() if at == 0}, []
    for line in lines:
        runs = {run for source in line.sources.values() if source.estimate for run in source.runs}
        if count := len(runs & starts):
            named.append(line.label + (f" ({count} of {len(runs)} trainings)" if len(runs) > 1 else ""))
    about = "Kept at the start of training, which no later evaluation improved on; the numbers are those of the start"
    return [f"{about}: {'; '.join(named)}."] if named else []


def _of_others(measured: Sequence[Measurement]) -> list[str]:
    """Notes on the rows that other groups measured, or that were taken from stored results."""
    runs: dict[str, list[str]] = {}
    for row in measured:
        if row.origin and row.run not in runs.setdefault(row.origin, []):
            runs[row.origin].append(row.run)
    stored = [origin for origin in runs if origin.startswith(FROM_STORED)]
    here = ", ".join(dict.fromkeys(row.run for row in measured if not row.origin)) or "none"
    notes = [f"Taken from {origin}: {len(runs.pop(origin))} rows. Measured here: {here}." for origin in stored]
    return notes + [f"Measured by {origin}, not by this suite: {', '.join(names)}." for origin, names in runs.items()]


def _trials(number: int) -> str:
    return "1 trial" if number == 1 else f"{number} trials"


def _where(rows: list[Measurement]) -> str:
    protocols = ", ".join(sorted({row.protocol for row in rows}))
    versions = ", ".join(sorted({row.code_version for row in rows}))
    devices = ", ".join(sorted({row.device for row in rows}))
    return f"Protocol {protocols}; code {versions}; {devices}; {measured_days(rows)}."
