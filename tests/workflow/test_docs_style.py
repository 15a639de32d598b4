"""The form of the pages: a short version first, and plain sentences."""

from __future__ import annotations

import ast
import re

import pytest

from sida.config.resources import ROOT
from tests.workflow.test_docs_links import DOCS, without_blocks

FOLDERS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "config/README.md")
PAGES = [*(ROOT / name for name in FOLDERS), *DOCS]
OPENERS = re.compile(
    r"(?:^[-*|>\d. ]*|[.!?|] +)\**((?:What|Whoever|Those of|That which)\b[^.?|\n]*[.|\n])", re.MULTILINE
)
LITERARY = re.compile(r"\b(?:mends|mended|lacks|goes on where|gone on from|your word|one's own)\b")


def text_of(path):
    """A page's own text: without blocks of code, what a program writes, and names of tests."""
    text = re.sub(r"<!--=.*?<!--/-->", "", without_blocks(path.read_text()), flags=re.S)
    return re.sub(r"\btest_\w+|`[^`\n]*`", "", text)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_page_opens_with_its_short_version(path):
    lines = text_of(path).splitlines()
    assert lines[0].startswith("# ")
    end = next((i for i, line in enumerate(lines) if line.startswith(("## ", "|"))), len(lines))
    short = [line for line in lines[1:end] if line.strip()]
    assert 1 <= len(short) <= 10, f"{path.name}: {len(short)} lines before the first heading or table"


@pytest.mark.parametrize(
    "path",
    [path for path in PAGES if path.name not in ("style.md", "miniature.md")],
    ids=lambda path: path.name,
)
def test_sentences_are_plain(path):
    text = text_of(path)
    found = [match[1] for match in OPENERS.finditer(text)] + LITERARY.findall(text)
    assert not found, f"{path.name}: see docs/style.md: {found}"


@pytest.mark.parametrize("package", ["sida", "eval", "workflow"])
def test_docstrings_say_what_a_thing_is(package):
    """One first line in forty may be odd: a slip, not a habit."""
    lines = []
    for path in sorted((ROOT / package).rglob("*.py")):
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kinds)]
        lines += [text.partition("\n")[0] for text in map(ast.get_docstring, nodes) if text]
    odd = [
        line for line in lines if re.match(r"(What|Who|Whoever|Those of|That which)\b", line) or LITERARY.search(line)
    ]
    assert len(odd) <= len(lines) / 40, odd
