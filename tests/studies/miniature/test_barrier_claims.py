"""Barriers of teachers and students: rule FACT over training seeds, and the figure of the curves."""

from __future__ import annotations

import csv

import pytest

from eval.claims import Operand
from eval.claims.write import amount
from eval.figures.build import build_figure
from eval.results.analyses import ANALYSIS_FORMAT
from sida.errors import UserError
from sida.files.atomic import write_hashed_json
from studies.miniature.barrier import LINE, facts, line_points
from tests.eval.claims.evidence import evidence, lines
from tests.eval.claims.evidence import verdict as decided

A, B = Operand(where={"recipe": "a"}), Operand(where={"recipe": "b"})
FLAT = [1.0, 1.0, 1.0]


def hill(height):
    return [10.0, 5.0 + height, 0.0]


def write(folder, run, curves):
    record = {"format": ANALYSIS_FORMAT, "run": run, "facts": facts(curves), "about": LINE.facts}
    record["curves"] = {"t": line_points(len(curves["fd"])), **curves}
    write_hashed_json(folder / "analyses/barriers" / f"{run}.json", record)


def made(folder, **barriers):
    """Evidence of runs ``a-0`` ..., with an FD of the given barriers and a flat denoising loss."""
    for recipe, heights in barriers.items():
        for seed, height in enumerate(heights):
            if height is not None:
                write(folder, f"{recipe}-{seed}", {"fd": hill(height), "denoising": FLAT})
    rows = [lines(f"{recipe}-{seed}", [4.0, 4.1]) for recipe, found in barriers.items() for seed in range(len(found))]
    return evidence(*rows, students=folder / "students")


def verdict(found, **part):
    return decided(found, rule="FACT", of="barriers", fact="fd_barrier", **part)


@pytest.mark.parametrize(
    ("heights", "expected"),
    [
        ([1.0, 1.1, 0.9], "supported"),
        ([-1.0, -1.1, -0.9], "contradicted"),
        ([1.0, -1.0, 0.5], "not decided here"),
        # Two training seeds are too few.
        ([1.0, 1.1], "not decided here"),
    ],
)
def test_a_barrier_is_above_zero_beyond_its_scatter_over_seeds(tmp_path, heights, expected):
    found = verdict(made(tmp_path, a=heights), a=A)
    assert found.outcome == expected
    if expected == "supported":
        assert found.findings[0].numbers["gain"] == pytest.approx(1.0)
        assert "claimed above 0" in found.findings[0].evidence
        told = amount(found.claim.parts[0], found.findings[0])
        assert told["text"].startswith("fd barrier +1.00 [")


def test_none_is_a_range_as_well(tmp_path):
    below = {"low": float("-inf"), "high": 0.0}
    found = verdict(made(tmp_path, a=[-1.0, -1.1, -0.9]), a=A, **below)
    assert found.outcome == "supported"
    assert "claimed at most 0" in found.findings[0].evidence
    assert verdict(made(tmp_path, a=[1.0, 1.1, 0.9]), a=A, **below).outcome == "contradicted"


@pytest.mark.parametrize(("less", "expected"), [(1.0, "supported"), (-1.0, "contradicted"), (0.0, "not decided here")])
def test_one_barrier_is_larger_than_another(tmp_path, less, expected):
    heights = [1.0, 1.1, 0.9]
    found = verdict(made(tmp_path, a=heights, b=[height - less for height in heights]), a=A, b=B)
    assert found.outcome == expected
    assert found.findings[0].numbers["gain"] == pytest.approx(less)


def test_what_was_not_computed_is_not_decided(tmp_path):
    found = verdict(made(tmp_path, a=[1.0, 1.1, None]), a=A)
    assert found.outcome == "not decided here"
    assert "no analysis barriers of run 'a-2'" in found.findings[0].evidence


def test_a_damaged_file_is_no_evidence(tmp_path):
    found = made(tmp_path, a=[1.0, 1.1, 0.9])
    path = tmp_path / "analyses/barriers/a-1.json"
    path.write_text(path.read_text().replace("6.1", "9.1"))
    with pytest.raises(UserError, match=r"a-1\.json"):
        found.fact("barriers", "fd_barrier", "a-1")


def drawn(folder, labels):
    """CSV of a figure of curves of the analysis, for rows ``a-0`` ... of some labels, and its messages."""
    rows = [(f"{label}-{seed}", label, str(seed)) for label, count in labels.items() for seed in range(count)]
    text = ["run\tlabel\tmethod\tteacher\trecipe\tsampler\tseed"]
    text += [f"{run}\t{label}\tsid\tt\t{label}\tone-step\t{seed}" for run, label, seed in rows]
    (folder / "runs.tsv").write_text("\n".join(text) + "\n")
    series = "[{each: {method: sid}, pool_seeds: true}]"
    panel = f"of: barriers, x: t, y: fd, chord: true, x_scale: linear, y_scale: linear, series: {series}"
    (folder / "f.yaml").write_text(f"{{kind: curves, title: Line, final: false, panels: [{{{panel}}}]}}")
    paths, said = build_figure(folder / "f.yaml", folder / "runs.tsv", folder, folder / "f.pdf")
    assert {path.suffix for path in paths} == {".pdf", ".png", ".csv"}
    with open(folder / "f.csv", newline="") as stream:
        return list(csv.DictReader(stream)), said


def test_figure_shows_a_curve_for_each_method_and_says_what_is_missing(tmp_path):
    made(tmp_path, a=[1.0, 1.1, 0.9], b=[2.0, None])
    found, said = drawn(tmp_path, {"a": 3, "b": 2})
    assert said == ["not shown, no data yet: b"]
    shown = [(line["run"], line["t"], line["value"]) for line in found if line["kind"] == "curve"]
    assert ("a-0 a-1 a-2", "0.5", "6.0") in shown
    assert ("b-0", "0.5", "7.0") in shown
    assert len(shown) == 2 * 3


def test_curves_of_other_lengths_have_the_places_of_all(tmp_path):
    made(tmp_path, a=[1.0, 1.1, 0.9])
    write(tmp_path, "a-1", {"fd": [1.0] * 5, "denoising": [1.0] * 5})
    assert [line["t"] for line in drawn(tmp_path, {"a": 3})[0]] == ["0.0", "0.5", "1.0"]


def test_a_column_that_an_analysis_does_not_have_is_one_line(tmp_path):
    made(tmp_path, a=[1.0])
    write_hashed_json(
        tmp_path / "analyses/barriers/a-0.json",
        {"format": ANALYSIS_FORMAT, "run": "a-0", "facts": {}, "curves": {"t": [0.0], "fid": [1.0]}},
    )
    with pytest.raises(UserError, match=r"panels\[0\]\.series\[0\]\.each: a-0: .* no column 'fd'.*'fid'"):
        drawn(tmp_path, {"a": 1})
