"""Builds, writes and reads the files of a table (``sida-eval table``)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.results.published import load_published
from eval.results.sheet import read_extended, read_runs
from eval.results.summary import Measurements, load_measurements, measurements_file
from eval.tables.build import build_table
from eval.tables.hyperparameters import HyperLayout, build_hyperparameters
from eval.tables.layout import Mode, TableLayout
from eval.tables.model import Table
from eval.tables.render import to_csv, to_html, to_latex, to_markdown
from eval.tables.scores import with_scores
from sida.config.registry import Registry
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


#: Classes of layouts by their key ``kind``.
TABLE_KINDS: Registry[type[TableLayout] | type[HyperLayout]] = Registry(
    "table kind", "eval.tables.layout:TableLayout", {"results": TableLayout, "hyperparameters": HyperLayout}
)


def load_table_layout(path: str | Path) -> TableLayout | HyperLayout:
    """Reads a layout of any kind; ``extends: other.yaml`` names a file for all keys that the layout does not set.

    Raises:
        UserError: Missing file, unknown kind or key, wrong type, or files that extend each other.
    """
    mapping = read_extended(Path(path))
    kind = mapping.pop("kind", "results")
    layout: TableLayout | HyperLayout = from_mapping(
        TABLE_KINDS.find(kind, f"{path}: kind"), mapping | {"source": str(path)}, str(path)
    )
    return layout


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
    """Builds the table of a layout, of results or of hyperparameters.

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
        scores: Files of ``sida-eval score`` (``--out``, or lines of ``--json``), whose rows are added at the end.

    Raises:
        UserError: Any fault in a file, or ``measured`` mode without measurements or scores.
    """
    path = find("tables", str(layout), where="--layout")
    rows, numbers = load_table_layout(path), load_published(published)
    if isinstance(rows, HyperLayout):
        logs = results or (measurements_file(measurements).parent if measurements else None)
        return build_hyperparameters(rows, numbers, spec, logs, mode)
    rows = dataclasses.replace(rows, scope={**rows.scope, **(scope or {})})
    mode = mode or rows.mode or "measured"
    if mode == "measured" and measurements is None and not scores:
        raise UserError("", "mode measured needs --measurements or --add", "or use --mode paper")
    measured = Measurements([], str(measurements or "no measurements"))
    if measurements is not None and mode != "paper":
        measured = load_measurements(measurements)
    # Without a sheet, collected numbers are rows of the table themselves, in the columns that they have.
    alone = runs is None and mode == "measured"
    if alone:
        shown = (dataclasses.replace(column, optional=True) if column.metric else column for column in rows.columns)
        rows = dataclasses.replace(rows, columns=tuple(shown))
    sheet = {run.run: run for run in read_runs(runs)} if runs is not None else {}
    if scores and mode == "paper":
        raise UserError("--add", "mode paper prints published numbers alone", "take --mode audit or measured")
    rows, measured, every = with_scores(rows, measured, None if alone else sheet, scores)
    return build_table(rows, measured, every, numbers, mode, [name for name in every if name not in sheet])


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
