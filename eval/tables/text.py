"""Renders tables as Markdown, as CSV records and as aligned lines for the terminal."""

from __future__ import annotations

import re
import unicodedata

from eval.tables.model import Cell, Table
from eval.tables.records import RECORD_FIELDS
from sida.files.content_hash import csv_text

_ENDS, _ESCAPE, _TAG, _LINK = (
    re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]+"),
    # A backslash of the text would take its meaning from a character behind it, or from an escape that is put there.
    re.compile(r"\\(?=[!-/:-@\[-`{-~]|$)"),
    re.compile(r"<(?=[A-Za-z/!?])"),
    re.compile(r"\](?=[(:])"),
)


def to_csv(table: Table) -> str:
    """CSV of a table: one line per number cell with its provenance."""
    return csv_text(RECORD_FIELDS, table.records)


def to_markdown(table: Table) -> str:
    """A pipe table (GitHub's dialect) with caption and notes."""
    heads = [f"{c.group} {c.title}".strip() for c in table.columns]
    about = markdown(f"**{table.title}.** {table.caption}".strip())
    lines = [about, ""] if table.title or table.caption else []
    lines.append("| " + " | ".join(_pipe(head) for head in heads) + " |")
    lines.append("|" + "|".join(" ---: " if column.number else " --- " for column in table.columns) + "|")
    for row in table.rows:
        cells = [_markdown_cell(cell) for cell in row.cells for cell in [cell, *[Cell()] * (cell.columns - 1)]]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [line for note in table.notes for line in ("", markdown(note))]
    return "\n".join(lines) + "\n"


def markdown(text: str) -> str:
    """Escapes text for Markdown: no HTML tags and no links remain."""
    return _LINK.sub(r"\\]", _TAG.sub("&lt;", _ESCAPE.sub(r"\\\\", text)))


def terminal_text(text: str) -> str:
    """Text without line ends and control characters, for a terminal."""
    return _ENDS.sub(" ", text)


def _pipe(text: str) -> str:
    """Text of a cell: one line."""
    return markdown(terminal_text(text)).replace("|", r"\|")


def _markdown_cell(cell: Cell) -> str:
    text = _pipe(cell.plain)
    if cell.kind == "missing":
        return f"*{text}*"
    return f"**{text}**" if cell.bold and text else text


def to_terminal(table: Table, colour: bool = False, width: int = 100) -> str:
    """Renders a table as aligned columns for a terminal.

    Args:
        table: The table.
        colour: Whether best values are bold by escape codes; otherwise they have an asterisk.
        width: Width of the terminal; a wider table has no spaces around ``±``.
    """
    text = _aligned(table, colour, " ± ")
    return text if len(text.partition("\n")[0]) <= width else _aligned(table, colour, "±")


def _aligned(table: Table, colour: bool, sign: str) -> str:
    cells = [[c for cell in row.cells for c in [cell, *[Cell()] * (cell.columns - 1)]] for row in table.rows]
    grid = [[terminal_text(f"{c.group} {c.title}".strip()) for c in table.columns]]
    grid += [
        [terminal_text(c.plain) + ("*" if c.bold and c.plain and not colour else "") for c in row] for row in cells
    ]
    bold = [[False] * len(table.columns), *([c.bold for c in row] for row in cells)]
    _align_spreads(table, grid)
    grid = [[text.replace(" ± ", sign) for text in line] for line in grid]
    widths = [max(_width(line[i]) for line in grid) for i in range(len(table.columns))]
    rule = "─" * (sum(widths) + 2 * (len(widths) - 1))
    lines = [rule]
    for number, (texts, marks) in enumerate(zip(grid, bold)):
        if number == 1 or (number > 1 and table.rows[number - 1].rule):
            lines.append(rule)
        line = []
        for i, (text, mark) in enumerate(zip(texts, marks)):
            space = " " * (widths[i] - _width(text))
            shown = f"\033[1m{text}\033[0m" if mark and colour else text
            line.append(space + shown if table.columns[i].number else shown + space)
        lines.append("  ".join(line).rstrip())
    return "\n".join([*lines, rule])


def _align_spreads(table: Table, grid: list[list[str]]) -> None:
    """Pads spreads so that means line up in a right-aligned column."""
    for i, column in enumerate(table.columns):
        if not column.number:
            continue
        tails = [_width(line[i].partition("±")[2]) for line in grid[1:] if "±" in line[i]]
        if not tails:
            continue
        for line in grid[1:]:
            mean, sign, tail = line[i].partition("±")
            if sign:
                line[i] = mean + sign + tail + " " * (max(tails) - _width(tail))


def _width(text: str) -> int:
    """Width of a text in columns of a terminal."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) > 0 for c in text)
