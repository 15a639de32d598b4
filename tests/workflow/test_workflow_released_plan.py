"""The plan of the `released` preset: every released checkpoint is fetched, imported and measured; nothing is run."""

import re

from tests.workflow.workspace import Workspace


def test_the_released_preset_has_a_full_plan(tmp_path):
    result = Workspace(tmp_path).snakemake("-n", "--configfile", "config/released.yaml")
    assert result.returncode == 0, result.stderr[-2000:]
    text = result.stdout + result.stderr
    jobs = {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", text, re.MULTILINE)}
    measured = sum(count for name, count in jobs.items() if name.startswith("measure"))
    assert measured >= 60
    assert jobs["fetch"] >= jobs["import_checkpoint"] >= measured
    assert (jobs["table"], jobs["figure"]) == (9, 5)
    assert text.count("has no public address") == 10


def test_a_product_is_asked_for_by_its_path_below_the_presets_folder(tmp_path):
    workspace = Workspace(tmp_path)
    target, plans = "students/sida-a1.0/network.safetensors", []
    # A short name and what it stands for; a name that is no product is refused by Snakemake.
    for asked in (target, f"results/demo/{target}"):
        result = workspace.snakemake("-n", "--configfile", "config/demo.yaml", "--", asked)
        assert result.returncode == 0, result.stderr[-2000:]
        counts = re.findall(r"^(\w+) +(\d+)$", result.stdout + result.stderr, re.MULTILINE)
        plans.append({name: int(count) for name, count in counts if name != "total"})
    assert plans[0] == plans[1] != {}
    wrong = workspace.snakemake("-n", "--configfile", "config/demo.yaml", "--", "tables/main.txt")
    assert wrong.returncode != 0
