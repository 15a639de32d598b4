"""What a run costs beside its steps: the loop of ``sida distill``, a kept state, the start.

The digits' network and settings, one thread. Of the loop, it is measured how many of its CPU seconds are spent in the
bare step (``Distiller.iteration`` with its images at hand); so both are of the same run, whatever else the machine
does. A state is given ballast, so that it is as large as one of a network for 64×64 images; it costs the CPU seconds
that copying, hashing and writing take in whatever thread, which is more than a step loses while a core or a GPU is
free, over the time between two states (``state_minutes``). The start is that of a process.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.training_step import NETWORK
from sida.data import load_dataset
from sida.files.atomic import write_json
from sida.machine import prepare_process
from sida.methods.distillation import make_trainer
from sida.methods.registry import DistillConfig, resolve_recipe
from sida.networks import build_network
from sida.networks.file import save_network
from sida.provenance import environment
from sida.training.batches import step_batches
from sida.training.iteration import StudentTrainer
from sida.training.loop import Plan, TrainingLoop
from sida.training.processes import ALONE
from sida.training.run import RunFiles

BATCH, ITERATIONS = 32, 100
BALLAST_MB = 256
SETTINGS: dict[str, Any] = {
    "name": "bench",
    "method": "sida",
    "dataset": {"name": "digits", "kind": "digits"},
    "total_kimg": 1000,
    "batch_size": BATCH,
    "lr": 5e-4,
    "lambda_adv": 10.0,
    "lambda_d": 5.0,
    "grad_clip_value": 1.0,
    "warmup_kimg": 0,
    "adversarial_kimg": 0,
    "dropout": 0,
    "tick_kimg": 1,
}
#: The loop against the bare step at least; a state's cost at most, as shares; seconds to the first step at most.
LOOP, STATE, START = 0.97, 0.01, 20.0


class EnoughError(Exception):
    """Ends a loop that would go on."""


class Clock:
    """CPU seconds spent in calls of a function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.seconds, self.calls = function, 0.0, 0

    def __call__(self, *args: Any) -> Any:
        """Calls it."""
        start = time.process_time()
        result = self.function(*args)
        self.seconds += time.process_time() - start
        self.calls += 1
        return result


class Counted:
    """A trainer that ends its loop after some iterations; its steps and its reading of data are timed."""

    def __init__(self, trainer: StudentTrainer) -> None:
        self.trainer = trainer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.trainer, name)

    def iteration(self, nimg: int) -> Any:
        """One iteration; the first warms up."""
        if nimg == BATCH:
            self.reading = self.trainer.batches = Clock(self.trainer.batches)
            self.step = Clock(self.trainer.iteration)
            self.start = time.process_time()
        if nimg == BATCH * (ITERATIONS + 1):
            self.whole = time.process_time() - self.start
            raise EnoughError
        return self.step(nimg) if nimg else self.trainer.iteration(nimg)


def loop_share(trainer: Counted, folder: Path, plan: Plan) -> dict[str, float]:
    """Share of the bare step in the loop, with the log records of the plan."""
    with contextlib.suppress(EnoughError), RunFiles(folder, "bench") as files:
        TrainingLoop(plan, trainer, files, {}).run()
    bare = trainer.step.seconds - trainer.reading.seconds
    return {
        "bare_ms": 1e3 * bare / ITERATIONS,
        "loop_ms": 1e3 * trainer.whole / ITERATIONS,
        "reading_ms": 1e3 * trainer.reading.seconds / ITERATIONS,
        "ratio": bare / trainer.whole,
    }


def state_seconds(trainer: Counted, folder: Path) -> dict[str, float]:
    """CPU seconds of a state with ballast, in all threads, and how long a step waits for its copy; least of three."""
    tensors = {**trainer.state(), "ballast": torch.ones(BALLAST_MB << 18)}
    handed, whole = [], []
    with RunFiles(folder, "state") as files:
        for _ in range(3):
            start, begin = time.process_time(), time.perf_counter()
            files.save({"finished": False, "nimg": 0}, tensors, {})
            handed.append(time.perf_counter() - begin)
            files.wait()
            whole.append(time.process_time() - start)
    return {"megabytes": BALLAST_MB, "cpu_seconds": min(whole), "handed_over_seconds": min(handed)}


def seconds_to_first_step(teacher: Path, folder: Path) -> float:
    """From the start of ``sida distill`` to its first log record, after one step."""
    spec = {**SETTINGS, "tick_kimg": BATCH / 1000}
    write_json(folder / "spec.json", spec)
    command = [sys.executable, "-m", "sida", "distill", "--spec", str(folder / "spec.json")]
    start = time.perf_counter()
    process = subprocess.Popen([*command, "--teacher", str(teacher), "--out", str(folder / "first")])
    log = folder / "first" / "train.jsonl"
    try:
        while not (log.is_file() and log.stat().st_size):
            if process.poll() is not None:
                raise RuntimeError("sida distill ended before its first step")
            time.sleep(0.01)
        return time.perf_counter() - start
    finally:
        process.kill()
        process.wait()


def main(out: Path) -> bool:
    """Measures all three."""
    prepare_process(threads=1)
    with tempfile.TemporaryDirectory(prefix="sida-bench-") as name:
        folder, teacher = Path(name), Path(name) / "teacher.safetensors"
        torch.manual_seed(0)
        save_network(build_network(NETWORK), teacher, {"method": "teacher"})
        config = resolve_recipe(DistillConfig(**SETTINGS, teacher=str(teacher)), NETWORK)
        dataset, device = load_dataset(config.dataset), torch.device("cpu")
        trainer = Counted(make_trainer(config, dataset, device))
        trainer.trainer.batches = step_batches(config, dataset, device, ALONE, "student")
        loop = loop_share(trainer, folder / "loop", Plan.from_config(config, "bench"))
        state = state_seconds(trainer, folder / "state")
        start = seconds_to_first_step(teacher, folder)
    share = state["cpu_seconds"] / (config.state_minutes * 60)
    kept = loop["ratio"] >= LOOP and share < STATE and start < START
    print(
        f"loop {loop['loop_ms']:.1f} ms, of which the bare step {loop['bare_ms']:.1f} ms: {100 * loop['ratio']:.1f} %"
    )
    print(
        f"a state of {BALLAST_MB} MB every {config.state_minutes:g} minutes costs {100 * share:.3f} % of the time "
        f"({state['cpu_seconds']:.2f} s; a step waits {1e3 * state['handed_over_seconds']:.0f} ms for its copy)"
    )
    print(f"first step {start:.1f} s after the start")
    result = {"loop": loop, "state": {**state, "share": share}, "first_step_seconds": start}
    write_json(out, {**result, "bounds": [LOOP, STATE, START], "environment": environment(), "bounds_kept": kept})
    return kept
