"""Progress of a run in Snakemake's process: planned seconds of its jobs, and bars in a terminal.

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
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sida.errors import UserError
from sida.progress import say
from workflow.planning.costs import Costs
from workflow.planning.jobs import Jobs
from workflow.planning.progress import Bars, RunProgress
from workflow.planning.rates import load_assumptions
from workflow.preset import Preset

#: Seconds before jobs are weighted: a shorter run needs no estimate, and its jobs need the cores.
WEIGH_AFTER = 20.0
_OF_A_ROW = re.compile(r"(measurements|samples|statistics)/([^/]+)(?:/trial-\d+/shard-(\d+)-(\d+))?")


def watch(run: Mapping[str, Any]) -> RunProgress:
    """Starts to watch a run.

    Args:
        run: ``config``, ``source`` and ``folders`` of the preset, and ``outputs`` of each job.
    """
    progress = RunProgress(map(int, run["outputs"]))
    timer = threading.Timer(WEIGH_AFTER, _weigh, (progress, json.dumps(run)))
    timer.daemon = True
    timer.start()
    if sys.stderr is not None and sys.stderr.isatty() and os.getenv("TERM", "dumb") != "dumb":
        # The bars are removed when the process ends for any reason.
        atexit.register(_begin_to_draw(progress))
    return progress


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
    card, assumptions = "CPU" if preset.config["device"] == "cpu" else "H200", load_assumptions([*preset.own])
    jobs = Jobs(Costs(preset, assumptions.gpu(card), card, assumptions, max(1, preset.config["gpus"]), fresh=True))
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
    job = jobs.job(path)
    return 3600 * share * (job.gpu_hours + job.cpu_hours) / max(1, job.gpus)


def _main() -> None:
    run: dict[str, Any] = json.load(sys.stdin)
    os.nice(19)
    preset = Preset(run["config"], run["source"], [Path(folder) for folder in run["folders"]])
    print(json.dumps(planned_seconds(preset, run["outputs"])))


if __name__ == "__main__":
    _main()
