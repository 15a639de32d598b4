"""Rows that two stored studies trained with equal settings: how far they agree on other processors and code."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from sida.errors import UserError
from workflow.docs.study import Study
from workflow.docs.words import block
from workflow.preset.spec_files import row_digest

#: Relative difference below which two trainings count as the same one: those of one kind of processor agree to 1e-4.
_SAME = 1e-3
_SHOWN = {"fd": "FD", "fd_pixel": "FD in pixels", "is": "IS", "precision": "precision", "recall": "recall"}


@dataclass(frozen=True)
class RepeatedRows:
    """Means over trials of rows that both studies trained with equal settings.

    Attributes:
        moved: Pairs of means by metric, of each row whose distance differs between the studies.
        same: Number of rows with equal distances.
    """

    moved: Mapping[str, Mapping[str, tuple[float, float]]]
    same: int

    @classmethod
    def of(cls, first: Study, second: Study) -> RepeatedRows:
        """Compares the rows that two studies have in common.

        Raises:
            UserError: The studies have fewer than two rows in common that differ.
        """
        found = {}
        common = [run for run in first.measured.runs if run in second.measured.runs]
        alike = [run for run in common if _settings(first, run) == _settings(second, run) is not None]
        for run in alike:
            metrics = [
                name for name in first.measured.metrics if all(s.measured.has(run, name) for s in (first, second))
            ]
            u, v = ({m: s.measured.estimate(run, m).mean for m in metrics} for s in (first, second))
            if abs(math.log(v["fd"] / u["fd"])) > _SAME:
                found[run] = {metric: (u[metric], v[metric]) for metric in metrics}
        if len(found) < 2:
            raise UserError("", "the studies have fewer than two rows of equal settings that differ")
        return cls(found, len(alike) - len(found))

    def std(self, metric: str) -> float:
        """Relative standard deviation of one repeated row: that of the differences of two, by the root of two."""
        pairs = [values[metric] for values in self.moved.values() if metric in values]
        return math.sqrt(statistics.fmean(math.log(v / u) ** 2 for u, v in pairs) / 2)


def repeated_table(first: Study, second: Study, names: tuple[str, str]) -> str:
    """Table of the rows that differ: distance in both studies and its change; then the scatter of each metric."""
    found = RepeatedRows.of(first, second)
    change = {run: math.log(values["fd"][1] / values["fd"][0]) for run, values in found.moved.items()}
    lines = [f"| row | FD, {names[0]} | FD, {names[1]} | change |", "| --- | ---: | ---: | ---: |"]
    for run in sorted(change, key=lambda run: -abs(change[run])):
        u, v = found.moved[run]["fd"]
        moved = f"{100 * (v / u - 1):+.1f} %".replace("-", "−")
        lines.append(f"| {first.preset.runs[run].label} (`{run}`) | {u:.2f} | {v:.2f} | {moved} |")
    listed = ", ".join(f"{name} {100 * found.std(metric):.1f} %" for metric, name in _SHOWN.items())
    lines += ["", f"Standard deviation of one row, by {len(change)} rows: {listed}. {found.same} rows agree to 0.1 %."]
    return block(lines)


def _settings(study: Study, run: str) -> str | None:
    """Settings of a row's training and of its teacher without places; None if the stored row had others."""
    preset, row = study.preset, study.preset.runs[run]
    if row.method == "data" or study.facts["rows"].get(run) != row_digest(preset, run):
        return None
    specs = [preset.specs.teacher(row.teacher)] if row.teacher else []
    specs += [preset.specs.student(run)] if row.trained_here else []
    return json.dumps([specs, row.sampler], sort_keys=True, default=str).replace(preset.results, "")
