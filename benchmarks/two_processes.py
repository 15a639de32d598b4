"""Two processes of one thread each against one: the same batch in the same rounds, exchanged over gloo.

Both sides do the whole iteration of SiDA with the loop's agreement between two of them, in turns, and are timed by the
clock on the wall: the ratio means something only where both cores are free, so the load is recorded beside it, and the
ratio of the processors' time, which other work disturbs least but which knows nothing of waiting.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
import statistics
import time
from multiprocessing.connection import Connection
from pathlib import Path

import torch
import torch.distributed as dist

from benchmarks.training_step import FULL, SCHEDULE, SETTINGS, batches, networks
from sida.files.atomic import write_json
from sida.machine import prepare_process
from sida.methods.registry import recipe_of
from sida.methods.sid import SiDALoss
from sida.provenance import environment
from sida.training.iteration import Distiller
from sida.training.processes import StopRequest, joined

BATCH, ROUND, ITERATIONS, TURNS = 512, 128, 3, 3
BOUND = 1.8
PATIENCE = 300.0  # seconds to an answer


def worker(rank: int, world_size: int, port: int, pipe: Connection, device: str, backend: str | None) -> None:
    """For each number of iterations received, does them together with the others; answers seconds by both clocks."""
    if backend is not None:
        # By itself a training joins its processes on GPUs by nccl, which wants a GPU for each.
        join = dist.init_process_group
        dist.init_process_group = lambda _, **options: join(backend, **options)
    place = {"RANK": rank, "WORLD_SIZE": world_size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()})
    prepare_process(threads=1)
    with joined(torch.device(device)) as ranks:
        nets = [net.to(device) for net in networks()]
        recipe = recipe_of(**SETTINGS)
        distiller = Distiller(*nets, SiDALoss.of(recipe), SCHEDULE, recipe)
        distiller.join(ranks)
        share = BATCH // world_size
        own = slice(rank * share, (rank + 1) * share)
        data = [list(zip(*(part[own].to(device).split(ROUND) for part in batch))) for batch in batches(BATCH)]
        number = 0
        while (count := pipe.recv()) is not None:
            ranks.agree(StopRequest.NONE)
            start, busy = time.perf_counter(), time.process_time()
            for _ in range(count):
                real, like = data[number % len(data)], data[(number + 1) % len(data)]
                given = {"psi": real, "generator": like}
                distiller.batches = lambda stream, nimg, with_images, given=given: given[stream]
                distiller.iteration(FULL + number * BATCH)
                ranks.agree(StopRequest.NONE)
                number += 1
            pipe.send((time.perf_counter() - start, time.process_time() - busy))


class Side:
    """So many processes that train together, on a device, by a backend other than the device's."""

    def __init__(self, world_size: int, device: str = "cpu", backend: str | None = None) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        context = multiprocessing.get_context("spawn")
        self.pipes, self.processes = [], []
        for rank in range(world_size):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=worker, args=(rank, world_size, port, theirs, device, backend), daemon=True
            )
            process.start()
            theirs.close()
            self.pipes.append(ours)
            self.processes.append(process)

    def run(self, count: int) -> tuple[float, float]:
        """Images per second of so many iterations: by the wall, and by the CPU time of the busiest process."""
        for pipe in self.pipes:
            pipe.send(count)
        if not all(pipe.poll(PATIENCE) for pipe in self.pipes):
            raise TimeoutError
        wall, busy = zip(*(pipe.recv() for pipe in self.pipes))
        return BATCH * count / max(wall), BATCH * count / max(busy)

    def close(self) -> None:
        """Ends the processes."""
        for pipe in self.pipes:
            with contextlib.suppress(OSError):
                pipe.send(None)
        for process in self.processes:
            process.join(10)
            process.kill()


def main(out: Path) -> bool:
    """Compares them in turns."""
    load = os.getloadavg()[0]
    sides = {number: Side(number) for number in (1, 2)}
    for side in sides.values():
        side.run(2)
    rates: dict[int, list[tuple[float, float]]] = {number: [] for number in sides}
    for _ in range(TURNS):
        for number, side in sides.items():
            rates[number].append(side.run(ITERATIONS))
    for side in sides.values():
        side.close()
    turns = list(zip(rates[1], rates[2]))
    ratio, of_cpu = (statistics.median(two[clock] / one[clock] for one, two in turns) for clock in (0, 1))
    one, two = (statistics.median(wall for wall, _ in rates[number]) for number in (1, 2))
    print(f"one process {one:.0f} img/s, two {two:.0f} img/s: {ratio:.2f} times, by CPU time {of_cpu:.2f}")
    print(f"load of the machine before: {load:.1f}")
    print(f"bound: ratio >= {BOUND}, where nothing else runs")
    row = {
        "batch": BATCH,
        "round": ROUND,
        "img_per_s": {"1": one, "2": two},
        "ratio": ratio,
        "ratio_of_cpu_time": of_cpu,
        "load_before": load,
    }
    write_json(out, {**row, "bound": BOUND, "environment": environment()})
    return ratio >= BOUND
