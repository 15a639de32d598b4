"""The CSV of a table: one record per number cell, in full precision and with its provenance.

Headings may themselves be published numbers, such as model sizes with their parameter counts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.results.agreement import Agreement
from eval.results.published import Published, published_number
from eval.results.summary import Measurement, Measurements, image_seeds, kept_at
from eval.tables.cells import best_rows
from eval.tables.layout import ColumnSpec, Mode, TableLayout
from eval.tables.lines import CellSource, TableLine

RECORD_FIELDS = (
    "table", "mode", "row", "family", "model", "column", "metric", "direction", "nfe",
    "run", "measured", "measured_std", "measured_lowest", "trials", "training_seeds", "kept_at", "measured_bold",
    "published_id", "published", "published_std", "published_bold", "published_source", "published_literal",
    "difference", "tolerance", "agreement", "not_compared",
    "effect", "effect_low", "effect_high", "effect_df", "effect_standardised", "effect_against",
    "n", "seed_first", "seed_last", "protocol", "settings", "classes", "resolution",
    "reference_sha256", "extractor_sha256", "network_sha256", "device", "code_version", "date",
)  # fmt: skip


def table_records(
    layout: TableLayout, lines: list[TableLine], measurements: Measurements, mode: Mode
) -> list[dict[str, Any]]:
    """Records of all number cells, also of missing numbers; :data:`RECORD_FIELDS` lists the fields."""
    bold = {"published": best_rows(layout, lines, "published"), "measured": best_rows(layout, lines, "measured")}
    records = []
    for number, line in enumerate(lines):
        for column in layout.columns:
            source = line.sources.get(column.id)
            if source is None or (source.published is None and source.run is None):
                continue
            record = dict.fromkeys(RECORD_FIELDS, "") | _place(layout, line, column, source, number, mode)
            if source.published is not None:
                record |= {
                    "published_id": source.published.id,
                    "published": source.published.text,
                    "published_std": source.published.std,
                    "published_bold": number in bold["published"].get(column.id, ()),
                    "published_source": source.published.source,
                    "published_literal": source.published.literal,
                }
            if source.estimate is not None:
                record |= _measured(
                    source, [line for run in source.runs for line in measurements.lines(run, source.metric)]
                )
                record["measured_bold"] = number in bold["measured"].get(column.id, ())
            records.append(record)
    return records


def _place(
    layout: TableLayout, line: TableLine, column: ColumnSpec, source: CellSource, number: int, mode: Mode
) -> dict[str, Any]:
    return {
        "table": Path(layout.source).stem,
        "mode": mode,
        "row": number,
        "family": line.family,
        "model": line.label,
        "column": column.id,
        "metric": source.metric,
        "direction": column.direction or "",
        "nfe": "" if line.nfe is None else line.nfe,
        "run": " ".join(source.runs),
    }


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


def with_headings(layout: TableLayout, published: Mapping[str, Published]) -> TableLayout:
    """Replaces headings ``@id`` by the literal text of the published number ``id``.

    Raises:
        UserError: Unknown id.
    """
    columns = tuple(
        dataclasses.replace(column, head=_number(layout, column, number, published).literal)
        if column.head.startswith("@")
        else column
        for number, column in enumerate(layout.columns)
    )
    return dataclasses.replace(layout, columns=columns)


def header_records(layout: TableLayout, published: Mapping[str, Published], mode: str) -> list[dict[str, Any]]:
    """CSV records of headings that are published numbers (row −1)."""
    records = []
    for number, column in enumerate(layout.columns):
        if not column.head.startswith("@") or mode == "measured":
            continue
        found = _number(layout, column, number, published)
        records.append(
            dict.fromkeys(RECORD_FIELDS, "")
            | {
                "table": Path(layout.source).stem,
                "mode": mode,
                "row": -1,
                "model": "heading",
                "column": column.id,
                "metric": found.metric,
                "published_id": found.id,
                "published": found.text,
                "published_std": found.std,
                "published_source": found.source,
                "published_literal": found.literal,
            }
        )
    return records


def _number(layout: TableLayout, column: ColumnSpec, number: int, published: Mapping[str, Published]) -> Published:
    return published_number(published, column.head[1:], f"{layout.source}: columns[{number}].head")
