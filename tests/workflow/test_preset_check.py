"""Layouts, figures, claims, protocols, samplers and assets are checked against the sheet before the first job."""

import csv
import re
from pathlib import Path

import pytest
import yaml

from sida.config.resources import ROOT
from tests.refused import refusing
from tests.workflow.workspace import Workspace
from workflow.preset import Preset
from workflow.preset.placeholders import check_preset, unshown_remark

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
    ("tables", of_main({"each": {"method": "gdd"}}), r"x.yaml: rows\[0\].each: "),
    ("tables", of_main({"run": "sidda"}), r"x.yaml: rows\[0\].run: "),
    ("tables", FID, r"x.yaml: columns\[0\].metric: .*'fd'"),
    ("figures", {"kind": "samples", "panels": [{"where": {"method": "gdd"}}]}, r"x.yaml: panels\[0\].where: "),
    ("figures", curves(**TEACHERS), r"run 'teacher[^']*': .* not trained here"),
    ("figures", curves(lines=[{"where": {"alpha": 7.0}}]), r"x.yaml: panels\[0\].lines\[0\].where: "),
    ("figures", curves(metric="fid"), r"no metric 'fid' .*'fd'"),
    ("figures", curves(metric="recall"), r"'recall' is not measured during training"),
    ("claims", {"claims": [CLAIM]}, r"x.yaml: claims\[0\] \(X-1\).*rule: .*.LTT. .*LT."),
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
        ({"kind": "recall", "k": 51}, r"k: 51 neighbours among 50 images"),
        ({"kind": "inception_score", "splits": 51}, r"splits: 51 of 50 images"),
        ({"kind": "inception_score", "extractor": "pixels"}, r"'pixels' has no classes"),
        ({"kind": "accuracy", "extractor": "pixels"}, r"'pixels' has no classes"),
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
        *(("device", device, r"preset.yaml: device: ") for device in ("gpu", "cudaa", "cuda:", "cuda:x")),
        ("datasets", archives(a={"dataset": "a"}), r"preset.yaml: datasets.a.made_from: .*\(a of a\)"),
        ("datasets", archives(a={"dataset": "b"}, b={"dataset": "a"}), r"made_from: .*\(a of b of a\)"),
        ("datasets", archives(a={"dataset": "digits"}), r"datasets.a.made_from.dataset: .*'digits'"),
        ("datasets", archives(a={"source": "cifar10-pyton"}), r"datasets.a.made_from.source: .*'cifar10-python'"),
        ("datasets", archives(a={"source": "cifar10-python", "transform": "crop"}), r"made_from.transform: "),
        ("recipes.sid.recompute", True, r"preset.yaml: recipes.sid.recompute: "),
        ("recipes.sid.kernels", "fused", r"recipes.sid.kernels: .* device 'cuda'"),
        ("recipes.sid.half", "bfloat16", r"recipes.sid.half: "),
        ("recipes.sid.weight_norm", "always", r"recipes.sid.weight_norm: "),
        ("recipes.sid.logvar", True, r"recipes.sid.logvar: "),
        ("recipes.sid.evaluation", None, r"recipe 'sid' has no key 'evaluation'"),
        (f"{NETWORK}.img_resolution", 16, rf"{NETWORK}.img_resolution: .*'digits' has 8"),
        (f"{NETWORK}.img_channels", 3, rf"{NETWORK}.img_channels: .*'digits' has 1"),
        (f"{NETWORK}.label_dim", 0, rf"{NETWORK}.label_dim: .*'digits' has 10"),
        ("samplers.x", {"kind": "one_step", "rho": 7}, r"samplers.x.rho: "),
        ("samplers.x", {"kind": "heun", "num_steps": 1}, r"samplers.x.num_steps: .* 2, got 1"),
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


@pytest.mark.parametrize("methods", [{"data"}, {"teacher", "sida"}, {"sid"}, {"data", "sid", "sid2a"}])
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
    assert re.match(r"sid-a1.2, sida-a1.0: .*preset.yaml.*\{run: sid-a1.2\}", unshown_remark(preset))


def test_snakemake_stops_before_the_first_job(tmp_path):
    workspace = Workspace(tmp_path)
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables/mine.yaml").write_text("extends: main.yaml\nrows: [{run: sidda}]\n")
    status, said = workspace.forked("--configfile", workspace.config(tables=["mine"]))
    assert status == 1
    assert re.search(r"^error: tables/mine.yaml: rows\[0\].run: .*'sidda'", said, re.M)
    assert not (tmp_path / "results/tiny").exists()
