"""The plan of the `released` preset: every released checkpoint is fetched, imported and measured; nothing is run."""

import re

import pytest
import yaml

from sida.config.resources import ROOT
from tests.studies.plans import dry_run


def test_the_released_preset_has_a_full_plan(tmp_path):
    # As docs/reproduce.md lists the downloads.
    jobs, text = dry_run(tmp_path, "papers/released.yaml", "--quiet", "host", "reason")
    measured = sum(count for name, count in jobs.items() if name.startswith("measure"))
    assert measured >= 60
    listed = [len(re.findall(rf"^Job \d+: {job}", text, re.MULTILINE)) for job in ("asset .*: fetching", "measure ")]
    assert listed == [jobs["fetch"], measured]
    assert jobs["fetch"] >= jobs["import_checkpoint"] >= measured
    config = yaml.safe_load((ROOT / "studies/papers/released.yaml").read_text())
    assert (jobs["table"], jobs["figure"]) == (len(config["tables"]), len(config["figures"]))
    assert text.count("has no public address") == 11


@pytest.mark.parametrize(
    ("name", "preset", "target"),
    [
        ("demo", "demo/preset.yaml", "students/sida-a1.0/network.safetensors"),
        pytest.param("released", "papers/released.yaml", "tables/table3.tex", marks=pytest.mark.slow),
    ],
)
def test_a_product_is_asked_for_by_its_path_below_the_presets_folder(tmp_path, name, preset, target):
    """A short name and what it stands for; a name that is no product is refused by Snakemake."""
    short, long = (dry_run(tmp_path, preset, "--", asked)[0] for asked in (target, f"results/{name}/{target}"))
    assert short == long != {}
    with pytest.raises(AssertionError, match=r"tables/main\.txt"):
        dry_run(tmp_path, preset, "--", "tables/main.txt")
