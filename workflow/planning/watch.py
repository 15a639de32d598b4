"""Watch over a run from Snakemake's process: has its jobs weighed, and keeps the bars of a terminal."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

from sida.progress import say
from workflow.planning.progress import Bars, RunProgress

#: Seconds before jobs are weighed: a shorter run needs no time left, and its jobs have the cores.
WEIGH_AFTER = 20.0


def watch(told: Mapping[str, Any]) -> RunProgress:
    """Begins to watch a run.

    Args:
        told: For :mod:`workflow.planning.weights`: ``config``, ``source``, ``places``, and ``outputs`` of each job.
    """
    progress = RunProgress(map(int, told["outputs"]))
    timer = threading.Timer(WEIGH_AFTER, _weigh, (progress, json.dumps(told)))
    timer.daemon = True
    timer.start()
    if sys.stderr is not None and sys.stderr.isatty() and os.getenv("TERM", "dumb") != "dumb":
        # The bars go when the process ends, however it ends.
        atexit.register(_begin_to_draw(progress))
    return progress


def _weigh(progress: RunProgress, told: str) -> None:
    command = [sys.executable, "-m", "workflow.planning.weights"]
    process = subprocess.run(command, input=told, capture_output=True, text=True, check=False)
    if process.returncode:
        lines = process.stderr.splitlines() or [f"status {process.returncode}"]
        say(f"the plan of this run is unknown, so that no time left is given: {lines[-1]}")
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
