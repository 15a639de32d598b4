"""Kept states of trainings: what lies in the folder in which somebody starts a run again."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from sida.files.tensors import write_tensors
from sida.training.averages import Average
from sida.training.logs import IterationRecord
from sida.training.loop import TrainingLoop
from sida.training.optimizer import OptimizedNetwork, joint_state, load_joint_state
from sida.training.plan import Plan, Points
from sida.training.run import RunFiles
from sida.training.state import STATE_FORMAT, KeptState
from tests.files.genuine import network

DIGEST = "d" * 64
METADATA = {"method": "teacher", "dataset": "digits", "network": network().init_config}
COUNTS = {"samples": 16, "nan_count": 0, "bad_gradients": 0, "bad_steps": 0, "steps": 2}
TICK = {"losses": {"denoising": 1.5, "sid": None}, "grad_norm": {"teacher": 0.25}, "weight_rms": {"teacher": 0.1}}
RUNNING: dict[str, Any] = {
    "finished": False, "nimg": 24, "done": {"tick": 16, "evaluation": 16, "snapshot": 0},
    "train": [{"nimg": 16, **TICK, **COUNTS, "img_per_s": 90.0, "seconds": 0.2}],
    "evaluations": [{"nimg": 16, "selection": "fd", "fd": 3.5, "fd_trials": [3.5], "seconds": 0.1}],
    "best": {"nimg": 16, "fd": 3.5},
    "meter": {"means": {"losses": {"denoising": [1.25, 1]}, "grad_norm": {}}, "counts": {**COUNTS, "images": 8},
              "seconds": 0.1},
}  # fmt: skip
FINISHED = {**RUNNING, "finished": True, "metadata": {**METADATA, **RUNNING["best"], "last_nimg": 24}}
OLDER = {**RUNNING, "nimg": 16, "meter": {"means": {"losses": {}, "grad_norm": {}}, "counts": {}, "seconds": 0.0}}


class EnoughError(Exception):
    """The run went on."""


class StillTrainer:
    """A trainer whose steps change nothing."""

    def __init__(self) -> None:
        self.learner = OptimizedNetwork(network(), 1e-3, (0.0, 0.9), 1e-8)
        self.ema = Average(self.learner)
        self.snapshots: dict[str, Any] = {}
        self.seen = 0
        self._parts = {"teacher": self.learner, "ema": self.ema}

    def iteration(self, nimg: int) -> IterationRecord:
        """No step; the third is the last."""
        self.seen += 1
        if self.seen > 2:
            raise EnoughError
        one = torch.ones(())
        return IterationRecord({"denoising": one}, {"teacher": one}, samples=8)

    def weight_rms(self) -> dict[str, float | None]:
        """Of nothing."""
        return {"teacher": 0.1}

    def state(self) -> dict[str, torch.Tensor]:
        """Weights and moments."""
        return joint_state(self._parts)

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Puts them back."""
        load_joint_state(self._parts, state)


@functools.cache
def trainer() -> StillTrainer:
    """One for all cases: each state replaces all that it holds."""
    return StillTrainer()


@functools.cache
def tensors(stem: str) -> bytes:
    """The tensor file beside a record."""
    one = StillTrainer()
    best = {f"best/{name}": tensor for name, tensor in one.ema.state().items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.safetensors"
        write_tensors(path, best if stem.startswith("finished") else {**one.state(), **best})
        return path.read_bytes()


def state(record: dict[str, Any], content: bytes) -> dict[str, Any]:
    """A state's JSON without its own hash."""
    return {
        "format": STATE_FORMAT,
        "digest": DIGEST,
        "tensors_sha256": hashlib.sha256(content).hexdigest(),
        "record": record,
    }


def put(folder: Path, number: int, record: bytes, content: bytes) -> None:
    """A state's two files."""
    (folder / f"state-{number:06d}.safetensors").write_bytes(content)
    (folder / f"state-{number:06d}.json").write_bytes(record)


def go_on(folder: Path, check: Callable[[KeptState], None] = lambda kept: None) -> None:
    """Starts the run again; ``check`` sees what it took for its state."""
    plan = Plan("fuzz", 64, 8, Points(16), evaluation=Points(16), patience=9, state_seconds=1e9)
    with RunFiles(folder, DIGEST) as files:
        assert files.kept is not None
        check(files.kept)
        if files.finished:
            files.publish_again("fuzz")
            return
        still = trainer()
        still.seen = 0
        with contextlib.suppress(EnoughError):
            TrainingLoop(plan, still, files, METADATA, lambda net, check: {"fd": 2.5}).run()
