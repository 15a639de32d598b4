"""Made-up measurements and training logs, and claims that are decided on them."""

from __future__ import annotations

import json
import math
from pathlib import Path

from sida.eval.claims.claim import Claim
from sida.eval.claims.evidence import Evidence
from sida.eval.claims.finding import Operand
from sida.eval.claims.rules import RULES
from sida.eval.claims.write import Verdict, decide
from sida.eval.results.measurements import Measurement, Measurements
from sida.eval.results.published import load_published
from sida.eval.results.retraining import Retraining
from sida.eval.results.sheet import SheetRow

PUBLISHED = load_published()
A, B = Operand(run="a"), Operand(run="b")
#: Networks that are the same when they are trained again: verdicts are about them alone.
STILL = Retraining(std=dict.fromkeys(("fd", "fid", "is", "fd_pixel", "accuracy"), 0.0), source="made up")


def rows_of(**conditions) -> Operand:
    """An operand of conditions on the sheet."""
    return Operand(where=conditions)


def lines(run, values, metric="fd", **files):
    """Measurements of a run, one for each trial."""
    columns = {
        "n": 5000, "seed_first": None, "seed_last": None, "nfe": 1, "protocol": "p", "settings": f"kind key={metric}",
        "classes": "data", "resolution": "8", "reference_sha256": "0", "network_sha256": "", "device": "d",
        "code_version": "v", "date": "2025-01-01",
    } | files  # fmt: skip
    return [Measurement(run, run, trial, metric, value, **columns) for trial, value in enumerate(values)]


def spread(mean, std, trials=10):
    """Values with exactly this mean and sample standard deviation."""
    half = std * math.sqrt((trials - 1) / trials)
    return [mean + half * (-1) ** i for i in range(trials)]


class Logged(Evidence):
    """Evidence whose trainings are equally long where it has no logs."""

    def length(self, name):
        """Images of a training."""
        return super().length(name) if self.results else 24_000


def made(rows, sheet, results=None, retraining=STILL) -> Evidence:
    """Evidence of measurements and rows of the sheet."""
    known = {row.run: row for row in sheet}
    return Logged(Measurements(rows, "m.csv"), known, results, retraining=retraining)


def evidence(*rows, results=None, retraining=STILL) -> Evidence:
    """Evidence of measured runs with seeds of their own, whose recipe is the part of their name before ``-``."""
    measured = [line for row in rows for line in row]
    names = dict.fromkeys(line.run for line in measured)
    sheet = [SheetRow(run, run, "sid", "x", recipe=run.partition("-")[0], seed=n) for n, run in enumerate(names)]
    return made(measured, sheet, results, retraining)


def claim_of(decide, name="X", **facts) -> Claim:
    """A claim without further words."""
    return Claim(
        id=name, statement="x", decide=decide, **{"source": "", "ties": 0, "counterpart": "", "note": ""} | facts
    )


def claim(name, *parts, **facts) -> Claim:
    """A claim of comparisons by their settings."""

    def decide_parts(evidence):
        return [RULES[part["rule"]](evidence, **{k: v for k, v in part.items() if k != "rule"}) for part in parts]

    return claim_of(decide_parts, name, **facts)


def verdict(found, *parts, **settings) -> Verdict:
    """The verdict on a claim of these comparisons, or of one with these settings."""
    (decided,) = decide([claim("X", *(parts or [settings]))], found)
    return decided


def outcome(found, **settings) -> str:
    """The outcome of a claim of one comparison."""
    return verdict(found, **settings).outcome


def log(folder: Path, run: str, name: str, records) -> None:
    """Writes a training log."""
    student = folder / "students" / run
    student.mkdir(parents=True, exist_ok=True)
    (student / name).write_text("".join(json.dumps(record) + "\n" for record in records))


def curve(folder, run, points, std=0.0, metric="fd") -> None:
    """Writes evaluations ``(images, value)`` of three trials each."""
    records = [
        {"nimg": n, metric: v, f"{metric}_std": std, f"{metric}_trials": [v, v, v], "num_samples": 5000}
        for n, v in points
    ]
    log(folder, run, "evaluations.jsonl", records)


def trained(folder, recipe, *curves, std=0.0):
    """Runs of one recipe with these curves, evaluated every thousand images; returns their measurements."""
    for seed, values in enumerate(curves):
        curve(folder, f"{recipe}-s{seed}", [(1000 * i, value) for i, value in enumerate(values)], std)
    return [lines(f"{recipe}-s{seed}", spread(min(values), 0.01)) for seed, values in enumerate(curves)]
