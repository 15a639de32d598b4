"""Rows that are taken from stored results: those whose settings have the stored digest."""

import dataclasses
import os
from typing import Any

from eval.results.stored import read_stored, unchanged_rows
from sida.config.lookup import ROOT
from sida.files.atomic import sha256_json
from workflow.preset.digests import deciding
from workflow.preset.measuring import measurement
from workflow.preset.once import once
from workflow.preset.preset import Preset
from workflow.preset.rows import parents_of, protocol_of
from workflow.preset.trainings import teacher_training, training


@once
def taken_rows(preset: Preset) -> frozenset[str]:
    """Rows that are taken from stored results."""
    if not preset.stored:
        return frozenset()
    # Digests contain paths of networks below the folder of results that they were stored from.
    settings = dataclasses.replace(preset.settings, preset=preset.stored["preset"])
    original = dataclasses.replace(preset, settings=settings)
    rows = [run for run in read_stored(preset.stored["folder"])["rows"] if run in preset.runs]
    return frozenset(unchanged_rows(preset.stored["folder"], {run: row_digest(original, run) for run in rows}))


@once
def row_digest(preset: Preset, name: str) -> str:
    """SHA-256 of everything that decides a row's images: sampler, training, teacher, guide and parent rows.

    It does not hold metrics, since each value has an identity.

    Args:
        preset: The preset.
        name: A row of its sheet.
    """
    row, spec = preset.runs[name], measurement(preset, name).spec
    images = protocol_of(preset, row).image_facts()
    facts: dict[str, Any] = {"measure": {**spec, "protocol": images}}
    if (first := preset.runs[row.first]).trained_here:
        facts["student"] = deciding("students", training(preset, first.run).spec)
        facts["parents"] = {parent: row_digest(preset, parent) for parent in parents_of(preset, first)}
    teachers = {key: getattr(row, key) for key in ("teacher", "guide")}
    facts |= {
        key: teacher_training(preset, teacher).spec
        for key, teacher in teachers.items()
        if teacher in preset.trained_teachers
    }
    return sha256_json(_relative(facts))


def _relative(value: Any) -> Any:
    """A document whose paths in the checkout are relative to it, from whatever folder the command starts."""
    if isinstance(value, dict):
        return {_relative(key): _relative(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_relative(item) for item in value]
    if not isinstance(value, str):
        return value
    # The workflow reads presets by their paths from the current folder, other commands by absolute ones.
    return value.removeprefix(f"{ROOT}/").removeprefix(f"{os.path.relpath(ROOT)}/")
