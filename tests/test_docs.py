"""Pages name what exists, print the stored demo, and their worked diffs apply to this code."""

from __future__ import annotations

import contextlib
import csv
import datetime
import importlib
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple, get_args

import pytest
import yaml

from sida.config.lookup import ROOT
from sida.data import archive, prepare
from sida.eval.results.csv_files import MOST_CELLS
from sida.eval.tables.build import make_table
from sida.eval.tables.render import to_markdown, to_terminal
from sida.files import child, convert
from sida.files.ordinary import MOST_FILES
from sida.files.tensors import MAX_HEADER_BYTES, MAX_HEADER_VALUES
from sida.files.text_files import MOST_JSON, MOST_LEVELS, MOST_TEXT_BYTES, MOST_VALUES, MOST_YAML
from sida.networks import autoencoder, body
from sida.workflow.cli import all_verbs
from sida.workflow.commands.archive import table_of
from sida.workflow.preset import load_preset
from tests.plugins import missing_names
from tools.old_reports import old_reports, reports
from tools.pictures import methods, row, score

PAGES = [ROOT / name for name in subprocess.check_output(["git", "ls-files", "*.md"], cwd=ROOT, text=True).split()]
page = pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
#: Files that a run, a user or an earlier checkout has.
ELSEWHERE = re.compile(r"/(?:demo|released|paper|PRESET|flowers|clothes|local)(?:/|$)|[A-Z]{3}")


@cache
def files() -> frozenset[str]:
    """Files of the repository and their folders."""
    listed = subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).split("\n")
    return frozenset(str(parent) for name in listed for parent in (Path(name), *Path(name).parents))


def text_of(path: Path) -> str:
    """A page without blocks of code."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S)
    return re.sub(r"^(?: {4}|\t).*$", "", text, flags=re.M)


def anchors(path: Path) -> set[str]:
    """Anchors of the headings, as forges make them."""
    headings = re.findall(r"^#+ +(.*)$", path.read_text(), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


@page
def test_links_and_names_of_files_exist(path):
    text = text_of(path)
    for target in re.findall(r"\[[^\]]*\]\((?![a-z]+:)([^)\s]+)\)", text):
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        assert file.exists(), target
        assert path.parent != ROOT / "docs" or path.parent in file.parents, f"{target} is not on the site: name it"
        assert not anchor or anchor in anchors(file), target
    for name in re.findall(r"`([\w.-]+/[\w./-]*)`", text):
        if name.partition("/")[0] in files() and not ELSEWHERE.search(name):
            assert name.rstrip("/") in files(), name


def test_the_screen_of_the_papers_first_command_is_on_its_page():
    page = (ROOT / "docs/paper.md").read_text()
    block = page.partition("It prints, among others:\n\n")[2].partition("\n\n")[0].splitlines()
    shown = to_terminal(make_table("table1"), colour=False)
    rows = [line.split("One Step")[-1].split() for line in shown.splitlines()]
    assert len(block) > 3
    assert all(line.split() in rows for line in block)


#: Names that code and registry give to modules and objects of this package, and pages.
OBJECT = r"\b(?:sida|eval|workflow)(?:\.[A-Za-z_]\w*)+"
ROLE = r":(?:mod|class|func|meth|data|attr):`~?(" + OBJECT + ")`"


def grep(pattern: str, *paths: str) -> set[str]:
    """Matches of a Perl pattern in files of the repository."""
    found = subprocess.run(["git", "grep", "-hoP", pattern, "--", *paths], cwd=ROOT, text=True, stdout=subprocess.PIPE)
    return {*found.stdout.splitlines()}


def exists(name: str) -> bool:
    """Whether a dotted name is a module of the package, or an object in one."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        with contextlib.suppress(ModuleNotFoundError):
            found: object = importlib.import_module(".".join(parts[:length]))
            for part in parts[length:]:
                if not hasattr(found, part):
                    return part in getattr(found, "__annotations__", {})
                found = getattr(found, part)
            return True
    return False


def test_pages_that_the_code_names_exist():
    found = grep(r"docs/[a-z/-]+\.md", ":!*.md")
    assert len(found) > 5
    assert {name for name in found if name not in files()} == set()


def test_objects_that_code_and_registry_name_exist():
    named = {re.search(OBJECT, role)[0] for role in grep(ROLE, "sida", "eval", "workflow")}
    named |= grep(OBJECT, "config/*.tsv", "config/*.yaml")
    assert len(named) > 100
    assert {name for name in named if not exists(name)} == set()


def test_pages_in_docstrings_exist():
    pages = {Path(name).name for name in files() if name.endswith(".md")}
    named = grep(
        r"(?<![\w/<{.*-])[a-z][a-z-]*\.md(?=[,;) ]|$)",
        "sida/*.py",
        "eval/features",
        "eval/metrics",
        "config/assets.tsv",
    )
    assert named <= pages


VERBS = {*all_verbs(), *missing_names()}


@page
def test_commands_exist(path):
    code = re.findall(r"`([^`\n]+)`|^(?: {4}|\t)(.*)$", path.read_text(), flags=re.M)
    for line in map("".join, code):
        for verb in re.findall(r"(?:^|[\s;|(])sida ([a-z][a-z-]+)", line):
            assert verb in VERBS, line


def cells(text: str) -> list[list[str]]:
    """Cells of the tables of a text, without rules."""
    lines = [line for line in text.splitlines() if re.match(r"\| +\S*", line) and "--" not in line]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_demo_is_printed_as_stored():
    table = table_of(load_preset(ROOT / "studies/demo/preset.yaml"), "main", ROOT / "studies/demo/stored")
    printed, stored = cells((ROOT / "README.md").read_text()), cells(to_markdown(table))
    assert len(stored) == 6
    assert all(row in printed for row in stored)


COPIED = ("sida", "plugins", "eval", "workflow", "config", "studies", "docs/examples", "results/published")


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
from sida.workflow.cli import main
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
        # The link of the package to the plugins stays one, so that diffs reach it.
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored, symlinks=True)
    shutil.copytree(ROOT / "studies/demo/stored", tmp_path / "studies/demo/stored")
    return tmp_path


def run(command: list[str], folder: Path, text: str | None = None) -> str:
    """Output of a command in the copy; fails the test where the command fails."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, input=text, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, f"{done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


@pytest.mark.slow
def test_diffs_do_what_they_say(checkout):
    """All in one copy."""
    for addition in ADDITIONS.values():
        run(["git", "apply", "-"], checkout, addition.diff)
    lines = [line for title, addition in ADDITIONS.items() for line in (title, *addition.commands)]
    output = run([sys.executable, "-c", RUN, *lines], checkout)
    assert len(ADDITIONS) == 6
    for title, addition in ADDITIONS.items():
        of_title = output.partition(f"== {title}\n")[2].partition("== Add ")[0]
        assert addition.printed in of_title.rpartition(f"== {addition.commands[-1]}\n")[2], title


@pytest.mark.parametrize("module", [methods, row, score], ids=lambda module: module.__name__)
def test_a_picture_is_current(module):
    """Its numbers are those of the stored demo and of the pages; `python -m tools.pictures` writes it again."""
    assert (ROOT / f"docs/{module.__name__.rpartition('.')[2]}.svg").read_text() == module.picture()


def test_a_sentence_about_another_project_is_listed_after_120_days():
    place, date = next(reports())
    days = [old_reports(date + datetime.timedelta(age)) for age in (120, 121)]
    assert [any(line.startswith(f"{place}: ") for line in lines) for lines in days] == [False, True]


def test_readme_installs_the_executor_of_the_profile_for_slurm():
    executor = re.search(r"^executor: (.+)$", (ROOT / "profiles/slurm/profile.yaml").read_text(), flags=re.M)[1]
    installed = re.findall(r"pip install (snakemake-executor-plugin-\S+?)`", (ROOT / "README.md").read_text())
    assert installed == [f"snakemake-executor-plugin-{executor}"]


def test_the_catalogue_of_workflows_finds_this_one():
    """Its rules: words of README, place of the Snakefile, ending of rules; then its own file and the page of keys."""
    assert {"snakemake", "workflow"} <= {*re.findall(r"\w+", text_of(ROOT / "README.md").lower())}
    assert (ROOT / "Snakefile").is_file()
    assert {path.suffix for path in (ROOT / "workflow/rules").iterdir() if path.is_file()} == {".smk"}
    assert (ROOT / "config/README.md").is_file()
    usage = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    assert usage["software-stack-deployment"] == {"conda": True}
    assert (usage["report"], usage["mandatory-flags"]["flags"]) == (True, "")


def test_limits_of_the_page_of_reliability_are_those_of_the_code():
    page = (ROOT / "docs/reliability.md").read_text()
    for said in (
        f"{convert.MEMORY >> 20} MiB and its imports", f"| {convert.SECONDS:.0f} s, and a second for each 2 MB",
        f"for a picture {archive._SECONDS_PER_FILE * 1000:.0f} ms", f"part of an archive | {convert.OUTPUT >> 30} GiB",
        f"unpacks to {archive.FREE_BYTES >> 20} MiB, or {archive.MAX_RATIO} times",
        f"{prepare.FREE_BYTES >> 20} MiB, and {prepare.MOST_RATIO:,} times",
        f"1 GiB, or {archive.MAX_RATIO} times the file's bytes", f"CSV | {MOST_TEXT_BYTES >> 20} MiB",
        f"{child._MOST_AXES} axes below 2⁴⁸; {archive._LARGEST >> 20} MiB",
        f"{MOST_YAML:,} characters, {MOST_VALUES:,} values, {MOST_LEVELS} levels; {MOST_JSON:,} values",
        f"{MOST_CELLS:,} cells",
        f"{MAX_HEADER_BYTES >> 20} MiB, {MAX_HEADER_VALUES:,} values", f"{MOST_FILES:,} files and folders",
        "`img_resolution` {:,}, `label_dim` {:,}, `num_blocks` {:,}, other whole numbers {:,}".format(
            *(get_args(option)[1].most for option in (body.Side, body.Classes, body.Few, body.Size))
        ),
        f"{autoencoder._MOST_BLOCKS} blocks of {get_args(body.Few)[1].most} layers",
    ):  # fmt: skip
        assert said in page, said
    assert child._LONGEST_AXIS == 1 << 48


def test_each_fault_has_tests_that_exist():
    faults = []
    for path in (ROOT / "tests/faults.tsv", *ROOT.glob("plugins/*/tests/faults.tsv")):
        with path.open(newline="", encoding="utf-8") as stream:
            faults += csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
    tests = "".join((ROOT / name).read_text() for name in files() if re.search(r"(^|/)tests/.*test_\w+\.py$", name))
    assert len(faults) > 50
    for fault in faults:
        assert fault["tests"], fault
        if fault["kind"] != "Tried by hand":
            assert all(f"def {name}(" in tests for name in fault["tests"].split()), fault
