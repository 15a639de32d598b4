"""Builds a :class:`~sida.eval.tables.model.Table` from a layout, measurements, published numbers; writes its files.

There are three modes: ``paper`` prints the published strings; ``measured`` prints measurements; ``audit`` prints both
with their difference. A published cell never shows a measurement, nor the reverse. Notes below a table give the origin
of the numbers. Headings may themselves be published numbers, such as model sizes with their parameter counts.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sida.config.named_files import find_file
from sida.config.settings import from_mapping
from sida.errors import UserError, suggestion
from sida.eval.results.bibliography import metric_keys
from sida.eval.results.conditions import Planned
from sida.eval.results.identity import Identity, require_comparable
from sida.eval.results.measurements import (
    Measurements,
    image_seeds,
    kept_at,
    load_measurements,
    measurements_file,
)
from sida.eval.results.numbers import RETRAINING, Agreement, Number
from sida.eval.results.published import Published, published_number
from sida.eval.results.retraining import Retraining, load_retraining
from sida.eval.results.sheet import SheetRow, read_runs
from sida.eval.tables.bold import ranked
from sida.eval.tables.cells import (
    AUDIT_LEGEND,
    TableLine,
    grid,
    require_poolable,
    resolve,
    with_measurements,
    without_unlike,
)
from sida.eval.tables.latex import to_latex
from sida.eval.tables.layout import ColumnSpec, Mode, TableKind, TableLayout, TableSources, load_table_layout
from sida.eval.tables.model import RECORD_FIELDS, Table, published_record
from sida.eval.tables.notes import measured_numbers, table_notes
from sida.eval.tables.render import to_csv, to_html, to_markdown
from sida.eval.tables.scores import with_scores
from sida.files.atomic import write_files


def make_table(
    layout: str | Path | TableKind,
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
        layout: A file, a name in ``tables/`` of the preset's folder or of ``config/``, or the layout itself.
        measurements: ``measurements.csv``. In ``audit`` mode a missing file counts as empty; cells then say 'not
            measured'. With None, and for settings without ``spec`` and ``results``, the
            default of a layout of mode ``audit`` is ``paper``.
        runs: Sample sheet, or a spec with its rows. Without a sheet, each generator of ``measurements`` is a row.
        mode: Overrides the layout's mode; the default of both is ``measured``.
        spec: ``retraining``, the scatter of a repeated training; ``absent``, rows that no server had with the reason;
            for a table of hyperparameters ``gpus``, and ``students`` with the settings of each row.
        results: Folder with training logs for a table of hyperparameters; by default the folder of ``measurements``.
        scores: Files of ``sida score`` (``--out``, or lines of ``--json``), whose rows are added at the end: in mode
            ``paper`` below the published numbers and in their columns.

    Raises:
        UserError: Any fault in a file, or ``measured`` mode without measurements or scores.
    """
    kind = layout
    if not isinstance(kind, TableKind):
        kind = load_table_layout(find_file("tables", str(layout), where="table"))
    sources = (measurements, spec, results) if kind.shows_settings else (measurements,)
    if mode is None and kind.mode == "audit" and all(source is None for source in sources):
        mode = "paper"
    measured = None
    if measurements is not None and (mode or kind.mode) != "paper" and not kind.shows_settings:
        measured = load_measurements(measurements)
    return kind.build(
        TableSources(
            measured,
            None if runs is None else {run.run: run for run in read_runs(runs)},
            mode,
            scores,
            spec,
            Path(results) if results else measurements_file(measurements).parent if measurements else None,
        )
    )


class UnmeasuredError(UserError):
    """Raised for a table of measurements without any."""


class ResultsTable(TableLayout):
    """Measurements, published numbers, or both."""

    def build(self, sources: TableSources) -> Table:
        """Builds the table with the rows of scores."""
        layout: TableLayout = self
        mode = sources.mode or layout.mode or "measured"
        if mode == "measured" and sources.measurements is None and not sources.scores:
            raise UnmeasuredError("", "mode measured needs --measurements or --add", "or use --mode paper")
        measurements, sheet = sources.measurements or Measurements([], "no measurements"), sources.runs
        # Without a sheet, collected numbers are rows of the table themselves, in the columns that they have.
        alone = sheet is None and mode == "measured"
        if alone:
            columns = (replace(c, optional=c.optional or c.metric is not None) for c in layout.columns)
            layout = replace(layout, columns=tuple(columns))
        rows = None if alone else sheet or {}
        layout, measurements, runs, published = with_scores(layout, measurements, rows, sources.scores)
        settings = (sources.settings or {}).get("retraining")
        retraining = None if settings is None else from_mapping(Retraining, settings, "--spec: retraining")
        table = build_table(layout, measurements, runs, mode, retraining, published)
        absent = (sources.settings or {}).get("absent") or {}
        reasons = (f"Not measured: {run} ({reason})." for run, reason in absent.items())
        return replace(table, notes=(*reasons, *table.notes))

    def check(self, planned: Planned, mode: Mode | None = None) -> None:
        """Checks rows, columns and metrics."""
        mode = mode or self.mode or "measured"
        layout, _ = shown_columns(self, planned.metrics, mode)
        lines = resolve(layout, planned.runs, mode)
        if mode == "measured" and lines:
            _require_metrics(self, planned.metrics, planned.source)
        values = list[tuple[str, str, Identity]]()
        for line in lines:
            for cell in line.cells.values():
                identities = {run: planned.identities.get(run, {}).get(cell.metric) for run in cell.runs}
                known = {run: identity for run, identity in identities.items() if identity is not None}
                if known and len(known) == len(identities):
                    require_poolable(known, cell.metric, line.where)
                    values += [(run, cell.metric, identity) for run, identity in known.items()]
        require_comparable(values, self.source)


def build_table(
    layout: TableLayout,
    measurements: Measurements,
    runs: Mapping[str, SheetRow],
    mode: Mode | None = None,
    retraining: Retraining | None = None,
    published: Mapping[str, Published] | None = None,
) -> Table:
    """Builds a table of results.

    Args:
        layout: Columns, rows and bold rule.
        measurements: Measured values; may be empty in ``paper`` mode.
        runs: The sample sheet.
        mode: Overrides the layout's mode; the default of both is ``measured``.
        retraining: Scatter of a repeated training, for the bold rule; None takes, for published numbers, that
            of published metrics.
        published: Published numbers of rows that were added, by their ids in the layout.

    Raises:
        UserError: Unknown run, metric or published id, a missing measurement of an own row, values that must not stand
            in one column.
    """
    mode = mode or layout.mode or "measured"
    table_layout, head_records = shown_columns(layout, measurements.metrics, mode)
    lines = with_measurements(resolve(table_layout, runs, mode, published), measurements, runs)
    lines, left_out = without_unlike(table_layout, lines)
    # A row that was not measured may be the one with a metric.
    runs_shown = {run for line in lines for cell in line.cells.values() for run in cell.runs}
    if mode == "measured" and lines and runs_shown <= {*measurements.runs}:
        _require_metrics(layout, measurements.metrics, measurements.source)
    shown = (row for number in measured_numbers(lines) for row in number.lines)
    require_comparable(((row.run, row.metric, row.identity) for row in shown), layout.source)
    if retraining is None and mode != "measured":
        retraining = load_retraining(RETRAINING)
    lines, bold_notes = ranked(table_layout, lines, mode, retraining)
    columns, rows = grid(table_layout, lines, mode)
    has_scores = any(line.spec.scored and line.ours for line in lines)
    scored = [column.metric for column in table_layout.columns if column.metric and has_scores]
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
            *table_notes(table_layout, lines),
            *left_out,
            *bold_notes,
            *([AUDIT_LEGEND] if mode == "audit" else []),
        ),
        number=layout.number,
        cite=layout.cite,
        records=(*head_records, *table_records(table_layout, lines, mode)),
        cited=tuple(metric_keys(scored)) if scored else (),
    )


def _require_metrics(layout: TableLayout, metrics: Sequence[str], source: str) -> None:
    """Refuses columns of metrics that were measured for no row of a file, or will be for no row of a sheet."""
    for number, column in enumerate(layout.columns):
        if metrics and column.metric and not column.optional and column.metric not in metrics:
            raise UserError(
                f"{layout.source}: columns[{number}].metric",
                f"'{column.metric}' was not measured in {source}{suggestion(column.metric, metrics)}",
                "add it to the protocol or remove the column",
            )


def table_records(layout: TableLayout, lines: Sequence[TableLine], mode: Mode) -> list[dict[str, Any]]:
    """Records of all number cells, also of missing numbers."""
    records = []
    for number, line in enumerate(lines):
        for column in layout.columns:
            cell = line.cells.get(column.id)
            if cell is None or (cell.published is None and not cell.runs):
                continue
            record = _record(layout, mode, number, column) | {
                "family": line.family,
                "model": line.label,
                "metric": cell.metric,
                "direction": column.direction or "",
                "nfe": "" if line.nfe is None else line.nfe,
                "run": " ".join(cell.runs),
            }
            for side, shown in cell.numbers.items():
                facts = _measured_record(shown) if shown.printed is None else published_record(shown.printed)
                record |= {**facts, f"{side}_rank": cell.ranks.get(side, "")}
            if isinstance(cell.compared, str):
                record["not_compared"] = cell.compared
            elif cell.compared is not None:
                record |= _compared_record(cell.compared)
            records.append(record)
    return records


def _record(layout: TableLayout, mode: Mode, row: int, column: ColumnSpec) -> dict[str, Any]:
    position = {"table": Path(layout.source).stem, "mode": mode, "row": row, "column": column.id}
    return dict.fromkeys(RECORD_FIELDS, "") | position


def _measured_record(number: Number) -> dict[str, Any]:
    estimate, lines, seeds = number.estimate, number.lines, image_seeds(number.lines)
    record: dict[str, Any] = {
        "measured": repr(estimate.mean),
        "measured_std": "" if estimate.std is None else repr(estimate.std),
        "trials": len({line.trial for line in lines}),
        "training_seeds": len(number.runs),
        "kept_at": " ".join(str(at) for at in kept_at(lines).values() if at is not None),
        "n": lines[0].n,
        "seed_first": min(seeds, default=""),
        "seed_last": max(seeds, default=""),
    }
    for name in RECORD_FIELDS[RECORD_FIELDS.index("protocol") :]:
        record[name] = " ".join(sorted({str(getattr(line, name)) for line in lines}))
    return record


def _compared_record(agreement: Agreement) -> dict[str, Any]:
    return {
        "measured_lowest": "" if agreement.lowest is None else repr(agreement.lowest),
        "difference": repr(agreement.difference),
        "tolerance": repr(agreement.tolerance),
        "agreement": agreement.outcome,
    }


def shown_columns(
    layout: TableLayout, metrics: Collection[str], mode: Mode
) -> tuple[TableLayout, list[dict[str, Any]]]:
    """Leaves out optional columns of metrics that nothing was measured by, and fills in the others' headings.

    A heading ``@id`` becomes the literal text of the published number ``id``.

    Returns:
        The layout, and records of the numbers (row −1) for modes that show published numbers.

    Raises:
        UserError: Unknown id.
    """
    columns, records = [], []
    for number, column in enumerate(layout.columns):
        if column.optional and column.metric not in metrics:
            continue
        if column.head.startswith("@"):
            heading = published_number(column.head[1:], f"{layout.source}: columns[{number}].head")
            column = replace(column, head=heading.literal)
            if mode != "measured":
                about = {"model": "heading", "metric": heading.metric}
                records.append(_record(layout, mode, -1, column) | about | published_record(heading))
        columns.append(column)
    return replace(layout, columns=tuple(columns)), records


#: Forms of a table by suffix.
RENDERERS = {".tex": to_latex, ".csv": to_csv, ".md": to_markdown, ".html": to_html}


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
    """Writes all files of a table (``.tex``, ``.csv``, ``.md``, ``.html``), or none; returns their paths.

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
