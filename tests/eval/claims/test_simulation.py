"""Verdicts and bold values on invented tables whose truth is known: equal generators, and faithful retrainings."""

from __future__ import annotations

import dataclasses
import json
import random

import pytest

from sida.eval.claims.evidence import Evidence
from sida.eval.claims.finding import Operand
from sida.eval.results.logs import Point
from sida.eval.results.retraining import Retraining, load_retraining
from sida.eval.results.sheet import SheetRow
from sida.eval.tables.build import build_table
from sida.eval.tables.layout import load_layout
from tests.eval.claims.evidence import PUBLISHED, A, B, Logged, lines, made, outcome, rows_of
from tests.eval.claims.test_rules import under
from tests.slow import quick_but

#: Scatter of retraining, of an evaluation of 5,000 images, and trials of a measurement.
TRAINING, NOISE, TRIALS = 0.05, 0.01, 5
TABLES = 300
#: Degrees of freedom of the scatter that the rules know: few, and as many as config/retraining/digits.yaml has.
FREEDOM = (3, 54)


@dataclasses.dataclass(frozen=True)
class Invented(Logged):
    """Evidence with curves of trainings."""

    curves_by_run: dict = dataclasses.field(default_factory=dict)

    def curve(self, run, metric, finite=True):
        return self.curves_by_run[run]


def scatter(noise: random.Random, df: int) -> Retraining:
    """The scatter of retraining as so many trainings show it, which is near the true one."""
    std = TRAINING * (sum(noise.gauss(0, 1) ** 2 for _ in range(df)) / df) ** 0.5
    return Retraining(std={"fd": std}, source="invented", df=df)


def table(noise: random.Random, seeds: int = 1, teachers: str = "t", df: int = 54, methods: str = "ab") -> Evidence:
    """Trainings of equal generators with their measurements and curves; each training has a seed of its own."""
    measured, sheet, curves = [], [], {}
    for method in methods:
        for number, teacher in enumerate(teachers):
            for seed in range(seeds):
                run = method if seeds == 1 else f"{method}{teacher}{seed}"
                level = 4.0 * (1 + 0.2 * number) * (1 + noise.gauss(0, TRAINING))
                measured += lines(run, [level * (1 + noise.gauss(0, NOISE)) for _ in range(TRIALS)])
                columns = {"teacher": teacher, "recipe": method, "seed": len(sheet)}
                sheet.append(SheetRow(run, run, "sid", "x", **columns))
                falling = [level * (1 + 4 * 0.85**k) * (1 + noise.gauss(0, NOISE)) for k in range(40)]
                curves[run] = tuple(Point(1000 * k, value, None, 1, 5000) for k, value in enumerate(falling, 1))
    found = made(measured, sheet)
    return Invented(found.measurements, found.runs, retraining=scatter(noise, df), curves_by_run=curves)


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
    "REACHES another's level": (
        {"rule": "REACHES", "a": A, "level": B, "images": 40_000},
        {},
        {"supported", "contradicted"},
    ),
    "REACHES in half the images": ({"rule": "REACHES", **ONE, "times": 2.0}, {}, {"supported"}),
}


@pytest.mark.parametrize("df", quick_but({54}, FREEDOM))
@pytest.mark.parametrize("name", EQUAL)
def test_equal_generators_get_a_wrong_verdict_in_at_most_one_of_fifty_tables(name, df):
    part, trainings, wrong = EQUAL[name]
    noise = random.Random(name)
    verdicts = [outcome(table(noise, **trainings, df=df), metric="fd", **part) for _ in range(TABLES)]
    assert sum(one in wrong for one in verdicts) <= 0.02 * TABLES


@pytest.mark.parametrize("df", quick_but({54}, FREEDOM))
@pytest.mark.parametrize("number", [2, 8])
def test_none_of_some_equal_generators_is_bold_but_in_one_of_fifty_tables(number, df, tmp_path):
    columns = [{"head": "Model", "field": "label"}, {"head": "FD", "metric": "fd", "direction": "lower", "decimals": 3}]
    methods = "abcdefgh"[:number]
    (tmp_path / "t.yaml").write_text(
        json.dumps({"columns": columns, "rows": [{"run": m} for m in methods], "bold": {}})
    )
    layout, noise, ranked = load_layout(tmp_path / "t.yaml"), random.Random(df), 0
    for _ in range(TABLES):
        drawn = table(noise, df=df, methods=methods)
        records = build_table(layout, drawn.measurements, drawn.runs, retraining=drawn.retraining).records
        ranked += any(record["measured_rank"] for record in records)
    assert ranked <= 0.02 * TABLES


@pytest.mark.parametrize(("trained_on", "given"), [("cpu", False), ("", True)])
def test_teachers_that_are_trained_here_scatter_like_any_training(trained_on, given, tmp_path):
    """Two teachers 8 % apart: of released files the noise of evaluation decides, of trainings their scatter does not.

    A student is compared with its own teacher as that network is.
    """
    rows = lines("t", [4.0, 4.01, 3.99], trained_on=trained_on) + lines("u", [4.32, 4.33, 4.31], trained_on=trained_on)
    sheet = [SheetRow(name, name, "teacher", "x", teacher=name) for name in "tu"]
    known = Retraining(std={"fd": TRAINING}, source="invented")
    columns = [{"head": "Model", "field": "label"}, {"head": "FD", "metric": "fd", "direction": "lower", "decimals": 2}]
    (tmp_path / "t.yaml").write_text(json.dumps({"columns": columns, "rows": [{"run": n} for n in "tu"], "bold": {}}))
    found = made(rows, sheet, retraining=known)
    part = {"rule": "LT", "metric": "fd", "b": Operand(run="u")}
    assert outcome(found, **part, a=Operand(run="t")) == ("supported" if given else "not decided here")
    records = build_table(load_layout(tmp_path / "t.yaml"), found.measurements, found.runs, retraining=known).records
    assert [record["measured_rank"] for record in records] == (["best", ""] if given else ["", ""])
    # 18 % are more than the noise of one training, and not of two.
    student = lines("s", [4.72, 4.73, 4.71])
    for teacher, expected in (("t", "supported"), ("u", "supported" if given else "not decided here")):
        row = SheetRow("s", "s", "sid", "x", teacher=teacher)
        compared = made([*rows, *student], [*sheet, row], retraining=known)
        verdict = outcome(compared, **part | {"b": Operand(run="s")}, a=Operand(run="t"))
        assert verdict == expected


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
@pytest.mark.parametrize("method", quick_but({"teacher"}, ["sida", "teacher"]))
def test_a_faithful_row_reproduces_its_printed_number(method, trained_here):
    """The printed number and ours are two trainings, or two measurements of the released file.

    Of a teacher the lowest of three evaluations is printed, without a spread.
    """
    printed = PUBLISHED["table1-sida-a1.0-fid" if method == "sida" else "table1-vp-edm-fid"]
    row = SheetRow("a", "a", method, "x", checkpoint=None if trained_here else "x.safetensors")
    spread, lowest = (float(printed.std), 0.0) if printed.std else (0.01, 0.0085)
    columns = under("cifar10", "fid") | ({"trained_on": "cpu"} if trained_here else {})
    std, noise, kept = load_retraining("printed").std["fid"] if trained_here else 0.0, random.Random(3), 0
    for _ in range(TABLES):
        # The true FID such that this number was printed of another training.
        true = (printed.value + lowest - noise.gauss(0, spread / 10**0.5)) / (1 + noise.gauss(0, std))
        level = true * (1 + noise.gauss(0, std))
        values = [level + noise.gauss(0, spread) for _ in range(10)]
        found = made(lines("a", values, "fid", **columns), [row])
        kept += outcome(found, rule="EQ", metric="fid", a=Operand(run="a", published=printed.id)) == "supported"
    assert kept >= 0.95 * TABLES
