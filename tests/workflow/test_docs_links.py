"""The pages name what exists: links, commands with their options, targets, and switches."""

import argparse
import dataclasses
import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from eval.measuring.kinds import METRIC_KINDS
from sida.cli.main import load_verb
from sida.config.resources import ROOT
from workflow.cli import VERBS
from workflow.docs.settings import SETTINGS
from workflow.docs.site import write_pages

DOCS = sorted([*(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "reference").glob("*.md")])
PAGES = sorted([*ROOT.glob("*.md"), ROOT / "config" / "README.md", *DOCS])
page = pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)


def without_blocks(text: str) -> str:
    """A page without blocks of code, in which brackets mean other things."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    return re.sub(r"^(?: {4}|\t).*$", "", text, flags=re.M)


def anchors(path: Path) -> set[str]:
    """Anchors of a page's headings, as forges make them."""
    headings = re.findall(r"^#+ +(.*)$", path.read_text(), flags=re.M)
    return {named(heading) for heading in headings}


def named(heading: str) -> str:
    """The anchor of a heading."""
    plain = re.sub(r"[`*]", "", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


@page
def test_links_resolve(path):
    for target in re.findall(r"!?\[[^\]]*\]\(([^)\s]+)\)", without_blocks(path.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        assert file.exists(), f"{path.name}: no such file: {target}"
        assert ROOT in file.parents, f"{path.name}: outside the repository: {target}"
        if anchor:
            assert anchor in anchors(file), f"{path.name}: no heading {target}"


def test_every_page_is_in_the_index():
    index = (ROOT / "docs" / "README.md").read_text()
    for path in PAGES:
        assert path.name == "README.md" or re.search(rf"\]\([./a-z]*{re.escape(path.name)}\)", index), path.name


@cache
def kept_files() -> frozenset[str]:
    """Files of the checkout and their folders, by their paths."""
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and path.name not in NOT_KEPT}
    return frozenset(
        str(path.relative_to(ROOT)) for name in folders for path in [ROOT / name, *(ROOT / name).rglob("*")]
    )


#: Folders of what a run or a tool makes.
NOT_KEPT = {"results", "build", "site", ".venv", ".git", ".snakemake"}


@pytest.mark.parametrize("path", [path for path in PAGES if path.name != "CHANGELOG.md"], ids=lambda path: path.name)
def test_files_in_code_spans_exist(path):
    """Names that begin with a folder of the checkout; in the page about the code also names of modules alone."""
    known = kept_files()
    for name in re.findall(r"`([\w./-]+)`", without_blocks(path.read_text())):
        first = name.partition("/")[0]
        if "/" in name and first in known and name != "sida/shipped":  # a wheel has the last one
            assert name.strip("/") in known, f"{path.name}: no such file: {name}"
        elif path.name == "architecture.md" and name.endswith((".py", ".smk")):
            assert any(f"/{file}".endswith(f"/{name}") for file in known), f"{path.name}: no such file: {name}"


def code(path: Path) -> Iterator[str]:
    """Code spans and lines of code blocks; lines that end in a backslash are joined."""
    text = path.read_text().replace("\\\n", " ")
    yield from re.findall(r"`([^`\n]+)`", text)
    yield from re.findall(r"^(?: {4}|\t)(.*)$", text, flags=re.M)
    for block in re.findall(r"^```.*?\n(.*?)^```", text, flags=re.M | re.S):
        yield from block.splitlines()


def invocations(path: Path) -> Iterator[tuple[str, str, str]]:
    """``(program, verb, rest)`` of every call of our programs."""
    call = re.compile(r"(?:^|[\s=;|&(])(?:python -m )?(sida-eval|sida|eval) ([a-z][a-z-]*)([^|;&#]*)")
    for line in code(path):
        for program, verb, rest in call.findall(line):
            yield {"eval": "sida"}.get(program, program), verb, rest


@cache
def options(program: str, verb: str) -> frozenset[str]:
    """Long options of a verb, of its subcommands too."""
    module = load_verb(VERBS[program][verb])
    parser = argparse.ArgumentParser()
    module.arguments(parser)
    return frozenset(found(parser))


def found(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        yield from (name for name in action.option_strings if name.startswith("--"))
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from found(inner)


@page
def test_commands_and_their_options_exist(path):
    added = set(re.findall(r"^\+\+\+ b/.*/commands/(\w+)\.py$", path.read_text(), flags=re.M))
    for program, verb, rest in invocations(path):
        if verb in added:
            continue
        assert verb in VERBS[program], f"{path.name}: {program} has no command '{verb}'"
        # Words after -- are Snakemake's.
        for option in re.findall(r"(?:^|\s)(--[a-z][a-z-]*)", rest.split(" -- ")[0]):
            assert option in options(program, verb), f"{path.name}: {program} {verb} has no option {option}"


@cache
def snakemake_options() -> frozenset[str]:
    from snakemake.cli import get_argument_parser

    return frozenset(found(get_argument_parser()))


@page
def test_snakemake_calls_exist(path):
    for line in code(path):
        for call in re.findall(r"(?:^|[\s=])snakemake((?: +[^\s|;&#]+)+)", line):
            for option in re.findall(r"(?:^|\s)(--[a-z][a-z-]*)", call):
                assert option in snakemake_options(), f"{path.name}: snakemake has no option {option}"
            for name in re.findall(r"--(?:configfile|workflow-profile) +(\S+)", call):
                assert (ROOT / name).exists() or name in ("studies/X/preset.yaml", "preset.yaml"), (
                    f"{path.name}: no such file: {name}"
                )


@page
def test_make_targets_exist(path):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    for line in code(path):
        for target in re.findall(r"^make ([a-z-]+)", line):
            assert target in targets, f"{path.name}: no such target: make {target}"


def switches() -> dict[str, set[str]]:
    """What may stand behind each kind of switch in differences.md."""
    from sida.networks import EDM2Precond

    known = {word: {field.name for field in dataclasses.fields(cls)} for word, cls in SETTINGS.items()}
    known["metric"] |= {field.name for kind in METRIC_KINDS.values() for field in dataclasses.fields(kind)}
    options = {key for name, keys in known.items() if name.endswith("-options") for key in keys}
    return known | {"network": set(inspect.signature(EDM2Precond).parameters), "options": options}


def test_switches_of_the_differences_exist():
    known = switches()
    text = (ROOT / "docs" / "differences.md").read_text()
    named = [pair for pair in re.findall(r"`([a-z]+): ([A-Za-z_]+)`", text) if pair[1] not in ("KEY", "COLUMN")]
    named = [pair for pair in named if pair[1] not in ("FIELD", "KEYWORD")]
    assert named
    for kind, key in named:
        assert key in known[kind], f"differences.md: no {kind} key '{key}'"


def test_pages_of_the_site_have_the_files_that_they_link(tmp_path):
    pages = write_pages(tmp_path / "pages")
    assert {page.name for page in pages} >= {"README.md", "python.md", "sampling.md"}
    assert (tmp_path / "pages/studies/demo/preset.yaml").is_file()
    # The search finds pages with a newcomer's words first, and the reference last.
    boosts = {"docs/faq.md": "boost: 4", "docs/add-a-method.md": "boost: 4", "api/sida/sampling.md": "boost: 0.1"}
    for name, boost in boosts.items():
        assert boost in (tmp_path / "pages" / name).read_text(encoding="utf-8").partition("\n# ")[0]
    gallery = (tmp_path / "pages/gallery.md").read_text(encoding="utf-8")
    for picture in (ROOT / "studies").rglob("*.png"):
        assert f"({picture.relative_to(ROOT)})" in gallery
        assert (tmp_path / "pages" / picture.relative_to(ROOT)).is_file()
    assert "[sida.sampling](sida/sampling.md): From seeds to images" in (tmp_path / "pages/api/README.md").read_text()
