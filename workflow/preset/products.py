"""Jobs that show measurements: tables, figures, claims, and the whole preset."""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sida.errors import UserError
from sida.eval.claims.claim import is_shipped
from sida.eval.figures.layout import load_figure_layout
from sida.eval.results.conditions import Needs
from sida.eval.results.extended import read_extended
from sida.eval.results.retraining import load_retraining
from sida.eval.results.sheet import SheetRow, read_runs
from sida.eval.tables.layout import load_table_layout
from sida.workflow.preset.jobs import Job, needs_of
from sida.workflow.preset.measuring import measurement
from sida.workflow.preset.preset import Preset
from sida.workflow.preset.trainings import training


def find_needs(kind: str, path: Path, runs: Mapping[str, SheetRow]) -> Needs:
    """Needs of a layout; rows that are not in the sheet are left out.

    A layout that cannot be resolved needs every row; its builder reports the fault.

    Args:
        kind: ``tables`` or ``figures``.
        path: The layout.
        runs: The sample sheet.
    """
    try:
        needs = (load_table_layout if kind == "tables" else load_figure_layout)(path).needs(runs)
    except UserError:
        return Needs(list(runs), list(runs))
    # Measured rows and networks are separate: a figure may draw measured levels beside curves of training logs.
    measured, networks = ([run for run in runs if run in names] for names in ({*needs.measured}, {*needs.networks}))
    return dataclasses.replace(needs, measured=measured, networks=networks)


def layout_needs(preset: Preset, kind: str, name: str, *, every: bool = False) -> Needs:
    """Needs of a table or figure (kind ``tables`` or ``figures``), of its measurable or of all rows."""
    return find_needs(kind, preset.layout(kind, name), preset.runs if every else preset.measurable)


def product(preset: Preset, kind: str, name: str) -> Job:
    """A table or figure: only its own rows, so that it can be made alone."""
    path, every = preset.layout(kind, name), layout_needs(preset, kind, name, every=True)
    needs = layout_needs(preset, kind, name)
    rows = {*every.measured, *every.networks}
    spec: dict[str, Any] = {"runs": [row.cells for name, row in preset.runs.items() if name in rows]}
    # With its layout the product can be made again from the results folder alone (sida verify).
    spec["layout"] = read_extended(path)
    if kind == "figures":
        networks = every.networks if every.sampled else []
        spec["generators"] = [measurement(preset, run).spec for run in networks]
    else:
        spec |= {"mode": preset.settings.table_mode, **_table_facts(preset, path, every)}
        if absent := {run: reason for run, reason in preset.absent.items() if run in rows}:
            spec["absent"] = absent
    # A table of measurements needs the file even if none of its rows can be measured.
    collected = needs.measured or (kind == "tables" and preset.settings.table_mode == "measured")
    reads = {"collected": [name] if collected else [], **_collected_rows(preset, needs.measured)}
    reads |= networks_read(preset, needs.networks)
    upstream = [("measurements", run) for run in dict.fromkeys([*needs.measured, *needs.networks])]
    return Job(kind, spec, reads, tuple(upstream))


def _table_facts(preset: Preset, path: Path, needs: Needs) -> dict[str, Any]:
    """Facts in a table's spec besides its rows: settings of trainings, or the scatter of a repeated training."""
    if not load_table_layout(path).shows_settings:
        retraining = preset.settings.retraining
        return {"retraining": dataclasses.asdict(load_retraining(retraining))} if retraining else {}
    rows = [preset.rows[run] for run in needs.networks if preset.runs[run].trained_here]
    students = {row.run: {"settings": training(preset, row.run).spec, "network": row.architecture} for row in rows}
    return {"gpus": preset.settings.gpus, "students": students}


def _collected_rows(preset: Preset, runs: Iterable[str]) -> dict[str, list[str]]:
    """Rows whose trials are measured here, and those that are taken from stored results."""
    rows = list(runs)
    return {
        "measured": [run for run in rows if run not in preset.taken],
        "stored": [run for run in rows if run in preset.taken],
        "rows": rows,
    }


def networks_read(preset: Preset, runs: Iterable[str]) -> dict[str, list[str]]:
    """Networks and guides that rows are sampled from; training logs are beside the networks of students.

    Rows that are taken from stored results have no job.
    """
    rows = [preset.rows[run] for run in runs if run not in preset.taken]
    return needs_of(network for row in rows for network in (row.network, row.sampler_guide))


def collection(preset: Preset) -> Job:
    """The file of all measurements."""
    upstream = tuple(("measurements", run) for run in preset.measurable)
    return Job("collected", {}, _collected_rows(preset, preset.measurable), upstream)


def verdicts(preset: Preset) -> Job:
    """The claims: measurements of all rows, and logs beside their networks."""
    files = filter(None, [preset.settings.claims, preset.settings.retraining])
    study = Path(claims).resolve().parent.name if (claims := preset.settings.claims) and is_shipped(claims) else None
    spec = {"study": study, "runs": [run.cells for run in read_runs(preset.judged_sheet)]}
    return Job("claims", spec, networks_read(preset, preset.measurable), (("collected", ""),), tuple(files))


def everything(preset: Preset) -> Job:
    """The whole preset."""
    settings = preset.settings
    products = [(kind, name) for kind in ("tables", "figures") for name in getattr(settings, kind)]
    upstream = (*products, ("collected", ""), ("claims", ""))
    return Job("preset", dataclasses.asdict(settings), {}, upstream)
