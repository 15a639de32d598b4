"""Builds, writes and reads the files of a table (``sida table``)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.results.published import load_published
from eval.results.sheet import read_runs
from eval.results.summary import load_measurements, measurements_file
from eval.tables.layout import Mode, TableSources, load_table_layout
from eval.tables.model import Table
from eval.tables.render import to_csv, to_html, to_latex, to_markdown
from sida.config.resources import find
from sida.config.settings import from_mapping
from sida.errors import UserError
from sida.files.atomic import json_text, read_hashed_json, write_text
from sida.files.content_hash import with_hash

_FORMAT = "sida-table/1"


def to_json(table: Table) -> str:
    """The table as JSON with its content hash; :func:`load_table` reads it."""
    return json_text(with_hash({"format": _FORMAT, **dataclasses.asdict(table)}))


RENDERERS = {".tex": to_latex, ".csv": to_csv, ".md": to_markdown, ".html": to_html, ".json": to_json}


def make_table(
    layout: str | Path,
    measurements: str | Path | None = None,
    runs: str | Path | None = None,
    *,
    mode: Mode | None = None,
    published: str | Path | None = None,
    scope: Mapping[str, object] | None = None,
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
        published: Folder of published numbers; by default ``results/published``.
        scope: Conditions on the sample sheet added to every row, e.g. ``{"dataset": "digits"}``.
        spec: Settings for a table of hyperparameters: ``gpus``, and ``students`` with the settings of each row.
        results: Folder with training logs for a table of hyperparameters; by default that of ``measurements``.
        scores: Files of ``sida score`` (``--out``, or lines of ``--json``), whose rows are added at the end.

    Raises:
        UserError: Any fault in a file, or ``measured`` mode without measurements or scores.
    """
    shown = load_table_layout(find("tables", str(layout), where="--layout"))
    measured = None
    if measurements is not None and (mode or shown.mode) != "paper" and not shown.shows_settings:
        measured = load_measurements(measurements)
    return shown.build(
        TableSources(
            measured,
            None if runs is None else {run.run: run for run in read_runs(runs)},
            load_published(published),
            mode,
            scope or {},
            scores,
            spec,
            Path(results) if results else measurements_file(measurements).parent if measurements else None,
        )
    )


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
    """Writes all files of a table (``.tex``, ``.csv``, ``.md``, ``.html``, ``.json``); returns their paths.

    Args:
        table: The table.
        out: One of the files.
        latex: Renders the ``.tex``.

    Raises:
        UserError: ``out`` has another suffix.
    """
    renderers = RENDERERS | {".tex": latex}
    texts = {path: renderers[path.suffix](table) for path in table_paths(out)}
    for path, text in texts.items():
        write_text(path, text)
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
        if sum(cell.columns for cell in row.cells) != len(table.columns):
            raise UserError(f"{path}: rows[{number}]", "has not one cell for each column", "build the table again")
    return table
