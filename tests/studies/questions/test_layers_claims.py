"""Blocks that work at different noise levels: facts of profiles, and their figure."""

from __future__ import annotations

import csv

import pytest

from eval.figures.build import build_figure
from eval.results.analyses import ANALYSIS_FORMAT
from sida.config.resources import ROOT
from sida.files.atomic import write_hashed_json
from studies.questions.layers import LAYERS, facts
from tests.eval.claims.evidence import evidence, lines
from tests.eval.claims.evidence import verdict as decided

KIND = f"{ROOT}/studies/questions/layers_figure.py:LayersFigure"

LEVELS = (0.02, 0.4, 8.0)
LOW, HIGH, FLAT = (4.0, 2.0, 1.0), (1.0, 2.0, 4.0), (1.0, 1.1, 1.2)


def write(folder, run, curves, factor=2.0):
    record = {
        "format": ANALYSIS_FORMAT,
        "run": run,
        "facts": facts(curves, factor),
        "about": LAYERS.facts,
        "curves": curves,
    }
    write_hashed_json(folder / f"analyses/layers/{run}.json", record)


def made(folder, *blocks, scatter=0.02, run="t", sigmas=LEVELS, factor=2.0, before=(1.0, 1.0, 1.0)):
    """Evidence of a network whose blocks change the output by these means at the three levels, over eight repeats."""
    turns = [1 + scatter * (repeat % 4 - 1.5) for repeat in range(8)]
    curves = {"sigma": [sigma for _ in turns for sigma in sigmas]}
    for number, means in enumerate(blocks):
        # Blocks and levels scatter in different directions.
        curves[f"block{number}"] = [
            mean * turns[(repeat + number + 2 * place) % 8] for repeat in range(8) for place, mean in enumerate(means)
        ]
        curves[f"untrained block{number}"] = [mean for _ in range(8) for mean in before[: len(sigmas)]]
    write(folder, run, curves, factor)
    return evidence(lines(run, [4.0, 4.1]), students=folder / "students")


def verdict(found, run="t"):
    lowest = {"varying_share": 0.5, "apart": 1.0}
    fact = {"rule": "FACT", "of": "layers", "a": {"run": run}}
    return decided(found, *({**fact, "fact": name, "low": low} for name, low in lowest.items()))


@pytest.mark.parametrize(
    ("blocks", "scatter", "expected"),
    [
        ((LOW, HIGH), 0.02, "supported"),
        ((LOW, HIGH, FLAT, FLAT), 0.02, "supported"),
        # Fewer than half of the blocks vary.
        ((LOW, HIGH, FLAT, FLAT, FLAT), 0.02, "contradicted"),
        # Blocks vary, but all work at one level: the profiles do not tell layers apart.
        ((LOW, LOW), 0.02, "contradicted"),
        # Scatter hides the differences.
        ((LOW, HIGH), 0.9, "not decided here"),
        # A block that does nothing does not vary.
        (((0.0, 0.0, 0.0), (0.0, 0.0, 0.0), LOW), 0.02, "contradicted"),
    ],
)
def test_layers_work_at_different_levels_beyond_their_sampling_error(tmp_path, blocks, scatter, expected):
    assert verdict(made(tmp_path, *blocks, scatter=scatter)).outcome == expected


def test_a_network_that_varies_as_much_before_its_training_shows_nothing(tmp_path):
    assert verdict(made(tmp_path, LOW, HIGH, before=(1.0, 1.2, 1.4))).outcome == "supported"
    assert verdict(made(tmp_path, LOW, HIGH, before=(1.0, 2.0, 4.0))).outcome == "contradicted"
    found = made(tmp_path, LOW, HIGH)
    write(tmp_path, "t", {"sigma": [*LEVELS] * 8, "a": [4.0, 2.0, 1.0] * 8, "b": [1.0, 2.0, 4.0] * 8})
    assert verdict(found).outcome == "not decided here"


def test_levels_are_chosen_by_other_repeats_than_those_that_compare_them(tmp_path):
    """Noise without a difference between levels: the largest of the first repeats is not the largest of the others."""
    found = made(tmp_path, (1.0, 1.0, 1.0), (1.0, 1.0, 1.0), scatter=0.3, factor=1.0)
    assert verdict(found).outcome != "supported"


def test_rows_without_a_file_are_not_decided(tmp_path):
    found = verdict(made(tmp_path, LOW, HIGH), run="other")
    assert found.outcome == "not decided here"
    assert "no analysis layers of run 'other'" in found.findings[0].evidence


def test_figure_shows_a_panel_for_each_network_and_says_what_is_missing(tmp_path):
    made(tmp_path, LOW, HIGH, run="teacher-a")
    # A student's only noise level.
    made(tmp_path, LOW[:1], HIGH[:1], run="a-sid", sigmas=(2.5,))
    sheet, layout = tmp_path / "runs.tsv", tmp_path / "f.yaml"
    sheet.write_text(
        "run\tlabel\tmethod\tteacher\tsampler\nteacher-a\tA\tteacher\ta\theun-18\nteacher-b\tB\tteacher\tb\theun-18\n"
        "a-sid\tS\tsid\ta\tone-step\n"
    )
    layout.write_text(f"{{kind: '{KIND}', title: Layers, each: {{method: [teacher, sid]}}}}")
    paths, said = build_figure(layout, sheet, tmp_path, tmp_path / "f.pdf")
    assert {path.suffix for path in paths} == {".pdf", ".png", ".csv"}
    assert said == ["not shown, no data yet: B"]
    with open(tmp_path / "f.csv", newline="") as stream:
        shown = list(csv.DictReader(stream))
    assert len(shown) == 2 * 3 + 2
    assert (shown[0]["block"], shown[0]["sigma"]) == ("block0", "0.02")
    assert float(shown[0]["low"]) < 4.0 < float(shown[0]["high"])
