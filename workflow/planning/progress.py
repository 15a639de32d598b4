"""Progress of a whole run: jobs weighed by the plan's cost, the time left, and a terminal's bars."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from pathlib import Path
from typing import TextIO

from sida.progress import duration

#: Seconds of every job beside those of its plan: starting Python, reading and writing.
START_SECONDS = 8.0
#: A job's own line of progress, see :class:`sida.progress.Progress`; scores are drawn within other jobs.
_LINE = re.compile(r"^\[(?!score )[^\]]+\]  ([\d,]+)/([\d,]+) \S+  \d+ %  ([\d,.e+-]+) ", re.MULTILINE)


class RunProgress:
    """Share of a run that is done, by the planned seconds of its jobs, of which only the ratios matter.

    Args:
        jobs: Numbers of all jobs that compute.
        clock: Seconds from any fixed moment.
    """

    def __init__(self, jobs: Iterable[int], clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._begun = clock, clock()
        self._weights = dict.fromkeys(jobs, START_SECONDS)
        self._running: dict[int, tuple[str, float, str]] = {}
        self._ended: set[int] = set()
        self.weighed = False

    def weigh(self, seconds: Mapping[int, float]) -> None:
        """Takes the planned seconds of jobs; until then neither the share of the work nor the time left is known."""
        self._weights = {job: START_SECONDS + seconds.get(job, 0.0) for job in self._weights}
        self.weighed = True

    def started(self, job: int, name: str, log: str) -> None:
        """A job begins; its log says how far it is."""
        self._running |= {job: (name, self._clock(), log)} if job in self._weights else {}

    def ended(self, job: int, failed: bool = False) -> None:
        """A job ends; one that failed is not done."""
        if self._running.pop(job, None) and not failed:
            self._ended.add(job)

    def line(self, done: int, total: int) -> str:
        """Steps that are done, their share of the work and the time left."""
        share, left = self._whole()
        return f"{done} of {total} steps done" + (f", {100 * share:.0f} % of the work{left}" if self.weighed else "")

    def bars(self, columns: int) -> list[str]:
        """A bar for the whole, then one for each running job.

        Args:
            columns: Width of the terminal.
        """
        share, left = self._whole()
        rows = [(share, f"whole run{left}")] if self.weighed else []
        rows += [(self._part(start, log)[0], name) for name, start, log in [*self._running.values()]]
        width = max(5, min(30, columns // 3))
        bars = [f"{'#' * round(part * width):-<{width}} {100 * part:3.0f} %  {name}" for part, name in rows]
        return [bar[: columns - 1] for bar in bars]

    def _whole(self) -> tuple[float, str]:
        """Share of the run that is done, and in words the time left at the rate so far."""
        whole, ended = sum(self._weights.values()), sum(self._weights[job] for job in self._ended)
        parts = [(self._weights[job], *self._part(start, log)) for job, (_, start, log) in [*self._running.items()]]
        done = ended + sum(weight * part for weight, part, _ in parts)
        # Work of an earlier run says nothing about the rate of this one.
        ours = ended + sum(weight * part for weight, _, part in parts)
        left = (
            f", {duration((self._clock() - self._begun) * (whole - done) / ours)} left" if ours and done < whole else ""
        )
        return done / whole if whole else 1.0, left

    def _part(self, start: float, log: str) -> tuple[float, float]:
        """Shares of a running job that are done, and done in this run: by the last line of progress in its log."""
        try:
            with Path(log).open("rb") as file:
                file.seek(max(0, file.seek(0, 2) - 4000))
                lines = _LINE.findall(file.read().decode(errors="replace"))
            done, total, rate = (float(number.replace(",", "")) for number in lines[-1])
        except (OSError, ValueError, IndexError):
            return 0.0, 0.0
        part = min(1.0, done / max(total, 1.0))
        return part, min(part, rate * (self._clock() - start) / max(total, 1.0))


class Bars:
    """Bars in the last lines of a terminal; the lines that jobs print scroll above.

    Args:
        stream: The terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._height = stream, 0

    def draw(self, bars: list[str], rows: int) -> None:
        """Draws bars in the last of the terminal's rows."""
        bars = bars[: max(1, rows // 3)]
        more = max(0, len(bars) - self._height)
        self._height += more
        top = rows - self._height
        # Room for new bars: text moves up, and from here on only the lines above scroll.
        text = "\033D" * more + f"\0337\033[1;{top}r\0338" + (f"\033[{more}A" if more else "") + "\0337"
        for number in range(self._height):
            text += f"\033[{top + 1 + number};1H\033[2K" + (bars[number] if number < len(bars) else "")
        self._write(text + "\0338")

    def close(self) -> None:
        """Gives the lines back."""
        if self._height:
            self._height = 0
            self._write("\0337\033[r\0338\033[J")

    def _write(self, text: str) -> None:
        # A terminal that has gone ends no run.
        with contextlib.suppress(OSError):
            self._stream.write(text)
            self._stream.flush()


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
