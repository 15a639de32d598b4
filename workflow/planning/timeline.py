"""How long jobs take together on a number of GPUs: the longest chains first, as the workflow's priorities have it."""

from __future__ import annotations

import functools
import heapq
from collections.abc import Mapping

from workflow.planning.jobs import Job


def wall_hours(jobs: Mapping[str, Job], gpus: int) -> float:
    """Hours until the last job ends; a job without a GPU runs beside the others.

    Args:
        jobs: By product; each is named before those that wait for it.
        gpus: GPUs there are.
    """

    def hours(job: Job) -> float:
        return job.cpu_hours + (job.gpu_hours / job.gpus if job.gpus else 0.0)

    after: dict[str, list[str]] = {name: [] for name in jobs}
    for name, job in jobs.items():
        for other in job.after:
            after[other].append(name)

    @functools.cache
    def chain(name: str) -> float:
        return hours(jobs[name]) + max(map(chain, after[name]), default=0.0)

    missing = {name: len(job.after) for name, job in jobs.items()}
    ready = [(-chain(name), name) for name, count in missing.items() if not count]
    heapq.heapify(ready)
    running: list[tuple[float, str]] = []
    now, free = 0.0, gpus
    while ready or running:
        waiting = []
        while ready:
            entry = heapq.heappop(ready)
            job = jobs[entry[1]]
            if min(job.gpus, gpus) <= free:
                free -= min(job.gpus, gpus)
                heapq.heappush(running, (now + hours(job), entry[1]))
            else:
                waiting.append(entry)
        for entry in waiting:
            heapq.heappush(ready, entry)
        now, name = heapq.heappop(running)
        free += min(jobs[name].gpus, gpus)
        for other in after[name]:
            missing[other] -= 1
            if not missing[other]:
                heapq.heappush(ready, (-chain(other), other))
    return now
