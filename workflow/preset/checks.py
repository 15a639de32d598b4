"""Checks between the parts of a preset: names in rows must exist and fit together."""

from collections.abc import Iterable

from eval.results.sheet import SheetRow
from sida import networks
from sida.config.families import NULL_LABEL, check_guidance, check_guide_images
from sida.config.lookup import load_object
from sida.config.samplers import read_sampler
from sida.config.settings import names_object
from sida.errors import SettingError, UserError, settings_in, suggestion
from sida.methods.registry import METHODS, find_method
from workflow.preset.archives import archives
from workflow.preset.preset import Preset
from workflow.preset.rows import (
    architecture,
    class_counts,
    dataset_named,
    from_scratch,
    lineage,
    parents_of,
    sampler_of,
)


def check_references(preset: Preset) -> None:
    """Checks that teachers, recipes, samplers, data sets and parents of all rows exist and fit.

    Raises:
        UserError: The first fault, with the run that has it.
    """
    teachers, samplers = preset.settings.teachers, preset.settings.samplers
    dataset_named(preset, preset.settings.dataset, f"{preset.source}: dataset")
    for name, sampler in samplers.items():
        read_sampler(sampler, f"{preset.source}: samplers.{name}")
    for name, entry in preset.settings.datasets.items():
        check_object(entry["kind"], f"{preset.source}: datasets.{name}.kind", "function")
    for name, teacher in teachers.items():
        check_object(
            str((teacher.network or {}).get("class")), f"{preset.source}: teachers.{name}.network.class", "class"
        )
        if teacher.dataset:
            dataset_named(preset, teacher.dataset, f"{preset.source}: teachers.{name}.dataset")
    for run in preset.runs.values():
        where = f"{preset.sheet}: run '{run.run}'"
        if run.second:
            class_counts(preset, run)
            continue
        if run.dataset:
            dataset_named(preset, run.dataset, where)
        if run.method == "external" and not run.checkpoint:
            wanted = "module:function, stored images, or (with a sampler) a network file"
            raise UserError(where, "column 'checkpoint' is empty", f"give {wanted}")
        if run.method == "external" and run.without_network:
            continue
        check_sampler(preset, run, where)
        if from_scratch(preset, run):
            if run.teacher is not None:
                raise UserError(where, f"column 'teacher': method '{run.method}' has none", "leave it empty")
        elif run.trained_here or (run.method == "teacher" and run.checkpoint is None):
            check_named(run, "teacher", teachers, preset.source, where)
        if run.trained_here:
            check_student(preset, run, where)
        check_guide(preset, run, where)
        # Checked now and not after the training.
        class_counts(preset, run)
    # Looking archives up checks them.
    archives(preset)


def check_named(run: SheetRow, column: str, known: Iterable[str], source: str, where: str) -> None:
    """Checks that a column of a row names something that the preset defines."""
    if not (name := getattr(run, column)):
        raise UserError(where, f"column '{column}' is empty", f"name one of {', '.join(known) or 'none defined'}")
    if name not in known:
        raise UserError(where, f"no {column} '{name}' in {source}{suggestion(name, known)}")


def check_object(name: str, where: str, kind: str) -> None:
    """Imports a ``module:object`` of a preset, so that a wrong name is reported before the first job."""
    if names_object(name):
        load_object(name, where, kind)


def check_sampler(preset: Preset, run: SheetRow, where: str) -> None:
    """Checks the sampler of a row."""
    check_named(run, "sampler", preset.settings.samplers, preset.source, where)
    sampler = sampler_of(preset, run)
    if (run.method == "data") != (sampler["kind"] == "data"):
        raise UserError(where, "method 'data' and a sampler of kind 'data' belong together")
    if run.trained_here and sampler.get("guidance", 1) != 1:
        raise UserError(
            where,
            f"sampler '{run.sampler}' has guidance, but a distilled row has guidance in its recipe only",
            "name another sampler",
        )


def check_guide(preset: Preset, run: SheetRow, where: str) -> None:
    """Checks that a sampler with guidance has a guiding network, and that it fits the guided one.

    The guide of a training is checked with its other settings (:mod:`workflow.preset.placeholders`).
    """
    if not run.trained_here:
        try:
            check_guidance(float(sampler_of(preset, run).get("guidance", 1)), run.guide)
        except SettingError as error:
            raise error.inside(where if error.place == "guide" else f"{where}: sampler '{run.sampler}'") from None
    ours = architecture(preset, run.teacher)
    if run.guide == NULL_LABEL and ours:
        networks.check_null_label(ours, f"{where}: guide")
    if run.guide in preset.settings.teachers:
        where = f"{where}: guide '{run.guide}'"
        if run.guide == run.teacher and run.checkpoint is None:
            raise UserError("", f"{where} is the teacher of the row, so guidance has no effect", "name another network")
        guide = architecture(preset, run.guide)
        if ours and guide:
            with settings_in(where):
                check_guide_images(ours["kwargs"], guide["kwargs"])


def check_student(preset: Preset, run: SheetRow, where: str) -> None:
    """Checks that the recipe and the initial network of a distilled row exist."""
    check_named(run, "recipe", preset.settings.recipes, preset.source, where)
    if run.init is not None and run.init not in preset.runs:
        raise UserError(where, f"column 'init': no run '{run.init}' in this sheet{suggestion(run.init, preset.runs)}")
    find_method(run.method, f"{where}: method")
    for parent in parents_of(preset, run):
        if not METHODS.knows(preset.runs[parent].method):
            raise UserError(where, f"init '{parent}' is not a one-step generator")
        if run.run in lineage(preset, parent):
            raise UserError(where, f"init goes in a circle through '{parent}'")
