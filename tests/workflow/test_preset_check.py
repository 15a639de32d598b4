"""Layouts, figures, claims, protocols, samplers and assets are checked against the sheet before the first job."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
import yaml

from sida.config.resources import ROOT
from sida.errors import UserError
from tests.workflow.workspace import Workspace
from workflow.preset import Preset
from workflow.preset.rehearsal import check_preset, unshown_remark, unshown_rows
from workflow.preset.targets import Targets

TINY = ROOT / "tests/workflow/tiny.yaml"


def test_the_example_passes_and_shows_what_it_measures():
    """Presets of studies: test_studies.py."""
    preset = Preset.load(ROOT / "docs/examples/my-digits.yaml")
    check_preset(preset)
    assert unshown_rows(Targets(preset, paper=False)) == []


def study(folder: Path, files: dict[str, object] | None = None, keep=lambda row: True, **changes) -> Preset:
    """The tiny preset with files of its own beside it and only some rows of its sheet."""
    for name, content in (files or {}).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    document = yaml.safe_load(TINY.read_text()) | {"runs": "runs.tsv"} | changes
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
ALPHA = {"kind": f"{ROOT}/studies/alpha/figure.py:AlphaFigure"}
FID = {"columns": [{"head": "FID", "metric": "fid"}], "rows": [{"each": {"method": "sid"}}]}
CLAIM = {"id": "X-1", "scope": "digits", "statement": "s", "parts": [{"rule": "LTT"}]}


def curves(**panel) -> dict:
    return {"kind": "curves", "panels": [SID | panel]}


def points(by, **panel) -> dict:
    return {"kind": "points", "panels": [{"by": by, **panel}]}


def of_main(*rows) -> dict:
    return {"extends": "main.yaml", "rows": list(rows)}


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        ("figures", ALPHA, r"x.yaml: no analysis 'model' in preset.yaml .*'analyses'"),
        ("tables", of_main({"each": {"method": "gdd"}}), r"x.yaml: rows\[0\].each: .* matches \{'method': 'gdd'\}"),
        ("tables", of_main({"run": "sidda"}), r"x.yaml: rows\[0\].run: unknown run 'sidda'"),
        ("tables", FID, r"x.yaml: columns\[0\].metric: 'fid' was not measured .*'fd'.*protocol"),
        (
            "figures",
            {"kind": "samples", "panels": [{"where": {"method": "gdd"}}]},
            r"x.yaml: panels\[0\].where: 0 runs",
        ),
        ("figures", curves(**TEACHERS), r"run 'teacher[^']*': .* not trained here"),
        ("figures", curves(lines=[{"where": {"alpha": 7.0}}]), r"x.yaml: panels\[0\].lines\[0\].where: 0 runs"),
        ("figures", curves(metric="fid"), r"no metric 'fid' .*'fd'"),
        ("figures", curves(metric="recall"), r"'recall' is not measured during training"),
        ("figures", curves(log="weight_rms.teacher"), r"logs no 'weight_rms.teacher'"),
        ("figures", points("sampler.init_sigma", metric="fid", **SID), r"panels\[0\].series\[0\]: metric 'fid' .*'fd'"),
        ("figures", points("recipe.gamma", **SID), r"series\[0\]: run '[^']*' has no number as recipe.gamma: 'edm'"),
        ("figures", points("recipe.lr", **TEACHERS), r"by: recipe.lr: run 'teacher[^']*' .* no recipe; .*'by'"),
        ("claims", {"claims": [CLAIM]}, r"x.yaml: claims\[0\] \(X-1\).*rule: no claim rule .LTT. .did you mean .LT."),
        (
            "protocol",
            protocol(metrics=[metric(extractor="digitz")]),
            r"metric 'fd': .*no extractor 'digitz' .*'digits'",
        ),
        (
            "protocol",
            protocol(references={"data": {"kind": "statistics", "asset": "fid-ref-cifar01"}}),
            r"x.yaml: references.data.asset: no asset 'fid-ref-cifar01' .*'fid-ref-cifar10'",
        ),
        (
            "protocol",
            protocol(references={"data": {"kind": "statistics", "file": "mine.npz"}}),
            r"x.yaml: metric 'fd': its reference 'data' is a file",
        ),
        ("protocol", protocol(resolution=16), r"is for resolution 16, data set 'digits' has 8"),
        (
            "sheet",
            "sampler\tcheckpoint\nx\tX\tsid\tone-step\tcifar10-unknown",
            r"checkpoint: no asset 'cifar10-unknown'",
        ),
        ("sheet", "checkpoint\nx\tX\texternal\tmine.npz", r"runs.tsv: run 'x': checkpoint: no such images 'mine.npz'"),
    ],
)
def test_a_fault_that_would_show_after_training_shows_before(tmp_path, kind, content, message):
    if kind == "sheet":
        files, changes = {"runs.tsv": f"run\tlabel\tmethod\t{content}\n"}, {"tables": [], "figures": []}
    elif kind in ("tables", "figures"):
        files, changes = {f"{kind}/x.yaml": content}, {kind: ["x"]}
    else:
        files, changes = {"x.yaml": content}, {kind: "x.yaml"}
    with pytest.raises(UserError, match=message) as caught:
        check_preset(study(tmp_path, files, **({"claims": None} | changes)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "precision", "k": 50}, r"p.yaml: metric 'm': k: 50 neighbours among 50 images"),
        ({"kind": "recall", "k": 51}, r"k: 51 neighbours among 50 images"),
        ({"kind": "inception_score", "splits": 51}, r"splits: 51 of 50 images"),
        ({"kind": "inception_score", "extractor": "pixels"}, r"'pixels' has no classes for kind 'inception_s"),
        ({"kind": "accuracy", "extractor": "pixels"}, r"'pixels' has no classes for kind 'accuracy'"),
    ],
)
def test_a_metric_that_its_trials_cannot_have(tmp_path, changes, message):
    asked = {"key": "m", "extractor": "digits", "reference": "data", **changes}
    changed = protocol(metrics=[metric(), asked], num_samples=50, watch=None, selection=None)
    preset = study(tmp_path, {"p.yaml": changed}, protocol="p.yaml", figures=[], tables=[], claims=None)
    with pytest.raises(UserError, match=message):
        check_preset(preset)


@pytest.mark.parametrize("device", ["gpu", "cudaa", "cuda:", "cuda:x"])
def test_devices_have_three_forms(tmp_path, device):
    with pytest.raises(UserError, match=r"preset.yaml: device: must be cpu, cuda, or cuda:N"):
        study(tmp_path, device=device)


ZIP = {"kind": "zip", "path": "a.zip", "resolution": 8, "channels": 1, "label_dim": 10}


@pytest.mark.parametrize(
    ("datasets", "message"),
    [
        ({"a": {"dataset": "a"}}, r"preset.yaml: datasets.a.made_from: .* cannot be made of itself \(a of a\)"),
        ({"a": {"dataset": "b"}, "b": {"dataset": "a"}}, r"cannot be made of itself \(a of b of a\)"),
        ({"a": {"dataset": "digits"}}, r"datasets.a.made_from.dataset: data set 'digits' has no path"),
        ({"a": {"source": "cifar10-pyton"}}, r"datasets.a.made_from.source: no asset .*did you mean 'cifar10-python'"),
        ({"a": {"source": "cifar10-python", "transform": "crop"}}, r"made_from.transform: must be one of none, center"),
    ],
)
def test_what_an_archive_is_made_of(tmp_path, datasets, message):
    made = {name: {**ZIP, "path": f"{name}.zip", "made_from": origin} for name, origin in datasets.items()}
    with pytest.raises(UserError, match=message):
        study(tmp_path, dataset="a", datasets=made)


@pytest.mark.parametrize(
    ("recipe", "settings", "message"),
    [
        ("sid", {"recompute": True}, r"preset.yaml: recipes.sid.recompute: is for kernels 'fused'"),
        ("sid", {"kernels": "fused"}, r"recipes.sid.kernels: 'fused' needs device 'cuda'"),
        ("sid", {"half": "bfloat16"}, r"recipes.sid.half: says which half precision"),
        (
            "sid",
            {"real_source": "other.safetensors"},
            r"recipes.sid.real_source: method 'sid' does not read real_source",
        ),
        ("sid", {"weight_norm": "always"}, r"recipes.sid.weight_norm: EDM networks do not have it"),
        ("sid", {"logvar": True}, r"recipes.sid.logvar: .* has no log-variance head"),
        ("sida", {"real_source": "sid-a1.O"}, r"recipes.sida.real_source: no run .* no file 'sid-a1.O'.*mean 'sid-a1"),
    ],
)
def test_a_recipe_that_its_training_would_refuse(tmp_path, recipe, settings, message):
    recipes = yaml.safe_load(TINY.read_text())["recipes"]
    preset = study(tmp_path, recipes={**recipes, recipe: {**recipes[recipe], **settings}})
    with pytest.raises(UserError, match=message):
        check_preset(preset)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("img_resolution", 16, r"teachers.digits-short.network.kwargs.img_resolution: 16, but data set 'digits' has 8"),
        ("img_channels", 3, r"kwargs.img_channels: 3, but data set 'digits' has 1"),
        ("label_dim", 0, r"kwargs.label_dim: 0, but data set 'digits' has 10"),
    ],
)
def test_a_teacher_of_other_images_than_its_data(tmp_path, option, value, message):
    teachers = yaml.safe_load(TINY.read_text())["teachers"]
    teachers["digits-short"]["network"]["kwargs"][option] = value
    preset = study(tmp_path, teachers=teachers)
    with pytest.raises(UserError, match=message):
        check_preset(preset)


def test_a_curve_needs_evaluations_in_its_recipe(tmp_path):
    recipes = yaml.safe_load(TINY.read_text())["recipes"]
    bare = {name: {k: v for k, v in recipe.items() if k != "evaluation"} for name, recipe in recipes.items()}
    with pytest.raises(UserError, match=r"a figure shows its curve, but recipe '\S+' has no key 'evaluation'"):
        check_preset(study(tmp_path, {"figures/f.yaml": CURVES}, figures=["f"], recipes=bare, claims=None))


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        ({"kind": "one_step", "rho": 7}, r"samplers.x.rho: a sampler of kind 'one_step' does not read it"),
        ({"kind": "heun", "num_steps": 1}, r"samplers.x.num_steps: must be at least 2, got 1"),
        ({"kind": "heun", "sigma_min": 3, "sigma_max": 2}, r"samplers.x.sigma_min: must lie between 0 and sigma_max"),
    ],
)
def test_samplers_that_contradict_themselves(tmp_path, sampler, message):
    samplers = yaml.safe_load(TINY.read_text())["samplers"]
    with pytest.raises(UserError, match=message):
        study(tmp_path, samplers=samplers | {"x": sampler})


@pytest.mark.parametrize("methods", [{"data"}, {"teacher", "sida"}, {"sid"}, {"data", "sid", "sid2a"}])
def test_default_layouts_take_whatever_rows_there_are(tmp_path, methods):
    curves = ["convergence"] if methods & {"sid", "sida", "sid2a"} else []
    changes = {"tables": ["main"], "figures": [*curves, "samples"], "claims": None}
    check_preset(study(tmp_path, keep=lambda row: row["method"] in methods, **changes))


OWN = "docs.examples.matching:METHOD"


def with_own_method(folder: Path, **changes) -> Targets:
    """The tiny preset with a row of a method of one's own in the place of SiDA's."""
    rows = (ROOT / "tests/workflow/tiny.tsv").read_text().splitlines(keepends=True)
    # The method reads neither α nor the adversarial settings of the recipe.
    sida, own = "\tsida\tdigits-short\t\t1.0\tsida\t", f"\t{OWN}\tdigits-short\t\t\tsid\t"
    (folder / "runs.tsv").write_text("".join(row.replace(sida, own) for row in rows))
    preset = study(folder, claims=None, **changes)
    check_preset(preset)
    return Targets(preset, paper=False)


def test_default_layouts_show_methods_of_ones_own(tmp_path):
    targets = with_own_method(tmp_path)
    assert targets.preset.runs["sida-a1.0"].method == OWN
    assert "sida-a1.0" in targets.needs("tables", "main").measured
    for figure in ("convergence", "samples"):
        assert "sida-a1.0" in targets.needs("figures", figure).networks
    assert unshown_remark(targets) is None


def test_rows_that_are_measured_and_shown_nowhere_are_told(tmp_path):
    only = {"extends": "main.yaml", "rows": [{"each": {"method": ["data", "teacher", "sid2a"]}}]}
    targets = with_own_method(tmp_path, files={"tables/few.yaml": only}, tables=["few"], figures=["samples"])
    # sid-a1.0 is what sid2a-a1.0 starts from.
    assert unshown_remark(targets) == (
        "sid-a1.2, sida-a1.0: measured, but no table, figure or claim of preset.yaml shows them; "
        "add a line to a table's rows, e.g. - {run: sid-a1.2} (docs/add-a-method.md, 4)"
    )


def test_snakemake_stops_before_the_first_job(tmp_path):
    workspace = Workspace(tmp_path)
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables/mine.yaml").write_text("extends: main.yaml\nrows: [{run: sidda}]\n")
    result = workspace.snakemake("--configfile", workspace.config(tables=["mine"]))
    assert result.returncode == 1
    assert re.search(r"^error: tables/mine.yaml: rows\[0\].run: unknown run 'sidda'", result.stderr, re.M)
    assert not (tmp_path / "results/tiny").exists()
