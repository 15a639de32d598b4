"""Checks tables, figures and claims against a sample sheet before the first job: rows, columns and metrics."""

from collections.abc import Mapping

from sida.errors import suggestion
from sida.eval.claims.evidence import Evidence
from sida.eval.figures.layout import load_figure_layout
from sida.eval.results.conditions import Planned
from sida.eval.results.identity import Identity
from sida.eval.results.summary import Measurements
from sida.eval.tables.layout import load_table_layout
from sida.workflow.preset.preset import Preset


def check_products(preset: Preset) -> None:
    """Checks tables, figures and claims of a preset against its sample sheet.

    Raises:
        UserError: The first fault, such as a row or metric that is never measured, or a condition that matches two rows
            where one counts.
    """
    planned = Planned(preset.sheet, preset.runs, _identities(preset), lambda *curve: _curve_fault(preset, *curve))
    for name in preset.settings.tables:
        load_table_layout(preset.layout("tables", name)).check(planned, preset.settings.table_mode)
    for name in preset.settings.figures:
        load_figure_layout(preset.layout("figures", name)).check(planned)
    for claim in preset.claims:
        claim.findings(unmeasured(preset), str(preset.settings.claims))


def unmeasured(preset: Preset) -> Evidence:
    """Evidence before any measurement: claims find their rows and published numbers, and nothing is decided."""
    return Evidence(Measurements([]), preset.judged, planned=preset.measurable)


def _identities(preset: Preset) -> Mapping[str, Mapping[str, Identity]]:
    """Identity of each metric of each row that can be measured, without digests of references and networks.

    Rows that were left out on purpose, or since no server has their file, count: no layout is wrong for that.
    """
    identities: dict[str, dict[str, Identity]] = {}
    rows = [run for run in preset.rows if run in {*preset.measurable, *preset.unwanted, *preset.absent}]
    for run in rows:
        row = preset.rows[run]
        if row.protocol_path not in identities:
            protocol = row.protocol
            identities[row.protocol_path] = {one.key: protocol.identity(one.key) for one in protocol.metrics}
    return {run: identities[preset.rows[run].protocol_path] for run in rows}


def _curve_fault(preset: Preset, run: str, metric: str) -> str:
    """Reason why a row will have no curve of a metric; empty if it will have one."""
    row = preset.rows[run]
    if not row.cells.trained_here:
        return "it is not trained here"
    if not row.recipe.get("evaluation"):
        return f"recipe '{row.cells.recipe}' has no key 'evaluation'"
    keys = [watched.key for watched in row.protocol.watched]
    if metric in keys:
        return ""
    if metric in [one.key for one in row.protocol.metrics]:
        return f"'{metric}' is not measured during training (it needs stored features, or is not in 'watch')"
    return f"its protocol has no metric '{metric}'{suggestion(metric, keys)}"
