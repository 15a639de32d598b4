"""Checks a whole preset before its first job, so that faults do not stop the run after the trainings.

The builders of tables, figures and claims run on placeholder measurements: every row of the sheet with every metric of
its protocol. A builder then reports the faults that would stop it at the end of the run, such as a row or metric that
is never measured, or a condition that matches two rows.

Checks the settings of trainings before the first job, since a faulty student would fail after its teacher.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval.claims.evidence import Evidence
from eval.claims.write import named_rows
from eval.features import extractor_entry
from eval.figures.layout import Sources, load_figure_layout
from eval.measuring.protocol import Protocol, ReferenceSource
from eval.results.logs import Point
from eval.results.sheet import SheetRow
from eval.results.summary import Measurement, Measurements
from eval.tables.layout import TableSources, load_table_layout
from sida import networks
from sida.assets.registry import Asset, find_asset, is_address, load_registry
from sida.config.datasets import dataset_spec
from sida.config.families import EDM2_LATENTS, NULL_LABEL, Latents, check_decoder, check_images, check_latents
from sida.config.recipe import TeacherConfig
from sida.config.settings import from_mapping
from sida.errors import UserError, inside, located, settings_in, suggestion
from sida.methods.registry import DistillConfig, checked_method, resolve_recipe
from workflow.preset import Preset, load_preset
from workflow.preset.products import layout_needs
from workflow.preset.rows import (
    alike_key,
    architecture,
    architecture_of,
    dataset_of,
    protocol_of,
    protocol_path,
    recipe_of,
    sampler_of,
    seed_of,
)
from workflow.preset.trainings import teacher_training, training


def check_trainings(preset: Preset) -> None:
    """Builds the settings of all teachers and students, almost all without torch.

    Raises:
        UserError: The first fault that a training would report.
    """
    for name in preset.trained_teachers:
        where = f"{preset.source}: teachers.{name}"
        spec = teacher_training(preset, name).spec
        from_mapping(TeacherConfig, spec, where)
        _check_shapes(spec["network"], spec["dataset"], f"{where}.network.kwargs")
    seen = set[tuple[Any, ...]]()
    for run in preset.students:
        if (alike := alike_key(run)) not in seen:
            seen.add(alike)
            _check_student(preset, run)


def _check_student(preset: Preset, run: SheetRow) -> None:
    where, row = f"{preset.source}: recipes.{run.recipe}", f"{preset.sheet}: run '{run.run}':"
    spec = training(preset, run.run).spec
    try:
        config = from_mapping(DistillConfig, spec, where)
        checked_method(config, where)
    except UserError as error:
        key = error.place.removeprefix(f"{where}.")
        raise UserError(inside(row if key in _OF_A_ROW else where, key), error.fault, error.remedy) from None
    network = architecture_of(preset, run)
    if network:
        if config.weight_norm or config.fake_score_weight_norm or config.logvar:
            # The check needs torch, whose import takes seconds; few recipes have such settings.
            resolve_recipe(config, network, where)
        teacher = f"{preset.sheet}: run '{run.run}': teacher '{run.teacher}'"
        _check_shapes(network, spec["dataset"], f"{where}.network.kwargs" if run.teacher is None else teacher)


def _check_shapes(network: Mapping[str, Any], dataset: Mapping[str, Any], where: str) -> None:
    """Compares images and classes of a network and a data set, as a training does."""
    found = {key: dataset.get(key) for key in ("resolution", "channels", "label_dim")}
    latents = dataset.get("latents") is not None or found["channels"] == 2 * EDM2_LATENTS.channels
    if latents:
        # Archives of latents have mean and deviation of each channel, but only the data show that they are latents.
        found["channels"] = None
    if dataset.get("labels") is False:
        found["label_dim"] = 0
    wanted = {key if key == "label_dim" else f"img_{key}": value for key, value in found.items()}
    with settings_in(where):
        check_images(network.get("kwargs", {}), wanted, f"data set '{dataset['name']}'")
        if latents and (ours := _latents_of(network)) is not None:
            check_latents(ours, dataset.get("latents") or EDM2_LATENTS.name, f"data set '{dataset['name']}'")


def _latents_of(network: Mapping[str, Any]) -> Latents | None:
    """Latents of a network by its description."""
    return networks.family_of(network).latents_of(int(network["kwargs"].get("img_channels") or 0))


#: Settings of a training that the sheet gives; the others are of the recipe.
_OF_A_ROW = ("alpha", "guide", "init")
#: Largest number of rows that a remark names.
NAMED = 5


def check_preset(preset: Preset) -> None:
    """Checks protocols, assets, tables, figures and claims of a preset against its sample sheet.

    Only the configuration is read: no data, network or image.

    Raises:
        UserError: The first fault, with its file and key.
    """
    registry = load_registry()
    for path, run in {protocol_path(preset, run): run for run in preset.runs.values()}.items():
        _check_protocol(path, protocol_of(preset, run), registry)
    for run in preset.runs.values():
        _check_row(preset, run, protocol_of(preset, run), registry)
    check_trainings(preset)
    measurements = Measurements(list(placeholders(preset)), preset.sheet)
    for name in preset.settings.tables:
        table = load_table_layout(preset.layout("tables", name))
        table.check(TableSources(measurements, preset.runs, preset.settings.table_mode))
    for name in preset.settings.figures:
        figure = load_figure_layout(preset.layout("figures", name))
        figure.check(_Placeholders(measurements, preset.runs, Path(), preset=preset))
    for claim in preset.claims:
        claim.findings(Evidence(measurements, preset.judged), str(preset.settings.claims))


def _check_protocol(path: str, protocol: Protocol, registry: dict[str, Asset]) -> None:
    for metric in protocol.metrics:
        where = f"{path}: metric '{metric.key}'"
        for asset in _named(metric.extractor, where):
            with located(f"{where}: extractor '{metric.extractor}'"):
                find_asset(registry, asset)
        if fault := metric.fault(protocol.num_samples):
            raise UserError(where, fault)
        if metric.classifies and not extractor_entry(metric.extractor).classes:
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
    with located(f"{path}: references.{key}.asset"):
        find_asset(registry, source.asset)


def _named(extractor: str, where: str) -> tuple[str, ...]:
    try:
        return extractor_entry(extractor).assets
    except UserError as error:
        raise UserError(where, error) from None


def _check_row(preset: Preset, run: SheetRow, protocol: Protocol, registry: dict[str, Asset]) -> None:
    """Checks the files and assets of a row, and that its images fit its protocol."""
    where = f"{preset.sheet}: run '{run.run}'"
    teacher = preset.settings.teachers.get(run.teacher or "") if run.trained_here else None
    guide = preset.settings.teachers.get(run.guide or "")
    networks = {"guide": guide.checkpoint if guide else run.guide, "teacher": teacher.checkpoint if teacher else None}
    if not run.without_network:
        networks["checkpoint"] = run.checkpoint
    for column, name in networks.items():
        if name in (None, NULL_LABEL) or os.path.exists(name) or name.startswith(f"{preset.results}/"):
            continue
        if not is_address(name) and Path(name).suffix in (".safetensors", ".pkl", ".pt", ".pth"):
            raise UserError(f"{where}: {column}", f"no such file '{name}'")
        if column == "guide" and name not in registry and not is_address(name):
            near = suggestion(name, preset.settings.teachers)
            raise UserError(where, f"guide: no teacher of {preset.source} and no asset '{name}'{near}")
        with located(f"{where}: {column}"):
            find_asset(registry, name)
    if run.method == "external" and run.without_network:
        sampler = sampler_of(preset, run)
        if sampler["kind"] == "images" and not os.path.exists(sampler["path"]):
            raise UserError(
                where, f"checkpoint: no such images '{sampler['path']}', and not of the form module:function"
            )
    ours = architecture(preset, run.teacher)
    if ours and not run.without_network:
        decoder = sampler_of(preset, run).get("decoder")
        with settings_in(f"{where}: sampler '{run.sampler}'"):
            check_decoder(decoder, _latents_of(ours) if decoder else None)
    dataset = dataset_of(preset, run)
    for key in ("resolution", "channels") if not protocol.decodes else ():
        asked, found = getattr(protocol, key), dataset.get(key)
        if asked and found and asked != found:
            raise UserError(
                where,
                f"protocol '{protocol.name}' is for {key} {asked}, data set '{dataset['name']}' has {found}",
                "name another protocol or data set",
            )


def placeholders(preset: Preset) -> Iterator[Measurement]:
    """Yields a placeholder value for every metric of every measurable row."""
    known: dict[tuple[str, str], dict[str, Any]] = {}
    for run in preset.measurable.values():
        protocol = protocol_of(preset, run)
        common = {"run": run.run, "method": run.method, "n": protocol.num_samples, "nfe": run.nfe}
        common |= {"seed_first": None, "seed_last": None, "protocol": protocol.name, "device": "", "date": ""}
        common |= {"network_sha256": "", "code_version": ""}
        for metric in protocol.metrics:
            if (key := (protocol_path(preset, run), metric.key)) not in known:
                identity = protocol.identity(metric.key)
                known[key] = {name: getattr(identity, name) for name in ("settings", "classes", "resolution")}
            facts = {**common, **known[key], "metric": metric.key, "reference_sha256": ""}
            for trial in range(min(2, protocol.trials)):
                yield Measurement(**facts, trial=trial, value=1.0 + 0.01 * trial)


@dataclass(frozen=True)
class _Placeholders(Sources):
    """Placeholder data: measurements of all rows, logs of rows with evaluations."""

    preset: Preset = field(kw_only=True)

    def reason_missing(self, run: str, metric: str) -> str:
        row = self.preset.runs[run]
        if not row.trained_here:
            return "it is not trained here"
        if not recipe_of(self.preset, row).get("evaluation"):
            return f"recipe '{row.recipe}' has no key 'evaluation'"
        protocol = protocol_of(self.preset, row)
        keys = [watched.key for watched in protocol.watched]
        if metric in keys:
            return ""
        if metric in [measured.key for measured in protocol.metrics]:
            return f"'{metric}' is not measured during training (it needs stored features, or is not in 'watch')"
        return f"its protocol has no metric '{metric}'{suggestion(metric, keys)}"

    def kept(self, run: str) -> int | None:
        return None

    def points(self, run: str, metric: str) -> tuple[Point, ...]:
        if reason := self.reason_missing(run, metric):
            raise UserError(self.preset.sheet, f"run '{run}': a figure shows its curve, but {reason}")
        return (Point(1, 1.0),)


def search_remarks(preset: Preset) -> list[str]:
    """Remarks on rows that a search saw: a choice by a training and a report of it are not independent.

    Raises:
        UserError: A missing or faulty preset of the search.
    """
    if preset.settings.search is None:
        return []
    search = load_preset(preset.settings.search)
    trials = {_training_of(search, row.run): row.run for row in search.students}
    rows = [row.run for row in preset.students]
    equal = {name: trials[facts] for name in rows if (facts := _training_of(preset, name)) in trials}
    remarks = [f"run '{name}' is the search's trial '{trial}' (recipe, teacher, seed)" for name, trial in equal.items()]
    seeds = {seed_of(search, row) for row in search.students}
    shared = [name for name in rows if seed_of(preset, preset.runs[name]) in seeds and name not in equal]
    if shared:
        more = f" and {len(shared) - NAMED} more" if len(shared) > NAMED else ""
        remarks.append(f"{', '.join(shared[:NAMED])}{more}: their seeds are those of trials of {search.source}")
    return [f"{remark}; give rows that report seeds that no search saw" for remark in remarks]


def _training_of(preset: Preset, name: str) -> str:
    """All that decides a training but its name, with the same of its start, as text."""
    row, apart = preset.runs[name], ("name", "evaluation", "teacher", "init")
    facts = {key: value for key, value in training(preset, name).spec.items() if key not in apart}
    start = _training_of(preset, row.init) if row.init else None
    return json.dumps([row.teacher, facts, start], sort_keys=True)


def unshown_remark(preset: Preset) -> str | None:
    """Remark on rows that no table, figure or claim shows, and that no other row starts from; None if there are none.

    A preset without tables has none: its result is its measurements.
    """
    shown = set(preset.starts)
    for kind, layouts in preset.layouts.items():
        for needs in (layout_needs(preset, kind, name) for name in layouts):
            shown.update(needs.measured, needs.networks)
    nothing = Evidence(Measurements([]), preset.runs)
    shown.update(row for claim in preset.claims for row in named_rows(claim.findings(nothing), preset.runs))
    rows = [name for name in preset.measurable if name not in shown] if preset.settings.tables else []
    if not rows:
        return None
    more = f" and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
    return (
        f"{', '.join(rows[:NAMED])}{more}: measured, but no table, figure or claim of {preset.source} shows "
        f"{'it' if len(rows) == 1 else 'them'}; add a line to a table's rows, e.g. - {{run: {rows[0]}}} (docs/add.md)"
    )
