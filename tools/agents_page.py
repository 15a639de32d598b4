"""Writes AGENTS.md and llms.txt from tools/agents.md.txt, the index of the pages and the help of the commands.

python -m tools.agents_page
"""

import re
from collections.abc import Iterator

from sida.cli.main import by_group
from sida.config.lookup import ROOT
from sida.config.registries import ListedVerb
from sida.files.atomic import write_text
from sida.workflow.cli import ABOUT, all_verbs


def agents_page() -> str:
    """Text of AGENTS.md."""
    template = (ROOT / "tools/agents.md.txt").read_text(encoding="utf8")
    pages = "\n".join(f"- {task}: `docs/{page}`" for task, _, page in _index())
    return template.format(overview=_overview(), about=ABOUT, commands=_commands(), pages=pages)


def llms_text() -> str:
    """Text of llms.txt (llmstxt.org)."""
    links = "\n".join(f"- [{title}](docs/{page}): {task}" for task, title, page in _index())
    agents = "- [AGENTS.md](AGENTS.md): tasks with commands, map, rules"
    return f"# sida-repro\n\n> {_overview()}\n\n{agents}\n\n## Pages\n\n{links}\n"


def _overview() -> str:
    """First sentence of the pages' index."""
    lines = (ROOT / "docs/README.md").read_text(encoding="utf8").splitlines()
    return next(line for line in lines if line and not line.startswith("#"))


def _index() -> Iterator[tuple[str, str, str]]:
    """Task, title and file of each page, from the table of docs/README.md."""
    for line in (ROOT / "docs/README.md").read_text(encoding="utf8").splitlines():
        task, _, links = line.strip("| ").partition(" | ")
        for title, page in re.findall(r"\[([^\]]+)\]\(([\w-]+\.md)\)", links):
            yield task, title, page


def _commands() -> str:
    named = lambda verbs: "; ".join(f"`sida {name}` ({_about(verb)})" for name, verb in verbs.items())
    return "\n".join(f"- {group}: {named(verbs)}" for group, verbs in by_group(all_verbs()).items())


def _about(verb: ListedVerb) -> str:
    """First sentence of a verb's help, in lower case."""
    sentence = re.split(r"[.:(]", verb.help)[0].strip()
    return sentence[:1].lower() + sentence[1:]


FILES = {"AGENTS.md": agents_page, "llms.txt": llms_text}

if __name__ == "__main__":
    for name, text in FILES.items():
        write_text(ROOT / name, text())
