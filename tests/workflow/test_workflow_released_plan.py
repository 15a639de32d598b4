"""The plan of the `released` preset: every released checkpoint is fetched, imported and measured; nothing is run."""

import re

from tests.workflow.workspace import Workspace


def test_the_released_preset_has_a_full_plan(tmp_path):
    result = Workspace(tmp_path).snakemake("-n", "--configfile", "config/released.yaml")
    assert result.returncode == 0, result.stderr[-2000:]
    text = result.stdout + result.stderr
    jobs = {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", text, re.MULTILINE)}
    assert jobs["measure"] >= 60
    assert jobs["fetch"] >= jobs["import_checkpoint"] >= jobs["measure"]
    assert (jobs["table"], jobs["figure"]) == (8, 5)
    assert text.count("has no public address") == 5
