"""Facts of a row: recipe, method, sampler, architecture, protocol, data set, and the rows that it starts from.

Functions of a preset and a row.
"""

from collections.abc import Iterator
from typing import Any

from eval.measuring.protocol import Protocol
from eval.results.sheet import SheetRow
from sida import networks
from sida.assets.registry import is_counted
from sida.config.datasets import dataset_entry, dataset_spec
from sida.config.families import EDM2_LATENTS, Latents
from sida.config.labels import remedy
from sida.config.samplers import SAMPLER_KINDS, read_sampler
from sida.config.settings import names_object
from sida.errors import UserError
from sida.methods.method import Method
from sida.methods.registry import find_method
from workflow.preset.once import once
from workflow.preset.preset import Preset


def place_of(preset: Preset, row: SheetRow) -> str:
    """Place of a row in errors."""
    return f"{preset.sheet}: run '{row.run}'"


# Training.


def recipe_of(preset: Preset, row: SheetRow) -> dict[str, Any]:
    """Recipe of a row as the preset or its file gives it; empty for a row without one."""
    return preset.settings.recipes.get(row.recipe or "", {})


def alike_key(row: SheetRow) -> tuple[Any, ...]:
    """Key of rows whose trainings have equal settings but for names, α and seed; sheets have hundreds of rows."""
    empty = tuple(cell is None for cell in (row.init, row.guide, row.alpha))
    return (row.method, row.recipe, row.teacher, row.dataset, empty)


def method_of(preset: Preset, row: SheetRow) -> Method:
    """Method of a row."""
    return find_method(row.method, f"{place_of(preset, row)}: method")


def options_of(preset: Preset, row: SheetRow) -> Any:
    """Options of a row's method from its recipe; None if the method has none.

    Raises:
        UserError: The recipe has other options, or wrong values.
    """
    options = recipe_of(preset, row).get("options") or {}
    return method_of(preset, row).read_options(options, f"{preset.source}: recipes.{row.recipe}.options")


def seed_of(preset: Preset, row: SheetRow) -> int:
    """Training seed of a row."""
    return preset.settings.seed if row.seed is None else row.seed


def parents_of(preset: Preset, row: SheetRow) -> list[str]:
    """Rows that a row's training needs: its initial generator."""
    return [row.init] if row.trained_here and row.init and row.init in preset.runs else []


def lineage(preset: Preset, name: str) -> Iterator[str]:
    """Yields a row and all rows that it starts from, the nearest first; a circle ends where it closes."""
    before, names = set[str](), [name]
    while names and names[0] not in before:
        yield names[0]
        before.add(names[0])
        names = parents_of(preset, preset.runs[names[0]])


# Sampling.


def sampler_of(preset: Preset, row: SheetRow) -> dict[str, Any]:
    """Settings of a row's sampler; an external row without one is a Python callable or stored images."""
    if row.sampler is not None:
        return dict(preset.settings.samplers[row.sampler])
    source = str(row.checkpoint)
    return {"kind": "python", "callable": source} if names_object(source) else {"kind": "images", "path": source}


def nfe_of(preset: Preset, row: SheetRow) -> int | None:
    """Network evaluations per image of a row; None if unknown."""
    sampler = sampler_of(preset, row)
    return (read_sampler(sampler).nfe or None if sampler["kind"] in SAMPLER_KINDS else None) or row.nfe


# Architectures.


def architecture(preset: Preset, teacher: str | None) -> dict[str, Any] | None:
    """Network ``{class, kwargs}`` of a teacher of the preset; None if the preset does not describe one."""
    entry = preset.settings.teachers.get(teacher or "")
    return entry.network if entry else None


def from_scratch(preset: Preset, row: SheetRow) -> bool:
    """Whether a row is trained here without a teacher, from a network of its recipe."""
    return row.trained_here and method_of(preset, row).start == "scratch"


def architecture_of(preset: Preset, row: SheetRow) -> dict[str, Any] | None:
    """Network ``{class, kwargs}`` of a row's recipe or teacher; None if the preset does not describe one."""
    if from_scratch(preset, row):
        return recipe_of(preset, row).get("network")
    return architecture(preset, row.teacher)


def latents_of(preset: Preset, row: SheetRow) -> Latents:
    """Latents of a row's network; EDM2's if the preset does not describe it."""
    network = architecture_of(preset, row)
    if network is None or network["class"] == "EDM2Precond":
        # The family of another network is in a module with torch, whose import takes seconds in every job.
        return EDM2_LATENTS
    return networks.family_of(network, place_of(preset, row)).latents or EDM2_LATENTS


# Protocols.


def protocol_path(preset: Preset, row: SheetRow) -> str:
    """Path of the protocol that a row is measured under."""
    return row.protocol or preset.settings.protocol


def protocol_of(preset: Preset, row: SheetRow) -> Protocol:
    """The protocol that a row is measured under."""
    return preset.protocols[protocol_path(preset, row)]


def class_counts(preset: Preset, row: SheetRow) -> dict[str, Any] | str | None:
    """Images per class for a row's class frequencies, or the asset with them; None if the row needs none.

    Raises:
        UserError: The counts are missing.
    """
    labels = protocol_of(preset, row).content().get("labels")
    if labels is None or row.without_network or not dataset_of(preset, row).get("label_dim"):
        return None
    if isinstance(labels, str) and not is_counted(labels):
        raise UserError(place_of(preset, row), f"no class counts '{labels}' for its protocol", remedy(labels))
    return labels


# Data sets.


def dataset_named(preset: Preset, name: str | None, where: str = "") -> dict[str, Any]:
    """Spec of a data set of the preset or of ``config/datasets.yaml``; by default the preset's.

    Args:
        preset: The preset.
        name: Name of the data set.
        where: File and key named in errors; by default the preset's file.

    Raises:
        UserError: The data set does not exist.
    """
    specs, name = _datasets(preset), name or preset.settings.dataset
    if name not in specs:
        specs[name] = dataset_spec(name, where or preset.source, preset.settings.datasets)
    return dict(specs[name])


@once
def _datasets(preset: Preset) -> dict[str, dict[str, Any]]:
    """Specs of data sets that were looked up so far, by name."""
    return {}


def dataset_of(preset: Preset, row: SheetRow) -> dict[str, Any]:
    """Spec of the data set that a row is trained on and compared with."""
    return dataset_named(preset, row.dataset, place_of(preset, row))


def teacher_data(preset: Preset, name: str) -> dict[str, Any]:
    """Spec of the data set of a teacher."""
    return dataset_named(preset, preset.settings.teachers[name].dataset, f"{preset.source}: teachers.{name}")


def training_data(preset: Preset, row: SheetRow) -> dict[str, Any]:
    """Spec of a training's data: only classes if the data set has counts and the method sees no images."""
    spec, protocol = dataset_of(preset, row), protocol_of(preset, row)
    name = row.dataset or preset.settings.dataset
    counts = dataset_entry(name, place_of(preset, row), preset.settings.datasets).get("counts")
    references = any(source.kind == "dataset" for source in protocol.sources.values())
    # A reference of the data set's images is measured during the training, so the archive is read in any case.
    if counts is None or references or method_of(preset, row).real_images:
        return spec
    keys = ("name", "resolution", "channels", "label_dim", "num_images")
    classes = {key: spec[key] for key in keys if key in spec}
    # Latents are stored with mean and standard deviation: two stored channels are one channel of networks.
    classes["channels"] //= 2 if protocol.decodes else 1
    return classes | {"kind": "counts", "counts": counts}


def resolution_of(preset: Preset, row: SheetRow) -> int:
    """Resolution of a row's images, by which methods choose judges: of its data set, else of its network.

    Raises:
        UserError: Neither gives it.
    """
    network, data = architecture_of(preset, row) or {}, dataset_of(preset, row)
    resolution = data.get("resolution") or network.get("kwargs", {}).get("img_resolution")
    if resolution is None:
        raise UserError(place_of(preset, row), f"data set '{data['name']}' has no resolution", "add it")
    return int(resolution)
