"""Prints how long the demo takes on this machine from nothing: ``python studies/demo/probe.py [CORES]``.

Seconds of training and sampling with the demo's networks give rates; the preset says how many images they are for.
"""

import contextlib
import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BEGAN = time.perf_counter()
FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, os.fspath(FOLDER.parents[1]))  # a script's own folder is all that Python adds

import torch  # noqa: E402, F401 - the start of most jobs

import sida  # noqa: E402
from sida.errors import duration  # noqa: E402
from sida.workflow.preset import Preset, load_preset  # noqa: E402
from sida.workflow.preset.jobs import (  # noqa: E402
    measuring_parts,
    teacher_training,
    training,
)

#: Steps of a training in the probe, of which the second half is timed, and images of the probe's sampling.
STEPS, IMAGES = 4, 50
#: Evaluations of a network that take as long as one measured image of a generator does with its features.
PASSES_OF_IMAGE = 3


def job_seconds(preset: Preset, start: float) -> dict[str, float]:
    """Seconds of each job of the preset on this machine, by its name.

    Args:
        preset: The demo's preset.
        start: Seconds that a process takes until it begins its work.
    """
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        for redirected in (contextlib.redirect_stdout, contextlib.redirect_stderr):
            stack.enter_context(redirected(io.StringIO()))
        teachers = {name: teacher_training(preset, name).spec for name in preset.trained_teachers}
        students = {row.run: training(preset, row.run).spec for row in preset.students}
        adversarial = next(spec for spec in students.values() if spec["method"] == "sida")
        path = sida.train_teacher(_short(next(iter(teachers.values()))), f"{folder}/teacher")
        begun = {"warmup_kimg": 0, "adversarial_kimg": 0, "evaluation": None, "teacher": str(path)}
        sida.distill({**_short(adversarial), **begun}, f"{folder}/student")
        rates = [_images_per_second(Path(folder, name)) for name in ("teacher", "student")]
        generator, began = sida.load(str(path), sampler="heun:18"), time.perf_counter()
        generator.sample(IMAGES, batch_size=IMAGES)
        one_pass = (time.perf_counter() - began) / IMAGES / 35
    image = PASSES_OF_IMAGE * one_pass
    seconds = {name: start + spec["total_kimg"] * 1000 / rates[0] for name, spec in teachers.items()}
    for run, spec in students.items():
        points = spec["evaluation"]
        evaluated = points["kwargs"]["num_samples"] * points["kwargs"].get("trials", 1)
        evaluated *= spec["total_kimg"] / points["every_kimg"] + 1
        seconds[run] = start + spec["total_kimg"] * 1000 / rates[1] + evaluated * image
    for first, last, rows in measuring_parts(preset):
        images = (last - first + 1) * preset.protocol.num_samples
        for run in rows:
            evaluations = preset.rows[run].nfe or 1
            seconds[f"{run} {first}-{last}"] = start + images * (image + (evaluations - 1) * one_pass)
    others = [*preset.layouts["tables"], *preset.layouts["figures"], "collected", "claims", "page", "manifest"]
    return seconds | dict.fromkeys(others, start)


def _short(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A training of few steps."""
    kimg = STEPS * spec["batch_size"] / 1000
    return {**spec, "total_kimg": kimg, "tick_kimg": kimg / 2}


def _images_per_second(folder: Path) -> float:
    """Rate of the last record of a training's log."""
    return float(json.loads((folder / "train.jsonl").read_text().splitlines()[-1])["img_per_s"])


def main() -> None:
    """Prints the estimate."""
    start, words = time.perf_counter() - BEGAN, sys.argv[1:]
    cores = int(words[0]) if words and words[0].isdigit() else len(os.sched_getaffinity(0))
    preset = load_preset(FOLDER / "preset.yaml")
    seconds = job_seconds(preset, start)
    chain = [*preset.trained_teachers, *preset.starts, *(row for row, of in preset.rows.items() if of.start)]
    longest = sum(value for name, value in seconds.items() if name.split()[0] in chain)
    expected = max(sum(seconds.values()) / cores, longest)
    print(
        f"the demo takes about {duration(expected)} from nothing on {cores} cores, as busy as they are now "
        f"(a probe of {time.perf_counter() - BEGAN:.0f} s); if you stop it, the same command resumes"
    )


if __name__ == "__main__":
    main()
