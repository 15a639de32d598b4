"""Dry runs of presets, and the training seeds that claims name."""

import collections
from pathlib import Path

from eval.results.sheet import matching
from sida.config.resources import ROOT
from tests.workflow.workspace import forked_snakemake, jobs_in


def dry_run(folder: Path, preset: str, *arguments: str) -> tuple[dict[str, int], str]:
    """Number of jobs by rule, the total left out, and everything that Snakemake prints."""
    words = ["-s", str(ROOT / "Snakefile"), "--cores", "2", "-n", "--configfile", str(ROOT / "studies" / preset)]
    status, text = forked_snakemake(folder, *words, *arguments)
    assert not status, text[-2000:]
    return jobs_in(text), text


def seeds_of(preset, operand) -> list[set[int]]:
    """Training seeds of the rows that an operand's conditions name, a set for each teacher."""
    found = collections.defaultdict(set)
    for run in matching(preset.runs, operand.where) if operand.where else []:
        found[run.teacher].add(run.seed)
    return [*found.values()]
