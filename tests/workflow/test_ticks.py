"""Hours and memory of a table of settings from the first log records of each training."""

import re

import pytest

from eval.claims import decide_claims
from eval.tables.build import make_table, write_table
from sida.config.resources import ROOT
from sida.config.settings import load_yaml
from sida.data import load_dataset
from sida.errors import UserError
from sida.files.atomic import read_jsonl, write_text
from sida.methods import distill
from sida.training import train_teacher
from workflow.planning.costs import Costs
from workflow.planning.jobs import Jobs
from workflow.preset import Preset, specs
from workflow.preset.targets import Targets

CLAIMS = """
about: x
claims:
  - id: X-1
    statement: SiDA takes about as long as SiD.
    source: this test
    parts: [{rule: RATIO, quantity: seconds_per_kimg, a: {run: sida-a1.0}, b: {run: sid-a1.0}, low: 0.01, high: 100}]
"""


@pytest.fixture
def preset(tmp_path):
    """The tests' tiny workflow with a Table 8."""
    columns = "columns: [{head: digits, key: cifar-10, sid: sid-a1.0, sida: sida-a1.0}]\n"
    write_text(tmp_path / "tables/t8.yaml", f"extends: {ROOT}/studies/papers/tables/table8.yaml\n{columns}")
    config = load_yaml(ROOT / "tests/workflow/tiny.yaml") | {"tables": ["main", "t8"]}
    return Preset(config, "tiny.yaml", [tmp_path, ROOT / "tests/workflow", ROOT])


def test_the_first_records_fill_the_table_and_decide_claims_marked_as_such(preset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(specs, "TICK_IMAGES", 64)
    assert preset.specs.timed == {"t8": ["sid-a1.0", "sida-a1.0"]}
    train_teacher(preset.specs.tick_teacher("digits-short"), "results/tiny/ticks/teachers/digits-short")
    for run in preset.specs.timed["t8"]:
        spec = preset.specs.tick(run)
        assert spec["batch_size"] == preset.specs.student(run)["batch_size"]
        path = distill(spec, f"results/tiny/ticks/students/{run}")
        assert str(path) in Targets(preset, False).ticks([run])
        ticks = read_jsonl(path.with_name("train.jsonl"))
        assert [tick["nimg"] for tick in ticks] == [64, 128, 192, 256, 320]
        assert "sid" in ticks[0]["losses"], "the generator learns from the first step"
    layout, spec = preset.layout("tables", "t8"), preset.specs.table("t8")
    write_table(make_table(layout, mode="audit", spec=spec, results="results/tiny/ticks"), "t8.tex")
    page = (tmp_path / "t8.md").read_text()
    lines = page.splitlines()
    (place,) = [number for number, line in enumerate(lines) if line.startswith("| SiDA ")]
    assert re.search(r"\| from 4 ticks \| \d", lines[place + 1])
    assert "sida-a1.0 (4)" in page
    write_text("claims.yaml", CLAIMS)
    decide_claims("claims.yaml", "claims.md", runs=preset.sheet, results="results/tiny/ticks")
    verdicts = (tmp_path / "claims.md").read_text()
    assert "1 supported" in verdicts
    assert "from 4 ticks" in verdicts


def test_a_target_of_the_paper_times_its_eight_recipes_without_data_and_downloads():
    paper = Preset.load(ROOT / "studies/papers/paper.yaml")
    targets = Targets(paper, False)
    assert {"ticks/table8.md", "ticks/claims.md"} <= set(targets.short)
    assert len(paper.specs.timed["table8"]) == 8
    spec = paper.specs.tick("imagenet64-sida-a1")
    data = load_dataset(spec["dataset"])
    assert (data.num_channels, data.resolution, data.label_dim) == (3, 64, 1000)
    assert (spec["total_kimg"], spec["warmup_kimg"], spec["evaluation"]) == (5 * 8.192, 0, None)
    jobs = Jobs(Costs(paper, "H200", fresh=True))
    path = f"{paper.results}/ticks/students/cifar10-uncond-sida-a1/network.safetensors"
    job, needs = jobs.job(path)
    assert 0.001 < job.gpu_hours < 0.1
    assert not [path for path in needs if "asset" in path]


def test_noise_needs_a_shape():
    with pytest.raises(UserError, match=r"resolution: a data set of kind 'noise' needs resolution and channels"):
        load_dataset({"name": "x", "kind": "noise"})
