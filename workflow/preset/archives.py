"""Archives of data sets: those that the workflow makes for the rows of a preset, and the user's own."""

import itertools
import os
from collections.abc import Mapping
from typing import Any

from sida.assets.registry import load_registry
from sida.config.datasets import DATASET_KINDS, dataset_entry
from sida.config.families import EDM2_LATENTS, LATENTS, Latents
from sida.config.settings import from_mapping
from sida.errors import UserError, suggestion
from workflow.preset.once import once
from workflow.preset.preset import Preset
from workflow.preset.rows import dataset_named, protocol_of
from workflow.preset.settings import MadeFrom


@once
def archives(preset: Preset) -> dict[str, str]:
    """Archives that the workflow can make for rows, teachers, protocols and their sources: path to data set.

    Raises:
        UserError: A data set is made of itself, has no path, or its source is missing.
    """
    naming = _data_sets(preset)
    paths: dict[str, str] = {}
    # The list grows: the source of an archive may be an archive, which is made first.
    waiting: list[tuple[str, tuple[str, ...]]] = [(name, ()) for name in naming]
    for name, children in waiting:
        if not (source := archive_source(preset, name, naming.get(name, ""))):
            continue
        where = f"{preset.source}: datasets.{name}.made_from"
        if name in children:
            circle = " of ".join([*children[children.index(name) :], name])
            raise UserError(where, f"a data set cannot be made of itself ({circle})", "name another, or a source")
        path = _archive_path(preset, name, where)
        if not os.path.exists(path) and (os.path.isabs(path) or os.path.normpath(path).startswith("..")):
            remedy = "give a path there, or make it with `sida data prepare`"
            fault = f"'{path}': the workflow makes archives below the current folder alone"
            raise UserError(f"{preset.source}: datasets.{name}.path", fault, remedy)
        paths.setdefault(path, name)
        if source.dataset:
            _archive_path(preset, source.dataset, f"{where}.dataset")
            waiting.append((source.dataset, (*children, name)))
        elif not os.path.exists(path):
            for file in (source.here, *source.beside):
                _check_source(str(file), f"{where}.source")
    return paths


def _data_sets(preset: Preset) -> dict[str, str]:
    """Data sets of rows, teachers and protocols, sorted, each with the place in a protocol that names it, or empty."""
    settings, rows = preset.settings, preset.runs.values()
    fixed = itertools.chain(*(protocol_of(preset, row).fixed_datasets().items() for row in rows))
    naming = {name: where for where, name in fixed}
    names = {*naming, settings.dataset, *(row.dataset for row in rows)}
    names |= {teacher.dataset for teacher in settings.teachers.values()}
    return {name: naming.get(name, "") for name in sorted(filter(None, names))}


@once
def own_archives(preset: Preset) -> frozenset[str]:
    """Archives and folders of the user: existing data of rows, teachers and protocols that the workflow does not make.

    Of a kind from outside the package files alone count: its folder may be anything, also one that holds the results.
    """
    specs = [dataset_named(preset, name, where) for name, where in _data_sets(preset).items()]
    paths = {spec["path"]: spec["kind"] in DATASET_KINDS for spec in specs if spec.get("path")}
    made = archives(preset)
    return frozenset(
        path
        for path, ours in paths.items()
        if path not in made and (os.path.isfile(path) or (ours and os.path.isdir(path)))
    )


def archive_source(preset: Preset, name: str, where: str = "") -> MadeFrom | None:
    """Source of a data set's archive; None if unknown."""
    where = where or preset.source
    origin = dataset_entry(name, where, preset.settings.datasets).get("made_from")
    return None if origin is None else from_mapping(MadeFrom, origin, f"{where}: {name}.made_from")


def made_from(preset: Preset, archive: str) -> MadeFrom:
    """Source of an archive that the workflow makes."""
    source = archive_source(preset, archives(preset)[archive])
    assert source is not None  # archives have one
    return source


def archive_of(preset: Preset, spec: Mapping[str, Any]) -> list[str]:
    """The archive of a data set that is an input of jobs: the workflow makes it, or it is there."""
    return [path] if (path := spec.get("path")) in archives(preset) or path in own_archives(preset) else []


def archive_needs(preset: Preset, archive: str) -> dict[str, list[str]]:
    """Sources of an archive: another archive and the autoencoder, or a download."""
    source = made_from(preset, archive)
    if source.dataset:
        autoencoder = list(_latents(preset, archive).assets())
        return {"files": [str(dataset_named(preset, source.dataset)["path"])], "downloads": autoencoder}
    fetched = [source.source, *source.beside] if source.here in load_registry() else []
    return {"files": [], "downloads": [name for name in fetched if name]}


def archive_flags(preset: Preset, archive: str) -> list[str]:
    """Options of ``sida data prepare`` or ``encode`` for an archive."""
    source, spec = made_from(preset, archive), dataset_named(preset, archives(preset)[archive])
    values: dict[str, Any] = {"source": source.here or archive_needs(preset, archive)["files"][0], "out": archive}
    values |= {"resolution": source.resolution, "transform": source.transform, "labels": source.labels}
    values |= {"subset": source.subset, "max-images": source.images, "expect": spec.get("num_images")}
    if source.dataset:
        values["device"] = preset.settings.device
        if (latents := _latents(preset, archive)) != EDM2_LATENTS:
            values["latents"] = latents.name
    elif spec.get("channels") == 1:
        values["channels"] = 1
    return [word for key, value in values.items() if value is not None for word in (f"--{key}", str(value))]


def _archive_path(preset: Preset, name: str, where: str) -> str:
    path: str | None = dataset_named(preset, name, where).get("path")
    if path is None:
        fault = f"data set '{name}' has no path, so that it has no archive"
        raise UserError(where, fault, "give it one, or remove this")
    return path


def _latents(preset: Preset, archive: str) -> Latents:
    """Kind of the latents of an encoded archive."""
    return LATENTS[dataset_named(preset, archives(preset)[archive]).get("latents") or EDM2_LATENTS.name]


def _check_source(source: str, where: str) -> None:
    if source not in (registry := load_registry()) and not os.path.exists(source):
        hint = suggestion(source, registry, " (see sida assets list)")
        raise UserError(where, f"no asset and no file or folder '{source}'{hint}")
