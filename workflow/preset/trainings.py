"""Checks the settings of trainings before the first job, since a faulty student would fail after its teacher."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from eval.results.sheet import Run
from sida.config.families import SD_VAE
from sida.config.mapping import from_mapping
from sida.errors import UserError, suggestion
from sida.methods.registry import find_method
from sida.methods.resolve import DistillConfig, resolve_recipe
from sida.training.config import TeacherConfig
from workflow.preset import Preset


def check_trainings(preset: Preset) -> None:
    """Builds the settings of all teachers and students, almost all without torch.

    Raises:
        UserError: The first fault that a training would report.
    """
    for name in preset.trained_teachers():
        where = f"{preset.source}: teachers.{name}"
        spec = preset.specs.teacher(name)
        from_mapping(TeacherConfig, spec, where)
        _check_shapes(spec["network"], spec["dataset"], f"{where}.network.kwargs")
    seen = set[tuple[Any, ...]]()
    for run in preset.students():
        # Sheets have hundreds of rows, many of which differ only in numbers.
        alike = (run.method, run.recipe, run.teacher, run.dataset, run.init is None, run.guide is None)
        if alike not in seen:
            seen.add(alike)
            _check_student(preset, run)


def _check_student(preset: Preset, run: Run) -> None:
    where = f"{preset.source}: recipes.{run.recipe}"
    spec = preset.specs.student(run.run)
    config = from_mapping(DistillConfig, spec, where)
    try:
        find_method(run.method, where).check(config)
    except ValueError as error:
        raise UserError(f"{where}.{error}") from None
    source = preset.config["recipes"][run.recipe].get("real_source", "data")
    if source != "data" and source not in preset.runs and not os.path.exists(source):
        near = suggestion(source, preset.runs)
        hint = near if len(near) < 200 else ""
        raise UserError(f"{where}.real_source: no run of {preset.sheet} and no file '{source}'{hint}")
    network = preset.config["teachers"][str(run.teacher)].get("network")
    if network:
        if config.weight_norm or config.fake_score_weight_norm or config.logvar:
            # The check needs torch, whose import takes seconds; few recipes have such settings.
            resolve_recipe(config, network, where)
        _check_shapes(network, spec["dataset"], f"{preset.sheet}: run '{run.run}': teacher '{run.teacher}'")


def _check_shapes(network: Mapping[str, Any], dataset: Mapping[str, Any], where: str) -> None:
    """Compares images and classes of a network and a data set, as a training does."""
    found = {key: dataset.get(key) for key in ("resolution", "channels", "label_dim")}
    if found["channels"] == 2 * SD_VAE.channels:
        # Archives of latents have mean and deviation of each channel, but only the data show that they are latents.
        found["channels"] = None
    if dataset.get("labels") is False:
        found["label_dim"] = 0
    for key, expected in found.items():
        option = key if key == "label_dim" else f"img_{key}"
        actual = network.get("kwargs", {}).get(option)
        if None not in (actual, expected) and actual != expected:
            raise UserError(
                f"{where}.{option}: {actual}, but data set '{dataset['name']}' has {expected}; make them equal"
            )
