"""Every preset with every profile, as a dry run. Snakemake is imported once; a run is a child that has it already."""

from __future__ import annotations

import io
import multiprocessing
import os
import traceback
from contextlib import redirect_stderr, redirect_stdout

import pytest

from sida.resources import ROOT

PROFILES = sorted(path.parent.name for path in (ROOT / "profiles").glob("*/config.yaml"))
PRESETS = sorted(path.stem for path in (ROOT / "config").glob("*.yaml") if "\nruns:" in path.read_text())
SITE = "scheduler: pbs\ngpu: H100\ngpus_per_node: 4\npartition: main\ngpu_partition: cards\naccount: ours\n"


def _child(arguments, folder, connection):
    os.chdir(folder)
    os.environ["SIDA_SITE"] = "site.yaml"
    text = io.StringIO()
    status: object = 1
    with redirect_stdout(text), redirect_stderr(text):
        # Snakemake's log goes to the descriptors themselves.
        try:
            from snakemake.cli import main

            main(arguments)
        except SystemExit as end:
            status = end.code
        except BaseException:
            traceback.print_exc()
    connection.send((status, text.getvalue()))
    connection.close()


def dry_run(folder, profile, preset, site=SITE):
    """Exit status and output of ``snakemake -n``."""
    return run(folder, profile, preset, "-n", site=site)


def run(folder, profile, preset, *arguments, site=SITE):
    """Exit status and output of Snakemake."""
    import snakemake.cli  # noqa: F401 - once, for all children

    (folder / "site.yaml").write_text(site)
    cores = [] if profile in ("slurm", "generic") else ["--cores", "2"]
    words = ["-s", str(ROOT / "Snakefile"), "--workflow-profile", str(ROOT / "profiles" / profile), *cores]
    words += ["--configfile", str(ROOT / f"config/{preset}.yaml"), *arguments]
    here, there = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=_child, args=(words, str(folder), there))
    child.start()
    there.close()
    answer = here.recv() if here.poll(900) else (None, "no end")
    child.join(30)
    return answer


def quick(profile, preset):
    """One run for each profile; the usual one is tested elsewhere."""
    return preset == "demo" and profile != "default"


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
