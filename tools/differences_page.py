"""Writes the tables of docs/differences.md: its entries from docs/differences.tsv, and defaults from the methods.

    python -m tools.differences_page

A line of the file is an entry: its number, which comments in the code name and which stays, the heading of its section,
the disagreement, the choice of this suite, and the switch to the other side.
"""

from __future__ import annotations

import csv
import re
from typing import Any

from sida.config.families import EDM, EDM2, EDM2_S
from sida.config.lookup import ROOT
from sida.files.atomic import write_text
from sida.methods.registry import DEFAULTS, METHODS

PAGE, ENTRIES = ROOT / "docs/differences.md", ROOT / "docs/differences.tsv"
_HEADS = "| # | Disagreement | Here | Switch |\n|---|---|---|---|\n"
#: Settings whose official values the page compares.
_COMPARED = (
    "alpha", "init_sigma", "P_mean", "P_std", "lambda_d", "grad_clip_value", "warmup_kimg", "ema_half_life_kimg",
    "weight_norm", "fake_score_weight_norm", "logvar",
)  # fmt: skip


def entries() -> list[dict[str, str]]:
    """The entries, in the order of the page."""
    with ENTRIES.open(newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))


def page(text: str) -> str:
    """The page with current tables; everything else is that of ``text``.

    Raises:
        ValueError: The page has no heading or table for an entry.
    """
    sections: dict[str, list[str]] = {}
    for entry in entries():
        cells = (entry[name] for name in ("number", "disagreement", "here", "switch"))
        sections.setdefault(entry["section"], []).append(f"| {' | '.join(cells)} |\n")
    for section, lines in sections.items():
        text = _replaced(text, section, re.escape(_HEADS), _HEADS + "".join(lines))
    return _replaced(text, "Defaults of a recipe", r"\| `recipe:` key [^\n]*\n\|[-|]+\n", defaults_table())


def _replaced(text: str, section: str, heads: str, table: str) -> str:
    """The text with another table, which follows the heading of a section."""
    pattern = rf"(^##+ {re.escape(section)}\n(?:(?!#)[^\n]*\n)*?)({heads}(?:\|[^\n]*\n)*)"
    match = re.search(pattern, text, re.M)
    if match is None:
        raise ValueError(f"{PAGE}: no table under the heading '{section}'")
    return text[: match.start(2)] + table + text[match.end(2) :]


def defaults_table() -> str:
    """Official values of settings of SiD and SiDA by family of networks."""
    families, methods = (EDM, EDM2, EDM2_S), (METHODS["sid"], METHODS["sida"])
    columns = {
        f"{method.title}, {family.title}": DEFAULTS | method.settings_of(family, "")
        for family in families
        for method in methods
    }
    lines = [f"| `recipe:` key | {' | '.join(columns)} |\n", f"|{'---|' * (1 + len(columns))}\n"]
    for name in _COMPARED:
        cells = (_text(name, values.get(name)) for values in columns.values())
        lines.append(f"| `{name}` | {' | '.join(cells)} |\n")
    return "".join(lines)


def _text(name: str, value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name == "grad_clip_value" and not value:
        return "off"
    return value if isinstance(value, str) else f"{value:g}"


if __name__ == "__main__":
    write_text(PAGE, page(PAGE.read_text()))
