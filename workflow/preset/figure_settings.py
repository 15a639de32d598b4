"""Settings of rows for the axes of figures of points, with seeds, and teachers that differ only in their seed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from eval.figures.kind import FigureKind
from eval.figures.points_layout import NUMBER_COLUMNS, TEACHER
from eval.results.sheet import Run
from sida.config.mapping import from_mapping
from sida.config.samplers import read_sampler
from sida.errors import UserError
from sida.methods.resolve import DistillConfig, resolve_recipe
from sida.training.config import TeacherTraining
from workflow.preset.rows import Rows

#: Function from the name of a student to its spec.
StudentSpec = Callable[[str], dict[str, Any]]


def figure_settings(preset: Rows, layout: FigureKind, specs: StudentSpec) -> dict[str, dict[str, Any]]:
    """Settings that a figure shows, by measurable row.

    Each row has its ``seed``, ``teacher`` (the first teacher that differs from its own in the seed only), and the
    settings that the layout names.

    Raises:
        UserError: A row does not have a setting of the figure's axes.
    """
    wanted = layout.needs(preset.runs).settings or {}
    there = {name: set(keys) for name, keys in wanted.items() if name in preset.measurable}
    return {name: _of(preset, preset.runs[name], keys, layout.source, specs) for name, keys in there.items()}


def _of(preset: Rows, run: Run, keys: set[str], source: str, specs: StudentSpec) -> dict[str, Any]:
    found: dict[str, Any] = {"seed": preset.seed_of(run)}
    if run.teacher is not None:
        found[TEACHER] = _first_alike(preset, run.teacher)
    for key in sorted(keys - {*NUMBER_COLUMNS, TEACHER}):
        group, _, name = key.partition(".")
        found[key] = _SETTINGS[group](preset, run, name, f"{source}: by: {key}: run '{run.run}'", specs)
    return found


def _first_alike(preset: Rows, teacher: str) -> str:
    teachers = preset.config["teachers"]
    without_seed = {name: {key: value for key, value in t.items() if key != "seed"} for name, t in teachers.items()}
    return next((name for name, other in without_seed.items() if other == without_seed.get(teacher)), teacher)


def _of_recipe(preset: Rows, run: Run, name: str, where: str, specs: StudentSpec) -> Any:
    if not run.trained_here:
        raise UserError(f"{where} is not distilled here and has no recipe; give its series a 'by' of its own")
    value = preset.config["recipes"][run.recipe].get(name)
    if value is not None:
        return value
    config = from_mapping(DistillConfig, specs(run.run), where)
    network = preset.config["teachers"][str(run.teacher)].get("network")
    # Defaults of a recipe may depend on the teacher's network, which is unknown before a teacher is downloaded.
    return getattr(resolve_recipe(config, network, where) if network else config, name)


def _of_sampler(preset: Rows, run: Run, name: str, where: str, specs: StudentSpec) -> Any:
    if run.sampler is None:
        raise UserError(f"{where} has no sampler; change the conditions")
    sampler = read_sampler(preset.sampler_of(run))
    return sampler.steps if name == "num_steps" else getattr(sampler, name)


def _of_teacher(preset: Rows, run: Run, name: str, where: str, specs: StudentSpec) -> Any:
    training = preset.config["teachers"].get(run.teacher, {}).get("training")
    if training is None:
        raise UserError(f"{where} has no teacher that is trained here; change the conditions")
    defaults = {field.name: field.default for field in dataclasses.fields(TeacherTraining)}
    return training.get(name, defaults[name])


_SETTINGS = {"recipe": _of_recipe, "sampler": _of_sampler, "teacher": _of_teacher}
