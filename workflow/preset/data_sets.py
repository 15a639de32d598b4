"""Data sets of a preset, and their archives: those that the workflow makes, and the user's own."""

import os
from collections.abc import Mapping
from typing import Any

from sida.assets.registry import load_registry
from sida.config.datasets import DATASET_KINDS, dataset_entry, dataset_spec
from sida.config.families import EDM2_LATENTS, LATENTS, Latents
from sida.config.settings import from_mapping
from sida.errors import UserError, suggestion
from sida.workflow.preset.settings import MadeFrom, PresetSettings


class DataSets:
    """Data sets by name: those of the preset and of ``config/datasets.yaml``.

    Args:
        settings: The preset's settings.
        source: File of the preset, for errors.
    """

    def __init__(self, settings: PresetSettings, source: str) -> None:
        self.settings, self.source = settings, source
        self._specs: dict[str, dict[str, Any]] = {}

    def named(self, name: str | None, where: str = "") -> dict[str, Any]:
        """Spec of a data set; by default the preset's.

        Args:
            name: Name of the data set.
            where: File and key named in errors; by default the preset's file.

        Raises:
            UserError: The data set does not exist.
        """
        name = name or self.settings.dataset
        if name not in self._specs:
            self._specs[name] = dataset_spec(name, where or self.source, self.settings.datasets)
        return dict(self._specs[name])

    def entry(self, name: str | None, where: str = "") -> Mapping[str, Any]:
        """A data set as its file has it, with ``counts`` and ``made_from``."""
        return dataset_entry(name or self.settings.dataset, where or self.source, self.settings.datasets)

    def origin(self, name: str, where: str = "") -> MadeFrom | None:
        """Source of a data set's archive; None if unknown."""
        source = self.entry(name, where).get("made_from")
        return None if source is None else from_mapping(MadeFrom, source, f"{where or self.source}: {name}.made_from")


class Archives:
    """Archives of data sets: those that the workflow makes, and the user's own.

    Args:
        data: The data sets.
        places: Data sets of rows, teachers and protocols, each with the place in a protocol that names it, or empty.

    Attributes:
        made: Archives that the workflow can make for these data sets and their sources: path to data set.
        own: Archives and folders of the user: existing data that the workflow does not make. Of a kind from outside the
            package files alone count: its folder may be anything, also one that holds the results.

    Raises:
        UserError: A data set is made of itself, has no path, or its source is missing.
    """

    def __init__(self, data: DataSets, places: Mapping[str, str]) -> None:
        self._data, self.made = data, _archives(data, places)
        specs = [data.named(name, where) for name, where in places.items()]
        kinds = {spec["path"]: spec["kind"] in DATASET_KINDS for spec in specs if spec.get("path")}
        self.own = frozenset(
            path
            for path, is_ours in kinds.items()
            if path not in self.made and (os.path.isfile(path) or (is_ours and os.path.isdir(path)))
        )

    def made_from(self, archive: str) -> MadeFrom:
        """Source of an archive that the workflow makes."""
        source = self._data.origin(self.made[archive])
        assert source is not None  # archives have one
        return source

    def of(self, spec: Mapping[str, Any]) -> list[str]:
        """The archive of a data set that is an input of jobs: the workflow makes it, or it is there."""
        path = spec.get("path")
        return [path] if path is not None and (path in self.made or path in self.own) else []

    def needs(self, archive: str) -> dict[str, list[str]]:
        """Sources of an archive: another archive and the autoencoder, or a download."""
        source = self.made_from(archive)
        if source.dataset:
            autoencoder = list(self._latents(archive).assets())
            return {"files": [str(self._data.named(source.dataset)["path"])], "downloads": autoencoder}
        fetched = [source.source, *source.beside] if source.here in load_registry() else []
        return {"files": [], "downloads": [name for name in fetched if name]}

    def flags(self, archive: str) -> list[str]:
        """Options of ``sida data prepare`` or ``encode`` for an archive."""
        source, spec = self.made_from(archive), self._data.named(self.made[archive])
        values: dict[str, Any] = {"source": source.here or self.needs(archive)["files"][0], "out": archive}
        if source.dataset:
            values["device"] = self._data.settings.device
            if (latents := self._latents(archive)) != EDM2_LATENTS:
                values["latents"] = latents.name
        else:
            values |= {"resolution": source.resolution, "transform": source.transform, "labels": source.labels}
            values |= {"subset": source.subset, "max-images": source.images, "expect": spec.get("num_images")}
            values["channels"] = 1 if spec.get("channels") == 1 else None
        return [word for key, value in values.items() if value is not None for word in (f"--{key}", str(value))]

    def _latents(self, archive: str) -> Latents:
        """Kind of the latents of an encoded archive."""
        return LATENTS[self._data.named(self.made[archive]).get("latents") or EDM2_LATENTS.name]


def _archives(data: DataSets, places: Mapping[str, str]) -> dict[str, str]:
    paths: dict[str, str] = {}
    # The list grows: the source of an archive may be an archive, which is made first.
    waiting: list[tuple[str, tuple[str, ...]]] = [(name, ()) for name in places]
    for name, children in waiting:
        if not (source := data.origin(name, places.get(name, ""))):
            continue
        where = f"{data.source}: datasets.{name}.made_from"
        if name in children:
            circle = " of ".join([*children[children.index(name) :], name])
            raise UserError(where, f"a data set cannot be made of itself ({circle})", "name another, or a source")
        path = _archive_path(data, name, where)
        if not os.path.exists(path) and (os.path.isabs(path) or os.path.normpath(path).startswith("..")):
            remedy = "give a path there, or make it with `sida data prepare`"
            fault = f"'{path}': the workflow makes archives below the current folder alone"
            raise UserError(f"{data.source}: datasets.{name}.path", fault, remedy)
        paths.setdefault(path, name)
        if source.dataset:
            _archive_path(data, source.dataset, f"{where}.dataset")
            waiting.append((source.dataset, (*children, name)))
        elif not os.path.exists(path):
            for file in (source.here, *source.beside):
                _check_source(str(file), f"{where}.source")
    return paths


def _archive_path(data: DataSets, name: str, where: str) -> str:
    path: str | None = data.named(name, where).get("path")
    if path is None:
        fault = f"data set '{name}' has no path, so that it has no archive"
        raise UserError(where, fault, "give it one, or remove this")
    return path


def _check_source(source: str, where: str) -> None:
    if source not in (registry := load_registry()) and not os.path.exists(source):
        hint = suggestion(source, registry, " (see sida assets list)")
        raise UserError(where, f"no asset and no file or folder '{source}'{hint}")
