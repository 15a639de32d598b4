"""Dry runs of presets, and what their claims and analyses name."""

import collections
import json
from pathlib import Path

from eval.results.sheet import matching
from sida.config.resources import ROOT
from tests.workflow.workspace import forked_snakemake, jobs_in
from workflow.cli import main


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


def analyse(spec: dict, out: Path) -> int:
    """Exit status of the command that computes an analysis."""
    return main(["analyse", "--spec", json.dumps(spec), "--out", str(out)])


def check_fault(spec: dict, message: str, folder: Path, capsys) -> None:
    """The analysis is refused by one line with this message, and nothing is written."""
    assert analyse(spec, folder / "refused.json") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (folder / "refused.json").exists()
