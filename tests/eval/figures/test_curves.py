"""Figures: files, data, same seeds in every panel, official logs, and faults."""

import dataclasses
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from PIL import Image

from eval.commands import main
from eval.figures import load_figure_layout, style
from eval.figures.axes import NO_DATA, short_number
from eval.figures.curves import Panel, ReferenceLine, identities_on
from eval.figures.curves_plot import KEPT_LABEL, draw_curves
from eval.figures.sources import Sources
from eval.results.published import load_published
from eval.results.sheet import read_runs
from eval.results.summary import Estimate, Measurements, load_measurements
from eval.results.training_logs import Curve, Point, first_at_or_below, pool, read_author_log, read_evaluations
from sida.errors import UserError
from tests.eval.synthetic_output import CURVES, csv_rows, inputs_of, measurement_lines, write_csv

ROOT = Path(__file__).parents[3]
FIGURES, PAPERS = ROOT / "config/figures", ROOT / "studies/papers"
LAYOUTS = sorted([*ROOT.glob("config/figures/*.yaml"), *ROOT.glob("studies/*/figures/*.yaml")])


def build(preset, layout, out, *more):
    options = [*inputs_of(preset), "--results", str(preset)]
    return main(["figure", "--layout", str(layout), "--out", str(out), *options, *more])


@pytest.fixture(scope="session")
def convergence(study):
    return study / "figures/convergence.pdf"


def test_pdf_is_vector_with_embedded_truetype_fonts_and_no_date(convergence):
    data = convergence.read_bytes()
    assert data.startswith(b"%PDF")
    assert b"/FontFile2" in data
    assert b"/Type3" not in data
    assert b"CreationDate" not in data
    assert b"/Subtype /Image" not in data


def test_png_is_readable_and_200_dots_per_inch(convergence):
    with Image.open(convergence.with_suffix(".png")) as image:
        assert image.size == (1360, 580)
        assert round(image.info["dpi"][0]) == 200
        assert np.asarray(image.convert("L")).std() > 10


def test_csv_holds_every_evaluation_line_and_kept_generator(convergence, preset):
    found = csv_rows(convergence.with_suffix(".csv"))
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


def test_generators_measured_against_other_files_share_no_panel(preset, tmp_path, capsys):
    lines = [
        line | ({"extractor_sha256": "99" * 32} if line["run"] == "sida-a1.0" else {}) for line in measurement_lines()
    ]
    other = write_csv(tmp_path / "measurements.csv", lines)
    assert build(preset, FIGURES / "convergence.yaml", tmp_path / "f.pdf", "--measurements", str(other)) == 1
    assert "are not comparable (fd: feature network: e7e7" in capsys.readouterr().err
    assert not (tmp_path / "f.pdf").exists()
    # Of two protocols on purpose, the axis names both.
    rows = load_measurements(write_csv(tmp_path / "measurements.csv", measurement_lines(trials=2))).lines("data", "fd")
    assert identities_on(rows, (), {}) == ()
    others = [dataclasses.replace(row, run="b", protocol="other", classes="uniform") for row in rows[:1]]
    (note,) = identities_on([rows[0], *others], (), {})
    for words in ("protocol 'synthetic'", "protocol 'other'", "classes: data != uniform"):
        assert words in note


def test_the_same_data_give_the_same_bytes(convergence, preset, tmp_path):
    assert build(preset, FIGURES / "convergence.yaml", tmp_path / "again.pdf") == 0
    assert (tmp_path / "again.csv").read_bytes() == convergence.with_suffix(".csv").read_bytes()
    assert (tmp_path / "again.pdf").read_bytes() == convergence.read_bytes()


LEVELS = {1: [], 2: [1.923, 9.98], 3: [1.97, 3.77, 4.53, 1.79, 2.66, 4.19, 1.36, 2.62, 5.57], 5: [2.39, 1.96]}


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
def test_figures_of_the_paper_show_their_lines_and_say_which_runs_are_missing(preset, measured, runs, number):
    layout = load_figure_layout(PAPERS / f"figures/figure{number}.yaml")
    panels = layout.gather(Sources(measured, runs, load_published(), preset))
    lines = [line.value for panel in panels for line in panel.lines]
    assert lines == LEVELS.get(number, lines)
    assert number != 4 or len(lines) == 2 + 5 * 4
    assert any(panel.missing for panel in panels)
    published = {run.run: run for run in read_runs(PAPERS / "runs/published.tsv")}
    panels = layout.gather(Sources(measured, published, load_published(), preset))
    assert not any(panel.missing for panel in panels)


def test_a_figure_without_data_is_drawn_and_says_so(preset, tmp_path, capsys):
    assert build(preset, PAPERS / "figures/figure4.yaml", tmp_path / "f.pdf") == 0
    assert "not shown, no data yet" in capsys.readouterr().out
    assert any(row["kind"] == "missing" for row in csv_rows(tmp_path / "f.csv"))


def test_every_layout_of_the_repository_loads_and_no_two_lines_of_its_legend_look_alike():
    assert {"convergence", "samples", *(f"figure{n}" for n in range(1, 11))} <= {path.stem for path in LAYOUTS}
    for path in LAYOUTS:
        layout = load_figure_layout(path)
        assert 3.3 <= layout.width <= 6.8
        assert layout.caption
        if getattr(layout, "legend", None) == "below":
            lines = {(line.label, line.colour) for panel in layout.panels for line in panel.lines if line.colour}
            assert len(lines) == len({colour for _, colour in lines}), path


# Curves.


def author_log(path, metric="fid50k_full"):
    records = [
        {"results": {metric: value}, "metric": metric, "snapshot_pkl": f"network-snapshot-1.200000-{kimg:06d}.pkl"}
        for kimg, value in ((100, 20.0), (200, 12.0), (200, 14.0), (30000, 2.5))
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_official_metric_logs_are_read_and_repeated_evaluations_averaged(tmp_path):
    points = read_author_log(author_log(tmp_path / "metric-fid50k_full-alpha-1.200000.jsonl"))
    assert [(p.nimg, p.value, p.trials) for p in points] == [
        (100_000, 20.0, 1),
        (200_000, 13.0, 2),
        (30_000_000, 2.5, 1),
    ]
    assert points[1].std == pytest.approx(2**0.5)
    with pytest.raises(UserError, match="no metric 'is50k'"):
        read_author_log(tmp_path / "metric-fid50k_full-alpha-1.200000.jsonl", "is50k")
    (tmp_path / "other.jsonl").write_text('{"fid": 3}\n')
    with pytest.raises(UserError, match=r"other\.jsonl:1: not a line of an official metric log"):
        read_author_log(tmp_path / "other.jsonl")


def test_an_official_log_can_stand_for_a_run(preset, tmp_path):
    log = author_log(tmp_path / "m.jsonl")
    layout = tmp_path / "l.yaml"
    layout.write_text(yaml.safe_dump({"kind": "curves", "panels": [{"series": [{"each": {"run": ["sid-a1.2"]}}]}]}))
    assert build(preset, layout, tmp_path / "f.pdf", "--log", f"sid-a1.2={log}") == 0
    drawn = [row for row in csv_rows(tmp_path / "f.csv") if row["kind"] == "curve"]
    assert [float(row["value"]) for row in drawn] == [20.0, 13.0, 2.5]


def test_any_logged_metric_is_plotted_and_the_kept_generator_is_the_selected_one(preset, tmp_path):
    results = tmp_path / "p"
    values = [(2000, 5.0, 8.0, 90.0), (4000, 3.0, 8.5, 95.0), (6000, 4.0, 9.0, None)]
    (results / "students" / "sida-a1.0").mkdir(parents=True)
    with open(results / "students" / "sida-a1.0" / "evaluations.jsonl", "w") as stream:
        for nimg, fid, score, dino in values:
            stream.write(json.dumps({"nimg": nimg, "selection": "fid", "fid": fid, "is": score, "fd_dinov2": dino}))
            stream.write("\n")
    series = [{"each": {"run": ["sida-a1.0"]}, "optional": True}]
    panels = [{"metric": key, "y_scale": "linear", "series": series} for key in ("fid", "is", "recall")]
    layout = tmp_path / "l.yaml"
    layout.write_text(yaml.safe_dump({"kind": "curves", "panels": panels}))
    assert build(preset, layout, tmp_path / "f.pdf", "--results", str(results)) == 0
    found = csv_rows(tmp_path / "f.csv")
    drawn = {
        key: [float(r["value"]) for r in found if r["metric"] == key and r["kind"] == "curve"] for key in ("fid", "is")
    }
    assert drawn == {"fid": [5.0, 3.0, 4.0], "is": [8.0, 8.5, 9.0]}
    kept = [row for row in found if row["kind"] == "kept generator"]
    assert [(row["metric"], row["images"]) for row in kept] == [("is", "4000")]
    (missing,) = [row for row in found if row["kind"] == "missing"]
    assert "no recall in" in missing["series"]
    with pytest.raises(UserError, match="fd_dinov2 is NaN"):
        read_evaluations(results / "students" / "sida-a1.0" / "evaluations.jsonl", "fd_dinov2")


def training_log(results, run, values):
    folder = results / "students" / run
    folder.mkdir(parents=True, exist_ok=True)
    records = [
        {"nimg": 1000 * n, "weight_rms": {"generator": value}, "seconds": 1.0} for n, value in enumerate(values, 1)
    ]
    (folder / "train.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def test_quantities_of_a_training_log_are_curves(preset, tmp_path):
    training_log(tmp_path, "sid-a1.2", [1.0, 1.5, None])
    training_log(tmp_path, "sid-a1.0", [2.0, 2.5, 3.0])
    series = [{"each": {"method": "sid"}, "pool_seeds": True, "label": "SiD"}]
    panels = [{"log": "weight_rms.generator", "y_scale": "linear", "series": series}]
    layout = tmp_path / "l.yaml"
    layout.write_text(yaml.safe_dump({"kind": "curves", "panels": panels}))
    assert build(preset, layout, tmp_path / "f.pdf", "--results", str(tmp_path)) == 0
    drawn = csv_rows(tmp_path / "f.csv")
    assert [(row["images"], float(row["value"])) for row in drawn] == [("1000", 1.5), ("2000", 2.0)]
    assert {(row["metric"], row["source"], row["over"]) for row in drawn} == {
        ("weight_rms.generator", "training log", "seeds")
    }


def test_a_log_without_the_quantity_is_said_to_lack_it(preset, tmp_path, capsys):
    training_log(tmp_path, "sid-a1.2", [1.0])
    panel = {"log": "weight_rms.fake_score", "series": [{"each": {"run": "sid-a1.2"}, "optional": True}]}
    layout = tmp_path / "l.yaml"
    layout.write_text(yaml.safe_dump({"kind": "curves", "panels": [panel]}))
    assert build(preset, layout, tmp_path / "f.pdf", "--results", str(tmp_path)) == 0
    assert "no weight_rms.fake_score in" in capsys.readouterr().out
    panel["series"][0]["optional"] = False
    layout.write_text(yaml.safe_dump({"kind": "curves", "panels": [panel]}))
    assert build(preset, layout, tmp_path / "f.pdf", "--results", str(tmp_path)) == 1
    assert "no record has a 'weight_rms.fake_score'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("panel", "message"),
    [
        ({"log": "weigth_rms.generator"}, r"log: a training log has no 'weigth_rms' \(did you mean 'weight_rms'\?\)"),
        ({"log": "weight_rms"}, r"log: 'weight_rms': give 'weight_rms.generator', say"),
        ({"log": "seconds.generator"}, r"log: 'seconds.generator': give 'seconds' alone"),
        ({"log": "seconds", "lines": [{"where": {"run": "x"}}]}, r"lines: are of measured metrics"),
    ],
)
def test_a_fault_in_a_panel_of_a_training_log_is_one_line(tmp_path, panel, message):
    (tmp_path / "l.yaml").write_text(yaml.safe_dump({"kind": "curves", "panels": [{"series": [], **panel}]}))
    with pytest.raises(UserError, match=message):
        load_figure_layout(tmp_path / "l.yaml")


def test_seeds_are_pooled_where_all_were_evaluated():
    one = Curve("a-s0", "a", (Point(1, 5.0), Point(2, 4.0)))
    other = Curve("a-s1", "a", (Point(1, 7.0), Point(2, 4.0), Point(3, 1.0)))
    both = pool([one, other], "a")
    assert [(p.nimg, p.value) for p in both.points] == [(1, 6.0), (2, 4.0)]
    assert both.points[0].std == pytest.approx(2**0.5)
    assert (both.over, both.runs) == ("seeds", ("a-s0", "a-s1"))
    with pytest.raises(UserError, match="share no evaluation point"):
        pool([Curve("x", "a", (Point(1, 5.0),)), Curve("y", "a", (Point(2, 5.0),))], "a")


@pytest.mark.parametrize("names", [["short", "also"], [f"a generator with a rather long name, {i}" for i in range(7)]])
def test_a_legend_below_fits_the_figure(tmp_path, names):
    figure = drawn(tmp_path, [[Curve(name, name, (Point(1, 5.0), Point(2, 4.0))) for name in names]], columns=1)
    (legend,) = figure.legends
    box = legend.get_window_extent(FigureCanvasAgg(figure).get_renderer())
    assert [text.get_text() for text in legend.get_texts()] == names
    assert box.width <= figure.bbox.width


# Looks.


def curve(label, method, alpha, values=(5.0, 4.0), std=None):
    points = tuple(Point(n + 1, value, std, 3) for n, value in enumerate(values))
    return Curve(label, label, points, "trials", (label,), None, method, alpha)


def drawn(tmp_path, groups, lines=(), finals=None, missing=(), **keys):
    """A figure with a panel for each group of curves."""
    keys = {"columns": 3, "share_y": False, "legend": "below", **keys, "panels": [{"series": []}] * len(groups)}
    (tmp_path / "l.yaml").write_text(yaml.safe_dump({"kind": "curves", **keys}))
    layout = load_figure_layout(tmp_path / "l.yaml")
    panels = [Panel(layout.panels[0], tuple(group), tuple(lines), finals or {}, tuple(missing)) for group in groups]
    return draw_curves(layout, panels)


def shown(axes):
    """Colour and marker of every named curve."""
    found = [line for line in axes.get_lines() if line.get_marker() not in ("None", None, "")]
    return {line.get_label(): (line.get_color(), line.get_marker()) for line in found if line.get_xdata().size}


def test_a_method_has_one_colour_and_marker_in_all_panels_of_all_figures(tmp_path):
    """Labels by size and the order of curves change nothing."""
    sizes = [[curve(f"SiD, {s}", "sid", 1.0), curve(f"SiDA, {s}", "sida", 1.0)] for s in ("XS", "S", "M", "L", "XL")]
    other = [[curve("SiDA, α = 1.0", "sida", 1.0), curve("SiD2A", "sid2a", 1.0), curve("SiD", "sid", None)]]
    looks = {}
    for figure in (drawn(tmp_path, sizes, legend="panels"), drawn(tmp_path, other)):
        for axes in figure.axes:
            for label, look in shown(axes).items():
                looks.setdefault(label.split(",")[0], set()).add(look)
    assert all(len(found) == 1 for found in looks.values())
    assert len(set.union(*looks.values())) == 3


def test_the_same_alpha_looks_the_same_for_every_method_in_figures_about_it(tmp_path):
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


def test_no_two_entries_of_one_legend_look_alike(tmp_path):
    """A second recipe of a method in another panel, as in mini-restart."""
    figure = drawn(tmp_path, [[curve("SiD", "sid", 1.0)], [curve("SiD restarted", "sid", 1.0)]])
    first, second = (shown(axes) for axes in figure.axes)
    assert first["SiD"] != second["SiD restarted"]


def test_no_curve_has_a_colour_near_the_teachers():
    near = [
        colour
        for colour, _ in style.VARIANTS
        if math.dist(to_rgb(colour), to_rgb(style.OTHERS["teacher"].colour)) < 0.2
    ]
    assert not near


@pytest.mark.parametrize("values", [(9.0, 5.5), (7.3, 6.8), (60.0, 2.0), (9.0, 2.2)])
def test_a_short_logarithmic_axis_has_enough_numbers(tmp_path, values):
    (axes,) = drawn(tmp_path, [[curve("SiD", "sid", 1.0, values)]]).axes
    low, high = axes.get_ylim()
    assert 3 <= sum(low <= place <= high for place in axes.yaxis.get_majorticklocs()) <= 8


def test_the_name_of_a_line_is_written_where_no_curve_is(tmp_path):
    """Above the line at its right end is the curve."""
    line = ReferenceLine("its start", 5.0, None, "measured: x")
    (axes,) = drawn(tmp_path, [[curve("SiD", "sid", 1.0, (4.0, 4.1, 5.05, 5.05))]], [line], legend="panels").axes
    (text,) = axes.texts
    assert (text.get_ha(), text.get_va()) != ("right", "bottom")


def test_figures_write_sid2a_as_tables_do(tmp_path):
    (axes,) = drawn(tmp_path, [[curve("SiD2A, α = 1.0", "sid2a", 1.0)]]).axes
    assert list(shown(axes)) == ["SiD²A, α = 1.0"]


def test_figure_4_names_two_methods(preset, tmp_path):
    names = [f"edm2-{size}-{method}" for size in ("xs", "s", "m", "l", "xl", "xxl") for method in ("sid", "sida")]
    sheet = (ROOT / "studies/papers/runs/released.tsv").read_text()
    (tmp_path / "released.tsv").write_text(sheet)
    log = (preset / "students/sid-a1.2/evaluations.jsonl").read_text().replace('"fd', '"fid')
    for name in names:
        (tmp_path / "students" / name).mkdir(parents=True)
        (tmp_path / "students" / name / "evaluations.jsonl").write_text(log)
    layout = load_figure_layout(PAPERS / "figures/figure4.yaml")
    runs = {run.run: run for run in read_runs(tmp_path / "released.tsv")}
    sources = Sources(Measurements([], "none"), runs, load_published(), tmp_path)
    figure = draw_curves(layout, layout.gather(sources))
    assert {label for axes in figure.axes for label in shown(axes)} == {"SiD", "SiDA"}
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()][:2] == ["SiD", "SiDA"]


@pytest.mark.parametrize("place", ["below", "panels"])
def test_hollow_markers_and_start_lines_are_explained_in_the_figure(tmp_path, place):
    """In the legend, or (lines) by name where they are; a line has the colour of the method that it shows."""
    line = ReferenceLine("start: SiD", 4.5, None, "measured: x", method="sid")
    finals = {"SiDA": Estimate(4.2, 0.1, 10)}
    groups = [[curve("SiDA", "sida", 1.0), curve("SiD", "sid", 1.0)]]
    figure = drawn(tmp_path, groups, [line], finals, legend=place)
    (axes,) = figure.axes
    legend = figure.legends[0] if place == "below" else axes.get_legend()
    texts = [text.get_text() for text in legend.get_texts()]
    assert KEPT_LABEL in texts
    assert "start: SiD" in (texts if place == "below" else [text.get_text() for text in axes.texts])
    (level,) = [drawn for drawn in axes.get_lines() if list(drawn.get_ydata()) == [4.5, 4.5]]
    assert level.get_color() == shown(axes)["SiD"][0]
    assert level.get_linestyle() == "--"


def test_a_kept_start_has_its_hollow_marker_on_the_edge_of_a_log_axis(tmp_path):
    points = tuple(Point(nimg, value) for nimg, value in ((0, 4.0), (1000, 5.0), (9000, 4.5)))
    found = Curve("sid2a", "SiD2A", points, "trials", ("sid2a",), 0, "sid2a", 1.0)
    figure = drawn(tmp_path, [[found]], finals={"sid2a": Estimate(3.1, 0.1, 10)}, legend="panels")
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    (axes,) = figure.axes
    (hollow,) = [line for line in axes.get_lines() if line.get_markerfacecolor() == "white"]
    box = hollow.get_window_extent(renderer)
    assert (box.x0 + box.x1) / 2 == pytest.approx(axes.bbox.x0)
    assert axes.bbox.y0 < (box.y0 + box.y1) / 2 < axes.bbox.y1
    assert axes.get_xlim()[0] > 0
    (told,) = [text.get_text() for text in axes.get_legend().get_texts() if KEPT_LABEL in text.get_text()]
    # A longer line would press a narrow panel together.
    assert max(told.splitlines(), key=len) == KEPT_LABEL != told


@pytest.mark.parametrize("values", [(), (2.0,), (1.8, 2.0, 2.01, 2.5), (1.0, 2.0, 3.0, 4.0, 5.0)])
def test_the_words_of_an_empty_panel_overlap_no_line(tmp_path, values):
    lines = [ReferenceLine(f"line {value}", value, None, "published") for value in values]
    figure = drawn(tmp_path, [[]] * 6, lines, missing=("x",), height=4.9)
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    for axes in figure.axes:
        (words,) = [text for text in axes.texts if text.get_text() == NO_DATA]
        box = words.get_window_extent(renderer)
        assert axes.bbox.y0 <= box.y0
        assert box.y1 <= axes.bbox.y1
        for value in values:
            height = axes.transData.transform((1, value))[1]
            assert not box.y0 <= height <= box.y1


def test_several_bands_are_fainter_and_more_become_bars_beside_each_other(tmp_path):
    def panel(count):
        figure = drawn(tmp_path, [[curve(str(i), "sida", i / 4, std=0.5) for i in range(count)]], colours="alpha")
        return figure.axes[0]

    few, several, many = map(panel, (2, 5, 6))
    edges = [line for line in several.get_lines() if line.get_linewidth() == 0.5]
    assert len(edges) == 10
    assert several.collections[0].get_alpha() < 0.5 * few.collections[0].get_alpha()
    assert edges[0].get_alpha() >= 0.24
    assert not many.collections
    bars = [line for line in many.get_lines() if line.get_marker() == "None"]
    places = {tuple(line.get_transform().transform(line.get_xydata())[0].round(2)) for line in bars}
    assert len(places) == len(bars) == 12


@given(st.lists(st.tuples(st.integers(1, 10**6), st.floats(0.1, 50)), min_size=1, max_size=20), st.floats(0.1, 50))
def test_first_crossing_is_the_earliest_evaluation_at_or_below(pairs, level):
    points = tuple(Point(n, v) for n, v in sorted(dict(pairs).items()))
    found = first_at_or_below(points, level)
    below = [point.nimg for point in points if point.value <= level]
    assert found == (min(below) if below else None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no evaluation yet"),
        ('{"nimg": 5}\n', r"e\.jsonl:1: no 'fd' in this evaluation"),
        ('{"nimg": 5, "fd": NaN}\n', r"e\.jsonl:1: fd is NaN"),
        ('{"nimg": 5, "fd"\n{"nimg": 6, "fd": 1}\n', "not valid JSON lines"),
    ],
)
def test_faulty_training_logs(tmp_path, text, message):
    (tmp_path / "e.jsonl").write_text(text)
    with pytest.raises(UserError, match=message):
        read_evaluations(tmp_path / "e.jsonl", "fd")
    with pytest.raises(UserError, match="no such training log"):
        read_evaluations(tmp_path / "absent.jsonl", "fd")


def test_a_line_cut_off_by_a_crash_is_ignored(tmp_path):
    (tmp_path / "e.jsonl").write_text('{"nimg": 5, "fd": 2.0}\n{"nimg": 6, "f')
    assert [p.nimg for p in read_evaluations(tmp_path / "e.jsonl", "fd")] == [5]


@pytest.mark.parametrize(("value", "text"), [(500, "500"), (1e4, "10k"), (2.5e6, "2.5M"), (1e9, "1B"), (0.2, "0.2")])
def test_axis_labels(value, text):
    assert short_number(value) == text


# Faults: exit status 1 and one line.


def panel(**changes):
    return {"panels": [{"series": []} | changes], "widths": None}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "pie"}, r"kind: no figure kind 'pie' .*FILE.py:object"),
        ({"panels": []}, r"panels: must not be empty"),
        ({"width": 68}, r"width: must be between 1 and 20, got 68"),
        ({"widths": [1]}, r"widths: must be 2 positive numbers"),
        ({"widths": [1, 0]}, r"widths: must be 2 positive numbers"),
        (panel(series=[{"each": {"method": "gdd"}}]), r"panels\[0\]\.series\[0\]\.each: no run .* matches"),
        (panel(lines=[{"where": {"method": "sid"}}]), r"lines\[0\]\.where: 2 runs match"),
        (panel(lines=[{"published": "table1-x"}]), r"lines\[0\]\.published: no published number"),
        (panel(series=[{"each": {"method": "sida"}}], metric="kid"), r"no 'kid' in this evaluation"),
        (panel(metric="kid", lines=[{"where": {"run": "data"}}]), r"metric 'kid' was not measured"),
        ({"x": "iterations"}, r"batch: is needed to count iterations"),
        ({"widht": 3}, r"widht: unknown key \(did you mean 'width'"),
    ],
)
def test_faulty_layouts_end_with_one_line(preset, tmp_path, capsys, change, message):
    layout = yaml.safe_load((FIGURES / "convergence.yaml").read_text()) | change
    (tmp_path / "l.yaml").write_text(yaml.safe_dump(layout))
    assert build(preset, tmp_path / "l.yaml", tmp_path / "f.pdf") == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error)
    assert not list(tmp_path.glob("f.*"))


def test_missing_logs(preset, tmp_path, capsys):
    assert build(preset, FIGURES / "convergence.yaml", tmp_path / "f.pdf", "--results", str(tmp_path)) == 1
    assert "no such training log" in capsys.readouterr().err


def test_curves_against_seconds_of_training(preset, tmp_path):
    layout = yaml.safe_load((FIGURES / "convergence.yaml").read_text()) | {"x": "seconds"}
    (tmp_path / "l.yaml").write_text(yaml.safe_dump(layout))
    assert build(preset, tmp_path / "l.yaml", tmp_path / "f.pdf") == 0
    found = [line for line in csv_rows(tmp_path / "f.csv") if line["kind"] == "curve"]
    for line in found:
        ticks = len(CURVES[line["run"]])
        last = CURVES[line["run"]][-1][0] * 1000
        assert float(line["seconds"]) == pytest.approx(int(line["images"]) / last * ticks * 2.9, abs=0.06)
