"""Progress of a run in Snakemake's process: jobs weighted by planned cost, time left, use of cores, bars in a terminal.

Counting networks loads torch, so a separate process (``python -m workflow.planning.watch``) plans the jobs.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from sida.errors import UserError, duration, say
from workflow.planning.costs import Costs
from workflow.planning.jobs import Jobs
from workflow.preset import Preset

#: Seconds of every job besides its planned seconds: starting Python, reading and writing.
START_SECONDS = 8.0
#: A line of progress of a job (:class:`sida.errors.Progress`); scores belong to other jobs.
_LINE = re.compile(r"^\[(?!score )[^\]]+\]  ([\d,]+)/([\d,]+) \S+  \d+ %  ([\d,.e+-]+) ", re.MULTILINE)


class Running(NamedTuple):
    """A running job: its name, start, log, stage and number of cores."""

    name: str
    start: float
    log: str
    stage: str
    threads: int


class RunProgress:
    """Finished share of a run, by the planned seconds of its jobs (only their ratios matter), and its use of cores.

    Args:
        clock: Returns seconds since a fixed moment; the use of cores is watched at once.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._opened = clock, clock()
        self._begun, self._weights = self._opened, dict[int, float]()
        self._running: dict[int, Running] = {}
        self._ended: set[int] = set()
        #: Core-seconds by stage, in the order of the stages' first end.
        self._stages: dict[str, float] = {}
        #: Work done when it last changed, the end of the run as estimated then, and seconds for each unit of work.
        self._news = (0.0, 0.0, 0.0)
        self.weighed = False

    def expect(self, jobs: Iterable[int]) -> None:
        """Begins to count the work of these jobs."""
        self._begun, self._weights = self._clock(), dict.fromkeys(jobs, START_SECONDS)

    def weigh(self, seconds: Mapping[int, float]) -> None:
        """Sets the planned seconds of jobs; before that the share of the work and the time left are unknown."""
        self._weights = {job: START_SECONDS + seconds.get(job, 0.0) for job in self._weights}
        self.weighed = True

    def started(self, job: int, name: str, log: str, stage: str = "", threads: int = 1) -> None:
        """Records the start of a job; its log gives the job's progress."""
        self._running[job] = Running(name, self._clock(), log, stage, threads)

    def ended(self, job: int, failed: bool = False) -> None:
        """Records the end of a job; a failed job is not done."""
        if (run := self._running.pop(job, None)) is not None:
            spent = run.threads * (self._clock() - run.start)
            self._stages[run.stage] = self._stages.get(run.stage, 0.0) + spent
            self._ended |= set() if failed else {job}

    def summary(self, cores: int) -> str:
        """Line with wall time, cores, and shares of stages and of waiting."""
        wall = self._clock() - self._opened
        total = max(cores * wall, 1e-9)
        stages = {**self._stages, "waiting": max(total - sum(self._stages.values()), 0.0)}
        shares = ", ".join(f"{stage} {100 * seconds / total:.0f} %" for stage, seconds in stages.items())
        minutes, seconds = divmod(round(wall), 60)
        used = f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
        return f"{used} on {cores} core{'s' * (cores != 1)}: {shares}"

    def line(self, done: int, total: int) -> str:
        """Line with finished steps, their share of the work and the time left."""
        share, left = self._whole()
        return f"{done} of {total} steps done" + (f", {100 * share:.0f} % of the work{left}" if self.weighed else "")

    def bars(self, columns: int) -> list[str]:
        """One bar for the whole run, then one for each running job.

        Args:
            columns: Width of the terminal.
        """
        share, left = self._whole()
        rows = [(share, f"whole run{left}")] if self.weighed else []
        rows += [(self._part(run)[0], run.name) for _, run in self._counted()]
        width = max(5, min(30, columns // 3))
        bars = [f"{'#' * round(part * width):-<{width}} {100 * part:3.0f} %  {name}" for part, name in rows]
        return [bar[: columns - 1] for bar in bars]

    def _whole(self) -> tuple[float, str]:
        """Finished share of the run, and text about the time left at the rate so far."""
        whole, ended = sum(self._weights.values()), sum(self._weights.get(job, 0.0) for job in self._ended)
        parts = [(weight, *self._part(run)) for weight, run in self._counted()]
        done = ended + sum(weight * part for weight, part, _ in parts)
        # Work of an earlier run does not count for the rate of this run.
        ours = ended + sum(weight * part for weight, _, part in parts)
        now = self._clock()
        if ours and done != self._news[0]:
            pace = (now - self._begun) / ours
            self._news = (done, now + pace * (whole - done), pace)
        _, end, pace = self._news
        # Until a log has another line, time passes; jobs that have not begun still take theirs.
        seconds = max(end - now, pace * (whole - ended - sum(weight for weight, *_ in parts)))
        left = f", {duration(seconds)} left" if pace and done < whole else ""
        return done / whole if whole else 1.0, left

    def _counted(self) -> list[tuple[float, Running]]:
        """Weights of running jobs, whose number may change meanwhile."""
        return [(self._weights[job], run) for job, run in [*self._running.items()] if job in self._weights]

    def _part(self, run: Running) -> tuple[float, float]:
        """Finished share of a running job in total and in this run, by the last line of progress in its log."""
        try:
            with Path(run.log).open("rb") as file:
                file.seek(max(0, file.seek(0, 2) - 4000))
                lines = _LINE.findall(file.read().decode(errors="replace"))
            done, total, rate = (float(number.replace(",", "")) for number in lines[-1])
        except (OSError, ValueError, IndexError):
            return 0.0, 0.0
        part = min(1.0, done / max(total, 1.0))
        return part, min(part, rate * (self._clock() - run.start) / max(total, 1.0))


class Bars:
    """Bars in the last lines of a terminal; output of jobs scrolls above them.

    Args:
        stream: The terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._height = stream, 0

    def draw(self, bars: list[str], rows: int) -> None:
        """Draws bars in the last rows of the terminal."""
        bars = bars[: max(1, rows // 3)]
        more = max(0, len(bars) - self._height)
        self._height += more
        top = rows - self._height
        # Room for new bars: text moves up, and only the lines above scroll from now on.
        text = "\033D" * more + f"\0337\033[1;{top}r\0338" + (f"\033[{more}A" if more else "") + "\0337"
        for number in range(self._height):
            text += f"\033[{top + 1 + number};1H\033[2K" + (bars[number] if number < len(bars) else "")
        self._write(text + "\0338")

    def close(self) -> None:
        """Removes the bars and frees their lines."""
        if self._height:
            self._height = 0
            self._write("\0337\033[r\0338\033[J")

    def _write(self, text: str) -> None:
        # A closed terminal must not end the run.
        with contextlib.suppress(OSError):
            self._stream.write(text)
            self._stream.flush()


#: Seconds before jobs are weighted: a shorter run needs no estimate, and its jobs need the cores.
WEIGH_AFTER = 20.0
_OF_A_ROW = re.compile(r"(measurements|samples|statistics)/([^/]+)(?:/trial-\d+/shard-(\d+)-(\d+))?")


def watch(progress: RunProgress, run: Mapping[str, Any]) -> None:
    """Starts to watch the jobs of a run.

    Args:
        progress: Receives starts and ends of jobs.
        run: ``config``, ``source`` and ``folders`` of the preset, and ``outputs`` of each job.
    """
    progress.expect(map(int, run["outputs"]))
    timer = threading.Timer(WEIGH_AFTER, _weigh, (progress, json.dumps(run)))
    timer.daemon = True
    timer.start()
    if sys.stderr is not None and sys.stderr.isatty() and os.getenv("TERM", "dumb") != "dumb":
        # The bars are removed when the process ends for any reason.
        atexit.register(_begin_to_draw(progress))


def _weigh(progress: RunProgress, run: str) -> None:
    command = [sys.executable, "-m", "workflow.planning.watch"]
    process = subprocess.run(command, input=run, capture_output=True, text=True, check=False)
    if process.returncode:
        lines = process.stderr.splitlines() or [f"status {process.returncode}"]
        say(f"the plan of this run is unknown, so no time left is given: {lines[-1]}")
        return
    progress.weigh({int(job): seconds for job, seconds in json.loads(process.stdout).items()})


def _begin_to_draw(progress: RunProgress) -> Callable[[], None]:
    bars, ended = Bars(sys.stderr), threading.Event()

    def draw() -> None:
        while not ended.wait(1.0):
            size = shutil.get_terminal_size()
            if size.lines > 5:
                bars.draw(progress.bars(size.columns), size.lines)

    def end() -> None:
        ended.set()
        drawing.join(5)
        bars.close()

    drawing = threading.Thread(target=draw, daemon=True)
    drawing.start()
    return end


def planned_seconds(preset: Preset, outputs: Mapping[str, list[str]]) -> dict[str, float]:
    """Planned seconds of each job on the default card of the preset's device; 0 for jobs without a planned cost.

    Args:
        preset: The preset.
        outputs: Files that each job makes.
    """
    jobs = Jobs(Costs(preset, gpus=max(1, preset.settings.gpus), fresh=True))
    found = dict.fromkeys(outputs, 0.0)
    for job, paths in outputs.items():
        with contextlib.suppress(UserError):
            found[job] = _seconds(jobs, paths)
    return found


def _seconds(jobs: Jobs, paths: list[str]) -> float:
    preset, path, share = jobs.preset, paths[0], 1.0
    if of_a_row := _OF_A_ROW.match(path.removeprefix(f"{preset.results}/")):
        _, run, begin, end = of_a_row.groups()
        path, share = f"{preset.results}/measurements/{run}", len(paths) / preset.trials
        if begin:
            share = (int(end) - int(begin)) / (preset.trials * preset.protocol(preset.runs[run]).num_samples)
    elif not path.endswith("network.safetensors") and path not in preset.archives:
        return 0.0
    job, _ = jobs.job(path)
    return 3600 * share * (job.gpu_hours + job.cpu_hours) / max(1, job.gpus)


def _main() -> None:
    run: dict[str, Any] = json.load(sys.stdin)
    os.nice(19)
    preset = Preset(run["config"], run["source"], [Path(folder) for folder in run["folders"]])
    print(json.dumps(planned_seconds(preset, run["outputs"])))


if __name__ == "__main__":
    _main()
