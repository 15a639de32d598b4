"""The SiDA training step against a straightforward implementation of the same mathematics.

The baseline (:mod:`benchmarks.official_order`) does the work in the official order, with a generator step that is
computed and thrown away while the generator is held back. Same networks, data and draws; both must give equal losses.

Each side lives in a process of its own (the suite's training also tunes the allocator, which is process-wide) and the
two take turns, one thread each; times are the process's CPU seconds, which other work on the machine disturbs least.
"""

from __future__ import annotations

import copy
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from benchmarks.official_order import Plain
from sida.files.atomic import write_json
from sida.machine import prepare_process
from sida.methods.registry import recipe_of
from sida.methods.sid import SiDALoss
from sida.networks import build_network
from sida.provenance import environment
from sida.training.iteration import Distiller
from sida.training.schedule import Schedule

NETWORK = {
    "class": "EDMPrecond",
    "kwargs": {
        "model_type": "SongUNet",
        "img_resolution": 8,
        "img_channels": 1,
        "label_dim": 10,
        "augment_dim": 9,
        "model_channels": 32,
        "channel_mult": [1, 1],
        "num_blocks": 1,
        "attn_resolutions": [],
        "dropout": 0.0,
    },
}
SETTINGS = {"lr": 5e-4, "lambda_adv": 10.0, "lambda_d": 5.0, "grad_clip_value": 1.0}
WARMUP, FULL = 0, 3_000  # images seen: the generator is held back; both of its terms are on
SCHEDULE = Schedule(warmup_kimg=1, adversarial_kimg=2)
TOLERANCE = 1e-4


def networks() -> list[torch.nn.Module]:
    """φ, ψ, θ with the same weights, far enough from their initialisation that every layer matters."""
    torch.manual_seed(0)
    net = build_network(NETWORK).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return [copy.deepcopy(net).requires_grad_(False), copy.deepcopy(net), copy.deepcopy(net)]


def batches(batch: int, count: int = 8) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Images and labels like the digits'."""
    source = torch.Generator().manual_seed(1)
    eye = torch.eye(10)
    return [
        (torch.randn(batch, 1, 8, 8, generator=source) * 0.5, eye[torch.randint(10, (batch,), generator=source)])
        for _ in range(count)
    ]


def worker(kind: str, batch: int, pipe: Connection) -> None:
    """Runs one side in a process of its own."""
    torch.set_num_threads(1)
    # What an earlier run compiled would be found again on disk; it is the first compilation that has to be paid for.
    with tempfile.TemporaryDirectory(prefix="sida-bench-") as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        if kind == "plain":
            serve(Plain(*networks(), SCHEDULE, **SETTINGS).iteration, batch, pipe)
            return
        prepare_process(threads=1)
        recipe = recipe_of(compile=kind == "compiled", **SETTINGS)
        distiller = Distiller(*networks(), SiDALoss.of(recipe), SCHEDULE, recipe)

        def step(nimg: int, real: Any, like: Any) -> dict[str, torch.Tensor]:
            distiller.batches = lambda stream, nimg, with_images: [like if stream == "generator" else real]
            return distiller.iteration(nimg).losses

        serve(step, batch, pipe)


def serve(iteration: Callable[..., dict[str, torch.Tensor]], batch: int, pipe: Connection) -> None:
    """For each ``(nimg, count)`` received does that many iterations; answers times, losses and wall time."""
    data, number = batches(batch), 0
    while (command := pipe.recv()) is not None:
        nimg, count = command
        seconds, losses, begin = [], [], time.perf_counter()
        for _ in range(count):
            real, like = data[number % len(data)], data[(number + 1) % len(data)]
            start = time.process_time()
            result = iteration(nimg, real, like)
            seconds.append(time.process_time() - start)
            losses.append({name: float(value) for name, value in result.items()})
            nimg, number = nimg + batch, number + 1
        pipe.send((seconds, losses, time.perf_counter() - begin))


class Sides:
    """One process per side, measured in turns."""

    def __init__(self, kinds: Sequence[str], batch: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.batch = batch
        self.pipes: dict[str, Connection] = {}
        self.processes = []
        for kind in kinds:
            ours, theirs = context.Pipe()
            process = context.Process(target=worker, args=(kind, batch, theirs), daemon=True)
            process.start()
            self.pipes[kind] = ours
            self.processes.append(process)

    def run(self, nimg: int, count: int) -> dict[str, tuple[list[float], list[dict[str, float]], float]]:
        """Every side does ``count`` iterations from ``nimg`` images on, one side after the other."""
        answers = {}
        for kind, pipe in self.pipes.items():
            pipe.send((nimg, count))
            answers[kind] = pipe.recv()
        return answers

    def close(self) -> None:
        """Ends the processes."""
        for pipe in self.pipes.values():
            pipe.send(None)
        for process in self.processes:
            process.join()


def difference(one: Sequence[dict[str, float]], other: Sequence[dict[str, float]]) -> float:
    """Largest relative difference of losses that both sides have."""
    return max(abs(a[name] - b[name]) / max(abs(a[name]), 1e-12) for a, b in zip(one, other) for name in a if name in b)


def compare(sides: Sides, nimg: int, turns: int, count: int) -> dict[str, Any]:
    """Times all sides in turns; the first turn warms up and checks that the losses agree."""
    kinds = list(sides.pipes)
    first = sides.run(nimg, 3)
    worst = max(difference(first[kinds[0]][1], first[kind][1]) for kind in kinds)
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    per_turn: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(turns):
        for kind, (seconds, _, _) in sides.run(nimg, count).items():
            times[kind] += seconds
            per_turn[kind].append(statistics.median(seconds))
    base = kinds[0]
    ratios = {
        kind: statistics.median(b / o for b, o in zip(per_turn[base], per_turn[kind])) for kind in kinds if kind != base
    }
    rates = {kind: sides.batch / statistics.median(values) for kind, values in times.items()}
    # Compilers run in other processes: only the clock on the wall sees them.
    warm_up = {kind: first[kind][2] for kind in kinds}
    return {"img_per_s": rates, "ratios": ratios, "loss_difference": worst, "warm_up_seconds": warm_up}


def main(out: Path) -> bool:
    """Compares at batch 32 and 128, with the generator learning and held back."""
    rows, kept = [], True
    print(f"{'batch':>5} {'phase':<22}{'plain img/s':>12}{'suite img/s':>12}{'ratio':>7}{'losses differ by':>18}")
    for batch in (32, 128):
        sides = Sides(("plain", "lean"), batch)
        for name, nimg in (("generator held back", WARMUP), ("both learn", FULL)):
            result = compare(sides, nimg, turns=5, count=max(2, 160 // batch))
            rates, ratio = result["img_per_s"], result["ratios"]["lean"]
            kept &= ratio >= 1.0 and result["loss_difference"] < TOLERANCE
            rows.append({"batch": batch, "phase": name, **result})
            print(
                f"{batch:>5} {name:<22}{rates['plain']:>12.0f}{rates['lean']:>12.0f}{ratio:>7.2f}"
                f"{result['loss_difference']:>18.1e}",
                flush=True,
            )
        sides.close()
    print(f"bound: ratio >= 1 (wanted 1.1), losses equal to {TOLERANCE:g}")
    write_json(out, {"rows": rows, "bound": 1.0, "wanted": 1.1, "environment": environment()})
    return kept
