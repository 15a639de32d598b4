"""Presets: every fault of its settings, sheet, layouts, protocol and assets is one line before the first job.

Each study stands alone: it may be removed, and nothing that is left misses it.
"""

import copy
import dataclasses
import json
import re

import pytest
import yaml

import sida.config.lookup as lookup
import sida.workflow.preset.files as files
from sida.config.lookup import ROOT
from sida.eval.measuring.protocol import load_protocol
from sida.eval.results.sheet import read_runs
from sida.workflow.preset import load_preset, preset_from
from sida.workflow.preset.checks import check_preset, search_remarks, unshown_remark
from sida.workflow.preset.jobs import (
    layout_needs,
    measurement,
    measuring_parts,
    sampled_rows,
    sampling,
    teacher_training,
    training,
)
from tests.refused import refused
from tests.workflow.workspace import ROWS, TINY, Workspace, changed, put, settings_of, shipped, study


def protocol(**changes) -> dict:
    return yaml.safe_load((ROOT / "config/protocols/digits.yaml").read_text()) | {"watch": None} | changes


def metric(**changes) -> dict:
    return protocol()["metrics"][0] | changes


#: Curves of a figure.
SID = {"series": [{"each": {"method": "sid"}}]}
TEACHERS = {"series": [{"each": {"method": "teacher"}}]}
FID = {"columns": [{"head": "FID", "metric": "fid"}], "rows": [{"each": {"method": "sid"}}]}


def shown(kind, layout) -> dict:
    """A layout of one's own."""
    return {kind: ["x"], f"{kind}/x.yaml": layout}


def curves(**panel) -> dict:
    return shown("figures", {"kind": "curves", "panels": [SID | panel]})


def measured(**changes) -> dict:
    """A protocol of one's own."""
    return {"protocol": "x.yaml", "x.yaml": protocol(**changes)}


def refers_to(kind="statistics", **reference) -> dict:
    return measured(references={"data": {"kind": kind, **reference}})


def few(**asked) -> dict:
    """A metric of trials of 50 images."""
    asked = {"key": "m", "extractor": "digits", "reference": "data", **asked}
    return measured(metrics=[metric(), asked], num_samples=50, selection=None) | {"figures": [], "tables": []}


def archives(**origins) -> dict:
    """Archives that are made of something."""
    shape = {"kind": "zip", "resolution": 8, "channels": 1, "label_dim": 10}
    made = {name: {"path": f"{name}.zip", **shape, "made_from": origin} for name, origin in origins.items()}
    return {"datasets": made, "dataset": "a"}


def elsewhere(path) -> dict:
    return archives(a={"source": "cifar10-train"}) | {"datasets/a/path": path}


def alone(**cells) -> dict:
    """A sheet of one row."""
    row = {"run": "x", "label": "X", **cells}
    return {"runs.tsv": "\n".join(map("\t".join, (row, row.values()))), "tables": [], "figures": []}


CHECKPOINT = {"checkpoint": "x", "training": {}, "network": {}}
TEACHER, NETWORK = "teachers/digits-short", "teachers/digits-short/network"
OWN = "docs.examples.matching:METHOD"
FAULTS = [
    # Settings.
    ({"sede": 1}, r"preset.yaml: sede: .*'seed'"),
    ({"preset": "board"}, r"^preset.yaml: preset: 'board' .*another name"),
    ({"dataset": "digit"}, r"preset.yaml: .*'digit'.*'digits'"),
    ({"datasets": {"x": {"kind": "zip", "path": "x.zip", "counts": "none"}}}, r"datasets.x.counts: .*channels"),
    ({"tables": ["mian"]}, r"tables: .*'mian' .*'main'"),
    ({"tables": ["main", "lay/main.yaml"]}, r"tables: 'main' and 'lay/main.yaml' "),
    ({"stored": {"folder": "x", "preset": "y"}}, r"preset.yaml: stored.beside: is missing"),
    ({"tables": 2 * ["main"]}, r"tables: 'main' and 'main' "),
    ({"teachers": {}}, r".tsv: run 'teacher-nfe35': .*'digits-short'"),
    ({TEACHER: CHECKPOINT}, r"preset.yaml: teachers.digits-short"),
    ({f"{NETWORK}/class": "docs.examples.flow:Flow"}, r"network.class: .*'Flow' .*FlowPrecond"),
    ({f"{NETWORK}/kwargs/img_resolution": 16}, r"digits-short.network.kwargs.img_resolution: .*'digits' has 8"),
    ({"samplers/x": {"kind": "one_step", "rho": 7}}, r"samplers.x.rho: "),
    ({"recipes/sid/kernels": "fused"}, r"recipes.sid.kernels: "),
    ({"recipes/sid/logvar": True}, r"recipes.sid.logvar: "),
    ({"recipes/sid/evaluation/num_samples": 9}, r"recipes.sid.evaluation.num_samples: 9 .*'is' .*splits: 10"),
    ({"recipes/sid/evaluation": None}, r"recipe 'sid' has no key 'evaluation'"),
    ({"second_protocols": {"digits": "digits-min"}}, r"preset.yaml: second_protocols.digits: no .*'digits-min'"),
    # Options of a method.
    ({"rows/sid-a1.0/method": OWN, "recipes/sid/options": {"weight": -1}}, r"recipes.sid.options.weight: .* 0, got -1"),
    ({"recipes/sid/options": {"weight": 1}}, r"preset.yaml: recipes.sid.options.weight: unknown key"),
    # Archives.
    (archives(a={"dataset": "b"}, b={"dataset": "a"}), r"made_from: .*\(a of b of a\)"),
    (archives(a={"dataset": "digits"}), r"datasets.a.made_from.dataset: .*'digits'"),
    (archives(a={"source": "cifar10-pyton"}), r"datasets.a.made_from.source: .*'cifar10-python'"),
    (elsewhere("/tmp/nowhere/mine.zip"), r"^preset.yaml: datasets.a.path: .*below"),
    # The sheet.
    ({"rows/sid2a-a1.0/init": "sid-a1.1"}, r"'init': .*'sid-a1.0'"),
    ({"rows/sid2a-a1.0/init": ...}, r"runs.tsv: run 'sid2a-a1.0': init: "),
    ({"rows/sida-a1.0/init": "sid-a1.0"}, r"runs.tsv: run 'sida-a1.0': init: "),
    ({"rows/sid2a-a1.0/init": "sid2a-a1.0"}, r"init goes in a circle"),
    ({"rows/sid2a-a1.0/init": "teacher-nfe35"}, r"not a one-step generator"),
    ({"rows/sida-a1.0/recipe": "own/sidaa", "recipes/own.yaml": {"sida": {}}}, r"no 'sidaa' in .*own.yaml.*'sida'"),
    ({"rows/sida-a1.0/alpha": "one"}, r'runs.tsv:5: alpha: .* got "one"'),
    ({"rows/sida-a1.0/method": "docs.examples.matching:M"}, r"run 'sida-a1.0'.method: .*'M'"),
    ({"rows/sid-a1.0/run": "sida-a1.0"}, r"run 'sida-a1.0' appears twice"),
    ({"runs.tsv": "rum\tlabel\tmethod\nx\tX\tdata\n"}, r"rum: .*'run'"),
    (alone(method="sid", sampler="one-step", checkpoint="cifar10-unknown"), r"checkpoint: .*'cifar10-unknown'"),
    (alone(method="external", checkpoint="mine.npz"), r"runs.tsv: run 'x': checkpoint: .*'mine.npz'"),
    (alone(method="external", checkpoint="docs.examples.noisy_digits:sampel"), r"checkpoint: .*'sampel' .*'sample'"),
    (alone(method="external"), r"runs.tsv: run 'x': column 'checkpoint' is empty"),
    (alone(method="external", checkpoint="x.pkl", sampler="onestep"), r"'onestep'.*'one-step'"),
    ({"rows/data/second_protocol": "digits", "protocol": "digits"}, r"run 'data': second_protocol: .*another"),
    ({"rows/data/second_protocol": "digits-mini", "rows/data.digits-mini": ROWS["data"]}, r"second_protocol: .*rename"),
    # Layouts and claims.
    (shown("tables", {"extends": "main.yaml", "rows": [{"run": "sidda"}]}), r"x.yaml: rows\[0\].run: "),
    (shown("tables", FID), r"x.yaml: columns\[0\].metric: .*'fd'"),
    (shown("figures", {"kind": "samples", "panels": [{"where": {"method": "gdd"}}]}), r"x.yaml: panels\[0\].where: "),
    (curves(**TEACHERS), r"run 'teacher[^']*': .* not trained here"),
    (curves(metric="recall"), r"'recall' is not measured during training"),
    (
        curves(lines=[{"where": {"method": "sida"}}, {"where": {"family": "One Step"}}]),
        r"lines\[1\].where: 3 runs match",
    ),
    (curves(lines=[{"published": "t1-nothing"}]), r"lines\[0\].published: no published number 't1-nothing'"),
    ({"claims": "x.yaml", "x.yaml": {"claims": []}}, r"x.yaml: is not a Python file"),
    # The protocol.
    (measured(metrics=[metric(extractor="digitz")]), r"metric 'fd': .*'digitz' .*'digits'"),
    (measured(resolution=16), r"is for resolution 16, data set 'digits' has 8"),
    (refers_to(asset="fid-ref-cifar01"), r"x.yaml: references.data.asset: .*'fid-ref-cifar10'"),
    (refers_to("dataset", dataset="digit", fixed=True), r"references.data: .*'digits'"),
    (refers_to(file="mine.npz"), r"x.yaml: metric 'fd': its reference 'data' is a file"),
    (few(kind="precision", k=50), r"x.yaml: num_samples: 50 .*'m' .*k: "),
    (few(kind="inception_score", extractor="pixels"), r"'pixels' has no classes"),
]


@pytest.mark.parametrize(("changes", "fault"), FAULTS, ids=[fault for _, fault in FAULTS])
def test_a_fault_is_one_line_before_the_first_job(tmp_path, changes, fault):
    refused(fault, lambda: check_preset(study(tmp_path, changes)))


def test_comments_and_blank_lines_keep_line_numbers(tmp_path):
    sheet = tmp_path / "runs.tsv"
    sheet.write_text("# comment\nrun\tlabel\tmethod\tsampler\n\nx\tX\tdata\tdata\ny\tY\tbad\tdata\n")
    refused(re.escape(f"{sheet}:5: method"), read_runs, sheet)


def test_specs_carry_everything_and_are_plain_json():
    preset = shipped("demo")
    teacher, student = teacher_training(preset, "digits-short").spec, training(preset, "sid2a-a1.0").spec
    measure, sample = measurement(preset, "teacher-nfe35").spec, sampling(preset, "teacher-nfe35/trial-2").spec
    for spec in (teacher, student, measure):
        assert json.loads(json.dumps(spec)) == spec
        assert spec["dataset"]["kind"] == "digits"
    assert student["teacher"] == "results/demo/teachers/digits-short/network.safetensors"
    assert student["init"] == "results/demo/students/sid-a1.0/network.safetensors"
    assert student["alpha"] == 1.0
    assert [row.nfe for row in preset.rows.values()] == [None, measure["nfe"], 1, 1, 1]
    assert measure["nfe"] == 35
    assert measurement(preset, "data").spec["network"] is None
    # Images of a trial are those that it measures.
    assert sampled_rows(preset) == list(preset.runs)
    assert (sample["seeds"], sample["class_labels"]) == ("5000-7499", "empirical")
    assert all(sample[key] == measure[key] for key in ("network", "sampler", "dataset"))


def test_a_preset_is_read_once_and_does_not_change(tmp_path):
    """Paths and recipes of files are in the preset, and the settings that it is read from stay as they are."""
    settings = changed(settings_of(TINY), archives(a={"source": "pictures"}) | {"dataset": "digits", "claims": None})
    put(tmp_path / "pictures/a.png")
    put(tmp_path / "recipes/mine.yaml", yaml.safe_dump({"quick": settings["recipes"]["sida"]}))
    sheet = (ROOT / "tests/workflow/tiny.tsv").read_text()
    settings["runs"] = str(put(tmp_path / "runs.tsv", sheet.replace("\tsida\tone-step", "\tmine/quick\tone-step")))
    settings |= {"tables": [], "figures": []}
    before = copy.deepcopy(settings)
    preset = preset_from(settings, "preset.yaml", [tmp_path])
    assert settings == before
    assert preset.settings.datasets["a"]["made_from"]["source"] == str(tmp_path / "pictures")
    assert preset.settings.recipes["mine/quick"] == settings["recipes"]["sida"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        preset.runs = {}


def test_many_steps_are_measured_in_parts():
    preset, demo = shipped("demo"), settings_of("demo")
    one_step = ["data", "sid-a1.0", "sida-a1.0", "sid2a-a1.0"]
    slow = [(*part, ["teacher-nfe35"]) for part in ((0, 1), (2, 3), (4, 4))]
    assert measuring_parts(preset) == [(0, 4, one_step), *slow]
    uneven, whole = (measuring_parts(preset_from(demo | {"trials_per_job": trials})) for trials in (3, None))
    assert [part[:2] for part in uneven] == [(0, 4), (0, 2), (3, 4)]
    assert whole == [(0, 4, list(preset.runs))]


def test_images_of_released_networks_need_no_data():
    released = shipped("released")
    # Latent networks need a decoder, and networks without classes no data.
    assert not any(re.search(r"edm2-(?!img64)", run) for run in sampled_rows(released))
    unconditional = next(run for run in sampled_rows(released) if "afhq" in run)
    assert sampling(released, f"{unconditional}/trial-0").spec["dataset"] is None
    conditional = sampling(released, "cifar10-cond-sida-a1/trial-0").spec
    assert conditional["dataset"] is None
    assert conditional["class_labels"]["counts"] == (5_000,) * 10


def test_no_released_row_needs_an_archive_for_its_classes():
    released = shipped("released")
    for run in released.runs.values():
        protocol = load_protocol(ROOT / released.rows[run.run].protocol_path)
        assert not any(source.kind == "dataset" for source in protocol.sources.values())
        if released.rows[run.run].data["label_dim"]:
            assets = measurement(released, run.run).needs["downloads"]
            counted = protocol.labels_asset in assets if protocol.labels_asset else protocol.label_counts
            assert counted if protocol.label_dist == "empirical" else run.method == "teacher", run.run


def test_class_counts_that_are_missing_are_told_before_the_first_job(tmp_path):
    protocol = yaml.safe_load((ROOT / "config/protocols/imagenet64.yaml").read_text()) | {"labels": "absent.json"}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(protocol))
    sheet = (ROOT / "studies/papers/runs/released.tsv").read_text()
    sheet = sheet.replace("config/protocols/imagenet64.yaml", str(tmp_path / "mine.yaml"))
    (tmp_path / "sheet.tsv").write_text(sheet)
    settings, own = settings_of("released") | {"runs": str(tmp_path / "sheet.tsv")}, [ROOT / "studies/papers"]
    told = r"run 'imagenet64-sid-a1': .*'absent.json' .*write absent.json as config/labels"
    refused(told, preset_from, settings, folders=own)


def test_the_example_passes_and_shows_what_it_measures():
    preset = shipped("docs/examples/my-digits.yaml")
    check_preset(preset)
    assert unshown_remark(preset) is None


STUDIES = sorted({path.parent.name for path in files.presets().values() if files.FOLDER not in path.parents})


@pytest.mark.parametrize(
    "study", [pytest.param(name, marks=pytest.mark.slow if name == "papers" else ()) for name in STUDIES]
)
def test_a_study_needs_no_other_study_and_shows_what_it_measures(study, tmp_path, monkeypatch):
    (tmp_path / "studies").mkdir()
    for name in ("config", "results", f"studies/{study}"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(lookup, "ROOT", tmp_path)
    monkeypatch.setattr(files, "ROOT", tmp_path)
    monkeypatch.setattr(files, "FOLDER", tmp_path / "plugins")
    known = files.presets()
    assert known
    for path in known.values():
        preset = load_preset(path)
        # A variant shows little that its base does not.
        if "\nbase: " not in path.read_text():
            check_preset(preset)
            assert unshown_remark(preset) is None, path


def test_tabs_that_a_spreadsheet_leaves_behind_the_last_column_are_no_columns(tmp_path):
    sheet = put(tmp_path / "runs.tsv", "run\tlabel\tmethod\t\t\na\tA\tdata\t\t\t\t\nb\tB\tdata\n")
    assert [row.label for row in read_runs(sheet)] == ["A", "B"]
    put(sheet, "run\tlabel\tmethod\t\t\na\tA\tdata\t\tx\n")
    refused("runs.tsv:2: 5 cells but 3 columns", read_runs, sheet)


def test_presets_that_change_each_other_are_one_line(tmp_path):
    for one, other in (("a", "b"), ("b", "a")):
        (tmp_path / f"{one}.yaml").write_text(f"base: {other}.yaml\n")
    refused(r"a\.yaml: base: goes in a circle", load_preset, tmp_path / "a.yaml")
    # Each turn through the parent folder makes a longer path.
    circle = put(tmp_path / "d/c.yaml", "base: ../d/c.yaml\n")
    assert len(str(refused("base: goes in a circle", load_preset, circle))) < 2 * len(str(circle)) + 100


@pytest.mark.parametrize("methods", [{"data"}, {"teacher", "sida"}])
def test_default_layouts_take_whatever_rows_there_are(tmp_path, methods):
    figures = [*(["convergence"] if "sida" in methods else []), "samples"]
    rows = {run: row for run, row in ROWS.items() if row["method"] in methods}
    check_preset(study(tmp_path, {"figures": figures}, rows))


#: A method of one's own in the place of SiDA, which reads neither α nor the adversarial settings of the recipe.
MINE = {"rows/sida-a1.0": ROWS["sida-a1.0"] | {"method": OWN, "alpha": "", "recipe": "sid"}}


def test_default_layouts_show_methods_of_ones_own(tmp_path):
    preset = study(tmp_path, MINE)
    check_preset(preset)
    assert preset.runs["sida-a1.0"].method == OWN
    assert "sida-a1.0" in layout_needs(preset, "tables", "main").measured
    for figure in ("convergence", "samples"):
        assert "sida-a1.0" in layout_needs(preset, "figures", figure).networks
    assert unshown_remark(preset) is None


def test_rows_that_are_measured_and_shown_nowhere_are_told(tmp_path):
    only = {"extends": "main.yaml", "rows": [{"each": {"method": ["data", "teacher", "sid2a"]}}]}
    preset = study(tmp_path, MINE | shown("tables", only) | {"figures": []})
    check_preset(preset)
    # sid-a1.0 is what sid2a-a1.0 starts from.
    assert re.match(r"sida-a1.0: .*preset.yaml.*\{run: sida-a1.0\}", unshown_remark(preset))


def test_rows_with_the_seeds_of_a_search_are_told(tmp_path):
    """A search with seed 7 from the same teacher."""
    study(tmp_path)
    sheet = (tmp_path / "runs.tsv").read_text()
    search = settings_of(TINY) | {"preset": "trials", "runs": "trials.tsv", "claims": None, "seed": 7}
    changes = {"search": ["search.yaml"], "search.yaml": search, "trials.tsv": sheet}
    assert search_remarks(study(tmp_path, changes)) == []
    (line,) = search_remarks(study(tmp_path, changes | {"rows/sida-a1.0/alpha": "0.9", "rows/sida-a1.0/seed": "7"}))
    assert re.match(r"sida-a1.0: their seeds are also seeds of trials of .*search.yaml; give", line)
    (line,) = search_remarks(study(tmp_path, changes | {"rows/sida-a1.0/seed": "7"}))
    assert re.match(r"run 'sida-a1.0' is trial 'sida-a1.0' of .*search.yaml \(recipe, teacher, seed\)", line)
    # The start of a training is part of it: SiD2A's has another seed.
    lines = search_remarks(study(tmp_path, changes | {"rows/sid2a-a1.0/seed": "7"}))
    assert [line.partition(":")[0] for line in lines] == ["sid2a-a1.0"]
    assert search_remarks(study(tmp_path)) == []


def test_the_bench_says_that_its_search_saw_rows():
    first, second, third, _ = search_remarks(shipped("fashion"))
    assert first.startswith("run 'one-sida-s1' is trial 'long-sida-3'")
    assert third.startswith("run 'one-sida-s1' is trial 'trial-sida'")
    assert second.startswith("one-half-s1, one-sid-s1, ")


def test_snakemake_stops_before_the_first_job(tmp_path):
    workspace = Workspace(tmp_path)
    put(tmp_path / "tables/mine.yaml", "extends: main.yaml\nrows: [{run: sidda}]\n")
    status, said = workspace.forked("--configfile", workspace.config(tables=["mine"]))
    assert status == 1
    assert re.search(r"^error: tables/mine.yaml: rows\[0\].run: .*'sidda'", said, re.M)
    assert not (tmp_path / "results/tiny").exists()
