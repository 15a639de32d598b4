"""The rate of a machine, from a few steps of a row's own training on it."""

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

#: Steps that are timed at least, after one that is not, and seconds: small networks take as many steps as fill them.
STEPS, SECONDS = 3, 5.0


def typical(jobs: Jobs, trained: Sequence[Job]) -> Job:
    """The longest of the trainings that share a network, for the network that takes the most hours in all.

    Args:
        jobs: Of the preset.
        trained: Trainings of students, at least one.
    """
    groups: dict[str, list[Job]] = {}
    for job in trained:
        network = json.dumps(jobs.costs.network(jobs.preset.runs[job.name].teacher), sort_keys=True)
        groups.setdefault(network, []).append(job)
    most = max(groups.values(), key=lambda group: math.fsum(job.gpu_hours for job in group))
    return max(most, key=lambda job: job.gpu_hours)


def measured_rate(jobs: Jobs, run: str) -> tuple[bool, float]:
    """Operations a second of a row's training on one device of this machine, with fresh weights and drawn images.

    Args:
        jobs: Of the preset.
        run: Row that is trained; its own settings, and one round (``batch_gpu``) a step.

    Returns:
        Whether it computes in float16, and the rate.

    Raises:
        UserError: The preset's device is not here, or has too little memory.
    """
    import torch

    from sida.runtime.devices import take_device
    from sida.training.process import prepare_process

    config, network = jobs.costs.resolved(run), jobs.costs.network(jobs.preset.runs[run].teacher)
    assert network is not None  # else resolving would have failed
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
        raise UserError(f"--measure {run}: the device has too little memory for a round of {images} images") from None
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
