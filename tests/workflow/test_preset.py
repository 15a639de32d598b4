"""Presets and sheets: every fault is one line that names file, key and remedy."""

import copy
import json
import re

import pytest
import yaml

from eval.measuring.protocol import load_protocol
from eval.results.sheet import read_runs
from sida.config.resources import ROOT
from tests.refused import refusing
from tests.workflow.workspace import settings_of
from workflow.preset import Preset
from workflow.preset.placeholders import check_preset

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
        ("rates", True, r"preset.yaml: rates: .*train.jsonl"),
        ("tables", ["a{b}"], r"tables: 'a\{b\}' is no name"),
        ("sede", 1, r"preset.yaml: sede: .*'seed'"),
        ("recipes/sid/btach_size", 32, r"recipes.sid.btach_size: .*'batch_size'"),
        ("recipes/sid/batch_size", -4, r"recipes.sid.batch_size: .* 1, got -4"),
        ("recipes/sid/batch_size", "many", r'recipes.sid.batch_size: .*integer, got "many"'),
        ("recipes/sid/lr", 0, r"recipes.sid.lr: .* 0, got 0$"),
        ("seed", True, r"preset.yaml: seed: .*integer, got true"),
        ("preset", "De mo", r"preset.yaml: preset: "),
        ("dataset", "digit", r"preset.yaml: .*'digit'.*'digits'"),
        ("protocol", "none.yaml", r"preset.yaml: protocol: .*'none.yaml'"),
        ("protocol", ..., r"protocol: is missing"),
        ("tables", ["mian"], r"tables: .*'mian' .*'main'"),
        ("figures", ["sample"], r"figures: .*'sample' .*'samples'"),
        ("teachers", {}, r".tsv: run 'teacher-nfe35': .*'digits-short'"),
        ("samplers/one-step", {"kind": "one-step"}, r"samplers.one-step.kind: .*one_step, heun, data"),
        ("table_mode", "audt", r"preset.yaml: table_mode: "),
        ("runs", "none.tsv", r"runs: .*'none.tsv'"),
        ("teachers/digits-short", CHECKPOINT, r"preset.yaml: teachers.digits-short"),
        ("datasets", {"x": {"kind": "docs.examples.grating:f"}}, r"datasets.x.kind: .*'docs.examples.grating:f'"),
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
        (SIDA, "\tsida\tdigits\t\t1.0", r"run 'sida-a1.0': no teacher 'digits'"),
        (SIDA, "\tsida\tdigits-short\t\tone", r'demo.tsv:5: alpha: .* got "one"'),
        (SIDA, "\tsidda\tdigits-short\t\t1.0", r"demo.tsv:5: method: "),
        (SIDA, "\tdocs.examples.matching:M\tdigits-short\t\t1.0", r"'sida-a1.0': method: .*'M'"),
        ("sid-a1.0\tOne", "sida-a1.0\tOne", r"run 'sida-a1.0' appears twice"),
        ("heun-18", "heun-81", r"'heun-81'.*'heun-18"),
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
        ("docs.examples.matching:METHOD", {"weihgt": 1}, r"options.weihgt: .*'weight'"),
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
