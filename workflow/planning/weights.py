"""Planned seconds of a run's jobs, found by a process of its own: counting networks loads torch."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sida.errors import UserError
from workflow.planning.jobs import Jobs
from workflow.planning.rates import load_assumptions
from workflow.preset import Preset

_OF_A_ROW = re.compile(r"(measurements|samples|statistics)/([^/]+)(?:/trial-\d+/shard-(\d+)-(\d+))?")


def planned_seconds(preset: Preset, outputs: Mapping[str, list[str]]) -> dict[str, float]:
    """Seconds of each job by the plan, on the usual card of the preset's device; 0 where the plan has no cost.

    Args:
        preset: The preset.
        outputs: Files that each job makes.
    """
    card, assumptions = "CPU" if preset.config["device"] == "cpu" else "H200", load_assumptions([*preset.own])
    jobs = Jobs(preset, assumptions.gpu(card), card, assumptions, max(1, preset.config["gpus"]), fresh=True)
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
    told: dict[str, Any] = json.load(sys.stdin)
    os.nice(19)
    preset = Preset(told["config"], told["source"], [Path(place) for place in told["places"]])
    print(json.dumps(planned_seconds(preset, told["outputs"])))


if __name__ == "__main__":
    _main()
