"""The plan of the `released` preset: every released checkpoint is fetched, imported and measured; nothing is run."""

import re

import yaml

from sida.config.resources import ROOT
from tests.studies.plans import dry_run


def test_the_released_preset_has_a_full_plan(tmp_path):
    # As docs/released.md lists the downloads.
    jobs, text = dry_run(tmp_path, "papers/released.yaml", "--quiet", "host", "reason")
    measured = sum(count for name, count in jobs.items() if name.startswith("measure"))
    assert measured >= 60
    listed = [len(re.findall(rf"^Job \d+: {job}", text, re.MULTILINE)) for job in ("asset .*: fetching", "measure ")]
    assert listed == [jobs["fetch"], measured]
    assert jobs["fetch"] >= jobs["import_checkpoint"] >= measured
    config = yaml.safe_load((ROOT / "studies/papers/released.yaml").read_text())
    assert (jobs["table"], jobs["figure"]) == (len(config["tables"]), len(config["figures"]))
    assert "has no public address" in text
