"""Rates of a device in the trainings of a preset, beside those that the plan expects: ``rates.json`` and its table.

Measures the rate of a machine by a few training steps of a row.
"""

from __future__ import annotations

import itertools
import json
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from eval.features import get_extractor
from eval.results.logs import read_log
from eval.tables.hyperparameters import log_quantity
from eval.tables.model import Cell, Column, Row, Table
from sida.errors import UserError
from sida.files.atomic import read_hashed_json
from sida.machine import take_device, tf32
from workflow.planning.costs import Job
from workflow.planning.jobs import Jobs
from workflow.planning.rates import Assumptions
from workflow.planning.steps import student_cost

RATES_FORMAT = "sida-rates/1"
#: The card of the official code's published hours (Table 8 of SiDA), which its rate in ``plan.yaml`` comes from.
OFFICIAL = "H100"
SECONDS = 1.0


def observe(jobs: Jobs) -> dict[str, Any]:
    """Reads the training logs of a preset, and times a matrix product and its feature networks on a device.

    Args:
        jobs: Of the preset, whose device is taken.

    Returns:
        ``format, device, card`` (a key of ``plan.yaml`` or None), ``memory_gb`` (None for a CPU), ``peak`` (operations
        a second by precision), ``trainings`` and ``extractors`` (images a second by name).

    Raises:
        UserError: The device is not here, or nothing was trained yet.
    """
    import torch

    device = take_device(jobs.preset.settings.device, jobs.preset.source)
    card = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    name = "CPU" if card is None else str(card.name)
    planned = [("teachers", jobs.costs.teacher(name)) for name in jobs.preset.trained_teachers()]
    planned += [("students", jobs.costs.student(run.run)) for run in jobs.preset.students()]
    trainings = [training for folder, job in planned if (training := _training(jobs, folder, job))]
    if not trainings:
        raise UserError(jobs.preset.results, "no training there yet", "run the preset first")
    with tf32(False):
        peak = {"float32": _peak(torch.float32, device)}
        if device.type == "cuda":
            peak["float16"] = _peak(torch.float16, device)
        extractors = dict(_extractors(jobs, device))
    return {
        "format": RATES_FORMAT,
        "device": name,
        "card": card_of(name, jobs.costs.assumptions),
        "memory_gb": card and card.total_memory / 1e9,
        "peak": peak,
        "trainings": trainings,
        "extractors": extractors,
    }


def card_of(device: str, assumptions: Assumptions) -> str | None:
    """The card of ``plan.yaml`` whose parts all stand in a device's name, such as ``A100-80`` of NVIDIA's."""
    plain = re.sub(r"[^A-Z0-9]", "", device.upper())
    return next((card for card in assumptions.gpus if all(part in plain for part in card.upper().split("-"))), None)


def read_rates(path: Path) -> dict[str, Any] | None:
    """The rates that :func:`observe` found here: ``card``, and ``rates`` by fp16; None where it was not asked.

    Raises:
        UserError: The file is damaged, or something else.
    """
    if not path.is_file():
        return None
    found = read_hashed_json(path, "remove it, or write it again with `sida rates`")
    if found.get("format") != RATES_FORMAT:
        raise UserError(path, f"format must be '{RATES_FORMAT}'", "remove it, or write it again with `sida rates`")
    rates: dict[bool, list[float]] = {}
    for training in found["trainings"]:
        rates.setdefault(training["fp16"], []).append(training["operations_per_second"])
    return {"card": found["card"], "rates": {fp16: median(some) for fp16, some in rates.items()}}


def rates_table(found: dict[str, Any], jobs: Jobs) -> Table:
    """The table "What your GPU does" of :func:`observe`'s findings."""
    costs, official = jobs.costs, jobs.costs.assumptions.gpu(OFFICIAL).float16
    heads = ("Images/s", f"Plan, {costs.gpu_name}", f"Official, {OFFICIAL}", "TFLOP/s", "% of peak", "GB", "Plan, GB")
    rows, records = [], []
    for training in found["trainings"]:
        half, work = training["fp16"], training["gflop_per_image"] * 1e9
        rate, peak = training["operations_per_second"], found["peak"]["float16" if half else "float32"]
        planned = costs.gpu.rate(half, costs.gpu_name) / work
        theirs = official * 1e12 / work if half and official else None
        numbers = [training["images_per_second"], planned, theirs, rate / 1e12, 100 * rate / peak]
        numbers += [training["memory_gb"], training["planned_memory_gb"]]
        rows.append(_row(training["name"], numbers))
        records += _records(training["name"], heads, numbers)
    foreign = costs.assumptions.gflop
    for name, rate in found["extractors"].items():
        work = getattr(foreign, name.partition("_")[0], None)
        planned = costs.gpu.rate(False, costs.gpu_name) / (work * 1e9) if work else None
        numbers = [rate, planned, *[None] * 5]
        rows.append(_row(f"feature network {name}", numbers))
        records += _records(name, heads, numbers)
    peaks = ", ".join(f"{rate / 1e12:.3g} TFLOP/s in {name}" for name, rate in found["peak"].items())
    return Table(
        "rates",
        "What your GPU does" if found["memory_gb"] else "What this processor does",
        "Rates of the trainings of this run, and of the feature networks, on one device.",
        "measured",
        (Column("Training", name=True), *(Column(head, number=True) for head in heads)),
        tuple(rows),
        (
            f"Measured on {found['device']}; peak: a large matrix product, {peaks}.",
            "Images/s: median of the training log without evaluations; TFLOP/s: by counted operations. "
            f"Plan: the rate of {costs.gpu_name} in plan.yaml, memory by counted tensors. Official: the same work at "
            f"the rate of the official code's published hours ({official} TFLOP/s in float16).",
        ),
        records=tuple(records),
    )


def _row(name: str, numbers: Sequence[float | None]) -> Row:
    cells = (Cell(kind="dash") if number is None else Cell(f"{number:.3g}", "measured") for number in numbers)
    return Row((Cell(name), *cells))


def _records(name: str, heads: Sequence[str], numbers: Sequence[float | None]) -> list[dict[str, Any]]:
    place = {"table": "rates", "mode": "measured", "model": name}
    return [
        place | {"column": head, "metric": head, "measured": number}
        for head, number in zip(heads, numbers)
        if number is not None
    ]


def _training(jobs: Jobs, folder: str, planned: Job) -> dict[str, Any] | None:
    """Speed and memory of a training, beside what was planned; None where it has no log yet."""
    log = Path(jobs.preset.results) / folder / planned.name / "train.jsonl"
    ticks = read_log(log) if log.is_file() else []
    seconds = log_quantity(ticks, "seconds_per_kimg")
    if seconds is None:
        return None
    rate, work = 1000 / seconds, planned.facts["gflop_per_image"]
    return {
        "name": planned.name,
        "fp16": planned.facts["fp16"],
        "images_per_second": rate,
        "gflop_per_image": work,
        "operations_per_second": rate * work * 1e9,
        "memory_gb": log_quantity(ticks, "memory_allocated_gb"),
        "planned_memory_gb": planned.memory_gb or None,
    }


def _peak(dtype: Any, device: Any) -> float:
    """Operations a second of a large matrix product."""
    import torch

    size = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 * _per_second(lambda: a @ b, device, SECONDS)


def _extractors(jobs: Jobs, device: Any) -> Iterator[tuple[str, float]]:
    """Images a second of each feature network of the preset's protocol."""
    import torch

    preset, batch = jobs.preset, 250
    protocol = preset.protocol(next(iter(preset.runs.values())))
    size = protocol.resolution or 32
    images = torch.randint(0, 256, (batch, protocol.channels or 3, size, size), dtype=torch.uint8, device=device)
    for name in protocol.extractors():
        network = get_extractor(name, device)
        yield name, batch * _per_second(lambda net=network: net(images), device, SECONDS)  # type: ignore[misc]


def _per_second(work: Callable[[], Any], device: Any, least_seconds: float, least_times: int = 1) -> float:
    """Times that some work is done in a second, after once that is not timed."""
    import torch

    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    work()
    wait()
    start, times = time.perf_counter(), 0
    while (seconds := time.perf_counter() - start) < least_seconds or times < least_times:
        work()
        wait()
        times += 1
    return times / seconds


#: Least number of timed steps (after one untimed step), and least seconds, which small networks fill with more steps.
STEPS, STEP_SECONDS = 3, 5.0


def typical(jobs: Jobs, trained: Sequence[Job]) -> Job:
    """The longest training of the network whose trainings take the most hours in total.

    Args:
        jobs: Jobs of the preset.
        trained: Trainings of students, at least one.
    """
    groups: dict[str, list[Job]] = {}
    for job in trained:
        network = json.dumps(jobs.costs.network(jobs.preset.runs[job.name].teacher), sort_keys=True)
        groups.setdefault(network, []).append(job)
    most = max(groups.values(), key=lambda group: math.fsum(job.gpu_hours for job in group))
    return max(most, key=lambda job: job.gpu_hours)


def measured_rate(jobs: Jobs, run: str) -> tuple[bool, float]:
    """Operations per second of a row's training on one device, with random weights and images.

    Args:
        jobs: Jobs of the preset.
        run: Row to train with its settings and one micro-batch (``batch_gpu``) per step.

    Returns:
        Whether the training computes in float16, and the rate.

    Raises:
        UserError: The preset's device is missing, or has too little memory.
    """
    import torch

    from sida.machine import prepare_process

    config, network = jobs.costs.resolved(run), jobs.costs.network(jobs.preset.runs[run].teacher)
    assert network is not None  # resolving the settings needs it
    device = take_device(config.device, f"--measure {run}")
    prepare_process(config.threads)
    try:
        trainer = _trainer(config, network, device)
        images = config.batch_gpu or config.batch_size
        nimg = int(1000 * (config.warmup_kimg + config.adversarial_kimg)) + config.batch_size
        shape = (images, *(network["kwargs"][key] for key in ("img_channels", "img_resolution", "img_resolution")))
        labels = torch.zeros(images, network["kwargs"].get("label_dim", 0), device=device)
        batch = [(torch.zeros(shape, device=device), labels)]
        trainer.batches = lambda stream, nimg, with_images: batch
        seen = itertools.count(nimg, config.batch_size)
        steps = _per_second(lambda: trainer.iteration(next(seen)), device, STEP_SECONDS, STEPS)
    except torch.OutOfMemoryError:
        raise UserError(f"--measure {run}", f"the device has too little memory for a micro-batch of {images}") from None
    return config.fp16, steps * images * student_cost(config, network).operations


def _trainer(config: Any, network: Any, device: Any) -> Any:
    from sida.methods.method import Parts
    from sida.methods.registry import find_method
    from sida.networks import build_network, family_of

    method = find_method(config.method)
    teacher = build_network(network).to(device)
    options = method.read_options(config.options, "options")
    return Parts(method, config, options, family_of(teacher), teacher, teacher, device, "--measure").trainer()
