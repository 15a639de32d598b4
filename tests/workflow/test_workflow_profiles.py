"""Every preset with every profile, as a dry run. Snakemake is imported once; a run is a child that has it already."""

from __future__ import annotations

import pytest

from sida.config.resources import ROOT
from tests.workflow.workspace import forked_snakemake

PROFILES = sorted(path.parent.name for path in (ROOT / "profiles").glob("*/config.yaml"))
PRESETS = sorted(path.stem for path in (ROOT / "config").glob("*.yaml") if "\nruns:" in path.read_text())
SITE = "scheduler: pbs\ngpu: H100\ngpus_per_node: 4\npartition: main\ngpu_partition: cards\naccount: ours\n"


def dry_run(folder, profile, preset, site=SITE):
    """Exit status and output of ``snakemake -n``."""
    return run(folder, profile, preset, "-n", site=site)


def run(folder, profile, preset, *arguments, site=SITE):
    """Exit status and output of Snakemake."""
    (folder / "site.yaml").write_text(site)
    cores = [] if profile in ("slurm", "generic") else ["--cores", "2"]
    words = ["-s", str(ROOT / "Snakefile"), "--workflow-profile", str(ROOT / "profiles" / profile), *cores]
    words += ["--configfile", str(ROOT / f"config/{preset}.yaml"), *arguments]
    return forked_snakemake(folder, *words, environment={"SIDA_SITE": "site.yaml"})


def quick(profile, preset):
    """One run for each profile; the usual one is tested elsewhere, and another test here runs the generic one."""
    return preset == "demo" and profile not in ("default", "generic")


@pytest.mark.parametrize(
    ("profile", "preset"),
    [
        pytest.param(profile, preset, marks=[] if quick(profile, preset) else pytest.mark.slow)
        for preset in PRESETS
        for profile in PROFILES
    ],
)
def test_a_dry_run_plans_everything_and_writes_nothing(profile, preset, tmp_path):
    status, text = dry_run(tmp_path, profile, preset)
    assert status == 0, text[-3000:]
    assert "This was a dry-run" in text
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
def test_a_run_without_cores_ends_well(tmp_path):
    """A scheduler's profile says how many jobs there are, and nobody how many cores; this table is no job."""
    status, text = run(tmp_path, "generic", "published", "--", "tables/table8.tex")
    assert status == 0, text[-3000:]
    assert (tmp_path / "results/published/tables/table8.tex").exists()


def test_a_faulty_site_stops_a_run_with_one_line(tmp_path):
    status, text = dry_run(tmp_path, "slurm", "published", site="gpu: H1000\n")
    assert status == 1
    assert "error: site.yaml: gpu: H1000: not in config/plan.yaml (did you mean 'H100'?)" in text
    assert "Traceback" not in text
