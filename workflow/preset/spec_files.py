"""Specs as files: what decides a job's result, in ``results/<preset>/specs/<stage>/<name>.json``.

A job's command names its file, and the digest of what the file says is a parameter of the job: Snakemake runs exactly
those jobs again whose spec says something else. Files are written when a run starts, so that a dry run writes nothing.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eval.measuring.protocol import OF_ALL_TRIALS
from eval.results.selection import read_extended
from sida.errors import UserError
from sida.files.atomic import write_text
from sida.training.config import BESIDE
from workflow.preset.job_specs import Preset


@functools.cache
def content_digest(path: str | Path | None) -> str | None:
    """SHA-256 of what a YAML file says, with the files that it extends; None for no file.

    For the files that people write and inputs name: a change of them counts whatever their times are.
    """
    if path is None:
        return None
    text = json.dumps(read_extended(Path(path)), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


class Specs:
    """Specs of a preset's jobs, made when a job asks for its own.

    Args:
        preset: The preset.
    """

    def __init__(self, preset: Preset) -> None:
        self.folder = f"{preset.results}/specs"
        self._makers: dict[str, Callable[..., dict[str, Any]]] = {
            "teachers": preset.teacher_spec,
            "students": preset.student_spec,
            "measurements": preset.measure_spec,
            "samples": preset.sample_spec,
            "tables": preset.table_spec,
            "figures": preset.figure_spec,
            "experiments": preset.experiment_spec,
            "ticks": preset.tick_spec,
            "tick-teachers": preset.tick_teacher_spec,
            "barriers": preset.barrier_spec,
            "analytic": lambda _: preset.config["analytic"],
            "preset": lambda: preset.config,
        }
        self._texts: dict[str, str] = {}
        self._digests: dict[str, str] = {}

    def path(self, stage: str, *name: str) -> str:
        """File of a spec.

        Args:
            stage: ``teachers``, ``students``, ``measurements``, ``samples``, ``tables``, ``figures``, ``experiments``,
                ``barriers``, ``ticks``, ``tick-teachers``, ``analytic``; or ``preset`` for the settings as a whole.
            name: What it is a spec of: a row (and a trial of its samples), a teacher, a layout.
        """
        path = "/".join([self.folder, stage, *name]) + ".json"
        if path not in self._texts:
            self._texts[path] = json.dumps(self._makers[stage](*name), sort_keys=True, indent=1) + "\n"
        return path

    def digest(self, stage: str, *name: str) -> str:
        """SHA-256 of what the file says (or will say) that can change the job's result."""
        path = self.path(stage, *name)
        # Every trial of a row asks for its row's.
        if path not in self._digests:
            deciding = _deciding(stage, json.loads(self._texts[path]))
            text = json.dumps(deciding, sort_keys=True, indent=1) + "\n"
            self._digests[path] = hashlib.sha256(text.encode()).hexdigest()
        return self._digests[path]

    def write(self) -> None:
        """Writes the files that were asked for and do not say so yet; the others keep their times.

        Raises:
            UserError: A file cannot be written, or not be read for now.
        """
        for path, text in self._texts.items():
            try:
                if not Path(path).is_file() or Path(path).read_bytes() != text.encode():
                    write_text(path, text)
            except OSError as error:
                raise UserError(f"{path}: cannot be written ({error.strerror}); mend that, then start again") from None


def _deciding(stage: str, spec: Any) -> Any:
    """A spec without what changes no result: how its job goes about it, and trials where it takes none of them."""
    if stage not in ("teachers", "students", "measurements", "samples", "barriers"):
        return spec
    if stage in ("teachers", "students"):
        spec = {key: value for key, value in spec.items() if key not in BESIDE}
    watched = (spec.get("evaluation") or {}).get("kwargs", {}) if stage == "students" else {}
    for key in OF_ALL_TRIALS:
        watched.get("protocol", {}).pop(key, None)
    for holder in (spec, watched):
        if holder.get("dataset"):
            holder["dataset"].pop("cache", None)
    return spec
