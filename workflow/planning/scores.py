"""The published score of each row, as the tables of the preset place them."""

from __future__ import annotations

from eval.results.published import load_published
from eval.results.selection import read_extended
from eval.results.summary import Measurements
from eval.tables.build import build_table
from eval.tables.layout import load_layout
from workflow.preset import Preset


def published_scores(preset: Preset) -> dict[str, dict[str, str]]:
    """What each row should reach, by run: metric to ``value ± std`` as printed; of two tables, the later one's."""
    published, scores = load_published(), dict[str, dict[str, str]]()
    for name in preset.config["tables"]:
        path = preset.layout("tables", name)
        if read_extended(path).get("kind", "results") == "hyperparameters":
            continue
        layout = load_layout(path)
        if layout.mode == "measured":
            continue  # no published number has a place in it
        table = build_table(layout, Measurements([], preset.sheet), preset.runs, published, "audit")
        for record in table.records:
            if record["run"] and record["published"]:
                text = " ± ".join(filter(None, (record["published"], record["published_std"])))
                scores.setdefault(record["run"], {})[record["metric"]] = text
    return scores
