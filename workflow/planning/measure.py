"""Measures the rate of a machine by a few training steps of a row."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from typing import Any

from sida.errors import UserError
from workflow.planning.costs import Job
from workflow.planning.jobs import Jobs
from workflow.planning.steps import student_cost

#: Least number of timed steps (after one untimed step), and least seconds, which small networks fill with more steps.
STEPS, SECONDS = 3, 5.0


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

    from sida.runtime.devices import take_device
    from sida.training.process import prepare_process

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
        trainer.iteration(nimg)
        _wait(device)
        start, steps, seconds = time.perf_counter(), 0, 0.0
        while steps < STEPS or seconds < SECONDS:
            steps += 1
            trainer.iteration(nimg + steps * config.batch_size)
            _wait(device)
            seconds = time.perf_counter() - start
    except torch.OutOfMemoryError:
        raise UserError(f"--measure {run}: the device has too little memory for a micro-batch of {images}") from None
    return config.fp16, steps * images * student_cost(config, network).operations / seconds


def _trainer(config: Any, network: Any, device: Any) -> Any:
    from sida.config.mapping import from_mapping
    from sida.methods.build import Parts, make_score_distiller
    from sida.methods.registry import find_method
    from sida.networks import build_network, family_of

    method = find_method(config.method)
    teacher = build_network(network).to(device)
    options = None if method.options is None else from_mapping(method.options, config.options, "options")
    parts = Parts(method, config, options, family_of(teacher), teacher, teacher, device, "--measure")
    return method.trainer(parts) if method.trainer else make_score_distiller(parts)


def _wait(device: Any) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
