"""The data of a figure as CSV, so that every point can be read off exactly."""

from __future__ import annotations

import csv
import io
from typing import Any

from eval.figures.gather import Panel
from eval.figures.layout import CurvesLayout

FIELDS = (
    "panel", "kind", "series", "run", "metric", "images", "iterations", "value", "std", "over", "count",
    "num_samples", "source", "shown",
)  # fmt: skip


def curves_csv(layout: CurvesLayout, panels: list[Panel]) -> str:
    """One line per evaluation, re-measured generator, reference line and missing series."""
    records: list[dict[str, Any]] = []
    for panel in panels:
        common: dict[str, Any] = {"panel": panel.spec.title, "metric": panel.spec.metric}
        for curve in panel.curves:
            for point in curve.points:
                unit = layout.batch or 0
                limit = panel.spec.x_max or float("inf")
                place = point.nimg / unit if layout.x == "iterations" and unit else point.nimg
                records.append(
                    common
                    | {
                        "kind": "curve",
                        "series": curve.label,
                        "run": " ".join(curve.runs),
                        "images": point.nimg,
                        "iterations": f"{point.nimg / unit:g}" if unit else "",
                        "value": repr(point.value),
                        "std": "" if point.std is None else repr(point.std),
                        "over": curve.over,
                        "count": point.trials,
                        "num_samples": point.num_samples or "",
                        "source": "evaluations during training",
                        "shown": place <= limit and (point.nimg > 0 or panel.spec.x_scale == "linear"),
                    }
                )
            final = panel.finals.get(curve.run)
            if final is not None:
                records.append(
                    common
                    | {
                        "kind": "kept generator",
                        "series": curve.label,
                        "run": curve.run,
                        "images": curve.best.nimg,
                        "value": repr(final.mean),
                        "std": "" if final.std is None else repr(final.std),
                        "over": "trials",
                        "count": final.trials,
                        "source": "independent measurement",
                        "shown": True,
                    }
                )
        for line in panel.lines:
            record: dict[str, Any] = {"kind": "line", "series": line.label, "value": repr(line.value), "shown": True}
            std = "" if line.std is None else repr(line.std)
            records.append(common | record | {"std": std, "source": line.source})
        records += [common | {"kind": "missing", "series": name, "shown": False} for name in panel.missing]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, FIELDS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return stream.getvalue()
