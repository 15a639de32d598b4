"""Limits of a GPU and its driver: trainings beyond its memory, and a torch without code for it."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable

from sida.errors import UserError
from workflow.planning.costs import Job

#: Largest ratio of planned to reserved memory of a training (docs/cost.md, Table 8's memory).
SPARE = 1.25
#: Remedy for a training that is too large.
SMALLER = (
    "take a larger card, `checkpointing: true`, or a smaller batch_gpu, which changes the adversarial term "
    "(docs/differences.md, 20)"
)


def too_large(jobs: Iterable[Job], memory_gb: float, card: str) -> str:
    """Message about jobs whose planned memory exceeds that of a card; empty if all fit."""
    large = sorted((job for job in jobs if job.memory_gb > memory_gb), key=lambda job: -job.memory_gb)
    if not large:
        return ""
    few = ", ".join(f"{job.name} ({job.memory_gb:.0f} GB)" for job in large[:3]) + (", ..." if len(large) > 3 else "")
    return f"{len(large)} of the trainings need more than the {memory_gb:.0f} GB of {card}: {few}"


def without_code(capability: tuple[int, int], built: Iterable[str]) -> bool:
    """Whether a build of torch has no code for a card: no code of the card's major capability up to its minor one.

    Args:
        capability: Compute capability of the card.
        built: ``torch.cuda.get_arch_list()``; code for 8.0 runs on 8.9, but not on 9.0.
    """
    numbers = [int("".join(filter(str.isdigit, name.partition("_")[2]))) for name in built if name.startswith("sm_")]
    return all(capability[0] != number // 10 or capability[1] < number % 10 for number in numbers)


def driver_memory() -> float | None:
    """Memory in GB of the smallest visible card, from the driver (importing torch takes seconds); None without one."""
    count, card, size = ctypes.c_int(0), ctypes.c_int(0), ctypes.c_size_t(0)
    found = []
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        driver.cuInit(0)
        driver.cuDeviceGetCount(ctypes.byref(count))
        for index in range(count.value):
            driver.cuDeviceGet(ctypes.byref(card), index)
            driver.cuDeviceTotalMem_v2(ctypes.byref(size), card)
            found.append(size.value / 1e9)
    except (OSError, AttributeError):
        return None
    return min(found, default=0.0) or None


def check_card(device: str, where: str) -> None:
    """Refuses jobs of a GPU on a machine without one, before other jobs prepare data for them.

    Raises:
        UserError: The device is a GPU, and the driver shows none.
    """
    if device.startswith("cuda") and driver_memory() is None:
        remedy = "run it on a machine with one or through a scheduler (docs/cluster.md), or choose another preset"
        raise UserError(f"{where}: device: '{device}', but this machine has no GPU; {remedy} (sida presets)")


def driver_cuda() -> int | None:
    """Major version of the newest CUDA that the driver supports; None without a driver."""
    version = ctypes.c_int(0)
    try:
        ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return None
    return version.value // 1000 or None
