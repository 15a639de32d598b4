"""Jobs that show measurements: tables, figures, claims, and the whole preset."""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from eval.figures.layout import load_figure_layout
from eval.results.conditions import Needs
from eval.results.retraining import load_retraining
from eval.results.sheet import SheetRow
from eval.tables.layout import load_table_layout
from sida.errors import UserError
from workflow.preset.jobs import Job, make_job, needs_of
from workflow.preset.measuring import measurement
from workflow.preset.networks import generator, sampler_guide
from workflow.preset.once import once
from workflow.preset.preset import Preset
from workflow.preset.rows import architecture_of
from workflow.preset.stored_rows import taken_rows
from workflow.preset.trainings import training, trainings_of


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


@once
def layout_needs(preset: Preset, kind: str, name: str, *, every: bool = False) -> Needs:
    """Needs of a table or figure (kind ``tables`` or ``figures``), of its measurable or of all rows."""
    return find_needs(kind, preset.layout(kind, name), preset.runs if every else preset.measurable)


@once
def product(preset: Preset, kind: str, name: str) -> Job:
    """A table or figure: only its own rows, so that it can be made alone."""
    path, every = preset.layout(kind, name), layout_needs(preset, kind, name, every=True)
    needs = layout_needs(preset, kind, name)
    rows = {*every.measured, *every.networks}
    spec: dict[str, Any] = {"runs": [row.cells for name, row in preset.runs.items() if name in rows]}
    if kind == "figures":
        networks = every.networks if every.sampled else []
        spec["generators"] = [measurement(preset, run).spec for run in networks]
    else:
        spec |= _table_facts(preset, path, every)
    # A table of measurements needs the file even if none of its rows can be measured.
    collected = needs.measured or (kind == "tables" and preset.settings.table_mode == "measured")
    reads = {"collected": [name] if collected else [], **_collected_rows(preset, needs.measured)}
    reads |= networks_read(preset, needs.networks)
    upstream = [measurement(preset, run) for run in dict.fromkeys([*needs.measured, *needs.networks])]
    return make_job(preset, kind, spec, reads, [*trainings_of(preset, reads), *upstream], [path])


def _table_facts(preset: Preset, path: Path, needs: Needs) -> dict[str, Any]:
    """Facts in a table's spec besides its rows: settings of trainings, or the scatter of a repeated training."""
    if not load_table_layout(path).shows_settings:
        retraining = preset.settings.retraining
        return {"retraining": dataclasses.asdict(load_retraining(retraining))} if retraining else {}
    rows = [preset.runs[run] for run in needs.networks if preset.runs[run].trained_here]
    students = {
        row.run: {"settings": training(preset, row.run).spec, "network": architecture_of(preset, row)} for row in rows
    }
    return {"gpus": preset.settings.gpus, "students": students}


def _collected_rows(preset: Preset, runs: Iterable[str]) -> dict[str, list[str]]:
    """Rows whose trials are measured here, and those that are taken from stored results."""
    rows, stored_rows = list(runs), taken_rows(preset)
    return {
        "measured": [run for run in rows if run not in stored_rows],
        "stored": [run for run in rows if run in stored_rows],
        "rows": rows,
    }


def networks_read(preset: Preset, runs: Iterable[str]) -> dict[str, list[str]]:
    """Networks and guides that rows are sampled from; training logs are beside the networks of students.

    Rows that are taken from stored results have no job.
    """
    rows = [preset.runs[run] for run in runs if run not in taken_rows(preset)]
    return needs_of(network for row in rows for network in (generator(preset, row), sampler_guide(preset, row)))


@once
def collection(preset: Preset) -> Job:
    """The file of all measurements."""
    upstream = [measurement(preset, run) for run in preset.measurable]
    return make_job(preset, "collected", {}, _collected_rows(preset, preset.measurable), upstream)


@once
def verdicts(preset: Preset) -> Job:
    """The claims: measurements of all rows, and logs beside their networks."""
    files = filter(None, [preset.settings.claims, preset.settings.retraining, preset.judged_sheet])
    needs = networks_read(preset, preset.measurable)
    return make_job(preset, "claims", {}, needs, [*trainings_of(preset, needs), collection(preset)], files)


@once
def everything(preset: Preset) -> Job:
    """The whole preset."""
    settings = preset.settings
    products = [product(preset, kind, name) for kind in ("tables", "figures") for name in getattr(settings, kind)]
    upstream = [*products, collection(preset), verdicts(preset)]
    return make_job(preset, "preset", dataclasses.asdict(settings), {}, upstream)
