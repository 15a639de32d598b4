"""Trainings by ``sida distill`` on a GPU against their bare step: the loop, guidance, kept states, two processes.

CIFAR-10's network with random weights learns rendered letters by SiDA in float16 with fused kernels. The rate of a
training is the median of its log records but the first two. ``SIDA_REHEARSAL=1``: see :mod:`benchmarks.gpu`.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import CIFAR, DEVICE, REHEARSAL, SMALL, wait
from benchmarks.training_loop import LOOP, STATE
from benchmarks.two_processes import Side
from sida.config.resources import ROOT
from sida.data import load_dataset
from sida.data.prepare import PrepareConfig, prepare
from sida.files.atomic import write_json
from sida.machine import prepare_process
from sida.methods.distillation import make_trainer
from sida.methods.registry import DistillConfig, resolve_recipe
from sida.networks import build_network
from sida.networks.file import save_network
from sida.provenance import environment
from sida.training.batches import step_batches
from sida.training.processes import ALONE

KERNELS = "torch" if REHEARSAL else "fused"
BATCH, KIMG, TICK = (4, 0.032, 0.004) if REHEARSAL else (128, 30, 2)
LETTERS = "glyphs16" if REHEARSAL else "glyphs32"
SOURCE = str(ROOT / "studies" / "shared" / "letters" / f"render.py:{LETTERS.upper()}")
RESOLUTION, CLASSES = (16, 10) if REHEARSAL else (32, 26)
NETWORK = {
    "class": "EDMPrecond",
    "kwargs": {**(SMALL if REHEARSAL else CIFAR), "img_resolution": RESOLUTION, "label_dim": CLASSES,
               "use_fp16": not REHEARSAL},
}  # fmt: skip
#: Minutes between two states: the default, and so often that their cost shows.
OFTEN, SELDOM = (0.001, 5.0) if REHEARSAL else (0.1, 5.0)


def settings(folder: Path, **more: Any) -> dict[str, Any]:
    """Settings of a training in a folder that has ``letters.zip``."""
    dataset = {"name": LETTERS, "kind": "zip", "path": str(folder / "letters.zip"), "resolution": RESOLUTION,
               "channels": 3, "label_dim": CLASSES, "num_images": 52 if REHEARSAL else 2600, "cache": True}  # fmt: skip
    return {"name": "bench", "method": "sida", "dataset": dataset, "device": DEVICE, "kernels": KERNELS,
            "total_kimg": KIMG, "batch_size": BATCH, "lr": 1e-5, "warmup_kimg": 0, "adversarial_kimg": 0,
            "tick_kimg": TICK, **more}  # fmt: skip


def bare(folder: Path, teacher: Path) -> float:
    """Images per second of the steps alone, with their images at hand."""
    config = resolve_recipe(DistillConfig(**settings(folder), teacher=str(teacher)), NETWORK)
    dataset, device = load_dataset(config.dataset), torch.device(DEVICE)
    trainer, batches = make_trainer(config, dataset, device), step_batches(config, dataset, device, ALONE, "student")
    given = {stream: batches(stream, 0, True) for stream in ("psi", "generator")}
    trainer.batches = lambda stream, nimg, with_images: given.get(stream, given["psi"])
    count, begin = 2 if REHEARSAL else 60, 0.0
    for number in range(6 + count):
        if number == 6:
            wait()
            begin = time.perf_counter()
        trainer.iteration(BATCH * (1 + number))
    wait()
    return BATCH * count / (time.perf_counter() - begin)


def trained(folder: Path, teacher: Path, name: str, **more: Any) -> float:
    """Images per second of a training."""
    spec = folder / f"{name}.json"
    write_json(spec, settings(folder, **more))
    command = [sys.executable, "-m", "sida", "distill", "--spec", str(spec), "--teacher", str(teacher)]
    subprocess.run([*command, "--out", str(folder / name)], check=True)
    lines = (folder / name / "train.jsonl").read_text().splitlines()
    return statistics.median(json.loads(line)["img_per_s"] for line in lines[2:])


def together(backend: str) -> str:
    """Outcome of two processes on one device that exchange by a backend."""
    side = Side(2, DEVICE, backend)
    try:
        return f"{side.run(2)[0]:.0f} img/s of the digits' network"
    except (EOFError, OSError, TimeoutError) as error:
        return f"does not run ({type(error).__name__})"
    finally:
        side.close()


def main(out: Path) -> bool:
    """Measures all; what is measured is stored after each."""
    if not torch.cuda.is_available() and not REHEARSAL:
        print("gpu_loop: needs a GPU with CUDA, and there is none here")
        return False
    prepare_process()
    rows = list[dict[str, Any]]()

    def add(what: str, **facts: Any) -> None:
        rows.append({"what": what, **facts})
        print(*(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
        write_json(out, {"rows": rows, "bounds": [LOOP, STATE], "environment": environment(DEVICE)})

    with tempfile.TemporaryDirectory(prefix="sida-bench-") as name:
        folder, teacher = Path(name), Path(name) / "teacher.safetensors"
        prepare(PrepareConfig(SOURCE, str(folder / "letters.zip"), max_images=52 if REHEARSAL else 2600))
        torch.manual_seed(0)
        save_network(build_network(NETWORK), teacher, {"method": "teacher"})
        alone = bare(folder, teacher)
        add("bare step", img_per_s=alone)
        loop = trained(folder, teacher, "plain", state_minutes=SELDOM)
        add("sida distill", img_per_s=loop, share=loop / alone)
        states = trained(folder, teacher, "states", state_minutes=OFTEN)
        # Seconds of a state, over the time between two by default.
        cost = max(0.0, (1 - states / loop) * OFTEN / SELDOM)
        add(f"a state every {OFTEN:g} minutes", img_per_s=states, share=states / loop, cost_of_default=cost)
        guided = trained(folder, teacher, "guided", guide=str(teacher), guidance=1.5)
        add("guided", img_per_s=guided, share=guided / loop)
    for backend in ("gloo",) if REHEARSAL else ("cpu:gloo,cuda:nccl", "cpu:gloo,cuda:gloo"):
        add(f"two processes on one device, {backend}", result=together(backend))
    return loop / alone >= LOOP and cost < STATE
