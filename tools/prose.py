"""Checks the words of the pages: proselint's rules, and the rules of tools/prose.yaml.

python -m tools.prose
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from proselint.checks import __register__
from proselint.config import DEFAULT, Config
from proselint.registry import CheckRegistry
from proselint.tools import LintFile

from sida.config.lookup import ROOT

RULES = ROOT / "tools/prose.yaml"
_PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    ":(glob)docs/*.md",
    ":(glob)plugins/*/README.md",
    ":(glob)studies/*/README.md",
)
#: Parts of a page that are not prose: code and the addresses of links.
_CODE = re.compile(r"^```.*?^```|^(?: {4}|\t).*?$|``.+?``|`[^`]+`|(?<=\])\([^)\s]+\)", re.M | re.S)
#: A mark in place of code, so that words on both sides of it are not neighbours.
_MARK = "¤"


class Finding(NamedTuple):
    """A place of a page that breaks a rule."""

    page: str
    line: int
    rule: str
    found: str
    say: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.rule}: {self.found!r}: {self.say}"


def findings(page: str, text: str, settings: dict[str, Any]) -> list[Finding]:
    """Places of a page that break rules.

    Args:
        page: Name of the page from the root of the repository.
        text: Its Markdown.
        settings: Content of tools/prose.yaml.
    """
    words = _CODE.sub(lambda match: re.sub(r"[^\n]", _MARK, match[0]), text).replace("\n\n", f"{_MARK}\n\n")
    found = list(_of_proselint(page, words, settings["checks"]))
    for number, line in enumerate(words.splitlines(), start=1):
        found += [Finding(page, number, *rest) for rest in _of_line(page, line, settings)]
    return found


def _of_proselint(page: str, words: str, own: dict[str, bool]) -> Iterator[Finding]:
    registry = CheckRegistry()
    if not registry.checks:
        registry.register_many(__register__)
    # Of several names that fit a check, proselint takes the first.
    checks = dict(sorted((DEFAULT["checks"] | own).items(), key=lambda item: -item[0].count(".")))
    for result in LintFile(page, words).lint(Config(max_errors=1000, checks=checks)):
        name, message = result.check_result.check_path, result.check_result.message
        start, end = (place - 1 for place in result.check_result.span)
        yield Finding(page, result.pos[0], name, words[start:end], message)


def _of_line(page: str, line: str, settings: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    for rule, entry in settings["rules"].items():
        if re.search(entry.get("pages", ""), page):
            yield from ((rule, match[0].strip(), entry["say"]) for match in re.finditer(entry["find"], line))
    for sentence in () if line.startswith("|") or page.startswith("studies") else re.split(r"(?<=[.?:])\s+", line):
        count = len(re.findall(r"[^\W\d_][\w'’-]*", sentence))
        if count > settings["longest"]:
            yield "longest", sentence[:40], f"{count} words: make two sentences"


def check(settings: dict[str, Any]) -> list[str]:
    """Messages for all pages."""
    names = subprocess.check_output(["git", "ls-files", *_PAGES], cwd=ROOT, text=True).splitlines()
    texts = {name: Path(ROOT, name).read_text(encoding="utf-8") for name in names}
    return [str(finding) for name, text in texts.items() for finding in findings(name, text, settings)]


if __name__ == "__main__":
    faults = check(yaml.safe_load(RULES.read_text(encoding="utf-8")))
    print("\n".join(faults), end="\n" if faults else "")
    sys.exit(bool(faults))
