"""docs/add.md: each worked diff applies to this code, touches at most two files of it, and does what it says."""

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
    for section in re.split(r"^## ", (ROOT / "docs/add.md").read_text(), flags=re.M):
        title = section.partition("\n")[0]
        blocks = dict(re.findall(r"^```(diff|sh|text)\n(.*?)^```", section, flags=re.M | re.S))
        if "diff" in blocks:
            commands = blocks["sh"].replace("\\\n", " ").splitlines()
            found[title] = Addition(blocks["diff"], commands, blocks["text"].strip())
    return found


ADDITIONS = additions()


#: Runs lines as commands, those after a title in a folder of its own, in one process, which imports torch once.
RUN = """
import os, pathlib, runpy, shlex, sys
from workflow.cli import main
checkout = pathlib.Path.cwd()
for line in sys.argv[1:]:
    print("==", line, flush=True)
    program, *words = shlex.split(line)
    if program == "Add":
        folder = checkout / line
        folder.mkdir()
        for name in ("docs", "eval", "studies"):
            (folder / name).symlink_to(checkout / name)
        os.chdir(folder)
    elif program == "python":
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")
    else:
        assert main(words) == 0
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
    done = subprocess.run(command, cwd=folder, env=environment, input=text, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, f"{done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


def test_diffs_do_what_they_say(checkout):
    """All in one copy."""
    for addition in ADDITIONS.values():
        run(["git", "apply", "-"], checkout, addition.diff)
    lines = [line for title, addition in ADDITIONS.items() for line in (title, *addition.commands)]
    output = run([sys.executable, "-c", RUN, *lines], checkout)
    assert len(ADDITIONS) == 4
    for title, addition in ADDITIONS.items():
        of_title = output.partition(f"== {title}\n")[2].partition("== Add ")[0]
        assert addition.printed in of_title.rpartition(f"== {addition.commands[-1]}\n")[2], title
