"""Files of specs, ``results/<preset>/specs/<stage>/<name>.json``: everything that decides a job's result.

A job's command names its file, and the digest of the file's content is a parameter of the job: Snakemake repeats
exactly the jobs whose spec has changed. Files are written when a run starts; a dry run writes nothing.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eval.measuring.protocol import OF_ALL_TRIALS, load_protocol
from eval.results.sheet import read_extended
from sida.config.recipe import EXCLUDED_FROM_DIGEST
from sida.errors import UserError
from sida.files.atomic import sha256_json, write_text
from workflow.preset import Preset


@functools.cache
def content_digest(path: str | Path | None) -> str | None:
    """SHA-256 of a YAML file's content, including the files that it extends; None for no file.

    Used for input files that people write, so that changes count independent of file times.
    """
    if path is None:
        return None
    text = json.dumps(read_extended(Path(path)), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


class SpecFiles:
    """Files of a preset's specs, each made when a job needs it.

    Args:
        preset: The preset.
    """

    def __init__(self, preset: Preset) -> None:
        self.folder = f"{preset.results}/specs"
        self._makers: dict[str, Callable[..., dict[str, Any]]] = {
            "teachers": preset.specs.teacher,
            "students": preset.specs.student,
            "measurements": preset.specs.measurement,
            "references": preset.specs.reference,
            "samples": preset.specs.sample,
            "tables": preset.specs.table,
            "figures": preset.specs.figure,
            "ticks": preset.specs.tick,
            "tick-teachers": preset.specs.tick_teacher,
            "preset": lambda: dataclasses.asdict(preset.settings),
        }
        self._texts: dict[str, str] = {}
        self._digests: dict[str, str] = {}

    def path(self, stage: str, *name: str) -> str:
        """File of a spec.

        Args:
            stage: ``teachers``, ``students``, ``measurements``, ``references``, ``samples``, ``tables``, ``figures``,
                ``ticks``, ``tick-teachers``; or ``preset`` for all settings.
            name: Name of the row (and trial of its samples), teacher or layout.
        """
        path = "/".join([self.folder, stage, *name]) + ".json"
        if path not in self._texts:
            self._texts[path] = json.dumps(self._makers[stage](*name), sort_keys=True, indent=1) + "\n"
        return path

    def digest(self, stage: str, *name: str) -> str:
        """SHA-256 of the spec's content that can change the job's result."""
        path = self.path(stage, *name)
        # All trials of a row use the row's digest.
        if path not in self._digests:
            deciding = _deciding(stage, json.loads(self._texts[path]))
            text = json.dumps(deciding, sort_keys=True, indent=1) + "\n"
            self._digests[path] = hashlib.sha256(text.encode()).hexdigest()
        return self._digests[path]

    def write(self) -> None:
        """Writes the requested files whose content changed; other files keep their times.

        Raises:
            UserError: A file cannot be read or written.
        """
        for path, text in self._texts.items():
            try:
                if not Path(path).is_file() or Path(path).read_bytes() != text.encode():
                    write_text(path, text)
            except OSError as error:
                raise UserError(path, f"cannot be written ({error.strerror})", "fix that, then start again") from None


def _deciding(stage: str, spec: Any) -> Any:
    """A spec without settings that cannot change the result."""
    if stage not in ("teachers", "students", "measurements", "references", "samples"):
        return spec
    if stage in ("teachers", "students"):
        spec = {key: value for key, value in spec.items() if key not in EXCLUDED_FROM_DIGEST}
    watched = (spec.get("evaluation") or {}).get("kwargs", {}) if stage == "students" else {}
    for key in OF_ALL_TRIALS:
        watched.get("protocol", {}).pop(key, None)
    for holder in (spec, watched):
        if holder.get("dataset"):
            holder["dataset"].pop("cache", None)
    return spec


def row_digest(preset: Preset, run: str, results: str = "") -> str:
    """SHA-256 of everything that decides a row's images: sampler, training, teacher and parent rows.

    Metrics are no part of it, since each value has an identity.

    Args:
        preset: The preset.
        run: A row of its sheet.
        results: Folder of results whose networks the digest names; by default the preset's.
    """
    results = results or preset.results
    row = preset.runs[run]
    images = load_protocol(preset.specs.measurement(run)["protocol"]).image_facts()
    asked: dict[str, Any] = {"measure": {**preset.specs.measurement(run), "protocol": images}}
    if (first := preset.runs[row.first]).trained_here:
        asked["student"] = _deciding("students", preset.specs.student(first.run))
        asked["parents"] = {parent: row_digest(preset, parent, results) for parent in preset.parents(first)}
    if row.teacher in preset.trained_teachers():
        asked["teacher"] = preset.specs.teacher(str(row.teacher))
    ours, named = (json.dumps(f"{folder}/")[:-1] for folder in (preset.results, results))
    return sha256_json(json.loads(json.dumps(asked).replace(ours, named)))


def with_pictures(digest: str, checkpoint: str | None) -> str:
    """Digest of a measurement's spec and of the files of a measured folder.

    Args:
        digest: Digest of the spec.
        checkpoint: Column ``checkpoint`` of the sheet.

    Returns:
        ``digest`` itself if no folder is measured.
    """
    if checkpoint is None or not os.path.isdir(checkpoint):
        return digest
    return hashlib.sha256(f"{digest} {folder_digest(checkpoint)}".encode()).hexdigest()


@functools.cache
def folder_digest(folder: str | os.PathLike[str]) -> str:
    """SHA-256 of names, sizes and times of a folder's files, except hidden ones; fast for 50,000 files."""
    digest = hashlib.sha256()
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders.sort()
        digest.update(f"{os.path.relpath(parent, folder)}/\n".encode(errors="surrogateescape"))
        for name in sorted(files):
            if not name.startswith("."):
                digest.update(f"{name} {_file_state(os.path.join(parent, name))}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _file_state(path: str) -> str:
    try:
        status = os.stat(path)
    except OSError:
        # The measuring job reports the fault.
        return "unreadable"
    return f"{status.st_size} {status.st_mtime_ns}"
