"""Presets with each other profile, as a dry run. Snakemake is imported once; a run is a child that has it already."""

import pytest

from sida.config.resources import ROOT
from tests.workflow.workspace import forked_snakemake
from workflow.preset.files import find_preset, presets

#: All but the usual one, with which test_studies.py plans every preset.
PROFILES = sorted({path.parent.name for path in (ROOT / "profiles").glob("*/config.yaml")} - {"default"})
SITE = "gpu: H100\ngpus_per_node: 4\npartition: main\ngpu_partition: cards\naccount: ours\n"


def run(folder, profile, preset, *arguments):
    """Exit status and output of Snakemake."""
    (folder / "site.yaml").write_text(SITE)
    more = {"slurm": [], "generic": ["--cluster-generic-submit-cmd", "sh"]}.get(profile, ["--cores", "2"])
    words = ["-s", str(ROOT / "Snakefile"), "--workflow-profile", str(ROOT / "profiles" / profile), *more]
    words += ["--configfile", str(ROOT / find_preset(preset)), *arguments]
    return forked_snakemake(folder, *words, environment={"SIDA_SITE": "site.yaml"})


def quick(profile, preset):
    """One run for each profile; another test here runs the generic one."""
    return preset == "demo" and profile != "generic"


@pytest.mark.parametrize(
    ("profile", "preset"),
    [
        pytest.param(profile, preset, marks=[] if quick(profile, preset) else pytest.mark.slow)
        for preset in presets()
        for profile in PROFILES
    ],
)
def test_a_dry_run_plans_everything_and_writes_nothing(profile, preset, tmp_path):
    status, text = run(tmp_path, profile, preset, "-n")
    assert status == 0, text[-3000:]
    assert "This was a dry-run" in text
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
def test_a_run_without_cores_ends_well(tmp_path):
    """A scheduler's profile says how many jobs there are, and nobody how many cores; this table is no job."""
    status, text = run(tmp_path, "generic", "published", "--", "results/published/tables/table8.tex")
    assert status == 0, text[-3000:]
    assert (tmp_path / "results/published/tables/table8.tex").exists()


SNAKEFILE = """
rule all:
    input: "made.txt"

rule half:
    output: "{n}.half"
    threads: 3
    resources: gpu=1, mem_mb=9001
    shell: "echo {wildcards.n} > {output}"

rule whole:
    input: "1.half", "2.half"
    output: "made.txt"
    # Fails at first, as a job that is preempted.
    shell: "test -e again || {{ touch again; kill -9 $$; }}; cat {input} > {output}"
"""


@pytest.mark.slow
def test_the_generic_profile_hands_jobs_to_the_command_that_the_user_names(tmp_path):
    """The command gets what a job asks for and the job's script; a job that fails is sent again."""
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    (tmp_path / "submit").write_text('#!/bin/sh\necho "$1" >> asked.txt\nsh "$2" > log.txt 2>&1 &\necho $!\n')
    (tmp_path / "submit").chmod(0o755)
    command = f"{tmp_path}/submit {{threads}}-{{resources.gpu}}-{{resources.mem_mb}}-{{resources.runtime}}"
    words = ["--workflow-profile", str(ROOT / "profiles/generic"), "--cluster-generic-submit-cmd", command]
    words += ["--seconds-between-status-checks", "1", "--latency-wait", "10"]
    status, text = forked_snakemake(tmp_path, *words)
    assert status == 0, text[-3000:]
    assert (tmp_path / "made.txt").read_text() == "1\n2\n"
    asked = (tmp_path / "asked.txt").read_text().split()
    assert asked == ["3-1-9001-60", "3-1-9001-60", "1-0-8000-60", "1-0-8000-60"]
