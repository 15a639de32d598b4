"""The plan of the `released` preset: every released checkpoint is fetched, imported and measured; nothing is run."""

import re

import pytest
import yaml

from sida.config.resources import ROOT
from tests.workflow.workspace import Workspace


def test_the_released_preset_has_a_full_plan(tmp_path):
    words = ["-n", "--quiet", "host", "reason", "--configfile", "studies/papers/released.yaml"]
    assert f"`{' '.join(words[:4])}` lists each download" in (ROOT / "docs/reproduce.md").read_text()
    result = Workspace(tmp_path).snakemake(*words)
    assert result.returncode == 0, result.stderr[-2000:]
    text = result.stdout + result.stderr
    jobs = {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", text, re.MULTILINE)}
    measured = sum(count for name, count in jobs.items() if name.startswith("measure"))
    assert measured >= 60
    listed = [len(re.findall(rf"^Job \d+: {job}", text, re.MULTILINE)) for job in ("asset .*: fetching", "measure ")]
    assert listed == [jobs["fetch"], measured]
    assert jobs["fetch"] >= jobs["import_checkpoint"] >= measured
    config = yaml.safe_load((ROOT / "studies/papers/released.yaml").read_text())
    assert (jobs["table"], jobs["figure"]) == (len(config["tables"]), len(config["figures"]))
    assert text.count("has no public address") == 11


@pytest.mark.parametrize(
    ("preset", "target"),
    [
        ("demo", "students/sida-a1.0/network.safetensors"),
        pytest.param("released", "tables/table3.tex", marks=pytest.mark.slow),
    ],
)
def test_a_product_is_asked_for_by_its_path_below_the_presets_folder(tmp_path, preset, target):
    """A short name and what it stands for; a name that is no product is refused by Snakemake."""
    workspace, plans = Workspace(tmp_path), []
    file = "studies/demo/preset.yaml" if preset == "demo" else f"studies/papers/{preset}.yaml"
    for asked in (target, f"results/{preset}/{target}"):
        result = workspace.snakemake("-n", "--configfile", file, "--", asked)
        assert result.returncode == 0, result.stderr[-2000:]
        counts = re.findall(r"^(\w+) +(\d+)$", result.stdout + result.stderr, re.MULTILINE)
        plans.append({name: int(count) for name, count in counts if name != "total"})
    assert plans[0] == plans[1] != {}
    wrong = workspace.snakemake("-n", "--configfile", file, "--", "tables/main.txt")
    assert wrong.returncode != 0
