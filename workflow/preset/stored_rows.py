"""Rows that are taken from stored results: those whose settings have the stored digest."""

import os
from typing import Any

from sida.config.lookup import ROOT
from sida.eval.results.stored import read_stored, unchanged_rows
from sida.files.atomic import sha256_json
from sida.workflow.preset.digests import deciding
from sida.workflow.preset.measuring import measurement
from sida.workflow.preset.preset import Preset
from sida.workflow.preset.trainings import teacher_training, training


def stored_rows(preset: Preset) -> frozenset[str]:
    """Rows of a preset that have stored results with equal settings."""
    if not preset.stored:
        return frozenset()
    folder, results = preset.stored["folder"], f"results/{preset.stored['preset']}"
    rows = [run for run in read_stored(folder)["rows"] if run in preset.rows]
    return frozenset(unchanged_rows(folder, {run: row_digest(preset, run, results) for run in rows}))


def row_digest(preset: Preset, name: str, results: str | None = None) -> str:
    """SHA-256 of everything that decides a row's images: sampler, training, teacher, guide and parent rows.

    It does not hold metrics, since each value has an identity.

    Args:
        preset: The preset.
        name: A row of its sheet.
        results: Folder of results in the paths of networks; None: the preset's.
    """
    chain, digests = [preset.rows[name]], dict[str, str]()
    if (first := preset.rows[preset.runs[name].first]).cells.trained_here:
        chain += [*first.lineage()][1:]
    # Starts come first: Python's stack is shorter than a long chain of rows.
    for row in reversed(chain):
        spec = measurement(preset, row.run).spec
        facts: dict[str, Any] = {"measure": {**spec, "protocol": row.protocol.image_facts()}}
        if (first := preset.rows[row.cells.first]).cells.trained_here:
            facts["student"] = deciding("students", training(preset, first.run).spec)
            facts["parents"] = {first.start.run: digests[first.start.run]} if first.start else {}
        teachers = {key: getattr(row.cells, key) for key in ("teacher", "guide")}
        facts |= {
            key: teacher_training(preset, teacher).spec
            for key, teacher in teachers.items()
            if teacher in preset.trained_teachers
        }
        digests[row.run] = sha256_json(_moved(facts, {f"{preset.results}/": f"{results or preset.results}/"}))
    return digests[name]


def _moved(value: Any, folders: dict[str, str]) -> Any:
    """A document whose paths in the checkout are relative to it, and whose paths in some folders are in others."""
    if isinstance(value, dict):
        return {_moved(key, folders): _moved(item, folders) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_moved(item, folders) for item in value]
    if not isinstance(value, str):
        return value
    # The workflow reads presets by their paths from the current folder, other commands by absolute ones.
    value = value.removeprefix(f"{ROOT}/").removeprefix(f"{os.path.relpath(ROOT)}/")
    folder = next((folder for folder in folders if value.startswith(folder)), "")
    return folders.get(folder, "") + value.removeprefix(folder)
