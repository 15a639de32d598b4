"""Builds a :class:`~eval.tables.model.Table` from a layout, measurements and published numbers; writes and reads files.

There are three modes: ``paper`` prints the published strings; ``measured`` prints measurements; ``audit`` prints both
with their difference. A published cell never shows a measurement, nor the reverse. Notes below a table give the origin
of the numbers. Headings may themselves be published numbers, such as model sizes with their parameter counts.
"""

import dataclasses
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from eval.results.identity import NO_DIGEST, UNKNOWN, Identity, barred, comparable, lacks_digest
from eval.results.published import PRINTED, Agreement, Published, metric_keys, published_number
from eval.results.retraining import Retraining, load_retraining
from eval.results.sheet import SheetRow, read_runs
from eval.results.stored import FROM_STORED
from eval.results.summary import (
    Measurement,
    Measurements,
    image_seeds,
    kept_at,
    load_measurements,
    measured_days,
    measurements_file,
    require_comparable,
)
from eval.tables.bold import UNRANKED, best_values
from eval.tables.cells import (
    AUDIT_LEGEND,
    Best,
    CellSource,
    TableLine,
    grid,
    mark_of,
    resolve,
    without_unlike,
)
from eval.tables.latex import to_latex
from eval.tables.layout import ColumnSpec, Mode, TableLayout, TableSources, load_table_layout
from eval.tables.model import RECORD_FIELDS, Table, published_record
from eval.tables.render import to_csv, to_html, to_markdown
from eval.tables.scores import with_scores
from sida.config.lookup import find_file
from sida.config.settings import from_mapping
from sida.errors import UserError, suggestion
from sida.files.atomic import json_text, read_hashed_json, write_files
from sida.files.text_files import with_hash

_FORMAT = "sida-table/2"


def make_table(
    layout: str | Path,
    measurements: str | Path | None = None,
    runs: str | Path | None = None,
    *,
    mode: Mode | None = None,
    spec: Mapping[str, Any] | None = None,
    results: str | Path | None = None,
    scores: Sequence[str | Path] = (),
) -> Table:
    """Builds the table of a layout.

    Args:
        layout: A file, or a name in ``config/tables``.
        measurements: ``measurements.csv``. In ``audit`` mode a missing file counts as empty; cells then say 'not
            measured'.
        runs: Sample sheet, or a spec with its rows. Without a sheet, each generator of ``measurements`` is a row.
        mode: Overrides the layout's mode; the default of both is ``measured``.
        spec: ``retraining``, the scatter of a repeated training; for a table of hyperparameters ``gpus``, and
            ``students`` with the settings of each row.
        results: Folder with training logs for a table of hyperparameters; by default that of ``measurements``.
        scores: Files of ``sida score`` (``--out``, or lines of ``--json``), whose rows are added at the end: in mode
            ``paper``, which is the default for layouts of published numbers, below these and in their columns.

    Raises:
        UserError: Any fault in a file, or ``measured`` mode without measurements or scores.
    """
    shown = load_table_layout(find_file("tables", str(layout), where="table"))
    measured = None
    if measurements is not None and (mode or shown.mode) != "paper" and not shown.shows_settings:
        measured = load_measurements(measurements)
    return shown.build(
        TableSources(
            measured,
            None if runs is None else {run.run: run for run in read_runs(runs)},
            mode,
            scores,
            spec,
            Path(results) if results else measurements_file(measurements).parent if measurements else None,
        )
    )


class ResultsTable(TableLayout):
    """Measurements, published numbers, or both."""

    def build(self, sources: TableSources) -> Table:
        """Builds the table with the rows of scores."""
        layout: TableLayout = self
        mode = sources.mode or layout.mode or "measured"
        if mode == "audit" and not sources.mode and sources.scores and sources.measurements is None:
            mode = "paper"
        if mode == "measured" and sources.measurements is None and not sources.scores:
            raise UserError("", "mode measured needs --measurements or --add", "or use --mode paper")
        measured, sheet = sources.measurements or Measurements([], "no measurements"), sources.runs
        # Without a sheet, collected numbers are rows of the table themselves, in the columns that they have.
        alone = sheet is None and mode == "measured"
        if alone:
            columns = (replace(c, optional=c.optional or c.metric is not None) for c in layout.columns)
            layout = replace(layout, columns=tuple(columns))
        found = with_scores(layout, measured, None if alone else sheet or {}, sources.scores)
        known = (sources.settings or {}).get("retraining")
        retraining = None if known is None else from_mapping(Retraining, known, "--spec: retraining")
        return build_table(found.layout, found.measured, found.runs, mode, retraining, found.printed)


def build_table(
    layout: TableLayout,
    measurements: Measurements,
    runs: Mapping[str, SheetRow],
    mode: Mode | None = None,
    retraining: Retraining | None = None,
    printed: Mapping[str, Published] | None = None,
) -> Table:
    """Builds a table of results.

    Args:
        layout: Columns, rows and bold rule.
        measurements: Measured values; may be empty in ``paper`` mode.
        runs: The sample sheet.
        mode: Overrides the layout's mode; the default of both is ``measured``.
        retraining: Scatter of a repeated training, for the bold rule; of published numbers that of printed ones.
        printed: Printed numbers of rows that were added, by their ids in the layout.

    Raises:
        UserError: Unknown run, metric or published id, a missing measurement of an own row, values that must not stand
            in one column.
    """
    mode = mode or layout.mode or "measured"
    shown, printed_heads = shown_columns(layout, measurements, mode)
    lines, left_out = without_unlike(shown, resolve(shown, measurements, runs, mode, printed))
    if mode == "measured" and lines:
        _require_measured(layout, measurements)
    require_comparable(measured_lines(lines, measurements), layout.source)
    if retraining is None and mode != "measured":
        retraining = load_retraining(PRINTED)
    best, unranked = best_values(shown, lines, mode, retraining)
    columns, rows = grid(shown, lines, mode, best)
    scored = [
        column.metric for line in lines if line.spec.scored and line.ours for column in shown.columns if column.metric
    ]
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
            *identity_notes(shown, lines),
            *seen_notes(shown, lines),
            *held_out_notes(shown, lines),
            *left_out,
            *([f"No measured value of {', '.join(unranked)} is bold: {UNRANKED}."] if unranked else []),
            *([AUDIT_LEGEND] if mode == "audit" else []),
        ),
        number=layout.number,
        cite=layout.cite,
        records=(*printed_heads, *table_records(shown, lines, measurements, mode, best)),
        cited=tuple(metric_keys(scored)) if scored else (),
    )


def _require_measured(layout: TableLayout, measurements: Measurements) -> None:
    """Refuses columns of metrics that were measured for no row."""
    known = measurements.metrics
    for number, column in enumerate(layout.columns):
        if known and column.metric and not (column.optional or column.held_out) and column.metric not in known:
            raise UserError(
                f"{layout.source}: columns[{number}].metric",
                f"'{column.metric}' was not measured in {measurements.source}{suggestion(column.metric, known)}",
                "add it to the protocol or remove the column",
            )


def table_records(
    layout: TableLayout, lines: list[TableLine], measurements: Measurements, mode: Mode, best: Best
) -> list[dict[str, Any]]:
    """Records of all number cells, also of missing numbers."""
    records = []
    for number, line in enumerate(lines):
        for column in layout.columns:
            source = line.sources.get(column.id)
            if source is None or (source.published is None and not source.runs):
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
                record |= _measured(source, source.lines(measurements))
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


def shown_columns(
    layout: TableLayout, measurements: Measurements, mode: Mode
) -> tuple[TableLayout, list[dict[str, Any]]]:
    """Leaves out optional columns of metrics that nothing was measured by, and fills in the others' headings.

    A heading ``@id`` becomes the literal text of the published number ``id``.

    Returns:
        The layout, and records of the numbers (row −1) for modes that show published numbers.

    Raises:
        UserError: Unknown id.
    """
    columns, records, known = [], [], {*measurements.metrics}
    for number, column in enumerate(layout.columns):
        if column.optional and not known & {column.metric, *column.held_out}:
            continue
        if column.head.startswith("@"):
            found = published_number(column.head[1:], f"{layout.source}: columns[{number}].head")
            column = replace(column, head=found.literal)
            if mode != "measured":
                about = {"model": "heading", "metric": found.metric}
                records.append(_record(layout, mode, -1, column) | about | published_record(found))
        columns.append(column)
    ids = {column.id for column in columns}
    rows = tuple(
        replace(row, blank=_known(row.blank, ids), dash=_known(row.dash, ids), later=_known(row.later, ids))
        for row in layout.rows
    )
    return replace(layout, columns=tuple(columns), rows=rows), records


def _known(names: Sequence[str], ids: Container[str]) -> tuple[str, ...]:
    return tuple(name for name in names if name in ids)


_POOLED = (
    "Rows of several training seeds: mean and sample standard deviation of the seeds' means, not of single trials."
)


def provenance_notes(lines: Sequence[TableLine], measurements: Measurements) -> list[str]:
    """Notes on trials, n, seeds, protocol, code version, device and date of the measured cells, and on sources."""
    sources = [source for line in lines for source in line.sources.values()]
    notes = []
    here = (source for line in lines if not line.added for source in line.sources.values())
    printed = sorted({source.published.source for source in here if source.published})
    if printed:
        notes.append(f"Published numbers as printed ({', '.join(printed)} in results/published).")
    notes += _printed_elsewhere(lines)
    used = measured_lines(lines, measurements)
    pooled = [_POOLED] if any(len(source.runs) > 1 and source.estimate for source in sources) else []
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
        found = [(s.identity, str(s.run)) for line in lines if (s := line.sources.get(column.id)) and s.identity]
        # Values of unknown seeds come last: they would join values that differ in their seeds.
        for mine, run in sorted(found, key=lambda pair: pair[0].seed0 is None):
            for identity, runs in kinds:
                if comparable(identity, mine) is None:
                    runs.append(run)
                    break
            else:
                kinds.append((mine, [run]))
        if len(kinds) > 1:
            groups = "; ".join(f"{', '.join(dict.fromkeys(runs))} ({identity})" for identity, runs in kinds)
            reason = comparable(kinds[0][0], kinds[1][0])
            notes.setdefault(f"{groups}. Reason: {reason}", []).append(column.head or column.id)
    return [f"Not comparable with each other in {', '.join(heads)}: {why}." for why, heads in notes.items()]


#: Largest number of rows that a note on what generators met names.
_NAMED = 8


def seen_notes(layout: TableLayout, lines: Sequence[TableLine]) -> list[str]:
    """Notes on what the generators of the table met, by reason: columns and rows."""
    found: dict[tuple[str, str], tuple[dict[str, None], dict[str, None]]] = {}
    chosen: dict[str, dict[str, None]] = {}
    for column in layout.columns:
        for line in lines:
            for identity in line.sources[column.id].identities if column.id in line.sources else ():
                for words in _seen_words(identity, layout.bold is not None):
                    heads, rows = found.setdefault(words, ({}, {}))
                    heads[column.head or column.id] = rows[line.label] = None
                if identity.networks and identity.saw is not None and identity.saw.choice:
                    chosen.setdefault(", ".join(identity.saw.choice), {})[line.label] = None
    notes = []
    for (mark, why), (heads, rows) in found.items():
        named = ", ".join(rows) if len(rows) <= _NAMED else f"{len(rows)} rows"
        notes.append(f"{mark}{', '.join(heads)} of {named}: {why}.")
    if len(chosen) > 1:
        groups = "; ".join(f"{name} ({', '.join(rows)})" for name, rows in chosen.items())
        notes.append(f"Files were chosen by metrics on different networks, so that rows are not equal: {groups}.")
    return notes


def held_out_notes(layout: TableLayout, lines: Sequence[TableLine]) -> list[str]:
    """Notes on the judges of columns that show the mean over held-out judges."""
    notes = []
    for column in layout.columns:
        if column.held_out and any(line.ours for line in lines):
            found = next((source.keys for line in lines if (source := line.sources[column.id]).estimate), ())
            words = f"over {', '.join(found)}" if found else "fewer than two judges are left that no row met"
            notes.append(f"{column.head}: {words}.")
    return notes


def _seen_words(identity: Identity, ranks: bool) -> Iterator[tuple[str, str]]:
    """Mark and reason of each note on what the generator of a value met."""
    why = barred(identity)
    if why and (why != UNKNOWN or ranks):
        mark = mark_of(identity) if identity.seen or identity.met("loss") else ""
        yield f"{mark} ".lstrip(), f"{why}; not ranked"
    if lacks_digest(identity) and why != NO_DIGEST:
        yield "", f"{NO_DIGEST}, so that nobody knows whether its trials are comparable"
    if related := identity.related:
        yield "§ ", f"trained by a network that learned from the same labels ({', '.join(sorted(related))})"
    if started := identity.met("start"):
        yield "", f"starts from, or is aligned with, the network of the metric ({', '.join(sorted(started))})"


def measured_lines(lines: Iterable[TableLine], measurements: Measurements) -> list[Measurement]:
    """Lines of ``measurements.csv`` behind the measured cells."""
    return [row for line in lines for source in line.sources.values() for row in source.lines(measurements)]


def _how(rows: list[Measurement]) -> str:
    by_run: dict[str, list[Measurement]] = {}
    for row in rows:
        by_run.setdefault(row.run, []).append(row)
    shapes: dict[tuple[int, int], list[str]] = {}
    for run, lines in by_run.items():
        shapes.setdefault((len({line.trial for line in lines}), lines[0].n), []).append(run)
    common = max(shapes, key=lambda shape: len(shapes[shape]))
    text = f"{_trials(common[0])} of {common[1]:,} images"
    if any(count > 1 for count, _ in shapes):
        text = f"Mean ± sample standard deviation over {text}"
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


def _printed_elsewhere(lines: Sequence[TableLine]) -> list[str]:
    """Notes on the numbers of records that other tools wrote, by who printed them and for which evaluation."""
    rows: dict[tuple[str, str], dict[str, None]] = {}
    for line in (line for line in lines if line.added):
        numbers = (source.published for source in line.sources.values() if source.published)
        rows |= {(n.source, n.dataset): {**rows.get((n.source, n.dataset), {}), line.label: None} for n in numbers}
    return [
        f"Printed by {source} for {evaluation}, not measured by this suite, under a protocol that is not known here; "
        f"neither ranked nor compared: {', '.join(labels)}."
        for (source, evaluation), labels in rows.items()
    ]


def _trials(number: int) -> str:
    return "1 trial" if number == 1 else f"{number} trials"


def _where(rows: list[Measurement]) -> str:
    protocols = ", ".join(sorted({row.protocol for row in rows}))
    versions = ", ".join(sorted({row.code_version for row in rows}))
    devices = ", ".join(sorted({row.device for row in rows}))
    return f"Protocol {protocols}; code {versions}; {devices}; {measured_days(rows)}."


def to_json(table: Table) -> str:
    """The table as JSON with its content hash; :func:`load_table` reads it."""
    return json_text(with_hash({"format": _FORMAT, **dataclasses.asdict(table)}))


RENDERERS = {".tex": to_latex, ".csv": to_csv, ".md": to_markdown, ".html": to_html, ".json": to_json}


def table_paths(out: str | Path) -> list[Path]:
    """Paths of all files of a table, given one of them.

    Raises:
        UserError: ``out`` has another suffix.
    """
    out = Path(out)
    if out.suffix not in RENDERERS:
        raise UserError(f"--out {out}", f"must end in {', '.join(RENDERERS)}")
    return [out.with_suffix(suffix) for suffix in RENDERERS]


def write_table(table: Table, out: str | Path, latex: Callable[[Table], str] = to_latex) -> list[Path]:
    """Writes all files of a table (``.tex``, ``.csv``, ``.md``, ``.html``, ``.json``), or none; returns their paths.

    Args:
        table: The table.
        out: One of the files.
        latex: Renders the ``.tex``.

    Raises:
        UserError: ``out`` has another suffix.
    """
    renderers = RENDERERS | {".tex": latex}
    texts = {path: renderers[path.suffix](table) for path in table_paths(out)}
    write_files(texts)
    return list(texts)


def load_table(path: str | Path) -> Table:
    """Reads the ``.json`` of a table.

    Raises:
        UserError: The file is missing, damaged or of another kind.
    """
    record = read_hashed_json(path, "build the table again")
    if record.pop("format", None) != _FORMAT:
        raise UserError(path, f"holds no table (format {_FORMAT})", "build it again")
    table = from_mapping(Table, record, f"{path}:")
    for number, row in enumerate(table.rows):
        if len(row.cells) != len(table.columns):
            raise UserError(f"{path}: rows[{number}]", "has not one cell for each column", "build the table again")
    return table
