"""Archives of data sets that the workflow makes for the rows of a preset."""

import functools
import itertools
import os
from typing import Any

from sida.assets.registry import load_registry
from sida.config.datasets import dataset_entry
from sida.config.families import EDM2_LATENTS, LATENTS, Latents
from sida.config.settings import from_mapping
from sida.errors import UserError, suggestion
from workflow.preset.files import MadeFrom
from workflow.preset.rows import Rows


class Archives(Rows):
    """Rows of a preset, and the archives of their data sets; see :class:`workflow.preset.Preset`."""

    @functools.cached_property
    def archives(self) -> dict[str, str]:
        """Archives that the workflow can make for rows, teachers, protocols and their sources: path to data set.

        Raises:
            UserError: A data set is made of itself, has no path, or its source is missing.
        """
        fixed = itertools.chain(*(self.protocol(run).fixed_datasets().items() for run in self.runs.values()))
        places = {name: where for where, name in fixed}
        named = {*places, self.settings.dataset, *(run.dataset for run in self.runs.values())}
        named |= {teacher.dataset for teacher in self.settings.teachers.values()}
        found: dict[str, str] = {}
        waiting: list[tuple[str, tuple[str, ...]]] = [(name, ()) for name in sorted(name for name in named if name)]
        for name, children in waiting:
            if not (origin := self.origin(name, places.get(name, self.source))):
                continue
            where = f"{self.source}: datasets.{name}.made_from"
            if name in children:
                circle = " of ".join([*children[children.index(name) :], name])
                raise UserError(where, f"a data set cannot be made of itself ({circle})", "name another, or a source")
            path = self._archive_path(name, where)
            if not os.path.exists(path) and (os.path.isabs(path) or os.path.normpath(path).startswith("..")):
                remedy = "give a path there, or make it with `sida data prepare`"
                fault = f"'{path}': the workflow makes archives below the current folder alone"
                raise UserError(f"{self.source}: datasets.{name}.path", fault, remedy)
            found.setdefault(path, name)
            if origin.dataset:
                self._archive_path(origin.dataset, f"{where}.dataset")
                waiting.append((origin.dataset, (*children, name)))
            elif not os.path.exists(path):
                for source in (origin.here, *origin.beside):
                    _check_source(str(source), f"{where}.source")
        return found

    def origin(self, dataset: str, where: str = "") -> MadeFrom | None:
        """Source of a data set's archive; None if unknown."""
        where = where or self.source
        origin = dataset_entry(dataset, where, self.settings.datasets).get("made_from")
        return None if origin is None else from_mapping(MadeFrom, origin, f"{where}: {dataset}.made_from")

    def made_from(self, archive: str) -> MadeFrom:
        """Source of an archive that the workflow makes."""
        found = self.origin(self.archives[archive])
        assert found is not None  # archives have one
        return found

    def _archive_path(self, name: str, where: str) -> str:
        path: str | None = self.dataset(name, where).get("path")
        if path is None:
            fault = f"data set '{name}' has no path and so is no archive"
            raise UserError(where, fault, "give it one, or remove this")
        return path

    def archive_needs(self, archive: str) -> dict[str, list[str]]:
        """Sources of an archive: another archive and the autoencoder, or a download."""
        origin = self.made_from(archive)
        if origin.dataset:
            decoder = list(self._latents(archive).assets())
            return {"files": [str(self.dataset(origin.dataset)["path"])], "downloads": decoder}
        fetched = [origin.source, *origin.beside] if origin.here in load_registry() else []
        return {"files": [], "downloads": [name for name in fetched if name]}

    def _latents(self, archive: str) -> Latents:
        """Kind of the latents of an encoded archive."""
        return LATENTS[self.dataset(self.archives[archive]).get("latents") or EDM2_LATENTS.name]

    def archive_flags(self, archive: str) -> list[str]:
        """Options of ``sida data prepare`` or ``encode`` for an archive."""
        origin, dataset = self.made_from(archive), self.dataset(self.archives[archive])
        values: dict[str, Any] = {"source": origin.here or self.archive_needs(archive)["files"][0], "out": archive}
        values |= {"resolution": origin.resolution, "transform": origin.transform, "labels": origin.labels}
        values |= {"subset": origin.subset, "max-images": origin.images, "expect": dataset.get("num_images")}
        if origin.dataset:
            values["device"] = self.settings.device
            if (latents := self._latents(archive)) != EDM2_LATENTS:
                values["latents"] = latents.name
        elif dataset.get("channels") == 1:
            values["channels"] = 1
        return [word for key, value in values.items() if value is not None for word in (f"--{key}", str(value))]


def _check_source(source: str, where: str) -> None:
    if source not in (registry := load_registry()) and not os.path.exists(source):
        hint = suggestion(source, registry, " (see sida assets list)")
        raise UserError(where, f"no asset and no file or folder '{source}'{hint}")
