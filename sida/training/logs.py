"""Logs of a run: ``train.jsonl``, ``evaluations.jsonl`` and, on request, the same numbers for trackers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sida.files.atomic import append_jsonl, jsonl_text, write_text
from sida.training.trackers import open_tracker

LogRecords = Sequence[Mapping[str, Any]]


class Logs:
    """Writes the logs of a run.

    Args:
        folder: The run's folder.
        loggers: Trackers that get the same numbers: ``tensorboard``, ``wandb``.
    """

    def __init__(self, folder: Path, loggers: Sequence[str] = ()) -> None:
        self.folder, self.loggers = folder, tuple(dict.fromkeys(loggers))
        self._trackers: list[Any] = []

    def restart(self, train: LogRecords, evaluations: LogRecords, final: bool = False) -> None:
        """Writes all logs anew with these records; ``final`` marks that no record follows."""
        logs = {"train": train, "evaluations": evaluations}
        for name, records in logs.items():
            write_text(self.folder / f"{name}.jsonl", jsonl_text(records, final))
        last = max((record["nimg"] for record in [*train[-1:], *evaluations[-1:]]), default=-1)
        self._trackers = [open_tracker(logger, self.folder, last) for logger in self.loggers]
        for tracker in self._trackers:
            for name, records in logs.items() if tracker.is_new else ():
                for record in records:
                    tracker.show(name, record)

    def add(self, name: str, record: Mapping[str, Any]) -> None:
        """Adds a record to ``train`` or ``evaluations``."""
        append_jsonl(self.folder / f"{name}.jsonl", dict(record))
        for tracker in self._trackers:
            tracker.show(name, record)

    def close(self) -> None:
        """Writes the records that the trackers' libraries have buffered."""
        while self._trackers:
            self._trackers.pop().close()


def without_nan(value: Any) -> Any:
    """Replaces each number of a monitor's record that is not finite by None."""
    if isinstance(value, Mapping):
        return {name: without_nan(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
