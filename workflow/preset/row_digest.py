"""A digest of all that a row of a sheet asks for, so that results which were kept can be told from stale ones."""

from __future__ import annotations

from typing import Any

from sida.files.atomic import sha256_json
from workflow.preset.job_specs import Preset


def row_digest(preset: Preset, run: str) -> str:
    """SHA-256 of what a row's numbers depend on: how it is measured and trained, from which teacher and which rows.

    Args:
        preset: The preset.
        run: A row of its sheet.
    """
    row = preset.runs[run]
    asked: dict[str, Any] = {"measure": preset.measure_spec(run)}
    if row.trained_here:
        asked["student"] = preset.student_spec(run)
        asked["parents"] = {parent: row_digest(preset, parent) for parent in preset.parents(row)}
    if row.teacher in preset.trained_teachers():
        asked["teacher"] = preset.teacher_spec(str(row.teacher))
    return sha256_json(asked)
