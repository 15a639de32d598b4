"""Checks between the parts of a preset: names in rows must exist and fit together."""

from collections.abc import Iterable

from eval.results.sheet import SheetRow
from sida import networks
from sida.config.families import NULL_LABEL, check_guidance, check_guide_images
from sida.config.lookup import load_object
from sida.config.samplers import read_sampler
from sida.config.settings import names_object
from sida.errors import SettingError, UserError, settings_in, suggestion
from sida.methods.registry import METHODS
from workflow.preset.archives import archives
from workflow.preset.preset import Preset
from workflow.preset.rows import (
    architecture,
    architecture_of,
    class_counts,
    dataset_named,
    dataset_of,
    from_scratch,
    lineage,
    method_of,
    parents_of,
    place_of,
    sampler_of,
)


def check_references(preset: Preset) -> None:
    """Checks that teachers, recipes, samplers, data sets and parents of all rows exist and fit.

    Raises:
        UserError: The first fault, with the run that has it.
    """
    dataset_named(preset, preset.settings.dataset, f"{preset.source}: dataset")
    for name, sampler in preset.settings.samplers.items():
        read_sampler(sampler, f"{preset.source}: samplers.{name}")
    for name, entry in preset.settings.datasets.items():
        check_object(entry["kind"], f"{preset.source}: datasets.{name}.kind", "function")
    for name, teacher in preset.settings.teachers.items():
        check_object(
            str((teacher.network or {}).get("class")), f"{preset.source}: teachers.{name}.network.class", "class"
        )
        if teacher.dataset:
            dataset_named(preset, teacher.dataset, f"{preset.source}: teachers.{name}.dataset")
    for row in preset.runs.values():
        _check_row(preset, row, place_of(preset, row))
    # Looking archives up checks them.
    archives(preset)


def _check_row(preset: Preset, row: SheetRow, where: str) -> None:
    # Missing counts of classes are told now and not after the training.
    if row.second:
        class_counts(preset, row)
        return
    dataset_of(preset, row)
    if row.method == "external" and not row.checkpoint:
        remedy = "give module:function, stored images, or (with a sampler) a network file"
        raise UserError(where, "column 'checkpoint' is empty", remedy)
    if row.method == "external" and row.without_network:
        return
    check_sampler(preset, row, where)
    if from_scratch(preset, row):
        if row.teacher is not None:
            raise UserError(where, f"column 'teacher': method '{row.method}' has none", "leave it empty")
    elif row.trained_here or (row.method == "teacher" and row.checkpoint is None):
        check_named(row, "teacher", preset.settings.teachers, preset.source, where)
    if row.trained_here:
        check_student(preset, row, where)
    check_guide(preset, row, where)
    class_counts(preset, row)


def check_named(row: SheetRow, column: str, names: Iterable[str], source: str, where: str) -> None:
    """Checks that a column of a row names something that the preset defines."""
    if not (name := getattr(row, column)):
        raise UserError(where, f"column '{column}' is empty", f"name one of {', '.join(names) or 'none defined'}")
    if name not in names:
        raise UserError(where, f"no {column} '{name}' in {source}{suggestion(name, names)}")


def check_object(name: str, where: str, kind: str) -> None:
    """Imports a ``module:object`` of a preset, so that a wrong name is reported before the first job."""
    if names_object(name):
        load_object(name, where, kind)


def check_sampler(preset: Preset, row: SheetRow, where: str) -> None:
    """Checks the sampler of a row."""
    check_named(row, "sampler", preset.settings.samplers, preset.source, where)
    sampler = sampler_of(preset, row)
    if (row.method == "data") != (sampler["kind"] == "data"):
        raise UserError(where, "method 'data' and a sampler of kind 'data' belong together")
    if row.trained_here and sampler.get("guidance", 1) != 1:
        raise UserError(
            where,
            f"sampler '{row.sampler}' has guidance, but a distilled row has guidance in its recipe only",
            "name another sampler",
        )


def check_guide(preset: Preset, row: SheetRow, where: str) -> None:
    """Checks that a sampler with guidance has a guiding network, and that it fits the guided one.

    The guide of a training is checked with its other settings (:mod:`workflow.preset.training_checks`).
    """
    if not row.trained_here:
        try:
            check_guidance(float(sampler_of(preset, row).get("guidance", 1)), row.guide)
        except SettingError as error:
            raise error.inside(where if error.where == "guide" else f"{where}: sampler '{row.sampler}'") from None
    network = architecture_of(preset, row)
    if row.guide == NULL_LABEL and network:
        networks.check_null_label(network, f"{where}: guide")
    if row.guide in preset.settings.teachers:
        where = f"{where}: guide '{row.guide}'"
        if row.guide == row.teacher and row.checkpoint is None:
            raise UserError("", f"{where} is the teacher of the row, so guidance has no effect", "name another network")
        guide = architecture(preset, row.guide)
        if network and guide:
            with settings_in(where):
                # Networks of one class have one kind; the others' kinds are in modules with torch.
                apart = network["class"] != guide["class"]
                latents = tuple(networks.network_latents(each) if apart else None for each in (network, guide))
                check_guide_images(network["kwargs"], guide["kwargs"], *latents)


def check_student(preset: Preset, row: SheetRow, where: str) -> None:
    """Checks that the recipe and the initial network of a distilled row exist."""
    check_named(row, "recipe", preset.settings.recipes, preset.source, where)
    if row.init is not None and row.init not in preset.runs:
        raise UserError(where, f"column 'init': no run '{row.init}' in this sheet{suggestion(row.init, preset.runs)}")
    method_of(preset, row)
    for parent in parents_of(preset, row):
        if not METHODS.knows(preset.runs[parent].method):
            raise UserError(where, f"init '{parent}' is not a one-step generator")
        if row.run in lineage(preset, parent):
            raise UserError(where, f"init goes in a circle through '{parent}'")
