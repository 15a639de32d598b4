"""The data of a figure of points as CSV: every point, every training behind it, lines, and what is missing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from eval.figures.marks import Mark
from eval.figures.points import Marks
from sida.files.content_hash import csv_text

FIELDS = (
    "panel", "kind", "series", "runs", "metric", "at", "by", "by_value", "x", "value", "low", "high", "x_low", "x_high",
    "interval", "count", "teachers", "source", "shown",
)  # fmt: skip


def points_csv(panels: list[Marks]) -> str:
    """One line per point (kind ``mean``), training (``single``), line, and missing row or series."""
    records: list[dict[str, Any]] = []
    for panel in panels:
        common: dict[str, Any] = {"panel": panel.spec.title, "metric": panel.spec.metric, "at": panel.spec.at}
        common["source"] = "measurement" if panel.spec.at == "kept" else "last evaluation during training"
        for series in panel.curves:
            own = {"series": series.label, "by": series.by, "shown": True}
            for mark in series.marks:
                records += [common | own | record for record in _records(mark)]
        for line in panel.lines:
            level = {"kind": "line", "series": line.label, "value": repr(line.value), "source": line.source}
            records.append(common | level | {"shown": True})
        records += [common | {"kind": "not finite", "series": note, "shown": True} for note in panel.notes]
        records += [common | {"kind": "missing", "series": name, "shown": False} for name in panel.missing]
    return csv_text(FIELDS, records)


def _records(mark: Mark) -> Iterator[dict[str, Any]]:
    low, high = mark.ends or ("", "")
    x_low, x_high = mark.x_ends or ("", "")
    yield {
        "kind": "mean",
        "runs": " ".join(run for single in mark.singles for run in single.runs[:1]),
        "by_value": mark.by,
        "x": repr(mark.x),
        "value": repr(mark.value),
        "low": low,
        "high": high,
        "x_low": x_low,
        "x_high": x_high,
        "interval": mark.interval if mark.ends else "",
        "count": len(mark.singles),
        "teachers": len({single.teacher for single in mark.singles}),
    }
    for single in mark.singles:
        place = {"by_value": mark.by, "x": repr(single.x), "value": repr(single.value), "count": 1}
        yield {"kind": "single", "runs": " minus ".join(single.runs), **place}
