"""What rules make and need, asked without Snakemake."""

from __future__ import annotations

import re
import shutil

import pytest

from sida.config.resources import ROOT
from tests.workflow.workspace import settings_of
from workflow.preset import Preset
from workflow.preset.targets import Targets, any_of, source_of

DEMO = settings_of("demo")


@pytest.fixture(scope="module")
def demo():
    return Targets(Preset.load(ROOT / "studies/demo/preset.yaml"), paper=False)


def test_products_of_the_demo(demo):
    products = demo.products()
    assert len(products) == len(set(products)) == 1 + 5 + 2 * 3 + 2 + 1
    assert products[0] == "results/demo/measurements.csv"
    assert {"results/demo/tables/main.tex", "results/demo/figures/samples.png"} < set(products)
    assert "results/demo/paper.pdf" not in products
    assert "results/demo/paper.pdf" in Targets(demo.preset, paper=True).products()
    short = demo.short
    assert {"tables/main.tex", "students/sida-a1.0/network.safetensors", "measurements/data/trial-9.json"} < set(short)
    assert not any(name.startswith("results") for name in short)


def test_what_trainings_need(demo):
    teacher = "results/demo/teachers/digits-short/network.safetensors"
    sid = "results/demo/students/sid-a1.0/network.safetensors"
    needs = demo.training("sid2a-a1.0")
    assert needs == {"data": [], "teacher": teacher, "guide": [], "generators": [sid], "method": [], "measuring": []}
    assert demo.parents == {"sid-a1.0"}
    assert demo.teacher("digits-short") == []
    assert demo.generator("teacher-nfe35") == [teacher]
    assert demo.generator("data") == []


def test_what_tables_and_figures_need(demo):
    assert demo.shown("tables", "main")["measurements"] == "results/demo/collected/tables/main.csv"
    samples = demo.shown("figures", "samples")
    assert "measurements" not in samples
    assert samples["networks"] == demo.networks(run for run in demo.rows if run != "data")
    assert demo.trials(["data"]) == [f"results/demo/measurements/data/trial-{trial}.json" for trial in range(10)]


def test_downloads_come_first():
    released = Targets(Preset.load(ROOT / "studies/papers/released.yaml"), paper=False)
    run = released.preset.runs["cifar10-uncond-sida-a1"]
    imported, *assets = released.generator(run.run)
    assert imported == released.preset.network(run)
    assert assets == [f"results/released/assets/{name}.json" for name in ("fid-ref-cifar10", "inception")]
    assert released.checkpoint(run.checkpoint) == [f"results/released/assets/{run.checkpoint}.json"]
    published = Targets(Preset.load(ROOT / "studies/papers/published.yaml"), paper=False)
    assert published.measurements == []


def test_trials_are_cut_into_shards():
    shards = Targets(Preset({**DEMO, "shard_size": 1000}, "demo.yaml"), paper=False).shards("data", "3")
    bounds = ("0-1000", "1000-2000", "2000-2500")
    assert shards == [f"results/demo/statistics/data/trial-3/shard-{bound}.safetensors" for bound in bounds]


def test_code_of_one_s_own_is_an_input(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "docs/examples", tmp_path / "mine")
    sheet = (ROOT / "studies/demo/runs.tsv").read_text()
    own = "\tmine.matching:METHOD\tdigits-short\t\t\tsid\t"
    sheet = sheet.replace("\tsida\tdigits-short\t\t1.0\tsida\t", own)
    (tmp_path / "own.tsv").write_text(sheet)
    targets = Targets(Preset({**DEMO, "runs": "own.tsv"}, "demo.yaml"), paper=False)
    assert targets.training("sida-a1.0")["method"] == ["mine/matching.py"]
    assert source_of("mine.nowhere:f") is None
    (tmp_path / "mine" / "__init__.py").write_text("")
    assert source_of("mine:f") == "mine/__init__.py"


def test_a_pattern_of_names():
    assert re.fullmatch(any_of({"a1.0", "b"}), "a1.0")
    assert not re.fullmatch(any_of({"a1.0", "b"}), "a1x0")
    assert not re.fullmatch(any_of([]), "")
