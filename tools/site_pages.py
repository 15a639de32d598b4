"""Hook of the site: adds the pages of plugins, and puts settings, differences and the board where a mark stands."""

from __future__ import annotations

import csv
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

# mkdocs loads hooks without the folder of the repository.
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from sida.config.lookup import ROOT
from sida.workflow.settings import (
    ABOUT,
    KINDS,
    PLACES,
    RULES_OF_CLAIMS,
    Setting,
    all_settings,
    official_values,
    settings_of,
)

ENTRIES = ROOT / "docs/differences.tsv"
#: Longest meaning, in words, that a table repeats.
_SHORT = 4


def on_files(files: Any, config: Any, **_: Any) -> Any:
    """Adds the page of each plugin."""
    from mkdocs.structure.files import File

    for page in sorted((ROOT / "plugins").glob("*/README.md")):
        text = page.read_text(encoding="utf-8").replace("../../docs/", "../")
        files.append(File.generated(config, f"plugins/{page.parent.name}.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Adds settings and differences to their pages, and links to the pages of plugins."""
    markdown = re.sub(r"`plugins/(\w+)/README\.md`", r"[plugins/\1](plugins/\1.md)", markdown)
    for name, text in {"settings.md": settings_text, "differences.md": differences_text}.items():
        if page.file.src_uri == name:
            return markdown.replace(f"<!-- {name.removesuffix('.md')} -->", text())
    return markdown


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """Adds the board to its page."""
    if page.file.src_uri != "board.md":
        return html
    # Of a plugin, which may not be here.
    from sida.plugins.exchange.board_page import board_fragment, board_rows

    return html.replace("<!-- board -->", board_fragment(board_rows()))


def settings_text() -> str:
    """All settings as sections of a page."""
    links = {cls: f"[mapping](#{place})" for place, (cls, _) in PLACES.items()}
    parts, earlier = list[str](), dict[Setting, str]()
    for place in PLACES:
        # The page says once that such a key takes null.
        rows = [
            row._replace(kind=row.kind.removesuffix("; or null")) if row.default == "null" else row
            for row in settings_of(place, links)
        ]
        parts += [f"## {place}", ABOUT[place], settings_table(rows, earlier)]
        if place == "recipe":
            parts += ["### Official values", _official_table([row.key for row in rows])]
        earlier = {row._replace(place=""): place for row in rows} | earlier
    kinds = [row for row in all_settings() if row.place == KINDS]
    rules = [row for row in all_settings() if row.place == RULES_OF_CLAIMS]
    parts += [f"## {KINDS}", ABOUT[KINDS], settings_table(kinds, {})]
    parts += [f"## {RULES_OF_CLAIMS}", ABOUT[RULES_OF_CLAIMS]]
    return "\n\n".join([*parts, *(f"- `{row.key}` ({row.kind}): {row.meaning}" for row in rules)])


def settings_table(rows: Sequence[Setting], earlier: Mapping[Setting, str]) -> str:
    """Markdown table of settings, without repetition.

    Keys that an earlier table has are named in a sentence below, with their default where it differs; a long meaning
    that stands above in this table is a reference.

    Args:
        rows: Settings of a place.
        earlier: Place of the first table with each setting, whose own place is empty.
    """
    told = {(row.key, row.kind, row.meaning): place for row, place in earlier.items()}
    equal: dict[str, list[str]] = {}
    first: dict[str, str] = {}
    lines = []
    for row in rows:
        key = f"`{row.key}`"
        if place := earlier.get(row._replace(place="")):
            equal.setdefault(f"Equal to [{place}](#{place})", []).append(key)
        elif place := told.get((row.key, row.kind, row.meaning)):
            equal.setdefault(f"As in [{place}](#{place}), with other defaults", []).append(f"{key} {row.default}")
        else:
            repeats = row.meaning in first and len(row.meaning.split()) > _SHORT
            words = f"as {first[row.meaning]}" if repeats else row.meaning
            first.setdefault(row.meaning, key)
            lines.append(_line([key, row.kind, row.default, words]))
    sentences = [f"{title}: {', '.join(keys)}." for title, keys in equal.items()]
    heads = [_line(["key", "type", "default", "meaning"]), "|---|---|---|---|"] if lines else []
    return "\n\n".join(["\n".join([*heads, *lines]), *sentences]).lstrip()


def _official_table(keys: Sequence[str]) -> str:
    values = [(key, value, methods) for key in ("alpha", *keys) for value, methods in official_values(key).items()]
    lines = [_line([f"`{key}`", value, methods]) for key, value, methods in values]
    return "\n".join([_line(["key", "value", "methods (families of networks)"]), "|---|---|---|", *lines])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def entries() -> list[dict[str, str]]:
    """Lines of docs/differences.tsv; a line without a number is a text of its section."""
    with ENTRIES.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))


def differences_text() -> str:
    """All entries as sections of a page."""
    sections: dict[str, list[dict[str, str]]] = {}
    for entry in entries():
        sections.setdefault(entry["section"], []).append(entry)
    return "\n\n".join(part for section, lines in sections.items() for part in _section(section, lines))


def _section(section: str, lines: Sequence[Mapping[str, str]]) -> Iterator[str]:
    yield f"## {section}"
    yield from (line["disagreement"] for line in lines if not line["number"])
    if rows := [line for line in lines if line["number"]]:
        cells = (
            f"| {' | '.join(line[name] for name in ('number', 'disagreement', 'here', 'switch'))} |" for line in rows
        )
        yield "\n".join(["| # | Disagreement | Here | Switch |", "|---|---|---|---|", *cells])
