"""CONTRIBUTING.md: each worked diff applies to this code, touches at most two files of it, and does what it says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from sida.config.resources import ROOT

COPIED = ("sida", "eval", "workflow", "config", "studies", "docs/examples", "results/published")


class Addition(NamedTuple):
    """A section of the page: the diff, the commands below it, and what the last of them prints."""

    diff: str
    commands: list[str]
    printed: str


def additions() -> dict[str, Addition]:
    """Sections "Add a ..." with a diff, by their titles."""
    found = {}
    for section in re.split(r"^## ", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.M):
        title = section.partition("\n")[0]
        blocks = dict(re.findall(r"^```(diff|sh|text)\n(.*?)^```", section, flags=re.M | re.S))
        if "diff" in blocks:
            commands = blocks["sh"].replace("\\\n", " ").splitlines()
            found[title] = Addition(blocks["diff"], commands, blocks["text"].strip())
    return found


ADDITIONS = additions()


#: Runs the lines that it is given as commands, in one process, which imports torch once.
RUN = """
import runpy, shlex, sys
from workflow.cli import eval_main, sida_main
for line in sys.argv[1:]:
    print("==", line, flush=True)
    program, *words = shlex.split(line)
    if program == "python":
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")
    else:
        status = {"sida": sida_main, "sida-eval": eval_main}[program](words)
        assert status == 0, status
"""


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A copy of the code that may be changed, without pictures, and with the stored results of the demo alone."""
    for name in COPIED:
        ignored = shutil.ignore_patterns("__pycache__", "stored", "*.png")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    shutil.copytree(ROOT / "studies/demo/stored", tmp_path / "studies/demo/stored")
    return tmp_path


def run(command: list[str], folder: Path, text: str | None = None) -> str:
    """Output of a command in the copy; fails the test where the command fails."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, input=text, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


@pytest.mark.parametrize("title", ADDITIONS)
def test_diff_applies_and_does_what_it_says(title, checkout):
    addition = ADDITIONS[title]
    code = re.findall(r"^\+\+\+ b/(.*\.(?:py|smk))$", addition.diff, flags=re.M)
    assert len(code) <= 2, f"{title}: {len(code)} files of code"
    run(["git", "apply", "--whitespace=error", "-"], checkout, addition.diff)
    output = run([sys.executable, "-c", RUN, *addition.commands], checkout)
    assert addition.printed in output.rpartition(f"== {addition.commands[-1]}\n")[2]


def test_each_kind_of_thing_has_its_diff():
    kinds = {
        "method",
        "metric kind",
        "claim rule",
        "figure kind",
        "table kind",
        "feature extractor",
        "network",
        "sampler",
        "data set",
        "setting",
        "verb",
    }
    assert {re.sub("^Add an? ", "", title) for title in ADDITIONS} == kinds
