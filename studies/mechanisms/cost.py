"""Times an iteration, for ``mechanisms-digits/cost.json``: ``python -m studies.mechanisms.cost RESULTS``.

The trainings of finished runs take iterations in turn, in groups, with one thread. The value of a run is the median
over the groups of its processor seconds, as a multiple of SiDA's in the same round.
"""

from __future__ import annotations

import json
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
from sida.networks.file import read_metadata
from sida.training.batches import StepBatches
from sida.training.iteration import StudentTrainer

#: SiDA, and SiDA with another part.
RUNS = {
    "SiD": "d10-w0-s401",
    "SiDA": "d10-w0.3-s433",
    "own encoder": "d10-own-s478",
    "separate steps": "d10-separate-s482",
}
ROUNDS, ITERATIONS, BEGUN = 9, 20, 10_000


def trainer_of(results: Path, run: str) -> StudentTrainer:
    """The trainer of a run's spec, with its data."""
    spec = json.loads((results / "specs/students" / f"{run}.json").read_text(encoding="utf-8"))
    # Specs name networks from the folder of ``results``.
    config = DistillConfig(**{**spec, "teacher": str(results.absolute().parents[1] / spec["teacher"])})
    dataset = load_dataset(config.dataset)
    resolved = resolve_recipe(config, read_metadata(str(config.teacher))["network"])
    trainer = make_trainer(resolved, dataset, torch.device("cpu"))
    trainer.batches = StepBatches(resolved, dataset, torch.device("cpu"))
    return trainer


def main() -> None:
    """Times the iterations and writes their ratios."""
    torch.set_num_threads(1)
    trainers = {label: trainer_of(Path(sys.argv[1]), run) for label, run in RUNS.items()}
    rounds: list[dict[str, float]] = []
    for _ in range(ROUNDS):
        seconds = {}
        for label, trainer in trainers.items():
            begin = time.process_time()
            for iteration in range(ITERATIONS):
                trainer.iteration(BEGUN + 32 * iteration)
            seconds[label] = time.process_time() - begin
        rounds.append(seconds)
    ratios = {label: statistics.median(each[label] / each["SiDA"] for each in rounds) for label in RUNS}
    out = Path(__file__).parent / "mechanisms-digits/cost.json"
    write_json(out, {"iteration / SiDA's": ratios, "rounds": rounds, "machine": environment("cpu")})
    print(json.dumps(ratios, indent=1))


if __name__ == "__main__":
    main()
