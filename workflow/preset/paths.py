"""Paths of a preset's networks: trained, imported, or existing files.

Archives of data sets that the workflow makes, and data of trainings that need no archive.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from eval.results.sheet import SheetRow
from sida.assets.registry import find_asset, is_address, load_registry
from sida.config.datasets import dataset_counts
from sida.config.settings import names_file_object
from sida.errors import UserError, suggestion
from sida.methods.registry import find_method
from workflow.preset.rows import Rows


class Paths:
    """Paths of networks by row, teacher and checkpoint.

    Args:
        rows: Settings and sample sheet of the preset.
    """

    def __init__(self, rows: Rows) -> None:
        self._rows, self._teachers, self.results = rows, rows.settings.teachers, rows.results

    def network(self, run: SheetRow) -> str | None:
        """Path of the network that a row samples from; ``None`` for rows without a network."""
        if run.without_network:
            return None
        if run.checkpoint is not None:
            return self.checkpoint(run.checkpoint)
        if run.method == "teacher":
            return self.teacher(str(run.teacher))
        return f"{self.results}/students/{run.run}/network.safetensors"

    def teacher(self, name: str) -> str:
        """Path of a teacher's network: trained here, or imported from its checkpoint."""
        checkpoint = self._teachers[name].get("checkpoint")
        return self.checkpoint(checkpoint) if checkpoint else f"{self.results}/teachers/{name}/network.safetensors"

    def teacher_references(self, run: SheetRow, watched: bool = False) -> dict[str, str]:
        """Paths of the samples of a row's teacher by key of its protocol's references, all or the watched ones."""
        protocol = self._rows.protocol(run)
        used = {key for metric in protocol.watched for key in metric.references}
        keys = [key for key in protocol.drawn_references() if key in used or not watched]
        return {key: f"{self.results}/references/{run.teacher}/{protocol.name}/{key}.safetensors" for key in keys}

    def tick_teacher(self, name: str) -> str:
        """Path of the network that replaces a teacher while rows are timed."""
        return f"{self.results}/ticks/teachers/{name}/network.safetensors"

    def guide(self, run: SheetRow) -> str | None:
        """Path of a row's guiding network, a teacher of the preset or a checkpoint; ``None`` without one."""
        if run.guide is None:
            return None
        return self.teacher(run.guide) if run.guide in self._teachers else self.checkpoint(run.guide)

    def sampler_guide(self, run: SheetRow) -> str | None:
        """Path of the guiding network of a row's sampler; rows distilled here use their guide in training only."""
        return None if run.trained_here else self.guide(run)

    def checkpoint(self, checkpoint: str) -> str:
        """Path of a published checkpoint after its import; a .safetensors file is used in place."""
        if _used_in_place(checkpoint):
            return checkpoint
        return f"{self.results}/checkpoints/{self._import_folders[checkpoint]}/network.safetensors"

    @functools.cached_property
    def checkpoints(self) -> dict[str, str]:
        """Published checkpoints that the preset imports: folder name to asset id, address or path."""
        runs = self._rows.runs.values()
        used = {run.teacher for run in runs if run.trained_here or run.method == "teacher"}
        used |= {run.teacher for run in runs if self._rows.protocol(run).drawn_references()}
        used |= {run.guide for run in runs}
        named = self._rows.checkpoints
        named += [teacher.get("checkpoint") for name, teacher in self._teachers.items() if name in used]
        return {self._import_folders[name]: name for name in named if name in self._import_folders}

    @functools.cached_property
    def _import_folders(self) -> dict[str, str]:
        return import_folders([*self._rows.checkpoints, *(t.get("checkpoint") for t in self._teachers.values())])


def import_folders(checkpoints: Iterable[str | None]) -> dict[str, str]:
    """Names of folders for imported checkpoints, by asset id or path.

    The folder is the asset's id, which may contain dots (``...-a1.2``), or the file's stem. Checkpoints of equal stems
    (``a/network-snapshot.pkl``, ``b/network-snapshot.pkl``) get a digest of their path at the end.
    """
    names = {name: _plain(name) for name in checkpoints if name and not _used_in_place(name)}
    shared = Counter(names.values())
    return {
        name: folder if shared[folder] == 1 else f"{folder}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
        for name, folder in names.items()
    }


def _used_in_place(checkpoint: str) -> bool:
    return checkpoint.endswith(".safetensors") and not is_address(checkpoint)


def _plain(checkpoint: str) -> str:
    path = Path(find_asset({}, checkpoint).target if is_address(checkpoint) else checkpoint)
    return path.stem if path.suffix in (".pkl", ".pt", ".pth", ".safetensors") else path.name


def find_archives(preset: Rows) -> dict[str, str]:
    """Archives of the data sets of rows, teachers and protocols, and of the sources of these data sets.

    Returns:
        Data sets by path of the archive.

    Raises:
        UserError: A data set is made of itself, has no path, or its source is missing.
    """
    fixed = [preset.protocol(run).fixed_datasets() for run in preset.runs.values()]
    places = {name: where for part in fixed for where, name in part.items()}
    named = {*places, preset.settings.dataset, *(run.dataset for run in preset.runs.values())}
    named |= {teacher.get("dataset") for teacher in preset.settings.teachers.values()}
    found: dict[str, str] = {}
    waiting: list[tuple[str, tuple[str, ...]]] = [(name, ()) for name in sorted(name for name in named if name)]
    for name, children in waiting:
        if not (origin := preset.origin(name, places.get(name, preset.source))):
            continue
        where = f"{preset.source}: datasets.{name}.made_from"
        if name in children:
            circle = " of ".join([*children[children.index(name) :], name])
            raise UserError(where, f"a data set cannot be made of itself ({circle})", "name another, or a source")
        path = _path(preset, name, where)
        found.setdefault(path, name)
        if origin.dataset:
            _path(preset, origin.dataset, f"{where}.dataset")
            waiting.append((origin.dataset, (*children, name)))
        elif not os.path.exists(path):
            _check_source(str(origin.source), f"{where}.source")
    return found


def training_data(preset: Rows, run: SheetRow) -> dict[str, Any]:
    """Spec of the data of a row's training: only classes if its data set has counts and the method sees no images."""
    where = f"{preset.sheet}: run '{run.run}'"
    spec, protocol = preset.dataset_of(run), preset.protocol(run)
    counts = dataset_counts(run.dataset or preset.settings.dataset, where, preset.settings.datasets)
    references = any(source.kind == "dataset" for source in protocol.sources.values())
    if counts is None or references or find_method(run.method, where).real_images:
        return spec
    kept = {key: spec[key] for key in ("name", "resolution", "channels", "label_dim", "num_images") if key in spec}
    # Latents are stored with mean and standard deviation: two stored channels are one channel of networks.
    kept["channels"] //= 2 if protocol.quantisation == "truncate_unit" else 1
    return kept | {"kind": "counts", "counts": counts}


def _path(preset: Rows, name: str, where: str) -> str:
    path: str | None = preset.dataset(name, where).get("path")
    if path is None:
        raise UserError(where, f"data set '{name}' has no path and so is no archive", "give it one, or remove this")
    return path


def _check_source(source: str, where: str) -> None:
    if names_file_object(source):
        source = source.rpartition(":")[0]
    if source not in (registry := load_registry()) and not os.path.exists(source):
        hint = suggestion(source, registry)
        hint = hint if len(hint) < 200 else " (see sida assets list)"
        raise UserError(where, f"no asset and no file or folder '{source}'{hint}")
