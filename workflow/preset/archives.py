"""Archives of data sets that the workflow makes, and data of trainings that need no archive."""

from __future__ import annotations

import os
from typing import Any

from eval.results.sheet import SheetRow
from sida.assets.registry import load_registry
from sida.config.datasets import dataset_counts
from sida.config.settings import names_file_object
from sida.errors import UserError, suggestion
from sida.methods.registry import find_method
from workflow.preset.rows import Rows


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
    named |= {teacher.dataset for teacher in preset.settings.teachers.values()}
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
