"""Scores of images as rows of a table: one row to paste, or further rows of the table."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sida.config.named_files import find_file
from sida.errors import UserError
from sida.eval.measuring.protocol import load_protocol
from sida.eval.results.exchange import Added, read_added
from sida.eval.results.measurements import Estimate, Measurements
from sida.eval.results.numbers import Number
from sida.eval.results.published import Published
from sida.eval.results.sheet import SheetRow, check_cells
from sida.eval.results.stored import FROM_STORED
from sida.eval.tables.cells import heading, nfe_text, printed_cell, require_in_column, resolve
from sida.eval.tables.latex import escape, latex_cell
from sida.eval.tables.layout import ColumnSpec, RowSpec, TableLayout, expand, load_layout
from sida.eval.tables.model import BLANK, Cell, Row, Table
from sida.eval.tables.render import to_markdown

if TYPE_CHECKING:
    from sida.eval.measuring.protocol import Protocol
    from sida.eval.measuring.score import Score
    from sida.eval.results.identity import Identity


def row_columns(
    protocol: Protocol, table: str | None = None, identity: Callable[[str], Identity | None] | None = None
) -> tuple[ColumnSpec, ...]:
    """Columns of a row for a table; by default of ``main``, else of the protocol.

    Args:
        protocol: Protocol of the images.
        table: Layout, a name or a file; None takes ``main`` if the protocol has its metrics, else the protocol's
            metrics.
        identity: Identity of a metric's values, None for one without a value; by default the protocol's, as far as it
            is known before references and networks are loaded.

    Raises:
        UserError: No such layout, a layout without metrics of this protocol or with one number per model size, or a
            column whose published numbers are not comparable with the row.
    """
    metrics = {metric.key for metric in protocol.metrics}
    layout = load_layout(find_file("tables", table or "main", where="--like"))
    columns = layout.columns
    column_metrics = {column.metric for column in columns if column.metric}
    if table is None and not column_metrics <= metrics:
        metric_columns = [ColumnSpec(m.label or m.key, metric=m.key, decimals=m.decimals) for m in protocol.metrics]
        return (ColumnSpec("Model", field="label"), *metric_columns)
    if not column_metrics & metrics or any(column.key for column in columns):
        raise UserError(
            f"--like {table}",
            f"has no columns for the metrics of protocol '{protocol.name}' ({', '.join(sorted(metrics))})",
            "name another layout",
        )
    lines = resolve(layout, {}, "audit")
    for column in columns:
        if column.metric in metrics:
            published = [line.cells[column.id].published for line in lines]
            value_identity = (identity or protocol.identity)(column.metric)
            numbers = [number.identity for number in published if number is not None]
            if value_identity is not None:
                require_in_column(value_identity, numbers, f"--like {table or 'main'}: column '{column.id}'")
    return columns


def table_protocol(table: str) -> str:
    """Name of the protocol of a table's numbers, for a score that is to stand in it.

    Raises:
        UserError: No such layout, or one whose numbers have no protocol, or several.
    """
    layout = load_layout(find_file("tables", table, where="--like"))
    if layout.protocol:
        return layout.protocol
    lines = resolve(layout, {}, "paper")
    numbers = [cell.published for line in lines for cell in line.cells.values() if cell.published]
    names = {number.identity.protocol for number in numbers} - {""}
    if len(names) != 1:
        several = f"several protocols ({', '.join(sorted(names))})" if names else "no protocol of this suite"
        raise UserError(f"--like {table}", f"its numbers have {several}", "name a --protocol")
    return names.pop()


def unfitting(score: Score, table: str | None) -> list[str]:
    """Reasons why a score cannot stand beside the numbers of a table, a sentence for each."""
    if table is None:
        return []
    try:
        of_table = load_protocol(table_protocol(table))
    except UserError:  # a table without a protocol takes any
        return []
    protocol = score.protocol
    if protocol.num_samples != of_table.num_samples:
        other = (
            f"trials of {protocol.num_samples:,} images, its protocol '{of_table.name}' has {of_table.num_samples:,}"
        )
    elif protocol.name != of_table.name:
        other = f"protocol '{protocol.name}', its numbers have '{of_table.name}'"
    else:
        return []
    return [f"the row does not fit {table}: it has {other}"]


def latex_row(score: Score, columns: Sequence[ColumnSpec]) -> str:
    """A row of a table's LaTeX with these columns, decimals and units, under a comment that names them."""
    cells = [latex_cell(_cell(score, column), heading(column)) for column in columns]
    return f"% {' & '.join(escape(column.head) for column in columns)}\n{' & '.join(cells)} \\\\"


def markdown_row(score: Score, columns: Sequence[ColumnSpec]) -> str:
    """The same row as a Markdown table of one line."""
    heads = tuple(heading(column) for column in columns)
    row = Row(tuple(_cell(score, column) for column in columns))
    return to_markdown(Table(score.name, "", "", "measured", heads, (row,)))


def _cell(score: Score, column: ColumnSpec) -> Cell:
    if (key := column.metric) is None:
        trained = str(score.records[0].get("trained", "")) if score.records else ""
        text = {"label": score.name, "family": score.family, "nfe": nfe_text(score.nfe, trained)}.get(str(column.field))
        return Cell(text) if text else BLANK
    values, identity = score.values(key), score.identity(key)
    if not values or identity is None:
        return Cell(kind="missing")
    estimate = Estimate(sum(values) / len(values), score.spread(score.protocol.metric(key)), len(values))
    return printed_cell(column, Number(key, estimate, identity))


def _added_runs(added: Added, path: str | Path) -> dict[str, SheetRow]:
    """The generators of a file as rows of a sheet; the label of a row that another group measured names the group.

    Raises:
        UserError: A text that cannot be a cell, or a comparison of two sets of images (``score --against``).
    """
    if added.against:
        raise UserError(
            path,
            f"compares {added.against} (score --against), which is not a row of a table",
            "score the images under the table's protocol (--like)",
        )
    rows = {}
    for name in added.measured.runs:
        row = added.measured.of_run(name)[0]
        is_stored = row.origin.startswith(FROM_STORED)
        label = f"{name} ({row.origin.split(',')[0].strip()})" if row.origin and not is_stored else name
        check_cells([name, label, added.family], str(path))
        rows[name] = SheetRow(name, label, row.method, family=added.family)
    return rows


def with_scores(
    layout: TableLayout, measured: Measurements, sheet: Mapping[str, SheetRow] | None, paths: Sequence[str | Path]
) -> tuple[TableLayout, Measurements, dict[str, SheetRow], dict[str, Published]]:
    """Adds the rows of files to a table.

    Args:
        layout: Layout of the table.
        measured: Measurements of the sheet's rows.
        sheet: Rows by id; None makes a row of each generator of ``measured``.
        paths: Files of :func:`sida.eval.results.exchange.read_added`, whose generators are added.

    Returns:
        The layout with further rows, all measurements, their rows by id, and the published numbers of added rows by id.

    Raises:
        UserError: A file of another kind, without a metric of the table, or a name that a row of the sheet has.
    """
    rows, runs = list(measured.rows), dict(sheet or {})
    if sheet is None:
        runs, sheet = _added_runs(Added(measured), measured.source), {}
    numbers_by_id, published_rows = dict[str, Published](), list[RowSpec]()
    for path in paths:
        added = read_added(path)
        numbers = _shown_numbers(added, layout, path)
        for name, run in _added_runs(added, path).items():
            if name in runs or name in measured.runs:
                raise UserError(path, f"a row is already called '{name}'", "score the images under another --name")
            runs[name] = dataclasses.replace(run, method="external")
        rows += added.measured.rows
        published_rows += _published_rows(numbers, len(numbers_by_id), numbers_by_id)
    if len(runs) > len(sheet) or published_rows:
        scored = {row.run for row in rows[len(measured.rows) :]}
        shown = (*_measured_rows(layout, runs, sheet, scored), *published_rows)
        layout = dataclasses.replace(layout, rows=shown, columns=_columns(layout, numbers_by_id))
    return layout, Measurements(rows, measured.source), runs, numbers_by_id


def _shown_numbers(added: Added, layout: TableLayout, path: str | Path) -> list[Published]:
    """Published numbers of a file that a table shows.

    Raises:
        UserError: The file has no metric of the table, or the table has no place for published numbers.
    """
    metrics = {column.metric: None for column in layout.columns if column.metric}
    # Nothing says whether a published number of a column of per cents is one.
    in_own_unit = {column.metric for column in layout.columns if column.scale == 1}
    published = {number.metric_key: None for number in added.published}
    if metrics and not {*metrics} & {*added.measured.metrics} | in_own_unit & {*published}:
        theirs = ", ".join([*added.measured.metrics, *published]) or "no number"
        fault = f"none of the table's metrics ({', '.join(metrics)}), but {theirs}"
        raise UserError(path, fault, "score the images under the protocol of the table")
    numbers = [number for number in added.published if number.metric_key in in_own_unit]
    if numbers and any(column.key for column in layout.columns):
        fault = "holds published numbers, and the table has a column for each size"
        raise UserError(path, fault, "name another table")
    return numbers


def _measured_rows(
    layout: TableLayout, runs: Mapping[str, SheetRow], sheet: Mapping[str, SheetRow], scored: Container[str]
) -> Iterator[RowSpec]:
    """The rows of a layout, which may select external ones itself, then the other runs that the sheet does not have."""
    rows = [row for _, row in expand(layout, runs)]
    present = {*sheet, *(row.run for row in rows)}
    for row in (*rows, *(RowSpec(run=name) for name in runs if name not in present)):
        yield dataclasses.replace(row, guest=True, scored=True) if row.run in scored else row


def _published_rows(numbers: Sequence[Published], start: int, numbers_by_id: dict[str, Published]) -> list[RowSpec]:
    """Rows for the published numbers of a record, one for each evaluation; adds the numbers to ``numbers_by_id``."""
    evaluations = list(dict.fromkeys(number.dataset for number in numbers))
    rows = []
    for number, evaluation in enumerate(evaluations, start=start):
        numbers_together = [n for n in numbers if n.dataset == evaluation]
        first = numbers_together[0]
        key = f"added-{number}-"
        numbers_by_id |= {key + n.metric_key.replace("_", "-"): n for n in numbers_together}
        name = f"{first.row_label}, {evaluation}" if len(evaluations) > 1 else first.row_label
        label = f"{name} ({first.source})"
        rows.append(
            RowSpec(published=key + "{metric}", label=label, nfe=first.nfe or None, scored=True, candidate=False)
        )
    return rows


def _columns(layout: TableLayout, numbers_by_id: Mapping[str, Published]) -> tuple[ColumnSpec, ...]:
    """Columns of the layout; one with a published number is not left out for want of measurements."""
    metrics = {number.metric_key for number in numbers_by_id.values()}
    return tuple(dataclasses.replace(c, optional=c.optional and c.metric not in metrics) for c in layout.columns)
