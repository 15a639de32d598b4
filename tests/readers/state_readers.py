"""Kept states of trainings: what lies in the folder in which somebody starts a run again."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch

from sida.files.content_hash import HASH_KEY, with_hash
from sida.files.tensors import write_tensors
from sida.training.averages import Average
from sida.training.logs import IterationRecord
from sida.training.loop import TrainingLoop
from sida.training.optimizer import OptimizedNetwork, joint_state, load_joint_state
from sida.training.plan import Plan, Points
from sida.training.run import RunFiles
from sida.training.state import STATE_FORMAT, KeptState
from tests.readers.changes import JSON_BOMBS, json_text
from tests.readers.checkpoint_readers import HEADER_BOMBS, header, network, unhashed
from tests.readers.frame import FaultError, Reader

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


def write_states(folder: Path) -> None:
    """Records of a run that was interrupted and of a finished one, with hashes and without; tensors."""
    for name, record in (("running", RUNNING), ("finished", FINISHED)):
        plain = state(record, tensors(name))
        (folder / f"{name}.json").write_text(json.dumps(with_hash(plain)))
        (folder / f"{name}-unhashed.json").write_text(json.dumps(plain))
        (folder / f"{name}.safetensors").write_bytes(unhashed(tensors(name)))


def read_state(path: Path, own: Path) -> None:
    """The newest of two states: it is gone on from, the one before it is, or there is one line.

    A damaged file of tensors comes with a record that has its hash.
    """
    folder = own / "run" / "state"
    folder.mkdir(parents=True)
    put(folder, 1, json.dumps(with_hash(state(OLDER, tensors("older")))).encode(), tensors("older"))
    if path.suffix == ".json":
        put(folder, 2, path.read_bytes(), tensors(path.stem))
    else:
        record = FINISHED if path.stem == "finished" else RUNNING
        put(folder, 2, json.dumps(state(record, path.read_bytes())).encode(), path.read_bytes())
    go_on(own / "run", check_taken)


def put(folder: Path, number: int, record: bytes, content: bytes) -> None:
    """A state's two files."""
    (folder / f"state-{number:06d}.safetensors").write_bytes(content)
    (folder / f"state-{number:06d}.json").write_bytes(record)


def check_taken(kept: KeptState) -> None:
    """What a run takes for its state is what was kept, if the file carries a hash."""
    if kept.path.name == "state-000002":
        found = json.loads(kept.path.with_suffix(".json").read_bytes())
        if HASH_KEY in found and kept.record not in (RUNNING, FINISHED):
            raise FaultError("a state with another hash than its own was taken")
    elif kept.record != OLDER:
        raise FaultError("the state before is not what it was")


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


def record_or_header(data: bytes, rng: Random) -> bytes:
    """A change of the JSON, be it the file or a tensor file's header."""
    return (json_text if data.startswith(b"{") else header)(data, rng)


def bombs(data: bytes, rng: Random) -> bytes:
    """A record or a header of nothing but brackets."""
    return (JSON_BOMBS if data.startswith(b"{") else HEADER_BOMBS)(data, rng)


READERS = (Reader("kept state", write_states, read_state, (*[record_or_header] * 9, bombs), 0.8, cases=25),)
