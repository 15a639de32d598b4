"""Checks a whole preset before its first job, and remarks on it: protocols, files, trainings, products.

A faulty student would otherwise fail after its teacher, and a layout after all measurements.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sida import networks
from sida.assets.registry import Asset, find_asset, is_address, load_registry
from sida.config.datasets import dataset_spec
from sida.config.families import EDM2_LATENTS, NULL_LABEL, check_decoder, check_images, check_latents
from sida.config.recipe import TeacherConfig
from sida.config.settings import from_mapping
from sida.errors import UserError, errors_at, inside, settings_in, suggestion
from sida.eval.claims.evidence import Evidence
from sida.eval.claims.write import named_rows
from sida.eval.features import extractor_entry
from sida.eval.figures.layout import load_figure_layout
from sida.eval.measuring.protocol import Protocol, ReferenceSource
from sida.eval.results.conditions import Planned
from sida.eval.results.identity import Identity
from sida.eval.results.measurements import Measurements
from sida.eval.tables.layout import load_table_layout
from sida.methods.registry import DistillConfig, checked_method, resolve_settings
from sida.workflow.preset.jobs import layout_needs, teacher_training, training
from sida.workflow.preset.networks import NETWORK_FILES
from sida.workflow.preset.preset import Preset
from sida.workflow.preset.reading import load_preset
from sida.workflow.preset.rows import Row


def check_preset(preset: Preset) -> None:
    """Checks protocols, assets, tables, figures and claims of a preset against its sample sheet.

    Only the configuration is read: no data, network or image.

    Raises:
        UserError: The first fault, with its file and key.
    """
    registry, named = load_registry(), {*preset.runs, *(cells.method for cells in preset.runs.values())}
    if unknown := next((name for name in preset.settings.without if name not in named), None):
        fault = f"'{unknown}' is no row and no method of {preset.sheet}{suggestion(unknown, named)}"
        raise UserError(f"{preset.source}: without", fault)
    for path, protocol in {row.protocol_path: row.protocol for row in preset.rows.values()}.items():
        check_count(protocol, protocol.num_samples, f"{path}:")
        _check_protocol(path, protocol, registry)
    for row in preset.rows.values():
        _check_files(preset, row, registry)
        _check_images(row)
    check_trainings(preset)
    check_products(preset)


def _check_protocol(path: str, protocol: Protocol, registry: dict[str, Asset]) -> None:
    for metric in protocol.metrics:
        where = f"{path}: metric '{metric.key}'"
        for asset in _assets(metric.extractor, where):
            with errors_at(f"{where}: extractor '{metric.extractor}'"):
                find_asset(registry, asset)
        if metric.classifies and extractor_entry(metric.extractor).classes == 0:
            raise UserError(
                where, f"extractor '{metric.extractor}' has no classes for kind '{metric.kind}'", "name another"
            )
        for key in metric.references:
            _check_reference(path, key, protocol.sources[key], where, registry)


def _check_reference(path: str, key: str, source: ReferenceSource, where: str, registry: dict[str, Asset]) -> None:
    if source.kind == "dataset":
        if source.fixed and source.spec is None:
            dataset_spec(str(source.dataset), f"{path}: references.{key}")
        return
    if source.asset is None:
        raise UserError(
            where,
            f"its reference '{key}' is a file that only `sida score --reference` can be given",
            "name an asset, or take the metric out of the preset's protocol",
        )
    with errors_at(f"{path}: references.{key}.asset"):
        find_asset(registry, source.asset)


def _assets(extractor: str, where: str) -> tuple[str, ...]:
    """Downloads of a feature network."""
    try:
        return extractor_entry(extractor).assets
    except UserError as error:
        raise UserError(where, error) from None


def _check_files(preset: Preset, row: Row, registry: dict[str, Asset]) -> None:
    """Checks that the networks and images that a row names exist."""
    where, cells, teachers = row.where, row.cells, preset.settings.teachers
    teacher = teachers.get(cells.teacher or "") if cells.trained_here else None
    guide = teachers.get(cells.guide or "")
    files = {"guide": guide.checkpoint if guide else cells.guide, "teacher": teacher.checkpoint if teacher else None}
    if not cells.without_network:
        files["checkpoint"] = cells.checkpoint
    for column, name in files.items():
        # A network of this preset's own results is made before it is read.
        if name in (None, NULL_LABEL) or os.path.exists(name) or name.startswith(f"{preset.results}/"):
            continue
        if not is_address(name) and Path(name).suffix in NETWORK_FILES:
            raise UserError(f"{where}: {column}", f"no such file '{name}'")
        if column == "guide" and name not in registry and not is_address(name):
            near = suggestion(name, teachers)
            raise UserError(where, f"guide: no teacher of {preset.source} and no asset '{name}'{near}")
        with errors_at(f"{where}: {column}"):
            find_asset(registry, name)
    if row.sampler["kind"] == "images" and not os.path.exists(row.sampler["path"]):
        fault = f"checkpoint: no such images '{row.sampler['path']}', and not of the form module:function"
        raise UserError(where, fault)


def _check_images(row: Row) -> None:
    """Checks that a row's decoder fits its network, and that its images fit its protocol."""
    protocol, network = row.protocol, row.architecture
    if network and not row.cells.without_network:
        decoder = row.sampler.get("decoder")
        with settings_in(f"{row.where}: sampler '{row.cells.sampler}'"):
            check_decoder(decoder, networks.network_latents(network) if decoder else None)
    for key in ("resolution", "channels") if not protocol.decodes else ():
        expected, actual = getattr(protocol, key), row.data.get(key)
        if expected and actual and expected != actual:
            raise UserError(
                row.where,
                f"protocol '{protocol.name}' is for {key} {expected}, data set '{row.data['name']}' has {actual}",
                "name another protocol or data set",
            )


#: Settings of a training that the sheet gives; the others are of the recipe.
_OF_A_ROW = ("alpha", "guide", "init")


def check_trainings(preset: Preset) -> None:
    """Builds the settings of all teachers and students, those of registered networks without torch.

    Raises:
        UserError: The first fault that a training would report.
    """
    for name in preset.trained_teachers:
        where = preset.teachers[name].where
        spec = teacher_training(preset, name).spec
        from_mapping(TeacherConfig, spec, where)
        _check_shapes(spec["network"], spec["dataset"], f"{where}.network.kwargs")
    checked = set[tuple[Any, ...]]()
    for row in (preset.rows[student.run] for student in preset.students):
        if count := (row.recipe.get("evaluation") or {}).get("num_samples"):
            check_count(row.protocol.watched_part, count, f"{preset.source}: recipes.{row.cells.recipe}.evaluation")
        if row.alike not in checked:
            checked.add(row.alike)
            _check_student(preset, row)


def check_count(protocol: Protocol, count: int, where: str) -> None:
    """Refuses a number of images, ``num_samples`` at a place, that is too small for a metric of a protocol."""
    for metric in protocol.metrics:
        if fault := metric.fault(count):
            remedy = f"raise it, or lower '{fault.partition(':')[0]}' of the metric"
            raise UserError(inside(where, "num_samples"), f"{count} are too few for '{metric.key}' ({fault})", remedy)


def _check_student(preset: Preset, row: Row) -> None:
    where = f"{preset.source}: recipes.{row.cells.recipe}"
    spec = training(preset, row.run).spec
    try:
        config = from_mapping(DistillConfig, spec, where)
        checked_method(config, where)
    except UserError as error:
        key = error.where.removeprefix(f"{where}.")
        faulty = f"{row.where}:" if key in _OF_A_ROW else where
        raise UserError(inside(faulty, key), error.fault, error.remedy) from None
    network = row.architecture
    if network:
        resolve_settings(config, network, where)
        source = f"{where}.network.kwargs" if row.teacher is None else f"{row.where}: teacher '{row.teacher.name}'"
        _check_shapes(network, spec["dataset"], source)


def _check_shapes(network: Mapping[str, Any], dataset: Mapping[str, Any], where: str) -> None:
    """Compares images and classes of a network and a data set, as a training does."""
    images = {f"img_{key}": dataset.get(key) for key in ("resolution", "channels")}
    latents = dataset.get("latents") is not None or images["img_channels"] == 2 * EDM2_LATENTS.channels
    if latents:
        # Archives of latents have mean and deviation of each channel, but only the data show that they are latents.
        images["img_channels"] = None
    images["label_dim"] = 0 if dataset.get("labels") is False else dataset.get("label_dim")
    with settings_in(where):
        check_images(network.get("kwargs", {}), images, f"data set '{dataset['name']}'")
        if latents and (own := networks.network_latents(network)) is not None:
            check_latents(own, dataset.get("latents") or EDM2_LATENTS.name, f"data set '{dataset['name']}'")


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


#: Largest number of rows that a remark names.
NAMED = 5


def search_remarks(preset: Preset) -> list[str]:
    """Remarks on rows that chose a recipe in a search: their report is not independent of the choice.

    Raises:
        UserError: A missing or faulty preset of a search.
    """
    return [remark for path in preset.settings.search for remark in _remarks_of(load_preset(path), preset)]


def _remarks_of(search: Preset, preset: Preset) -> list[str]:
    trials = {_training_of(search, row.run): row.run for row in search.students}
    rows = [row.run for row in preset.students]
    equal = {name: trials[facts] for name in rows if (facts := _training_of(preset, name)) in trials}
    same = f"of {search.source} (recipe, teacher, seed)"
    remarks = [f"run '{name}' is trial '{trial}' {same}" for name, trial in equal.items()]
    seeds = {search.rows[row.run].seed for row in search.students}
    overlapping = [name for name in rows if preset.rows[name].seed in seeds and name not in equal]
    if overlapping:
        others = f" and {len(overlapping) - NAMED} more" if len(overlapping) > NAMED else ""
        remarks.append(
            f"{', '.join(overlapping[:NAMED])}{others}: their seeds are also seeds of trials of {search.source}"
        )
    return [f"{remark}; give rows that report seeds that no search used" for remark in remarks]


def _training_of(preset: Preset, name: str) -> str:
    """Everything that decides a training but its name, and the same of its start, as text."""
    # Paths of networks have the preset's name in them, so that equal trainings differ there.
    row, excluded = preset.rows[name], ("name", "evaluation", "teacher", "init")
    facts = {key: value for key, value in training(preset, name).spec.items() if key not in excluded}
    start = _training_of(preset, row.start.run) if row.start else None
    return json.dumps([row.cells.teacher, facts, start], sort_keys=True)


def unshown_remark(preset: Preset) -> str | None:
    """Remark on rows that no table, figure or claim shows, and that no other row starts from; None if there are none.

    A preset without tables has none: its result is its measurements.
    """
    row_names = set(preset.starts)
    for kind, layouts in preset.layouts.items():
        for needs in (layout_needs(preset, kind, name) for name in layouts):
            row_names.update(needs.measured, needs.networks)
    evidence = unmeasured(preset)
    row_names.update(row for claim in preset.claims for row in named_rows(claim.findings(evidence), preset.runs))
    rows = [name for name in preset.measurable if name not in row_names] if preset.settings.tables else []
    if not rows:
        return None
    others = f" and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
    return (
        f"{', '.join(rows[:NAMED])}{others}: measured, but no table, figure or claim of {preset.source} shows "
        f"{'it' if len(rows) == 1 else 'them'}; add a line to a table's rows, e.g. - {{run: {rows[0]}}} (docs/add.md)"
    )
