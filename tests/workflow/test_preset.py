"""Presets: every fault of its settings, sheet, layouts, protocol and assets is one line before the first job."""

import copy
import csv
import json
import re
from pathlib import Path

import pytest
import yaml

from eval.measuring.protocol import load_protocol
from eval.results.sheet import read_runs
from sida.config.resources import ROOT
from tests.refused import refusing
from tests.workflow.workspace import Workspace, settings_of
from workflow.preset import Preset
from workflow.preset.placeholders import check_preset, unshown_remark

DEMO = settings_of("demo")


@pytest.fixture(scope="module")
def released():
    return Preset.load(ROOT / "studies/papers/released.yaml")


def changed(path: str, value) -> dict:
    """The demo with one key set, or removed by the value ``...``."""
    document = node = copy.deepcopy(DEMO)
    *keys, last = path.split("/")
    for key in keys:
        node = node[key]
    node[last] = value
    if value is ...:
        del node[last]
    return document


CHECKPOINT = {"checkpoint": "x", "training": {}, "network": {}}


@pytest.mark.parametrize(
    ("path", "value", "fault"),
    [
        ("sede", 1, r"preset.yaml: sede: .*'seed'"),
        ("recipes/sid/btach_size", 32, r"recipes.sid.btach_size: .*'batch_size'"),
        ("preset", "De mo", r"preset.yaml: preset: "),
        ("dataset", "digit", r"preset.yaml: .*'digit'.*'digits'"),
        ("protocol", ..., r"protocol: is missing"),
        ("tables", ["mian"], r"tables: .*'mian' .*'main'"),
        ("teachers", {}, r".tsv: run 'teacher-nfe35': .*'digits-short'"),
        ("samplers/one-step", {"kind": "one-step"}, r"samplers.one-step.kind: .*one_step, heun, data"),
        ("teachers/digits-short", CHECKPOINT, r"preset.yaml: teachers.digits-short"),
        ("teachers/digits-short/network/class", "docs.examples.flow:Flow", r"network.class: .*'Flow' .*FlowPrecond"),
    ],
)
def test_fault_in_config_is_one_line(path, value, fault):
    with refusing(fault):
        Preset(changed(path, value), "studies/demo/preset.yaml")


SID2A = "sid2a\tdigits-short\tsid-a1.0"
SIDA = "\tsida\tdigits-short\t\t1.0"


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        (SID2A, "sid2a\tdigits-short\tsid-a1.1", r"'init': .*'sid-a1.0'"),
        (SID2A, "sid2a\tdigits-short\t", r"demo.tsv: run 'sid2a-a1.0': init: "),
        (SIDA, "\tsida\tdigits-short\tsid-a1.0\t1.0", r"demo.tsv: run 'sida-a1.0': init: "),
        (SID2A, "sid2a\tdigits-short\tsid2a-a1.0", r"init goes in a circle"),
        (SID2A, "sid2a\tdigits-short\tteacher-nfe35", r"not a one-step generator"),
        (SIDA, "\tsida\tdigits-short\t\tone", r'demo.tsv:5: alpha: .* got "one"'),
        (SIDA, "\tdocs.examples.matching:M\tdigits-short\t\t1.0", r"'sida-a1.0': method: .*'M'"),
        ("sid-a1.0\tOne", "sida-a1.0\tOne", r"run 'sida-a1.0' appears twice"),
        ("run\tfamily", "rum\tfamily", r"rum: .*'run'"),
    ],
)
def test_fault_in_sheet_is_one_line(tmp_path, old, new, fault):
    text, sheet = (ROOT / "studies/demo/runs.tsv").read_text(), tmp_path / "demo.tsv"
    assert old in text
    sheet.write_text(text.replace(old, new))
    with refusing(fault):
        check_preset(Preset(changed("runs", str(sheet)), "studies/demo/preset.yaml"))


@pytest.mark.parametrize(
    ("method", "options", "fault"),
    [
        ("docs.examples.matching:METHOD", {"weight": -1}, r"options.weight: .* 0, got -1"),
        ("gdd", {"form": "foo"}, r"options.form: "),
        ("sid", {"weight": 1}, r"options: method 'sid' "),
    ],
)
def test_options_of_a_method_are_checked_before_its_teacher_is_trained(tmp_path, method, options, fault):
    text = (ROOT / DEMO["runs"]).read_text().replace("α = 1.0\tsid\t", f"α = 1.0\t{method}\t", 1)
    (tmp_path / "runs.tsv").write_text(text)
    document = changed("recipes/sid/options", options) | {"runs": str(tmp_path / "runs.tsv")}
    with refusing(f"demo.yaml: recipes.sid.{fault}"):
        check_preset(Preset(document, "demo.yaml"))


def test_comments_and_blank_lines_keep_line_numbers(tmp_path):
    sheet = tmp_path / "runs.tsv"
    sheet.write_text("# comment\nrun\tlabel\tmethod\tsampler\n\nx\tX\tdata\tdata\ny\tY\tbad\tdata\n")
    with refusing(re.escape(f"{sheet}:5: method")):
        read_runs(sheet)


def test_specs_carry_everything_and_are_plain_json():
    preset = Preset(DEMO, "studies/demo/preset.yaml")
    teacher, student = preset.teacher_training("digits-short").spec, preset.training("sid2a-a1.0").spec
    measure, sample = preset.measurement("teacher-nfe35").spec, preset.sample("teacher-nfe35/trial-2").spec
    for spec in (teacher, student, measure):
        assert json.loads(json.dumps(spec)) == spec
        assert spec["dataset"]["kind"] == "digits"
    assert student["teacher"] == "results/demo/teachers/digits-short/network.safetensors"
    assert student["init"] == "results/demo/students/sid-a1.0/network.safetensors"
    assert student["alpha"] == 1.0
    assert [preset.nfe(run) for run in preset.runs.values()] == [None, measure["nfe"], 1, 1, 1]
    assert measure["nfe"] == 35
    assert preset.measurement("data").spec["network"] is None
    # Images of a trial are those that it measures.
    assert preset.sampled == list(preset.runs)
    assert (sample["seeds"], sample["class_labels"]) == ("5000-7499", "empirical")
    assert all(sample[key] == measure[key] for key in ("network", "sampler", "dataset"))


def test_many_steps_are_measured_in_parts():
    preset = Preset(DEMO, "studies/demo/preset.yaml")
    one_step = ["data", "sid-a1.0", "sida-a1.0", "sid2a-a1.0"]
    slow = [(first, first + 1, ["teacher-nfe35"]) for first in range(0, 10, 2)]
    assert preset.parts() == [(0, 9, one_step), *slow]
    uneven = Preset(changed("trials_per_job", 4), "studies/demo/preset.yaml").parts()
    assert [part[:2] for part in uneven] == [(0, 9), (0, 3), (4, 7), (8, 9)]
    whole = Preset(changed("trials_per_job", None), "studies/demo/preset.yaml").parts()
    assert whole == [(0, 9, list(preset.runs))]


def test_images_of_released_networks_need_no_data(released):
    # Latent networks need a decoder, and networks without classes no data.
    assert not any(re.search(r"edm2-(?!img64)", run) for run in released.sampled)
    unconditional = next(run for run in released.sampled if "afhq" in run)
    assert released.sample(f"{unconditional}/trial-0").spec["dataset"] is None
    conditional = released.sample("cifar10-cond-sida-a1/trial-0").spec
    assert conditional["dataset"] is None
    assert conditional["class_labels"]["counts"] == (5_000,) * 10


def test_no_released_row_needs_an_archive_for_its_classes(released):
    for run in released.runs.values():
        protocol = load_protocol(ROOT / released.protocol_of(run))
        assert not any(source.kind == "dataset" for source in protocol.sources.values())
        if released.dataset_of(run)["label_dim"]:
            assets = released.downloads(run.run)
            counted = protocol.labels_asset in assets if protocol.labels_asset else protocol.label_counts
            assert counted if protocol.label_dist == "empirical" else run.method == "teacher", run.run


def test_class_counts_that_are_missing_are_told_before_the_first_job(tmp_path):
    protocol = yaml.safe_load((ROOT / "config/protocols/imagenet64.yaml").read_text()) | {"labels": "absent.json"}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(protocol))
    sheet = (ROOT / "studies/papers/runs/released.tsv").read_text()
    sheet = sheet.replace("config/protocols/imagenet64.yaml", str(tmp_path / "mine.yaml"))
    (tmp_path / "sheet.tsv").write_text(sheet)
    with refusing(r"run 'imagenet64-sid-a1': .*'absent.json' .*sida data labels SOURCE --out absent.json"):
        Preset(settings_of("released") | {"runs": str(tmp_path / "sheet.tsv")}, own=[ROOT / "studies/papers"])


TINY = ROOT / "tests/workflow/tiny.yaml"


def test_the_example_passes_and_shows_what_it_measures():
    """Presets of studies: test_studies.py."""
    preset = Preset.load(ROOT / "docs/examples/my-digits.yaml")
    check_preset(preset)
    assert unshown_remark(preset) is None


def study(folder: Path, files: dict[str, object] | None = None, keep=lambda row: True, **changes) -> Preset:
    """The tiny preset with files of its own beside it and only some rows of its sheet."""
    for name, content in (files or {}).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    document = yaml.safe_load(TINY.read_text()) | changes | {"runs": "runs.tsv"}
    if not (folder / "runs.tsv").exists():
        with open(ROOT / "tests/workflow/tiny.tsv", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        lines = ["\t".join(rows[0]), *("\t".join(cell or "" for cell in row.values()) for row in rows if keep(row))]
        (folder / "runs.tsv").write_text("\n".join(lines) + "\n")
    return Preset(document, "preset.yaml", [folder])


def protocol(**changes) -> dict:
    return yaml.safe_load((ROOT / "config/protocols/digits.yaml").read_text()) | {"watch": None} | changes


def metric(**changes) -> dict:
    return protocol()["metrics"][0] | changes


SID = {"series": [{"each": {"method": "sid"}}]}
TEACHERS = {"series": [{"each": {"method": "teacher"}}]}
CURVES = {"kind": "curves", "panels": [SID]}
FID = {"columns": [{"head": "FID", "metric": "fid"}], "rows": [{"each": {"method": "sid"}}]}
CLAIM = {"id": "X-1", "statement": "s", "parts": [{"rule": "LTT"}]}


def curves(**panel) -> dict:
    return {"kind": "curves", "panels": [SID | panel]}


def statistics(**reference) -> dict:
    return protocol(references={"data": {"kind": "statistics", **reference}})


def of_main(*rows) -> dict:
    return {"extends": "main.yaml", "rows": list(rows)}


FAULTS = [
    ("tables", of_main({"run": "sidda"}), r"x.yaml: rows\[0\].run: "),
    ("tables", FID, r"x.yaml: columns\[0\].metric: .*'fd'"),
    ("figures", {"kind": "samples", "panels": [{"where": {"method": "gdd"}}]}, r"x.yaml: panels\[0\].where: "),
    ("figures", curves(**TEACHERS), r"run 'teacher[^']*': .* not trained here"),
    ("figures", curves(metric="recall"), r"'recall' is not measured during training"),
    ("claims", {"claims": [CLAIM]}, r"x.yaml: claims\[0\].*rule: .*.LTT. .*LT."),
    ("protocol", protocol(metrics=[metric(extractor="digitz")]), r"metric 'fd': .*'digitz' .*'digits'"),
    ("protocol", statistics(asset="fid-ref-cifar01"), r"x.yaml: references.data.asset: .*'fid-ref-cifar10'"),
    ("protocol", statistics(file="mine.npz"), r"x.yaml: metric 'fd': its reference 'data' is a file"),
    ("protocol", protocol(resolution=16), r"is for resolution 16, data set 'digits' has 8"),
    ("sheet", "sampler\tcheckpoint\nx\tX\tsid\tone-step\tcifar10-unknown", r"checkpoint: .*'cifar10-unknown'"),
    ("sheet", "checkpoint\nx\tX\texternal\tmine.npz", r"runs.tsv: run 'x': checkpoint: .*'mine.npz'"),
]


@pytest.mark.parametrize(("kind", "content", "fault"), FAULTS)
def test_a_fault_that_would_show_after_training_shows_before(tmp_path, kind, content, fault):
    if kind == "sheet":
        files, changes = {"runs.tsv": f"run\tlabel\tmethod\t{content}\n"}, {"tables": [], "figures": []}
    elif kind in ("tables", "figures"):
        files, changes = {f"{kind}/x.yaml": content}, {kind: ["x"]}
    else:
        files, changes = {"x.yaml": content}, {kind: "x.yaml"}
    with refusing(fault):
        check_preset(study(tmp_path, files, **({"claims": None} | changes)))


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"kind": "precision", "k": 50}, r"p.yaml: metric 'm': k: "),
        ({"kind": "inception_score", "splits": 51}, r"splits: 51 of 50 images"),
        ({"kind": "inception_score", "extractor": "pixels"}, r"'pixels' has no classes"),
    ],
)
def test_a_metric_that_its_trials_cannot_have(tmp_path, changes, fault):
    asked = {"key": "m", "extractor": "digits", "reference": "data", **changes}
    changed = protocol(metrics=[metric(), asked], num_samples=50, watch=None, selection=None)
    with refusing(fault):
        check_preset(study(tmp_path, {"p.yaml": changed}, protocol="p.yaml", figures=[], tables=[], claims=None))


def archives(**origins) -> dict:
    """Archives that are made of something."""
    shape = {"kind": "zip", "resolution": 8, "channels": 1, "label_dim": 10}
    return {name: {**shape, "path": f"{name}.zip", "made_from": origin} for name, origin in origins.items()}


NETWORK = "teachers.digits-short.network.kwargs"


@pytest.mark.parametrize(
    ("key", "value", "fault"),
    [
        ("device", "cuda:x", r"preset.yaml: device: "),
        ("datasets", archives(a={"dataset": "b"}, b={"dataset": "a"}), r"made_from: .*\(a of b of a\)"),
        ("datasets", archives(a={"dataset": "digits"}), r"datasets.a.made_from.dataset: .*'digits'"),
        ("datasets", archives(a={"source": "cifar10-pyton"}), r"datasets.a.made_from.source: .*'cifar10-python'"),
        ("recipes.sid.recompute", True, r"preset.yaml: recipes.sid.recompute: "),
        ("recipes.sid.kernels", "fused", r"recipes.sid.kernels: .* device 'cuda'"),
        ("recipes.sid.logvar", True, r"recipes.sid.logvar: "),
        ("recipes.sid.evaluation", None, r"recipe 'sid' has no key 'evaluation'"),
        (f"{NETWORK}.img_resolution", 16, rf"{NETWORK}.img_resolution: .*'digits' has 8"),
        ("samplers.x", {"kind": "one_step", "rho": 7}, r"samplers.x.rho: "),
        ("samplers.x", {"kind": "heun", "sigma_min": 3, "sigma_max": 2}, r"samplers.x.sigma_min: "),
    ],
)
def test_a_setting_that_a_job_would_refuse(tmp_path, key, value, fault):
    changes = node = yaml.safe_load(TINY.read_text()) | {"claims": None}
    *keys, last = key.split(".")
    for name in keys:
        node = node[name]
    node[last] = value
    if key == "datasets":
        changes["dataset"] = "a"
    with refusing(fault):
        check_preset(study(tmp_path, **changes))


@pytest.mark.parametrize("methods", [{"data"}, {"teacher", "sida"}])
def test_default_layouts_take_whatever_rows_there_are(tmp_path, methods):
    curves = ["convergence"] if methods & {"sid", "sida", "sid2a"} else []
    changes = {"tables": ["main"], "figures": [*curves, "samples"], "claims": None}
    check_preset(study(tmp_path, keep=lambda row: row["method"] in methods, **changes))


OWN = "docs.examples.matching:METHOD"


def with_own_method(folder: Path, **changes) -> Preset:
    """The tiny preset with a row of a method of one's own in the place of SiDA's."""
    rows = (ROOT / "tests/workflow/tiny.tsv").read_text().splitlines(keepends=True)
    # The method reads neither α nor the adversarial settings of the recipe.
    sida, own = "\tsida\tdigits-short\t\t1.0\tsida\t", f"\t{OWN}\tdigits-short\t\t\tsid\t"
    (folder / "runs.tsv").write_text("".join(row.replace(sida, own) for row in rows))
    preset = study(folder, claims=None, **changes)
    check_preset(preset)
    return preset


def test_default_layouts_show_methods_of_ones_own(tmp_path):
    preset = with_own_method(tmp_path)
    assert preset.runs["sida-a1.0"].method == OWN
    assert "sida-a1.0" in preset.needs("tables", "main").measured
    for figure in ("convergence", "samples"):
        assert "sida-a1.0" in preset.needs("figures", figure).networks
    assert unshown_remark(preset) is None


def test_rows_that_are_measured_and_shown_nowhere_are_told(tmp_path):
    only = {"extends": "main.yaml", "rows": [{"each": {"method": ["data", "teacher", "sid2a"]}}]}
    preset = with_own_method(tmp_path, files={"tables/few.yaml": only}, tables=["few"], figures=[])
    # sid-a1.0 is what sid2a-a1.0 starts from.
    assert re.match(r"sida-a1.0: .*preset.yaml.*\{run: sida-a1.0\}", unshown_remark(preset))


def test_snakemake_stops_before_the_first_job(tmp_path):
    workspace = Workspace(tmp_path)
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables/mine.yaml").write_text("extends: main.yaml\nrows: [{run: sidda}]\n")
    status, said = workspace.forked("--configfile", workspace.config(tables=["mine"]))
    assert status == 1
    assert re.search(r"^error: tables/mine.yaml: rows\[0\].run: .*'sidda'", said, re.M)
    assert not (tmp_path / "results/tiny").exists()
