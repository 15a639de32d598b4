"""Overview of a finished preset for the terminal: the main table, a line of verdicts, and paths of files."""

from __future__ import annotations

import textwrap
from pathlib import Path

from eval.claims.write import SIGNS, read_verdicts, verdict_counts
from eval.results.summary import measurements_file
from eval.tables.build import load_table
from eval.tables.render import terminal_text, to_terminal
from sida.errors import UserError, suggestion


def overview(results: str | Path, name: str | None = None, colour: bool = False, width: int = 100) -> str:
    """Overview of a preset as text for the terminal.

    Args:
        results: Folder of a preset, e.g. ``results/demo``.
        name: Table to show; ``main`` or the first one by default.
        colour: Whether escape codes may be used.
        width: Width of the terminal in columns.

    Raises:
        UserError: No such folder, or no (such) table in it.
    """
    folder = Path(results)
    tables = sorted((folder / "tables").glob("*.json")) if folder.is_dir() else []
    if not tables:
        raise UserError(folder, "no tables there yet", "run the workflow first")
    names = [path.stem for path in tables]
    chosen = name or ("main" if "main" in names else names[0])
    if chosen not in names:
        raise UserError(f"{folder}/tables", f"no table '{chosen}'{suggestion(chosen, names)}")
    table = load_table(folder / "tables" / f"{chosen}.json")
    lines = ["", to_terminal(table, colour)]
    notes = [terminal_text(note) for note in table.notes] + ([] if colour else ["* best one-step value"])
    lines += [_wrapped(note, width) for note in notes if note]
    return "\n".join([*lines, "", *_verdicts(folder, width), *_paths(folder, chosen)])


def _wrapped(text: str, width: int) -> str:
    return textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False)


def _verdicts(folder: Path, width: int) -> list[str]:
    path = folder / "claims.json"
    if not path.is_file():
        return []
    claims = read_verdicts(path)["claims"]
    indent = " " * 22
    lines = [
        textwrap.fill(f"  {SIGNS[c['verdict']]} {c['verdict']:<16}  {c['statement']}", width, subsequent_indent=indent)
        for c in claims
    ]
    if len(lines) > 20:
        lines = [f"  {verdict_counts(c['verdict'] for c in claims)}"]
        printed = [c["by_published"]["verdict"] for c in claims if "by_published" in c]
        lines += [f"  {verdict_counts(printed)} by the published numbers alone"] if printed else []
    return ["Claims", *lines, ""]


def _paths(folder: Path, table: str) -> list[str]:
    wanted = {
        "page": [folder / "index.html"],
        "paper": [folder / "paper.pdf"],
        "LaTeX": [folder / "tables" / f"{table}.tex"],
        "figures": sorted((folder / "figures").glob("*.pdf")),
        "pictures": sorted((folder / "figures").glob("*.png")),
        "claims": [folder / "claims.md"],
        "numbers": [measurements_file(folder)],
    }
    lines = []
    for word, paths in wanted.items():
        for number, path in enumerate(path for path in paths if path.is_file()):
            lines.append(f"{word if number == 0 else '':<10}{path}")
    return lines
