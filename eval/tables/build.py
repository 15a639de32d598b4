"""Builds a :class:`~eval.tables.model.Table` from a layout, measurements and published numbers.

There are three modes: ``paper`` prints the published strings; ``measured`` prints measurements; ``audit`` prints both
side by side with their difference. A published cell never shows a measurement, nor the reverse. Notes below a table
give the origin of the numbers.

Columns of effects show the difference of a row from another row, with its interval over training seeds. Headings may
themselves be published numbers, such as model sizes with their parameter counts.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from eval.effects.contrast import difference
from eval.results.identity import Identity, comparable
from eval.results.published import Agreement, Published, published_number
from eval.results.sheet import SheetRow
from eval.results.stored import FROM_STORED
from eval.results.summary import Measurement, Measurements, image_seeds, kept_at, measured_days, require_comparable
from eval.tables.cells import (
    AUDIT_LEGEND,
    DIFFER,
    Best,
    CellSource,
    TableLine,
    best_values,
    compared,
    grid,
    heading,
    require_added_comparable,
    resolve,
    stacked,
)
from eval.tables.layout import ColumnSpec, Mode, TableLayout, TableSources
from eval.tables.model import RECORD_FIELDS, Table, published_record
from eval.tables.scores import with_scores
from sida.errors import UserError, suggestion

#: Value of ``against`` for a row without an effect.
NONE = "-"
EFFECT_NOTE = (
    "Differences in brackets: 95 % interval by Welch's t over training seeds, within each teacher and averaged over "
    "teachers; one that holds 0 is not decided."
)
DIFFER_NOTE = (
    f"{DIFFER}: an F test finds that the teachers differ by more than their training seeds do (p below 0.05), so the "
    "average speaks about none of them alone."
)


def without_unlike(layout: TableLayout, lines: Sequence[TableLine]) -> tuple[list[TableLine], list[str]]:
    """Rows whose guests lack the values that are not comparable with the other rows, and notes about these values."""
    found, notes = list(lines), []
    for group in compared(layout, lines):
        others = [line for line in group.values() if not line.spec.guest]
        for number, line in group.items():
            if not line.spec.guest:
                continue
            sources = dict(line.sources)
            for column in (column for column in layout.columns if column.id in sources):
                own = sources[column.id].identity
                known = [one.sources[column.id].identity for one in others if column.id in one.sources]
                if own and (why := next((w for one in known if one and (w := comparable(one, own))), None)):
                    sources[column.id] = replace(sources[column.id], estimate=None, identity=None, empty="dash")
                    notes.append(
                        f"{column.head} of {line.label} is left out: it is not comparable with the others ({why})."
                    )
            found[number] = replace(line, sources=sources)
    return found, notes


def with_effects(
    layout: TableLayout, lines: list[TableLine], measurements: Measurements, runs: Mapping[str, SheetRow], mode: str
) -> list[TableLine]:
    """Fills the columns of effects of a table's lines.

    Raises:
        UserError: Another mode than ``measured``, an unknown row, or too few training seeds for an interval.
    """
    wanted = [(number, column) for number, column in enumerate(layout.columns) if column.effect]
    if wanted and mode != "measured":
        raise UserError(f"{layout.source}: columns[{wanted[0][0]}].effect", f"needs mode measured, this is mode {mode}")

    def blocks(source: CellSource) -> dict[str, list[float]]:
        """Means of a row's trainings by teacher."""
        found: dict[str, list[float]] = {}
        for name in source.runs:
            teacher = (runs[name].teacher if name in runs else None) or ""
            found.setdefault(teacher, []).append(measurements.estimate(name, source.metric).mean)
        return found

    result = []
    for line in lines:
        sources = dict(line.sources)
        for number, column in wanted:
            where = f"{layout.source}: columns[{number}].effect"
            sources[column.id] = _with_effect(column, line, lines, blocks, where)
        result.append(replace(line, sources=sources))
    return result


def _with_effect(
    column: ColumnSpec,
    line: TableLine,
    lines: list[TableLine],
    blocks: Callable[[CellSource], dict[str, list[float]]],
    where: str,
) -> CellSource:
    assert column.effect is not None
    source, name = line.sources[column.id], line.spec.against or column.effect.against
    if name == NONE:
        return replace(source, empty="dash")
    other = _row(name, column, line, lines, where)
    if other is line:
        return replace(source, empty="dash")
    against = other.sources[column.id]
    if source.estimate is None or against.estimate is None:
        return replace(source, estimate=None)
    assert source.identity is not None
    assert against.identity is not None
    if reason := comparable(source.identity, against.identity):
        raise UserError(
            where, f"'{line.label}' and '{other.label}' are not comparable: {reason}", f"give the row against: '{NONE}'"
        )
    try:
        effect = difference(blocks(source), blocks(against))
    except UserError as error:
        raise UserError(
            where,
            f"'{line.label}' against '{other.label}': {error}",
            f"pool more seeds, or give the row against: '{NONE}'",
        ) from None
    return replace(source, effect=effect, against=other.label)


def _row(name: str, column: ColumnSpec, line: TableLine, lines: list[TableLine], where: str) -> TableLine:
    """Line of a run or label; among several lines with the label, the line of the same family."""
    found = [one for one in lines if name in (one.sources[column.id].run, one.label)]
    if len(found) > 1:
        found = [one for one in found if one.family == line.family]
    if len(found) != 1:
        known = [one.sources[column.id].run or "" for one in lines] + [one.label for one in lines]
        what = "several rows are" if found else "no row of this table is"
        raise UserError(f"{where}.against", f"{what} '{name}'{suggestion(name, known)}", "name a row by its run")
    return found[0]


def table_records(
    layout: TableLayout, lines: list[TableLine], measurements: Measurements, mode: Mode, best: Best
) -> list[dict[str, Any]]:
    """Records of all number cells, also of missing numbers."""
    records = []
    for number, line in enumerate(lines):
        for column in layout.columns:
            source = line.sources.get(column.id)
            if source is None or (source.published is None and source.run is None):
                continue
            record = _record(layout, mode, number, column) | {
                "family": line.family,
                "model": line.label,
                "metric": source.metric,
                "direction": column.direction or "",
                "nfe": "" if line.nfe is None else line.nfe,
                "run": " ".join(source.runs),
            }
            if source.published is not None:
                record |= published_record(source.published)
                record["published_bold"] = ("published", column.id, number) in best
            if source.estimate is not None:
                record |= _measured(
                    source, [line for run in source.runs for line in measurements.lines(run, source.metric)]
                )
                record["measured_bold"] = ("measured", column.id, number) in best
            records.append(record)
    return records


def _record(layout: TableLayout, mode: Mode, row: int, column: ColumnSpec) -> dict[str, Any]:
    place = {"table": Path(layout.source).stem, "mode": mode, "row": row, "column": column.id}
    return dict.fromkeys(RECORD_FIELDS, "") | place


def _measured(source: CellSource, lines: list[Measurement]) -> dict[str, Any]:
    assert source.estimate is not None
    first, seeds = lines[0], image_seeds(lines)
    record: dict[str, Any] = {
        "measured": repr(source.estimate.mean),
        "measured_std": "" if source.estimate.std is None else repr(source.estimate.std),
        "trials": len({line.trial for line in lines}),
        "training_seeds": len(source.runs),
        "kept_at": " ".join(str(at) for at in kept_at(lines).values() if at is not None),
        "n": first.n,
        "seed_first": min(seeds, default=""),
        "seed_last": max(seeds, default=""),
    }
    for name in RECORD_FIELDS[RECORD_FIELDS.index("protocol") :]:
        record[name] = " ".join(sorted({str(getattr(line, name)) for line in lines}))
    if source.effect is not None:
        effect = source.effect
        record |= {"effect_against": source.against, "effect_standardised": repr(effect.standardised)}
        numbers = {"": effect.value, "_low": effect.low, "_high": effect.high, "_df": effect.df}
        record |= {f"effect{end}": repr(number) for end, number in numbers.items()}
    if isinstance(source.compared, str):
        record["not_compared"] = source.compared
    if isinstance(compared := source.compared, Agreement):
        record |= {
            "measured_lowest": "" if compared.lowest is None else repr(compared.lowest),
            "difference": repr(compared.difference),
            "tolerance": repr(compared.tolerance),
            "agreement": compared.outcome,
        }
    return record


def with_headings(
    layout: TableLayout, published: Mapping[str, Published], mode: Mode
) -> tuple[TableLayout, list[dict[str, Any]]]:
    """Replaces headings ``@id`` by the literal text of the published number ``id``.

    Returns:
        The layout, and records of the numbers (row −1) for modes that show published numbers.

    Raises:
        UserError: Unknown id.
    """
    columns, records = [], []
    for number, column in enumerate(layout.columns):
        if column.head.startswith("@"):
            found = published_number(published, column.head[1:], f"{layout.source}: columns[{number}].head")
            column = replace(column, head=found.literal)
            if mode != "measured":
                about = {"model": "heading", "metric": found.metric}
                records.append(_record(layout, mode, -1, column) | about | published_record(found))
        columns.append(column)
    return replace(layout, columns=tuple(columns)), records


class ResultsTable(TableLayout):
    """Measurements, published numbers, or both."""

    def build(self, sources: TableSources) -> Table:
        """Builds the table with the rows of scores."""
        layout: TableLayout = replace(self, scope={**self.scope, **sources.scope})
        mode = sources.mode or layout.mode or "measured"
        if mode == "measured" and sources.measurements is None and not sources.scores:
            raise UserError("", "mode measured needs --measurements or --add", "or use --mode paper")
        if sources.scores and mode == "paper":
            raise UserError("--add", "mode paper prints published numbers alone", "take --mode audit or measured")
        measured, sheet = sources.measurements or Measurements([], "no measurements"), sources.runs
        # Without a sheet, collected numbers are rows of the table themselves, in the columns that they have.
        alone = sheet is None and mode == "measured"
        if alone:
            layout = replace(
                layout, columns=tuple(replace(c, optional=c.optional or c.metric is not None) for c in layout.columns)
            )
        layout, measured, every = with_scores(layout, measured, None if alone else sheet or {}, sources.scores)
        added = [name for name in every if name not in (sheet or {})]
        return build_table(layout, measured, every, sources.published, mode, added)


def build_table(
    layout: TableLayout,
    measurements: Measurements,
    runs: Mapping[str, SheetRow],
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
    # Optional columns of metrics that nothing was measured by are left out.
    known = {row.metric for row in measurements.rows}
    kept = tuple(column for column in layout.columns if not column.optional or column.metric in known)
    layout, printed_heads = with_headings(replace(layout, columns=kept), published, mode)
    lines, left_out = without_unlike(layout, resolve(layout, measurements, runs, published, mode))
    lines = with_effects(layout, lines, measurements, runs, mode)
    for group in compared(layout, lines):
        require_comparable(measured_lines(group.values(), measurements), layout.source)
    require_added_comparable(lines, layout, added)
    best = best_values(layout, lines)
    if mode == "audit" and layout.audit == "rows":
        columns, rows = stacked(layout, lines, best)
    else:
        columns, rows = grid(layout, lines, mode, best)
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
            *left_out,
            *([AUDIT_LEGEND] if mode == "audit" else []),
        ),
        number=layout.number,
        cite=layout.cite,
        records=(*printed_heads, *table_records(layout, lines, measurements, mode, best)),
    )


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
    for column, group in itertools.product(layout.columns, compared(layout, lines)):
        kinds: list[tuple[Identity, list[str]]] = []
        for source in (line.sources[column.id] for line in group.values() if column.id in line.sources):
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


def measured_lines(lines: Iterable[TableLine], measurements: Measurements) -> list[Measurement]:
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
