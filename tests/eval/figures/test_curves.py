"""Figures: files, data, same seeds in every panel, official logs, looks, and faults."""

import dataclasses
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import yaml
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from sida.config.lookup import ROOT
from sida.eval.figures import style
from sida.eval.figures.curves import Panel, ReferenceLine, curves_csv, identities_on
from sida.eval.figures.layout import Sources, load_figure_layout
from sida.eval.figures.plot import KEPT_LABEL, NO_DATA, draw_curves
from sida.eval.results.conditions import Planned
from sida.eval.results.csv_files import parse_csv
from sida.eval.results.logs import Curve, Point, pool, read_evaluations
from sida.eval.results.measurements import Estimate, load_measurements
from sida.eval.results.sheet import read_runs
from sida.files.atomic import sha256_file
from sida.workflow.cli import main
from tests.eval.synthetic_output import CURVES, csv_rows, inputs_of, measurement_lines, write_csv, write_jsonl
from tests.refused import refused

FIGURES, PAPERS = ROOT / "config/figures", ROOT / "studies/papers"


def command(preset, layout, out, *more):
    """Draws a layout, which is a file or what stands in one."""
    if isinstance(layout, dict):
        (out.parent / "l.yaml").write_text(yaml.safe_dump({"kind": "curves", **layout}))
        layout = out.parent / "l.yaml"
    options = [*inputs_of(preset), "--results", str(preset)]
    pairs = dict(zip(options[::2], options[1::2], strict=True)) | dict(zip(more[::2], more[1::2], strict=True))
    return ["figure", "--layout", str(layout), "--out", str(out), *(word for pair in pairs.items() for word in pair)]


def build(*arguments):
    return main(command(*arguments))


CONVERGENCE = yaml.safe_load((FIGURES / "convergence.yaml").read_text())


def test_files_are_vector_graphics_without_a_date_and_pictures_and_the_same_each_time(study, preset, tmp_path):
    convergence = study / "figures/convergence.pdf"
    data = convergence.read_bytes()
    assert data.startswith(b"%PDF")
    # Vector graphics with embedded TrueType fonts, and no date.
    found = [word in data for word in (b"/FontFile2", b"/Type3", b"CreationDate", b"/Subtype /Image")]
    assert found == [True, False, False, False]
    with Image.open(convergence.with_suffix(".png")) as image:
        assert round(image.info["dpi"][0]) == 200
        assert np.asarray(image.convert("L")).std() > 10
    # The same data give the same bytes.
    assert build(preset, FIGURES / "convergence.yaml", tmp_path / "again.pdf") == 0
    assert (tmp_path / "again.csv").read_bytes() == convergence.with_suffix(".csv").read_bytes()
    assert (tmp_path / "again.pdf").read_bytes() == convergence.read_bytes()


def test_csv_holds_every_evaluation_line_and_kept_generator(study, preset):
    found = csv_rows(study / "figures/convergence.csv")
    for run in CURVES:
        log = read_evaluations(preset / "students" / run / "evaluations.jsonl", "fd")
        drawn = [row for row in found if row["kind"] == "curve" and row["run"] == run]
        assert [(int(r["images"]), float(r["value"])) for r in drawn] == [(p.nimg, p.value) for p in log]
        assert [r["shown"] for r in drawn] == ["False"] + ["True"] * (len(log) - 1)  # 0 has no place on a log axis
        kept = next(row for row in found if row["kind"] == "kept generator" and row["run"] == run)
        assert int(kept["images"]) == min(log, key=lambda point: point.value).nimg
        assert kept["count"] == "10"
    lines = {row["series"]: row["source"] for row in found if row["kind"] == "line"}
    assert lines == {"EDM teacher, NFE 35": "measured: teacher-nfe35", "its start, SiD, α = 1.2": "measured: sid-a1.2"}


def test_generators_measured_against_other_files_share_no_panel(preset, tmp_path, refusal):
    lines = list(measurement_lines())
    for line in lines:
        line["extractor_sha256"] = "99" * 32 if line["run"] == "sida-a1.0" else line["extractor_sha256"]
    others = ["--measurements", str(write_csv(tmp_path / "measurements.csv", lines))]
    line = refusal(*command(preset, CONVERGENCE, tmp_path / "f.pdf", *others))
    assert "are not comparable (fd: feature network: e7e7" in line
    assert not (tmp_path / "f.pdf").exists()
    # Of two protocols on purpose, the axis names both.
    rows = load_measurements(write_csv(tmp_path / "measurements.csv", measurement_lines(trials=2))).lines("data", "fd")
    assert identities_on(rows, ()) == ()
    others = [dataclasses.replace(row, run="b", protocol="other", classes="uniform") for row in rows[:1]]
    (note,) = identities_on([rows[0], *others], ())
    for words in ("protocol 'synthetic'", "protocol 'other'", "classes: data != uniform"):
        assert words in note


@pytest.mark.parametrize(
    ("changes", "fault", "is_refused"), [({}, "", True), ({}, "it logs no fd", False), ({"final": False}, "", False)]
)
def test_rows_without_a_mark_need_no_comparable_measurement(measured, runs, tmp_path, changes, fault, is_refused):
    """Known before the first job: a row that will have no curve, or a figure without marks of kept generators."""
    one, other = [*CURVES][:2]
    series = [{"each": {"run": [one]}}, {"each": {"run": [other]}, "optional": True}]
    layout = {"kind": "curves", "panels": [{"series": series}], **changes}
    (tmp_path / "l.yaml").write_text(yaml.safe_dump(layout))
    identity = measured.lines(one, "fd")[0].identity
    identities = {one: {"fd": identity}, other: {"fd": dataclasses.replace(identity, extractor="99" * 32)}}
    planned = Planned("runs.tsv", runs, identities, lambda run, metric: fault if run == other else "")
    check = load_figure_layout(tmp_path / "l.yaml").check
    if is_refused:
        refused(r"panels\[0\]: .*are not comparable", check, planned)
    else:
        check(planned)


LEVELS = {1: [], 2: [1.923, 9.98], 3: [1.97, 3.77, 4.53, 1.79, 2.66, 4.19, 1.36, 2.62, 5.57], 5: [2.39, 1.96]}


@pytest.mark.slow
def test_figures_of_the_paper_show_their_lines_and_say_which_runs_are_missing(preset, measured, runs, tmp_path, capsys):
    published = {run.run: run for run in read_runs(PAPERS / "runs/published.tsv")}
    for number in range(1, 6):
        layout = load_figure_layout(PAPERS / f"figures/figure{number}.yaml")
        panels = layout.gather(Sources(measured, runs, preset))
        lines = [line.value for panel in panels for line in panel.lines]
        assert len(lines) == 2 + 5 * 4 if number == 4 else lines == LEVELS[number]
        assert any(panel.missing for panel in panels)
        assert not any(panel.missing for panel in layout.gather(Sources(measured, published, preset)))
    # A figure without data is drawn and says so.
    assert build(preset, PAPERS / "figures/figure4.yaml", tmp_path / "f.pdf") == 0
    assert "not shown, no data yet" in capsys.readouterr().out
    assert any(row["kind"] == "missing" for row in csv_rows(tmp_path / "f.csv"))


def test_any_logged_metric_is_plotted_and_the_kept_generator_is_the_selected_one(preset, tmp_path):
    log = tmp_path / "students/sida-a1.0/evaluations.jsonl"
    log.parent.mkdir(parents=True)
    values = [(5.0, 8.0, 90.0), (3.0, 8.5, 95.0), (4.0, 9.0, None)]
    records = [dict(zip(("fid", "is", "fd_dinov2"), record)) | {"selection": "fid"} for record in values]
    write_jsonl(log, (2, 4, 6), records)
    series = [{"each": {"run": ["sida-a1.0"]}, "optional": True}]
    panels = [{"metric": key, "y_scale": "linear", "series": series} for key in ("fid", "is", "recall")]
    assert build(preset, {"panels": panels}, tmp_path / "f.pdf", "--results", str(tmp_path)) == 0
    found = csv_rows(tmp_path / "f.csv")
    curves = [(row["metric"], float(row["value"])) for row in found if row["kind"] == "curve"]
    assert curves == [("fid", 5.0), ("fid", 3.0), ("fid", 4.0), ("is", 8.0), ("is", 8.5), ("is", 9.0)]
    kept = [row for row in found if row["kind"] == "kept generator"]
    assert [(row["metric"], row["images"]) for row in kept] == [("is", "4000")]
    (missing,) = [row for row in found if row["kind"] == "missing"]
    assert "no recall in" in missing["series"]
    write_jsonl(log, (2,), [{"fid": 5.0, "num_samples": [2500]}])
    refused(":1: num_samples: must be a number", read_evaluations, log, "fid")


def test_values_that_a_logarithmic_axis_cannot_show_are_marked(preset, tmp_path):
    log = tmp_path / "students/sida-a1.0/evaluations.jsonl"
    log.parent.mkdir(parents=True)
    write_jsonl(log, (2, 4, 6), [{"kd": 0.5}, {"kd": -0.001}, {"kd": 0.0}])
    for scale, expected in (("log", ["True", "False", "False"]), ("linear", ["True"] * 3)):
        panel = {"metric": "kd", "y_scale": scale, "series": [{"each": {"run": ["sida-a1.0"]}}]}
        assert build(preset, {"panels": [panel]}, tmp_path / "f.pdf", "--results", str(tmp_path)) == 0
        assert [row["shown"] for row in csv_rows(tmp_path / "f.csv")] == expected


def test_a_pooled_curve_has_no_kept_generator_beside_its_first_run_alone(tmp_path):
    """The table of data counts the iterations of the kept generator as the axis does."""
    one = curve("a", "sid", 1.0)
    both = pool([one, dataclasses.replace(curve("b", "sid", 1.0), label="a")], "pooled")
    (tmp_path / "l.yaml").write_text(yaml.safe_dump({"kind": "curves", "batch": 2, "panels": [{"series": []}]}))
    layout = load_figure_layout(tmp_path / "l.yaml")
    panels = [Panel(layout.panels[0], (both, one), (), {"a": Estimate(3.0, 0.1, 10)}, ())]
    rows = [row for _, row in parse_csv(curves_csv(layout, panels), "f.csv")[1]]
    kept = [row for row in rows if row["kind"] == "kept generator"]
    assert [(row["series"], row["run"], row["images"], row["iterations"]) for row in kept] == [("a", "a", "2", "1")]
    (axes,) = draw_curves(layout, panels).axes
    assert [list(line.get_xdata()) for line in axes.get_lines() if line.get_markerfacecolor() == "white"] == [[1.0]]


def test_seeds_are_pooled_where_all_were_evaluated():
    one = Curve("a-s0", "a", (Point(1, 5.0), Point(2, 4.0)))
    other = Curve("a-s1", "a", (Point(1, 7.0), Point(2, 4.0), Point(3, 1.0)))
    both = pool([one, other], "a")
    assert [(p.nimg, p.value) for p in both.points] == [(1, 6.0), (2, 4.0)]
    assert both.points[0].std == pytest.approx(2**0.5)
    assert (both.over, both.runs) == ("seeds", ("a-s0", "a-s1"))
    refused("share no evaluation point", pool, [dataclasses.replace(one, points=other.points[2:]), one], "a")


def test_signs_that_the_font_lacks_are_named(tmp_path, capsys):
    figure = style.new_figure(2, 1)
    figure.suptitle("SiDA 猫 α")
    style.save(figure, tmp_path / "a.pdf", "a", "x")
    assert re.search(r"a.pdf: .* has no 猫,", capsys.readouterr().err)


def test_a_legend_below_fits_the_figure(tmp_path):
    names = [f"a generator with a rather long name, {i}" for i in range(7)]
    figure = drawn(tmp_path, [[Curve(name, name, (Point(1, 5.0), Point(2, 4.0))) for name in names]], columns=1)
    (legend,) = figure.legends
    box = legend.get_window_extent(FigureCanvasAgg(figure).get_renderer())
    assert [text.get_text() for text in legend.get_texts()] == names
    assert box.width <= figure.bbox.width


def test_a_label_wider_than_the_figure_is_broken(tmp_path):
    name = "a generator with a name as long as the settings that it was trained with, which fill lines, " * 2
    figure = drawn(tmp_path, [[Curve("a", name.strip(), (Point(1, 5.0), Point(2, 4.0)))]], columns=1, width=3.3)
    (legend,) = figure.legends
    assert legend.get_window_extent(FigureCanvasAgg(figure).get_renderer()).width <= figure.bbox.width
    assert legend.get_texts()[0].get_text().split() == name.split()


def curve(label, method, alpha, values=(5.0, 4.0), std=None):
    points = tuple(Point(n + 1, value, std, 3) for n, value in enumerate(values))
    return Curve(label, label, points, "trials", (label,), None, method, alpha)


def drawn(tmp_path, groups, lines=(), finals=None, missing=(), **keys):
    """A figure with a panel for each group of curves."""
    keys = {"columns": 3, **keys, "panels": [{"series": []}] * len(groups)}
    (tmp_path / "l.yaml").write_text(yaml.safe_dump({"kind": "curves", **keys}))
    layout = load_figure_layout(tmp_path / "l.yaml")
    panels = [Panel(layout.panels[0], tuple(group), tuple(lines), finals or {}, tuple(missing)) for group in groups]
    return draw_curves(layout, panels)


def shown(axes):
    """Colour and marker of every named curve."""
    found = [line for line in axes.get_lines() if line.get_marker() not in ("None", None, "")]
    return {line.get_label(): (line.get_color(), line.get_marker()) for line in found if line.get_xdata().size}


def test_a_method_and_an_alpha_look_the_same_in_all_panels_of_all_figures(tmp_path):
    """The number of panels and the order of curves change nothing."""
    sizes = [[curve("SiD", "sid", 1.0), curve("SiDA", "sida", 1.0)]] * 5
    other = [[curve("SiDA, α = 1.0", "sida", 1.0), curve("SiD2A", "sid2a", 1.0), curve("SiD", "sid", None)]]
    looks = {}
    for axes in (*drawn(tmp_path, sizes).axes, *drawn(tmp_path, other).axes):
        for label, look in shown(axes).items():
            looks.setdefault(label.split(",")[0], set()).add(look)
    assert all(len(found) == 1 for found in looks.values())
    assert len(set.union(*looks.values())) == 3
    assert "SiD²A" in looks  # as tables write it
    # The same alpha looks the same for every method in figures about it.
    alphas = (-0.25, 0.0, 0.5, 0.75, 1.0, 1.2, 1.5)
    groups = [[curve(f"{method} {a}", method, a) for a in alphas] for method in ("sida", "sid2a")]
    one, other = (list(shown(axes).values()) for axes in drawn(tmp_path, groups, colours="alpha").axes)
    assert one == other
    assert len({colour for colour, _ in one}) == len({marker for _, marker in one}) == 7


def test_a_changed_recipe_of_a_method_gets_a_look_of_its_own_kept_in_the_figure(tmp_path):
    base, changed = curve("SiDA", "sida", 1.0), [curve(f"SiDA, changed {i}", "sida", 1.0) for i in range(4)]
    # A curve after all variants of colour and marker is dashed.
    many = [base, *changed, *(curve(f"more {i}", "sida", 1.0) for i in range(10))]
    assert len(set(style.looks_of([many]).values())) == 15
    first, second = (shown(axes) for axes in drawn(tmp_path, [[base, *changed], [base, changed[2]]]).axes)
    assert len(set(first.values())) == 5
    assert second == {label: first[label] for label in second}
    # Also where the second recipe of a method is in another panel, as in mini-restart.
    one, other = drawn(tmp_path, [[curve("SiD", "sid", 1.0)], [curve("SiD restarted", "sid", 1.0)]]).axes
    assert shown(one)["SiD"] != shown(other)["SiD restarted"]


@pytest.mark.parametrize("values", [(7.3, 6.8), (60.0, 2.0), (136.0, 60.0), (136.0, 28.0)])
def test_a_short_logarithmic_axis_has_enough_numbers_up_to_its_top(tmp_path, values):
    (axes,) = drawn(tmp_path, [[curve("SiD", "sid", 1.0, values)]]).axes
    low, high = axes.get_ylim()
    inside = [place for place in axes.yaxis.get_majorticklocs() if low <= place <= high]
    assert 3 <= len(inside) <= 8
    assert (high / inside[-1]) ** 4 < high / low * 1.01


def test_hollow_markers_and_lines_are_explained_in_a_legend_that_hides_no_point(tmp_path):
    """A line has the colour of the method that it shows."""
    line = ReferenceLine("start: SiD", 4.5, None, "measured: x", method="sid")
    finals = {"SiDA": Estimate(4.2, 0.1, 10)}
    groups = [[curve("SiDA", "sida", 1.0), curve("SiD", "sid", 1.0)]]
    figure = drawn(tmp_path, groups, [line], finals)
    figure.draw(renderer := FigureCanvasAgg(figure).get_renderer())
    (axes,) = figure.axes
    (legend,) = figure.legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == ["SiDA", "SiD", "start: SiD", KEPT_LABEL]
    assert legend.get_window_extent(renderer).y1 <= axes.get_tightbbox(renderer).y0
    (level,) = [drawn for drawn in axes.get_lines() if list(drawn.get_ydata()) == [4.5, 4.5]]
    assert level.get_color() == shown(axes)["SiD"][0]
    assert level.get_linestyle() == "--"


def test_a_kept_start_has_its_hollow_marker_on_the_edge_of_a_log_axis(tmp_path):
    points = tuple(Point(nimg, value) for nimg, value in ((0, 4.0), (1000, 5.0), (9000, 4.5)))
    found = Curve("sid2a", "SiD2A", points, "trials", ("sid2a",), 0, "sid2a", 1.0)
    figure = drawn(tmp_path, [[found]], finals={"sid2a": Estimate(3.1, 0.1, 10)})
    figure.draw(renderer := FigureCanvasAgg(figure).get_renderer())
    (axes,) = figure.axes
    (hollow,) = [line for line in axes.get_lines() if line.get_markerfacecolor() == "white"]
    box = hollow.get_window_extent(renderer)
    assert (box.x0 + box.x1) / 2 == pytest.approx(axes.bbox.x0)
    assert axes.bbox.y0 < (box.y0 + box.y1) / 2 < axes.bbox.y1
    assert axes.get_xlim()[0] > 0
    (told,) = [text.get_text() for text in figure.legends[0].get_texts() if KEPT_LABEL in text.get_text()]
    # A longer line would press a narrow panel together.
    assert max(told.splitlines(), key=len) == KEPT_LABEL != told


@pytest.mark.parametrize("values", [(2.0,), (1.8, 2.0, 2.01, 2.5)])
def test_the_words_of_an_empty_panel_overlap_no_line(tmp_path, values):
    lines = [ReferenceLine(f"line {value}", value, None, "published") for value in values]
    figure = drawn(tmp_path, [[]] * 6, lines, missing=("x",), height=4.9)
    figure.draw(renderer := FigureCanvasAgg(figure).get_renderer())
    for axes in figure.axes:
        (words,) = [text for text in axes.texts if text.get_text() == NO_DATA]
        box = words.get_window_extent(renderer)
        assert axes.bbox.y0 <= box.y0
        assert box.y1 <= axes.bbox.y1
        for value in values:
            height = axes.transData.transform((1, value))[1]
            assert not box.y0 <= height <= box.y1


def test_several_bands_are_fainter(tmp_path):
    def panel(count):
        figure = drawn(tmp_path, [[curve(str(i), "sida", i / 4, std=0.5) for i in range(count)]], colours="alpha")
        return figure.axes[0]

    few, several = map(panel, (2, 6))
    assert several.collections[0].get_alpha() < 0.5 * few.collections[0].get_alpha()


def test_faulty_training_logs_are_refused_and_a_line_cut_off_by_a_crash_is_ignored(tmp_path):
    log = tmp_path / "e.jsonl"
    for text, told in (
        ("", "holds no evaluation yet"),
        ('{"nimg": 5}\n', r"e\.jsonl:1: no 'fd' in this evaluation"),
    ):
        log.write_text(text)
        refused(told, read_evaluations, log, "fd")
    log.write_text('{"nimg": 5, "fd": 2.0}\n{"nimg": 6, "f')
    assert [point.nimg for point in read_evaluations(log, "fd")] == [5]


LINES = {"series": [], "lines": [{"where": {"method": "sid"}}]}


def panel(**changes):
    return {"panels": [{"series": []} | changes], "widths": None}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "pie"}, r"kind: no figure kind 'pie' .*module:object"),
        ({"widths": [1]}, r"widths: must be 2 positive numbers"),
        (panel(series=[{"each": {"method": "gdd"}}]), r"panels\[0\]\.series\[0\]\.each: no run .* matches"),
        (
            {"panels": [{"series": [{"each": {"run": "no"}}], "optional": True}, LINES], "widths": None},
            r"panels\[1\]\.lines\[0\]\.where: 2 runs match",
        ),
        (panel(metric="kid", lines=[{"where": {"run": "data"}}]), r"metric 'kid' was not measured"),
    ],
)
def test_faulty_layouts_end_with_one_line(preset, tmp_path, refusal, change, message):
    assert re.search(message, refusal(*command(preset, CONVERGENCE | change, tmp_path / "f.pdf")))
    assert not list(tmp_path.glob("f.*"))


DRAW = """
import sys
from sida.eval.figures.style import new_figure, save
figure = new_figure(2, 1.5)
axes = figure.subplots()
axes.plot([1, 3, 2], label="x")
axes.set_title("SiDA")
axes.legend()
save(figure, "out.pdf", "t", "")
"""


@pytest.mark.slow
def test_settings_of_the_working_folder_change_no_figure(tmp_path):
    drawn = []
    for name, settings in (("a", ""), ("b", "axes.facecolor: red\nsavefig.dpi: 7\nlines.linestyle: :\nbackend: x.y\n")):
        (tmp_path / name).mkdir()
        if settings:
            (tmp_path / name / "matplotlibrc").write_text(settings)
        else:
            os.mkfifo(tmp_path / name / "matplotlibrc")  # whoever opens it waits for ever
        code = [sys.executable, "-P", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}){DRAW}"]
        subprocess.run(code, cwd=tmp_path / name, check=True, capture_output=True, timeout=100)
        drawn.append([sha256_file(tmp_path / name / f"out.{suffix}") for suffix in ("pdf", "png")])
    assert drawn[0] == drawn[1]
