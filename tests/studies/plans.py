"""Dry runs of presets."""

from __future__ import annotations

import re
from pathlib import Path

from sida.config.resources import ROOT
from tests.workflow.workspace import forked_snakemake


def dry_run(folder: Path, preset: str, *arguments: str) -> tuple[dict[str, int], str]:
    """Number of jobs by rule, the total left out, and everything that Snakemake prints."""
    words = ["-s", str(ROOT / "Snakefile"), "--cores", "2", "-n", "--configfile", str(ROOT / "studies" / preset)]
    status, text = forked_snakemake(folder, *words, *arguments)
    assert not status, text[-2000:]
    jobs = {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", text, re.MULTILINE)}
    assert jobs.pop("total") == sum(jobs.values())
    return jobs, text
