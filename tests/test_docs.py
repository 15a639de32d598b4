"""Pages name what exists: links with their anchors, files, commands; the README prints the stored demo."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

from eval.tables.render import to_markdown
from sida.config.resources import ROOT
from workflow.cli import VERBS
from workflow.commands.archive import table_of
from workflow.preset import Preset

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
    if path.name == "CHANGELOG.md":
        return
    for name in re.findall(r"`([\w.-]+/[\w./-]*)`", text):
        if name.partition("/")[0] in files() and not ELSEWHERE.search(name):
            assert name.rstrip("/") in files(), name


def test_pages_that_the_code_names_exist():
    found = subprocess.check_output(["git", "grep", "-hoE", r"docs/[a-z/-]+\.md", "--", ":!*.md"], cwd=ROOT, text=True)
    assert {name for name in found.split() if name not in files()} == set()


@page
def test_commands_exist(path):
    if path.name == "CHANGELOG.md":
        return
    code = re.findall(r"`([^`\n]+)`|^(?: {4}|\t)(.*)$", path.read_text(), flags=re.M)
    for line in map("".join, code):
        for verb in re.findall(r"(?:^|[\s;|(])sida ([a-z][a-z-]+)", line):
            assert verb in VERBS, line


def cells(text: str) -> list[list[str]]:
    """Cells of the tables of a text, without rules."""
    lines = [line for line in text.splitlines() if re.match(r"\| +\S*", line) and "--" not in line]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.parametrize("file", ["README.md", "studies/demo/README.md"])
def test_the_demo_is_printed_as_stored(file):
    table = table_of(Preset.load(ROOT / "studies/demo/preset.yaml"), "main", ROOT / "studies/demo/stored")
    printed, stored = cells((ROOT / file).read_text()), cells(to_markdown(table))
    assert len(stored) == 6
    assert all(row in printed for row in stored)
