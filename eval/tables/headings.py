"""Headings that are themselves published numbers, such as model sizes with their parameter counts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.results.published import Published, published_number
from eval.tables.layout import ColumnSpec, TableLayout
from eval.tables.records import FIELDS


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
    """CSV records of such headings (row −1)."""
    records = []
    for number, column in enumerate(layout.columns):
        if not column.head.startswith("@") or mode == "measured":
            continue
        found = _number(layout, column, number, published)
        records.append(
            dict.fromkeys(FIELDS, "")
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
