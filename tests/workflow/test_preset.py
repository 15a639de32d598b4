"""Presets and sheets: every fault is one line that names file, key and remedy."""

from __future__ import annotations

import copy
import re

import pytest
import yaml

from eval.measuring.protocol import load_protocol
from eval.results.sheet import read_runs
from sida.config.resources import ROOT
from sida.errors import UserError
from tests.workflow.workspace import settings_of
from workflow.preset import Preset
from workflow.preset.rehearsal import check_preset
from workflow.preset.rows import nfe
from workflow.preset.targets import Targets

DEMO = settings_of("demo")


def changed(path: str, value) -> dict:
    document = copy.deepcopy(DEMO)
    node = document
    *keys, last = path.split("/")
    for key in keys:
        node = node[key]
    node[last] = value
    return document


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("sede", 1, r"sede: unknown key \(did you mean 'seed'\?\)"),
        ("recipes/sid/btach_size", 32, r"recipes.sid.btach_size: unknown key \(did you mean 'batch_size'\?\)"),
        ("recipes/sid/batch_size", -4, r"recipes.sid.batch_size: must be at least 1, got -4"),
        ("recipes/sid/batch_size", "many", r'recipes.sid.batch_size: must be an integer, got "many"'),
        ("recipes/sid/lr", 0, r"recipes.sid.lr: must be above 0, got 0$"),
        ("seed", True, r"seed: must be an integer, got true"),
        ("preset", "De mo", r"preset: "),
        ("dataset", "digit", r"no data set 'digit'.*did you mean 'digits'"),
        ("protocol", "none.yaml", r"demo/preset.yaml: protocol: no such file 'none.yaml'"),
        ("tables", ["mian"], r"tables: no layout of a table 'mian' \(did you mean 'main'\?\)"),
        ("figures", ["sample"], r"figures: no layout of a figure 'sample' \(did you mean 'samples'\?\)"),
        ("teachers", {}, r"run 'teacher-nfe35': no teacher 'digits-short'"),
        ("samplers/one-step", {"kind": "one-step"}, r"samplers.one-step.kind: must be one of one_step, heun, data"),
        ("table_mode", "audt", r"table_mode: must be one of"),
        ("runs", "none.tsv", r"runs: no such file 'none.tsv'; give a sample sheet"),
        ("teachers/digits-short", {"checkpoint": "x", "training": {}, "network": {}}, r"teachers.digits-short"),
        (
            "datasets",
            {"x": {"kind": "docs.examples.grating:f"}},
            r"datasets.x.kind: cannot import 'docs.examples.grating:f'",
        ),
        (
            "teachers/digits-short/network/class",
            "docs.examples.flow:Flow",
            r"network.class: cannot import.*no class 'Flow' .*FlowPrecond",
        ),
    ],
)
def test_fault_in_config_is_one_line(path, value, message):
    with pytest.raises(UserError, match=message) as caught:
        Preset(changed(path, value), "studies/demo/preset.yaml")
    assert "\n" not in str(caught.value)
    assert "studies/demo/preset.yaml" in str(caught.value) or ".tsv" in str(caught.value)


def test_missing_key_is_named():
    document = {key: value for key, value in DEMO.items() if key != "protocol"}
    with pytest.raises(UserError, match="protocol: is missing"):
        Preset(document, "studies/demo/preset.yaml")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("sid2a\tdigits-short\tsid-a1.0", "sid2a\tdigits-short\tsid-a1.1", r"'init': no run .*mean 'sid-a1.0'"),
        ("sid2a\tdigits-short\tsid-a1.0", "sid2a\tdigits-short\t", r"demo.tsv: run 'sid2a-a1.0': init: "),
        ("\tsida\tdigits-short\t\t", "\tsida\tdigits-short\tsid-a1.0\t", r"demo.tsv: run 'sida-a1.0': init: "),
        ("sid2a\tdigits-short\tsid-a1.0", "sid2a\tdigits-short\tsid2a-a1.0", r"init goes in a circle"),
        ("sid2a\tdigits-short\tsid-a1.0", "sid2a\tdigits-short\tteacher-nfe35", r"not a one-step generator"),
        ("\tsida\tdigits-short\t\t1.0", "\tsida\tdigits\t\t1.0", r"run 'sida-a1.0': no teacher 'digits'"),
        ("\tsida\tdigits-short\t\t1.0", "\tsida\tdigits-short\t\tone", r'demo.tsv:5: alpha: .* got "one"'),
        ("\tsida\tdigits-short", "\tsidda\tdigits-short", r"demo.tsv:5: method: must be one of"),
        ("\tsida\tdigits", "\tdocs.examples.matching:M\tdigits", r"'sida-a1.0': method: cannot import.*no method 'M'"),
        ("sid-a1.0\tOne", "sida-a1.0\tOne", r"run 'sida-a1.0' appears twice"),
        ("heun-18", "heun-81", r"no sampler 'heun-81'.*did you mean 'heun-18"),
        ("run\tfamily", "rum\tfamily", r"rum: unknown key \(did you mean 'run'\?\)"),
    ],
)
def test_fault_in_sheet_is_one_line(tmp_path, old, new, message):
    text = (ROOT / "studies/demo/runs.tsv").read_text()
    assert old in text
    sheet = tmp_path / "demo.tsv"
    sheet.write_text(text.replace(old, new))
    with pytest.raises(UserError, match=message) as caught:
        check_preset(Preset(changed("runs", str(sheet)), "studies/demo/preset.yaml"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("docs.examples.matching:METHOD", {"weihgt": 1}, r"options.weihgt: unknown key \(did you mean 'weight'\?\)"),
        ("docs.examples.matching:METHOD", {"weight": -1}, r"options.weight: must be above 0, got -1"),
        ("gdd", {"form": "foo"}, r"options.form: must be one of"),
        ("sid", {"weight": 1}, r"options: method 'sid' has no settings of its own; remove them"),
    ],
)
def test_options_of_a_method_are_checked_before_its_teacher_is_trained(tmp_path, method, options, message):
    text = (ROOT / DEMO["runs"]).read_text().replace("α = 1.0\tsid\t", f"α = 1.0\t{method}\t", 1)
    (tmp_path / "runs.tsv").write_text(text)
    document = changed("recipes/sid/options", options) | {"runs": str(tmp_path / "runs.tsv")}
    with pytest.raises(UserError, match=f"demo.yaml: recipes.sid.{message}") as caught:
        check_preset(Preset(document, "demo.yaml"))
    assert "\n" not in str(caught.value)


def test_comments_and_blank_lines_keep_line_numbers(tmp_path):
    sheet = tmp_path / "runs.tsv"
    sheet.write_text("# comment\nrun\tlabel\tmethod\tsampler\n\nx\tX\tdata\tdata\ny\tY\tbad\tdata\n")
    with pytest.raises(UserError, match=re.escape(f"{sheet}:5: method")):
        read_runs(sheet)


def test_specs_carry_everything_and_are_plain_json():
    import json

    preset = Preset(DEMO, "studies/demo/preset.yaml")
    teacher, student = preset.specs.teacher("digits-short"), preset.specs.student("sid2a-a1.0")
    measure = preset.specs.measurement("teacher-nfe35")
    for spec in (teacher, student, measure):
        assert json.loads(json.dumps(spec)) == spec
        assert spec["dataset"]["kind"] == "digits"
    assert student["teacher"] == "results/demo/teachers/digits-short/network.safetensors"
    assert student["init"] == "results/demo/students/sid-a1.0/network.safetensors"
    assert student["alpha"] == 1.0
    assert measure["nfe"] == 35
    assert preset.specs.measurement("data")["network"] is None


def test_many_steps_are_measured_in_parts():
    preset = Preset(DEMO, "studies/demo/preset.yaml")
    one_step = ["data", "sid-a1.0", "sida-a1.0", "sid2a-a1.0"]
    slow = [(first, first + 1, ["teacher-nfe35"]) for first in range(0, 10, 2)]
    assert Targets(preset, False).measure_jobs() == [(0, 9, one_step), *slow]
    uneven = Targets(Preset(changed("trials_per_job", 4), "studies/demo/preset.yaml"), False).measure_jobs()
    assert [job[:2] for job in uneven] == [(0, 9), (0, 3), (4, 7), (8, 9)]
    whole = Targets(Preset(changed("trials_per_job", None), "studies/demo/preset.yaml"), False).measure_jobs()
    assert whole == [(0, 9, list(preset.runs))]


def test_network_evaluations_are_counted():
    assert nfe({"kind": "one_step"}) == 1
    assert nfe({"kind": "heun", "num_steps": 18}) == 35
    assert nfe({"kind": "heun", "num_steps": 256}) == 511
    assert nfe({"kind": "data"}) is None


def test_images_of_a_trial_are_those_it_measures():
    preset = Preset(DEMO, "studies/demo/preset.yaml")
    assert preset.sampled == list(preset.runs)
    spec, measured = preset.specs.sample("teacher-nfe35", 2), preset.specs.measurement("teacher-nfe35")
    assert (spec["seeds"], spec["class_labels"]) == ("5000-7499", "empirical")
    assert {key: spec[key] for key in ("network", "sampler", "dataset")} == {
        key: measured[key] for key in ("network", "sampler", "dataset")
    }
    released = Preset.load(ROOT / "studies/papers/released.yaml")
    # Latent networks need a decoder, and networks without classes no data.
    assert not any(re.search(r"edm2-(?!img64)", run) for run in released.sampled)
    unconditional = next(run for run in released.sampled if "afhq" in run)
    assert released.specs.sample(unconditional, 0)["dataset"] is None
    conditional = released.specs.sample("cifar10-cond-sida-a1", 0)
    assert conditional["dataset"] is None
    assert conditional["class_labels"]["counts"] == (5_000,) * 10


def test_no_released_row_needs_an_archive_for_its_classes():
    released = Preset.load(ROOT / "studies/papers/released.yaml")
    for run in released.runs.values():
        protocol = load_protocol(ROOT / released.protocol_of(run))
        assert not any(source.kind == "dataset" for source in protocol.sources.values())
        if released.dataset_of(run)["label_dim"]:
            counted = (
                protocol.labels_asset in Targets(released, False).assets_of(run.run)
                if protocol.labels_asset
                else protocol.label_counts
            )
            assert counted if protocol.label_dist == "empirical" else run.method == "teacher", run.run


def test_class_counts_that_are_missing_are_told_before_the_first_job(tmp_path):
    protocol = yaml.safe_load((ROOT / "config/protocols/imagenet64.yaml").read_text()) | {"labels": "absent.json"}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(protocol))
    sheet = (ROOT / "studies/papers/runs/released.tsv").read_text()
    sheet = sheet.replace("config/protocols/imagenet64.yaml", str(tmp_path / "mine.yaml"))
    (tmp_path / "sheet.tsv").write_text(sheet)
    settings = settings_of("released") | {"runs": str(tmp_path / "sheet.tsv")}
    message = r"run 'imagenet64-sid-a1': no class counts 'absent.json' .*sida data labels SOURCE --out absent.json"
    with pytest.raises(UserError, match=message):
        Preset(settings, own=[ROOT / "studies/papers"])
