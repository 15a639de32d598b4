"""Data of figures: measurements, rows of the sheet, published numbers, training logs, analyses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval.results.analyses import analysis_path, read_analysis
from eval.results.published import Published
from eval.results.sheet import SheetRow
from eval.results.summary import Measurements
from eval.results.training_logs import (
    Point,
    has_metric,
    has_quantity,
    kept_images,
    read_author_log,
    read_evaluations,
    read_ticks,
)
from sida.errors import UserError


@dataclass(frozen=True)
class Sources:
    """Data of a figure.

    Attributes:
        measurements: All measurements.
        runs: Sample sheet by run id.
        published: Published numbers by id.
        results: Results of the preset, with ``students/<run>/`` and ``analyses/``.
        logs: Official metric logs by run id; they take precedence over the logs in ``results``.
        settings: Settings by row from the figure's spec: seed, settings by their names in layouts
            (``recipe.lambda_d``), and the first teacher that differs from the row's teacher in the seed only.
        generators: Specs of ``sida measure`` of the generators to sample; None without a spec.
    """

    measurements: Measurements
    runs: Mapping[str, SheetRow]
    published: Mapping[str, Published]
    results: Path
    logs: Mapping[str, Path] = field(default_factory=dict)
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, kw_only=True)
    generators: Any = field(default=None, kw_only=True)

    def reason_missing(self, run: str, metric: str, log: str | None = None) -> str:
        """Reason why a run's curve cannot be drawn; empty if it can be drawn.

        Args:
            run: Row of the sheet.
            metric: Key of the metric.
            log: Quantity of ``train.jsonl`` instead of the metric.
        """
        if log is None and run in self.logs:
            return ""
        return self.end_missing(run, metric) if log is None else _reason(self._train_log(run), log, has_quantity)

    def end_missing(self, run: str, metric: str) -> str:
        """Reason why :meth:`end` is unknown; empty if it is known."""
        return _reason(self._evaluations(run), metric, has_metric)

    def points(self, run: str, metric: str, log: str | None = None, log_metric: str | None = None) -> tuple[Point, ...]:
        """Evaluations of a run with a finite value, or a quantity that its training logged.

        Args:
            run: Row of the sheet.
            metric: Key of the metric.
            log: Quantity of ``train.jsonl`` instead of the metric.
            log_metric: Name of the metric in official logs.

        Raises:
            UserError: No log, or a log without the metric or quantity, or without a number for it.
        """
        if log is not None:
            return read_ticks(self._train_log(run), log)
        if run in self.logs:
            return read_author_log(self.logs[run], log_metric)
        path = self._evaluations(run)
        found = tuple(p for p in read_evaluations(path, metric, finite=False) if math.isfinite(p.value))
        if not found:
            raise UserError(path, f"no evaluation gave a number for {metric}", "leave the run out of the layout")
        return found

    def end(self, run: str, metric: str) -> float:
        """Value of the last evaluation during training; infinite after divergence.

        Raises:
            UserError: No log, or a log without the metric.
        """
        return read_evaluations(self._evaluations(run), metric, finite=False)[-1].value

    def kept(self, run: str) -> int | None:
        """Images seen by the network that the training kept; None if unknown."""
        return None if run in self.logs else kept_images(self._evaluations(run))

    def rate(self, run: str) -> float:
        """Images per second of a training by its log, evaluations apart.

        Raises:
            UserError: No training log, or one without seconds.
        """
        ticks = read_ticks(self._train_log(run), "seconds")
        return ticks[-1].nimg / sum(tick.value for tick in ticks)

    def analyses(self, name: str, rows: Sequence[str], where: str) -> dict[str, dict[str, Any]]:
        """Records of an analysis by row, as far as they were computed; of one without rows under the empty name.

        Args:
            name: Name in the preset.
            rows: Rows of the sheet; empty for an analysis without rows.
            where: Place in the layout that names them, for messages.

        Raises:
            UserError: A faulty file, or no file of an analysis without rows.
        """
        paths = {run: analysis_path(self.results, name, run) for run in rows or [""]}
        return {run: read_analysis(path) for run, path in paths.items() if not run or path.is_file()}

    def _evaluations(self, run: str) -> Path:
        return self.results / "students" / run / "evaluations.jsonl"

    def _train_log(self, run: str) -> Path:
        return self.results / "students" / run / "train.jsonl"


def _reason(log: Path, name: str, has: Any) -> str:
    if not log.is_file():
        return f"no {log}"
    return "" if has(log, name) else f"no {name} in {log}"
