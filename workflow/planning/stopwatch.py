"""Stopwatch for measured rates of a plan."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable


class Stopwatch:
    """Core-seconds of jobs by stage, and what the cores spent waiting.

    Args:
        clock: Seconds from any fixed moment; the watch starts at once.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._start = clock, clock()
        self._running: dict[Hashable, tuple[str, int, float]] = {}
        self._stages: dict[str, float] = {}

    def started(self, job: Hashable, stage: str, threads: int = 1) -> None:
        """A job of a stage begins on so many cores."""
        self._running[job] = (stage, threads, self._clock())

    def ended(self, job: Hashable) -> None:
        """A job ends; one that never began is ignored."""
        if job in self._running:
            stage, threads, start = self._running.pop(job)
            self._stages[stage] = self._stages.get(stage, 0.0) + threads * (self._clock() - start)

    def summary(self, cores: int) -> str:
        """One line: wall time, cores, the share of each stage in the order of their first end, and of waiting."""
        wall = self._clock() - self._start
        total = max(cores * wall, 1e-9)
        waiting = max(total - sum(self._stages.values()), 0.0)
        stages = {**self._stages, "waiting": waiting}
        shares = ", ".join(f"{stage} {100 * seconds / total:.0f} %" for stage, seconds in stages.items())
        minutes, seconds = divmod(round(wall), 60)
        used = f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
        return f"{used} on {cores} core{'s' * (cores != 1)}: {shares}"
