"""Logs of a run: ``train.jsonl``, ``evaluations.jsonl`` and, on request, the same records for TensorBoard."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sida.config.resources import how_to_install
from sida.errors import UserError
from sida.files.atomic import append_jsonl, jsonl_text, write_text

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

LogRecords = Sequence[Mapping[str, Any]]


def check_tensorboard(wanted: bool, where: str) -> None:
    """Checks that TensorBoard's library is installed if its files are requested.

    Raises:
        UserError: The library is not installed.
    """
    if wanted and importlib.util.find_spec("tensorboard") is None:
        remedy = f"install it ({how_to_install('tensorboard>=2.16')}) or set it to false"
        raise UserError(f"{where}.tensorboard: the package tensorboard is not installed; {remedy}")


class Logs:
    """Writes the logs of a run.

    Args:
        folder: The run's folder.
        tensorboard: Whether to write TensorBoard's files below ``tensorboard/``.
    """

    def __init__(self, folder: Path, tensorboard: bool = False) -> None:
        self.folder, self.tensorboard = folder, tensorboard
        self._board: SummaryWriter | None = None

    def restart(self, train: LogRecords, evaluations: LogRecords, final: bool = False) -> None:
        """Writes all logs anew with these records; ``final`` marks that no record follows."""
        for name, records in (("train", train), ("evaluations", evaluations)):
            write_text(self.folder / f"{name}.jsonl", jsonl_text(records, final))
        if self.tensorboard:
            self._open_board(train, evaluations)

    def add(self, name: str, record: Mapping[str, Any]) -> None:
        """Adds a record to ``train`` or ``evaluations``."""
        append_jsonl(self.folder / f"{name}.jsonl", dict(record))
        self._show(name, record)

    def close(self) -> None:
        """Writes the records that TensorBoard's library has buffered."""
        if self._board is not None:
            self._board.close()
            self._board = None

    def _open_board(self, train: LogRecords, evaluations: LogRecords) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = self.folder / "tensorboard"
        there = folder.is_dir() and any(folder.iterdir())
        # Later points come from a killed process; TensorBoard then hides them.
        last = max((record["nimg"] for record in [*train[-1:], *evaluations[-1:]]), default=-1)
        self._board = SummaryWriter(str(folder), purge_step=last + 1 if there else None)
        if not there:
            for name, records in (("train", train), ("evaluations", evaluations)):
                for record in records:
                    self._show(name, record)

    def _show(self, name: str, record: Mapping[str, Any]) -> None:
        if self._board is None:
            return
        for key, value in _numbers(record, name):
            self._board.add_scalar(key, value, record["nimg"])


def _numbers(record: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
    """All numbers of a record by path, e.g. ``train/losses/sid``; lists (values of single trials) are left out."""
    for key, value in record.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}/{key}")
        elif isinstance(value, (int, float)) and not isinstance(value, bool) and key != "nimg":
            yield f"{prefix}/{key}", float(value)


def without_nan(value: Any) -> Any:
    """Replaces each number of a monitor's record that is not finite by None."""
    if isinstance(value, Mapping):
        return {name: without_nan(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
