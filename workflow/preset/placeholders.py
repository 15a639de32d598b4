"""Runs the builders of tables, figures and claims on placeholder measurements, before the first job.

Every row of the sheet has every metric of its protocol. A builder then reports the faults that would stop it at the end
of the run, such as a row or metric that is never measured, or a condition that matches two rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sida.errors import UserError, suggestion
from sida.eval.claims.evidence import Evidence
from sida.eval.figures.layout import Sources, load_figure_layout
from sida.eval.results.logs import Point
from sida.eval.results.summary import Measurement, Measurements
from sida.eval.tables.layout import TableSources, load_table_layout
from sida.workflow.preset.preset import Preset


def check_products(preset: Preset) -> None:
    """Checks tables, figures and claims of a preset against its sample sheet.

    Raises:
        UserError: The first fault that a builder would report.
    """
    measurements = Measurements(list(placeholders(preset)), preset.sheet)
    for name in preset.settings.tables:
        table = load_table_layout(preset.layout("tables", name))
        table.check(TableSources(measurements, preset.runs, preset.settings.table_mode))
    for name in preset.settings.figures:
        figure = load_figure_layout(preset.layout("figures", name))
        figure.check(_Placeholders(measurements, preset.runs, Path(), preset=preset))
    for claim in preset.claims:
        claim.findings(Evidence(measurements, preset.judged), str(preset.settings.claims))


def placeholders(preset: Preset) -> Iterator[Measurement]:
    """Yields a placeholder value for every metric of every measurable row."""
    identities: dict[tuple[str, str], dict[str, Any]] = {}
    for row in (preset.rows[run] for run in preset.measurable):
        protocol = row.protocol
        common = {"run": row.run, "method": row.cells.method, "n": protocol.num_samples, "nfe": row.cells.nfe}
        common |= {"seed_first": None, "seed_last": None, "protocol": protocol.name, "device": "", "date": ""}
        common |= {"network_sha256": "", "code_version": ""}
        for metric in protocol.metrics:
            if (key := (row.protocol_path, metric.key)) not in identities:
                identity = protocol.identity(metric.key)
                identities[key] = {name: getattr(identity, name) for name in ("settings", "classes", "resolution")}
            facts = {**common, **identities[key], "metric": metric.key, "reference_sha256": ""}
            for trial in range(min(2, protocol.trials)):
                yield Measurement(**facts, trial=trial, value=1.0 + 0.01 * trial)


@dataclass(frozen=True)
class _Placeholders(Sources):
    """Placeholder data: measurements of all rows, logs of rows with evaluations."""

    preset: Preset = field(kw_only=True)

    def reason_missing(self, run: str, metric: str) -> str:
        row = self.preset.rows[run]
        if not row.cells.trained_here:
            return "it is not trained here"
        if not row.recipe.get("evaluation"):
            return f"recipe '{row.cells.recipe}' has no key 'evaluation'"
        protocol = row.protocol
        keys = [watched.key for watched in protocol.watched]
        if metric in keys:
            return ""
        if metric in [protocol_metric.key for protocol_metric in protocol.metrics]:
            return f"'{metric}' is not measured during training (it needs stored features, or is not in 'watch')"
        return f"its protocol has no metric '{metric}'{suggestion(metric, keys)}"

    def kept_at(self, run: str) -> int | None:
        return None

    def points(self, run: str, metric: str) -> tuple[Point, ...]:
        if reason := self.reason_missing(run, metric):
            raise UserError(self.preset.sheet, f"run '{run}': a figure shows its curve, but {reason}")
        return (Point(1, 1.0),)
