"""Trackers of a run's numbers: TensorBoard and Weights & Biases, with the names and steps of the logs."""

from __future__ import annotations

import importlib.util
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from sida.config.resources import how_to_install
from sida.errors import UserError
from sida.files.atomic import write_text

#: Package of each tracker, as pip takes it, and the target of ``make`` that installs it.
_PACKAGES = {"tensorboard": ("tensorboard>=2.16", "setup"), "wandb": ("wandb>=0.17", "extras")}


def check_loggers(wanted: Sequence[str], where: str) -> None:
    """Requires the packages of the trackers.

    Raises:
        UserError: One is not installed.
    """
    for name in wanted:
        if importlib.util.find_spec(name) is None:
            package, target = _PACKAGES[name]
            remedy = f"install it ({how_to_install(package, target=target)})"
            raise UserError(f"{where}.loggers: the package {name} is not installed; {remedy} or leave {name} out")


def open_tracker(name: str, folder: Path, last: int) -> _TensorBoard | _WeightsAndBiases:
    """Opens a tracker for a run that starts or resumes.

    Args:
        name: ``tensorboard`` or ``wandb``.
        folder: The run's folder; the tracker's files lie below ``folder / name``.
        last: Step of the last record so far; -1 where there is none.

    Returns:
        A tracker with ``show(log, record)``, ``close()``, and ``is_new`` where no earlier process has shown the
        records so far.
    """
    return (_TensorBoard if name == "tensorboard" else _WeightsAndBiases)(folder, last)


class _TensorBoard:
    """TensorBoard's files."""

    def __init__(self, folder: Path, last: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        place = folder / "tensorboard"
        self.is_new = not (place.is_dir() and any(place.iterdir()))
        # Later points are those of a process that was killed; TensorBoard then leaves them out.
        self._board = SummaryWriter(str(place), purge_step=None if self.is_new else last + 1)

    def show(self, name: str, record: Mapping[str, Any]) -> None:
        for key, value in numbers(record, name):
            self._board.add_scalar(key, value, record["nimg"])

    def close(self) -> None:
        self._board.close()


class _WeightsAndBiases:
    """A run of Weights & Biases; offline, unless the user sets ``WANDB_MODE``. A resumed run keeps its id."""

    def __init__(self, folder: Path, last: int) -> None:
        import wandb

        noted = folder / "wandb" / "id"
        self.is_new = last < 0 or not noted.is_file()
        if self.is_new:
            write_text(noted, uuid.uuid4().hex[:16])
        self._run = wandb.init(
            dir=str(folder),
            project=os.environ.get("WANDB_PROJECT", "sida"),
            name=folder.name,
            id=noted.read_text(encoding="utf-8").strip(),
            resume="allow",
            mode=cast(Any, os.environ.get("WANDB_MODE", "offline")),
            settings=wandb.Settings(console="off", silent=True),
        )
        self._run.define_metric("*", step_metric="nimg")

    def show(self, name: str, record: Mapping[str, Any]) -> None:
        self._run.log({**dict(numbers(record, name)), "nimg": record["nimg"]})

    def close(self) -> None:
        self._run.finish()


def numbers(record: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
    """All numbers of a record by path, e.g. ``train/losses/sid``; lists (values of single trials) are left out."""
    for key, value in record.items():
        if isinstance(value, Mapping):
            yield from numbers(value, f"{prefix}/{key}")
        elif isinstance(value, (int, float)) and not isinstance(value, bool) and key != "nimg":
            yield f"{prefix}/{key}", float(value)
