"""Verdicts on invented tables whose truth is known: equal generators, and faithful retrainings of printed numbers."""

from __future__ import annotations

import dataclasses
import random

import pytest

from eval.claims.evidence import Evidence
from eval.claims.finding import Operand
from eval.results.logs import Point
from eval.results.retraining import Retraining, load_retraining
from eval.results.sheet import SheetRow
from tests.eval.claims.evidence import PUBLISHED, A, B, lines, made, outcome, rows_of
from tests.eval.claims.test_rules import under

#: Scatter of retraining, of an evaluation of 5,000 images, and trials of a measurement.
TRAINING, NOISE, TRIALS = 0.05, 0.01, 5
AGAIN = Retraining(std={"fd": TRAINING}, source="invented", df=54)
TABLES = 300


@dataclasses.dataclass(frozen=True)
class Invented(Evidence):
    """Evidence with curves of trainings."""

    curves_by_run: dict = dataclasses.field(default_factory=dict)

    def curve(self, run, metric, finite=True):
        return self.curves_by_run[run]


def table(noise: random.Random, seeds: int = 1, teachers: str = "t") -> Evidence:
    """Trainings of two equal generators with their measurements and curves; each training has a seed of its own."""
    measured, sheet, curves = [], [], {}
    for method in "ab":
        for number, teacher in enumerate(teachers):
            for seed in range(seeds):
                run = method if seeds == 1 else f"{method}{teacher}{seed}"
                level = 4.0 * (1 + 0.2 * number) * (1 + noise.gauss(0, TRAINING))
                measured += lines(run, [level * (1 + noise.gauss(0, NOISE)) for _ in range(TRIALS)])
                columns = {"teacher": teacher, "recipe": method, "seed": len(sheet)}
                sheet.append(SheetRow(run, run, "sid", "x", **columns))
                falling = [level * (1 + 4 * 0.85**k) * (1 + noise.gauss(0, NOISE)) for k in range(40)]
                curves[run] = tuple(Point(1000 * k, value, None, 1, 5000) for k, value in enumerate(falling, 1))
    found = made(measured, sheet, retraining=AGAIN)
    return Invented(found.measurements, found.runs, None, False, AGAIN, curves)


OVER_SEEDS = {"a": rows_of(recipe="a"), "b": rows_of(recipe="b"), "seeds": 3}
ONE = {"a": A, "b": B}
#: Comparisons of equal generators, with their trainings, and the outcomes that are wrong.
EQUAL = {
    "LT": ({"rule": "LT", **ONE}, {}, {"supported", "contradicted"}),
    "LT after equally many images": ({"rule": "LT", **ONE, "equal_images": True}, {}, {"supported", "contradicted"}),
    "LT over seeds": ({"rule": "LT", **OVER_SEEDS}, {"seeds": 3}, {"supported", "contradicted"}),
    "LT over teachers": ({"rule": "LT", **OVER_SEEDS}, {"seeds": 3, "teachers": "tu"}, {"supported", "contradicted"}),
    "RATIO": ({"rule": "RATIO", **ONE, "high": 1.0}, {}, {"supported", "contradicted"}),
    "RATIO over seeds": ({"rule": "RATIO", **OVER_SEEDS, "high": 1.0}, {"seeds": 3}, {"supported", "contradicted"}),
    "REACHES": ({"rule": "REACHES", **ONE}, {}, {"supported", "contradicted"}),
    "REACHES in half the images": ({"rule": "REACHES", **ONE, "times": 2.0}, {}, {"supported"}),
}


@pytest.mark.parametrize("name", EQUAL)
def test_equal_generators_get_a_wrong_verdict_in_at_most_one_of_fifty_tables(name):
    part, trainings, wrong = EQUAL[name]
    noise = random.Random(name)
    verdicts = [outcome(table(noise, **trainings), metric="fd", **part) for _ in range(TABLES)]
    assert sum(one in wrong for one in verdicts) <= 0.02 * TABLES


def test_a_lead_is_seen():
    """The rules are not silent: a generator that is 40 % better is."""
    noise, seen = random.Random(1), 0
    for _ in range(50):
        found = table(noise, seeds=3)
        rows = [
            dataclasses.replace(r, value=r.value * (0.6 if r.run[0] == "a" else 1)) for r in found.measurements.rows
        ]
        seen += outcome(made(rows, found.runs.values()), rule="LT", metric="fd", **OVER_SEEDS) == "supported"
    assert seen >= 45


@pytest.mark.parametrize("trained_here", [True, False])
def test_a_faithful_row_reproduces_its_printed_number(trained_here):
    """The printed number and ours are two trainings, or two measurements of the released file."""
    printed = PUBLISHED["table1-sida-a1.0-fid"]
    row = SheetRow("a", "a", "sida", "x", checkpoint=None if trained_here else "x.safetensors")
    std, noise, kept = load_retraining("printed").std["fid"] if trained_here else 0.0, random.Random(3), 0
    for _ in range(TABLES):
        # The true FID such that this number was printed of another training.
        true = printed.value / (1 + noise.gauss(0, std)) - noise.gauss(0, float(printed.std) / 10**0.5)
        level = true * (1 + noise.gauss(0, std))
        values = [level + noise.gauss(0, float(printed.std)) for _ in range(10)]
        found = made(lines("a", values, "fid", **under("cifar10", "fid")), [row])
        kept += outcome(found, rule="EQ", metric="fid", a=Operand(run="a", published=printed.id)) == "supported"
    assert kept >= 0.95 * TABLES
