"""Times a step of both forms, for ``step.json``: ``python -m sida.plugins.meanflow.study.step [preset | fashion]``.

Trainings of the study take steps in turn, in groups, in one process with one thread, half-way through. Each group has
the processor seconds of a step of each form, and their ratio; the file has the medians over the groups.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

import torch

from sida.data import load_dataset
from sida.files.atomic import write_json
from sida.machine import environment
from sida.methods.distillation import make_trainer
from sida.methods.registry import DistillConfig, resolve_recipe
from sida.training.batches import StepBatches
from sida.training.iteration import StudentTrainer
from sida.workflow.preset import Preset, load_preset
from sida.workflow.preset.jobs import training

HERE = Path(__file__).parent
#: By preset of this folder: steps of a group, and the file of the times.
PRESETS = {"preset": (10, "step.json"), "fashion": (2, "step-fashion.json")}
FORMS, ROUNDS = ("forward", "difference"), 15


def trainer_of(preset: Preset, run: str) -> StudentTrainer:
    """The trainer of a row, with its data."""
    config = DistillConfig(**training(preset, run).spec)
    dataset = load_dataset(config.dataset)
    resolved = resolve_recipe(config, config.network or {})
    trainer = make_trainer(resolved, dataset, torch.device("cpu"))
    trainer.batches = StepBatches(resolved, dataset, torch.device("cpu"))
    trainer.begin(_half(trainer))
    return trainer


def _half(trainer: StudentTrainer) -> int:
    """Images of half a training."""
    return round(500 * trainer.config.total_kimg)


def main() -> None:
    """Times the steps and writes seconds and their ratio."""
    torch.set_num_threads(1)
    name = sys.argv[1] if len(sys.argv) > 1 else "preset"
    (steps, file), preset = PRESETS[name], load_preset(HERE / f"{name}.yaml")
    runs = {form: next(run for run in preset.runs if run.startswith(form)) for form in FORMS}
    trainers = {form: trainer_of(preset, run) for form, run in runs.items()}
    begun = _half(trainers[FORMS[0]])
    groups = []
    for _ in range(ROUNDS + 1):
        seconds = {}
        for form, trainer in trainers.items():
            begin = time.process_time()
            for step in range(steps):
                trainer.iteration(begun + 64 * step)
            seconds[form] = (time.process_time() - begin) / steps
        groups.append(seconds)
    # The first group makes kernels ready.
    seconds = {form: statistics.median(group[form] for group in groups[1:]) for form in FORMS}
    ratios = [group["difference"] / group["forward"] for group in groups[1:]]
    medians = {"seconds": seconds, "ratio": statistics.median(ratios), "ratios": ratios}
    write_json(HERE / file, {**medians, "environment": environment("cpu")})
    print(f"difference / forward: {medians['ratio']:.3f} ({min(ratios):.3f} to {max(ratios):.3f}); seconds {seconds}")


if __name__ == "__main__":
    main()
