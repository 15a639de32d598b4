"""Figures of points: places, means, intervals, differences of pairs, what is missing or lost, and faults."""

import dataclasses
import json
import math
import statistics

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from eval.figures import load_figure_layout
from eval.figures.build import build_figure
from eval.figures.points import difference_of, gather_points, interval_ends
from eval.figures.points_plot import LOST_LABEL, ONE_LABEL, draw_points
from eval.figures.sources import Sources
from eval.results.analyses import ANALYSIS_FORMAT, analysis_path
from eval.results.sheet import read_runs
from eval.results.summary import Measurements, load_measurements
from sida.errors import UserError
from sida.files.atomic import write_hashed_json
from tests.eval.synthetic_output import csv_rows, measurement_lines, write_csv
from tests.refused import refused
from workflow.preset.specs import find_needs

TEACHERS = {"t1": 20.0, "t1b": 24.0, "t2": 4.0, "t2b": 5.0}
SAME = {"t1": "t1", "t1b": "t1", "t2": "t2", "t2b": "t2"}
SEEDS = (0, 1, 2)


def fd(method, teacher, seed):
    """SiDA halves the teacher's distance and SiD does not; seeds differ by a constant."""
    return (0.5 if method == "sida" else 1.0) * TEACHERS[teacher] + 3 + seed


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A sheet with its measurements and logs: four teachers, SiD and SiDA from each with three seeds."""
    folder = tmp_path_factory.mktemp("store")
    sheet = ["run\tlabel\tmethod\tteacher\talpha\trecipe\tsampler\tseed"]
    sheet += [f"teacher-{t}\tTeacher\tteacher\t{t}\t\t\theun\t" for t in TEACHERS]
    truth = {f"teacher-{t}": (35, {"fd": value, "recall": 0.8}) for t, value in TEACHERS.items()}
    settings = {f"teacher-{t}": {"seed": 0, "teacher": SAME[t]} for t in TEACHERS}
    for method in ("sid", "sida"):
        for t in TEACHERS:
            for seed in SEEDS:
                run = f"{t}-{method}-s{seed}"
                sheet.append(f"{run}\t{method} of {t}\t{method}\t{t}\t{0.5 * seed}\t{method}\tone-step\t{seed}")
                truth[run] = (1, {"fd": fd(method, t, seed), "recall": 0.1 * (seed + 1)})
                settings[run] = {"seed": seed, "teacher": SAME[t], "recipe.lambda_d": 10.0 ** (len(t) + seed)}
                (folder / "students" / run).mkdir(parents=True)
                last = None if (method, t, seed) == ("sida", "t2", 2) else 2 * fd(method, t, seed)
                log = [{"nimg": 0, "fd": 90.0}, {"nimg": 1000, "fd": last}]
                text = "".join(json.dumps(record) + "\n" for record in log)
                (folder / "students" / run / "evaluations.jsonl").write_text(text)
    (folder / "runs.tsv").write_text("\n".join(sheet) + "\n")
    write_csv(folder / "measurements.csv", exact(truth))
    (folder / "spec.json").write_text(json.dumps({"settings": settings}))
    return folder


def exact(truth):
    """Measurements without scatter over trials, so that means are known."""
    return [line | {"value": truth[line["run"]][1][line["metric"]]} for line in measurement_lines(2, 100, truth)]


def layout_of(tmp_path, *panels, **keys):
    (tmp_path / "l.yaml").write_text(yaml.safe_dump({"kind": "points", **keys, "panels": list(panels)}))
    return load_figure_layout(tmp_path / "l.yaml")


def sources_of(store, settings=True, measurements=None):
    measured = load_measurements(store / "measurements.csv") if measurements is None else measurements
    runs = {run.run: run for run in read_runs(store / "runs.tsv")}
    known = json.loads((store / "spec.json").read_text())["settings"] if settings else {}
    return Sources(measured, runs, {}, store, settings=known)


def gathered(store, tmp_path, panel, **keys):
    (marks,) = gather_points(layout_of(tmp_path, panel, **keys), sources_of(store))
    return marks


QUALITY = {
    "by": "teacher",
    "x": {"metric": "fd", "of": "teacher"},
    "series": [{"each": {"method": "sid"}}, {"each": {"method": "sida"}}],
}


def test_a_point_of_a_teacher_lies_at_its_measured_distance_and_pooled_ones_between(store, tmp_path):
    sid, sida = gathered(store, tmp_path, QUALITY).curves
    assert [(mark.by, mark.x) for mark in sid.marks] == [("t2", 4.0), ("t2b", 5.0), ("t1", 20.0), ("t1b", 24.0)]
    assert [mark.value for mark in sida.marks] == [fd("sida", t, 1) for t in ("t2", "t2b", "t1", "t1b")]
    assert {len(mark.singles) for mark in sid.marks} == {3}
    # Three values one apart: mean ± 4.303 / √3.
    assert sid.marks[0].ends == pytest.approx((8 - 2.4841, 8 + 2.4841), abs=1e-3)
    # Teachers that differ in their seed are one point where asked.
    (sid, _) = gathered(store, tmp_path, QUALITY | {"pool_teachers": True}).curves
    assert [(mark.by, mark.x, len(mark.singles)) for mark in sid.marks] == [("t2", 4.5, 6), ("t1", 22.0, 6)]
    assert {(single.teacher, single.x) for single in sid.marks[0].singles} == {("t2", 4.0), ("t2b", 5.0)}
    layout = layout_of(tmp_path, QUALITY | {"pool_teachers": True})
    refused("pool_teachers: .*give the figure's spec", gather_points, layout, sources_of(store, settings=False))


def test_a_gain_is_of_equal_teachers_and_seeds_and_may_be_a_share(store, tmp_path):
    series = [{"each": {"method": "sid"}, "minus": {"method": "sida", "seed": [0, 1]}, "label": "gain"}]
    panel = gathered(store, tmp_path, QUALITY | {"series": series})
    (gain,) = panel.curves
    # Seeds cancel, so every pair gives half the teacher's distance and the interval has no width.
    assert [mark.value for mark in gain.marks] == [2.0, 2.5, 10.0, 12.0]
    assert all(mark.ends == pytest.approx((mark.value, mark.value)) for mark in gain.marks)
    assert {len(mark.singles) for mark in gain.marks} == {2}
    assert len(panel.missing) == 4
    assert "t1-sid-s2 (no row of minus with the same teacher and seed)" in panel.missing
    figure = draw_points(layout_of(tmp_path, QUALITY | {"series": series}), [panel])
    assert any(list(line.get_ydata()) == [0, 0] for line in figure.axes[0].get_lines())
    # A gain may be a share of its own value.
    series = {"each": {"method": "sid"}, "minus": {"method": "sida"}, "share": True}
    (gain,) = gathered(store, tmp_path, QUALITY | {"series": [series]}).curves
    ones = {single.runs: single.value for mark in gain.marks for single in mark.singles}
    assert ones["t1-sid-s0", "t1-sida-s0"] == pytest.approx(1 - fd("sida", "t1", 0) / fd("sid", "t1", 0))
    assert len(ones) == 12
    with pytest.raises(UserError, match=r"share: .*give minus"):
        layout_of(tmp_path, QUALITY | {"series": [{"each": {"method": "sid"}, "share": True}]})
    nothing = dataclasses.replace(gain.marks[0].singles[0], value=0.0)
    with pytest.raises(UserError, match=r"x.share: 't1-sid-s0' is 0"):
        difference_of(dataclasses.replace(nothing, runs=("t1-sid-s0",)), nothing, True, "x")


def test_a_setting_is_a_place_and_a_column_needs_no_spec(store, tmp_path):
    panel = {"by": "recipe.lambda_d", "x_scale": "log", "series": [{"each": {"method": "sid", "teacher": "t1"}}]}
    (sid,) = gathered(store, tmp_path, panel).curves
    assert [mark.x for mark in sid.marks] == [100.0, 1000.0, 10000.0]
    assert all(mark.ends is None for mark in sid.marks)
    refused("give the figure's spec", gather_points, layout_of(tmp_path, panel), sources_of(store, settings=False))
    # A column needs no spec and a path goes along it.
    series = [{"each": {"method": "sid", "teacher": "t1"}}]
    one = {"by": "alpha", "x": {"metric": "recall"}, "name_points": True, "series": series}
    (marks,) = gather_points(layout_of(tmp_path, one), sources_of(store, settings=False))
    assert [(mark.by, round(mark.x, 6)) for mark in marks.curves[0].marks] == [(0.0, 0.1), (0.5, 0.2), (1.0, 0.3)]
    texts = [text.get_text() for text in draw_points(layout_of(tmp_path, one), [marks]).axes[0].texts]
    assert texts == ["0", "0.5", "1"]


def test_the_end_of_training_is_its_last_evaluation_and_a_lost_one_is_shown(store, tmp_path):
    panel = gathered(store, tmp_path, QUALITY | {"at": "end", "series": [{"each": {"method": "sida"}}]})
    (sida,) = panel.curves
    assert sida.marks[-1].value == 2 * fd("sida", "t1b", 1)
    assert (len(sida.marks[0].singles), sida.lost) == (2, (4.0,))
    assert panel.notes == ("t2-sida-s2: fd is not a finite number at its end; in no mean",)
    figure = draw_points(layout_of(tmp_path, QUALITY | {"at": "end"}), [panel])
    assert LOST_LABEL in [text.get_text() for text in figure.legends[0].get_texts()]


def test_rows_that_cannot_be_told_apart_are_a_fault(store, tmp_path):
    both = QUALITY | {"series": [{"each": {"recipe": ["sid", "sida"]}}]}
    refused(r"'t1-sid-s0' and 't1-sida-s0' .*; narrow", gathered, store, tmp_path, both)
    teachers = {"by": "seed", "series": [{"each": {"method": "sid"}}]}
    refused("'t1' and 't1b' at 0.0; add a teacher", gathered, store, tmp_path, teachers)
    # A teacher measured twice must be picked.
    sheet = (store / "runs.tsv").read_text() + "teacher-t1-19\tTeacher\tteacher\tt1\t\t\theun-10\t\n"
    (tmp_path / "runs.tsv").write_text(sheet)
    runs = {run.run: run for run in read_runs(tmp_path / "runs.tsv")}
    sources = Sources(load_measurements(store / "measurements.csv"), runs, {}, store)
    refused("x: 2 rows .*'t1': .*pick one by x.where", gather_points, layout_of(tmp_path, QUALITY), sources)
    picked = QUALITY | {"x": {"metric": "fd", "of": "teacher", "where": {"sampler": "heun"}}}
    assert gather_points(layout_of(tmp_path, picked), sources)[0].curves


def test_rows_without_measurement_are_missing_only_where_that_is_allowed(store, tmp_path):
    some = load_measurements(store / "measurements.csv")
    kept = Measurements([row for row in some.rows if row.run != "t1-sid-s0"], "part")
    layout = layout_of(tmp_path, QUALITY)
    refused("run 't1-sid-s0' has no measurement in part", gather_points, layout, sources_of(store, measurements=kept))
    optional = [{"each": {"method": "sid"}, "optional": True}, {"each": {"method": "gdd"}, "optional": True}]
    layout = layout_of(tmp_path, QUALITY | {"series": optional})
    (panel,) = gather_points(layout, sources_of(store, measurements=kept))
    assert panel.missing == ("sid of t1 (t1-sid-s0: fd was not measured)", "no run with method gdd")
    assert [len(mark.singles) for mark in panel.curves[0].marks] == [3, 3, 2, 3]
    refused("each: no run .*'gdd'", gathered, store, tmp_path, QUALITY | {"series": [{"each": {"method": "gdd"}}]})


def test_files_hold_every_point_and_training(store, tmp_path):
    layout_of(tmp_path, QUALITY | {"pool_teachers": True, "title": "q", "diagonal": "as good"}, interval="std")
    inputs = {"measurements": store / "measurements.csv", "spec": str(store / "spec.json")}
    build = lambda out: build_figure(tmp_path / "l.yaml", store / "runs.tsv", store, tmp_path / out, **inputs)
    paths, remarks = build("f.pdf")
    assert ([path.suffix for path in paths], remarks) == ([".pdf", ".png", ".csv"], [])
    rows = csv_rows(tmp_path / "f.csv")
    means = [row for row in rows if row["kind"] == "mean"]
    found = [(row["by_value"], row["count"], row["teachers"], row["interval"]) for row in means]
    assert found == [("t2", "6", "2", "std"), ("t1", "6", "2", "std")] * 2
    values = [fd("sid", t, seed) for t in ("t2", "t2b") for seed in SEEDS]
    assert float(means[0]["value"]) == pytest.approx(statistics.fmean(values))
    assert float(means[0]["high"]) - float(means[0]["value"]) == pytest.approx(statistics.stdev(values))
    assert len([row for row in rows if row["kind"] == "single"]) == 24
    build("again.pdf")
    assert (tmp_path / "again.pdf").read_bytes() == (tmp_path / "f.pdf").read_bytes()


def test_one_training_is_hollow_several_are_filled(store, tmp_path):
    series = [{"each": {"method": "sid", "seed": 0}}, {"each": {"method": "sida"}}]
    layout = layout_of(tmp_path, QUALITY | {"series": series})
    (panel,) = gather_points(layout, sources_of(store))
    figure = draw_points(layout, [panel])
    assert ONE_LABEL in [text.get_text() for text in figure.legends[0].get_texts()]
    points = [line for line in figure.axes[0].get_lines() if line.get_marker() in "os" and line.get_xdata().size == 1]
    faces = {line.get_marker(): line.get_markerfacecolor() for line in points}
    assert faces["o"] == "white"
    assert faces["s"] == points[-1].get_color()
    low, high = figure.axes[0].get_ylim()
    assert all(low < end < high for series in panel.curves for mark in series.marks for end in mark.ends or ())


def test_intervals_are_pooled_over_a_series_or_a_panels_own(store, tmp_path):
    series = [{"each": {"run": [*(f"t1-sid-s{s}" for s in SEEDS), "t2-sid-s0", "t2-sid-s2", "t2b-sid-s0"]}}]
    (sid,) = gathered(store, tmp_path, QUALITY | {"series": series}, interval="pooled95").curves
    two, one, three = sid.marks
    assert one.ends is None
    # Squares 2 of three values one apart and 2 of two values two apart, over three degrees of freedom.
    half = 3.18245 * (4 / 3) ** 0.5
    assert three.ends == pytest.approx((three.value - half / 3**0.5, three.value + half / 3**0.5), abs=1e-4)
    assert two.ends == pytest.approx((two.value - half / 2**0.5, two.value + half / 2**0.5), abs=1e-4)
    # A panel may have an interval of its own.
    panels = [QUALITY | {"title": "a", "series": [{"each": {"method": "sid"}}]}]
    panels.append(panels[0] | {"title": "b", "interval": "range"})
    layout = layout_of(tmp_path, *panels, interval="std")
    shown = gather_points(layout, sources_of(store))
    (low, high), values = shown[1].curves[0].marks[0].ends, [s.value for s in shown[1].curves[0].marks[0].singles]
    assert (low, high) == (min(values), max(values))
    assert {mark.interval for mark in shown[0].curves[0].marks} == {"std"}
    names = [text.get_text() for text in draw_points(layout, shown).legends[0].get_texts()]
    assert {"a: ± standard deviation", "b: lowest to highest"} <= set(names)


def test_what_a_figure_of_points_needs(store, tmp_path):
    runs = {run.run: run for run in read_runs(store / "runs.tsv")}
    series = [{"each": {"method": "sid", "teacher": "t1"}, "minus": {"method": "sida", "teacher": "t1"}}]
    layout_of(tmp_path, QUALITY | {"series": series})
    needs = find_needs(tmp_path / "l.yaml", runs)
    assert needs.measured == ["teacher-t1", *(f"t1-{m}-s{s}" for m in ("sid", "sida") for s in SEEDS)]
    assert needs.networks == []
    layout_of(tmp_path, QUALITY | {"series": series, "at": "end"})
    needs = find_needs(tmp_path / "l.yaml", runs)
    assert (needs.measured, len(needs.networks)) == (["teacher-t1"], 6)


def test_a_point_may_be_a_fact_of_an_analysis(store, tmp_path):
    for n, run in enumerate(f"t1-sid-s{seed}" for seed in SEEDS):
        facts = {"barrier": [float(n), -1.0, 9.0], "height": None if n == 2 else 2.0 * n}
        record = {"format": ANALYSIS_FORMAT, "facts": facts, "curves": {}}
        write_hashed_json(analysis_path(store, "line", run), record)
    panel = {"by": "alpha", "of": "line", "metric": "barrier", "series": [{"each": {"method": "sid", "teacher": "t1"}}]}
    (series,) = gathered(store, tmp_path, panel).curves
    assert [(mark.x, mark.value) for mark in series.marks] == [(0.0, 0.0), (0.5, 1.0), (1.0, 2.0)]
    (lost,) = gathered(store, tmp_path, panel | {"metric": "height"}).curves
    assert ([mark.value for mark in lost.marks], lost.lost) == ([0.0, 2.0], (1.0,))
    needs = find_needs(tmp_path / "l.yaml", {run.run: run for run in read_runs(store / "runs.tsv")})
    assert (needs.measured, needs.analyses) == ([], {"line": [f"t1-sid-s{seed}" for seed in SEEDS]})
    for change, place in (
        ({"metric": "barier"}, r"no fact 'barier' .did you mean 'barrier'"),
        ({"of": "layers"}, "layers"),
    ):
        refused(place, gathered, store, tmp_path, panel | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"of": "line", "at": "end"}, "at: is of measurements"),
        ({"by": "recipe.lamda_d"}, r"by: a recipe has no setting 'lamda_d' \(did you mean 'lambda_d'\?\)"),
        ({"by": "label"}, r"by: must be one of teacher, alpha, seed, nfe, recipe.<setting>"),
        ({"x": None}, "x: teachers have no place on an axis"),
        ({"x": {"metric": "fd", "where": {"sampler": "heun"}}}, "where: picks a teacher's row"),
        ({"series": [{"each": {"methods": "sid"}}]}, r"each: the sample sheet has no column 'methods' \(did you mean"),
        ({"series": []}, "series: must not be empty"),
        ({"y_scale": "log", "series": [{"each": {}, "minus": {}}]}, "y_scale: differences may be negative"),
        ({"series": [{"each": {}, "minus": {}}, {"each": {}}]}, "series: differences have a panel of their own"),
        ({"by": "alpha", "x": None, "diagonal": "equal"}, "diagonal: needs a metric on both axes"),
    ],
)
def test_a_fault_in_a_layout_is_one_line(tmp_path, change, message):
    refused(message, layout_of, tmp_path, QUALITY | change)


@given(
    st.lists(st.floats(-100, 100), min_size=2, max_size=9), st.floats(-50, 50), st.sampled_from(["t95", "std", "range"])
)
def test_intervals_hold_their_mean_and_move_with_it(values, shift, kind):
    low, high = interval_ends(values, kind)
    middle = statistics.fmean(values)
    assert low - 1e-9 <= middle <= high + 1e-9
    moved = interval_ends([value + shift for value in values], kind)
    assert moved == pytest.approx((low + shift, high + shift), abs=1e-6)
    assert interval_ends(values[:1], kind) is None
    if kind == "t95" and len(values) == 2:
        assert high - middle == pytest.approx(12.706 * abs(values[0] - values[1]) / 2, rel=1e-3, abs=1e-9)
    assert math.isfinite(high - low)
