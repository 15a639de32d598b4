"""Checks of the settings of trainings before the first job, since a faulty student would fail after its teacher."""

from collections.abc import Mapping
from typing import Any

from sida import networks
from sida.config.families import EDM2_LATENTS, check_images, check_latents
from sida.config.recipe import TeacherConfig
from sida.config.settings import from_mapping
from sida.errors import UserError, inside, settings_in
from sida.eval.measuring.protocol import Protocol
from sida.methods.registry import DistillConfig, checked_method, resolve_settings
from sida.workflow.preset.preset import Preset
from sida.workflow.preset.rows import Row
from sida.workflow.preset.trainings import teacher_training, training

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
