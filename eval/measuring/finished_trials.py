"""Keeps finished trials of a job while the job measures further trials."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.results.identity import Identity
from eval.results.measurements import missing_metrics, read_measurement, trial_path, write_measurement
from sida.runtime import provenance


class FinishedTrials:
    """Copies of finished trials of one job, kept until the job ends.

    If a job fails or is killed, a workflow manager removes all its declared outputs, including finished trials;
    undeclared files stay.

    Args:
        out: Folder of the run's measurements; None has copies only.
        trials: Trial numbers of the job; for a single trial nothing is kept, because the job ends with it.
        folder: Folder of the copies; None takes ``<out>/finished``.
    """

    def __init__(self, out: str | os.PathLike[str] | None, trials: Sequence[int], folder: Path | None = None) -> None:
        self._out, self._trials = out, trials if len(trials) > 1 else ()
        self._folder = folder or Path(out or "") / "finished"

    def __bool__(self) -> bool:
        """Whether there may be copies of an earlier attempt."""
        return bool(self._trials) and self._folder.is_dir()

    def write(self, trial: int, record: Mapping[str, Any]) -> None:
        """Writes a measurement to its declared path, and a copy for a later attempt of the job.

        Raises:
            UserError: A metric that is not finite, or a full disk.
        """
        for folder in (self._folder if trial in self._trials else None, self._out):
            if folder is not None:
                write_measurement(trial_path(folder, trial), record)

    def take_back(
        self, trial: int, spec_sha256: str, identities: Mapping[str, Identity], names: Mapping[str, Any]
    ) -> dict[str, Any] | None:
        """Restores a trial of an earlier attempt if the same code measured the same values; returns its record."""
        copy = trial_path(self._folder, trial)
        if trial not in self._trials or missing_metrics(copy, spec_sha256, identities, names):
            return None
        record = read_measurement(copy)
        latest = [record["environment"], *record.get("added", {}).values()][-1]
        if latest.get("code") != provenance.source_digest():
            return None
        if self._out is not None:
            write_measurement(trial_path(self._out, trial), record)
        return record

    def forget(self) -> None:
        """Removes the copies after the last trial of the job."""
        for trial in self._trials:
            trial_path(self._folder, trial).unlink(missing_ok=True)
        # Another job of the same run may have copies there.
        with contextlib.suppress(OSError):
            self._folder.rmdir()
