r"""Tables as LaTeX that compiles alone and by ``\input`` in a document that loads booktabs and siunitx (version 3).

The file finds out where it is: inside a document body LaTeX has set ``\@nodocument`` to ``\relax``, before
``\begin{document}`` it is a macro. In the second case the file brings its own preamble.

Columns of numbers are siunitx's ``S`` columns. A cell that is a plain decimal, alone or with a spread of as many
decimals, is handed to siunitx as it is printed. Any other content (a word, a dash, ``<5``, ``98 %``, ``1,000``, a
spread with other decimals, which siunitx would pad) goes into braces, where siunitx centres it untouched: no digit is
ever changed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.tables.latex_text import CHECK_MARK, breakable, escape
from eval.tables.model import Cell, Column, Table
from eval.tables.templates import template

_FOLDER = Path(__file__).resolve().parent

_MARKS = {None: "", "agrees": r"\," + CHECK_MARK, "better": r"\,$\triangle$", "worse": r"\,$\times$"}
# Differences stacked under numbers with spreads: their mark stays close to them, not behind the space for a spread, and
# their sign hangs out to the left (the cell beside it has no spread either), of which TeX need not warn.
HANGS = ",table-align-uncertainty=false,table-align-text-after=false"
_DECIMAL = re.compile(r"([+−-]?)(\d+)(?:\.(\d+))?")


@dataclass(frozen=True)
class _Number:
    """How many digits a decimal has: before and after its marker, and before its spread's without a leading zero."""

    signed: bool
    whole: int
    decimals: int
    spread: int | None


def _number(cell: Cell) -> _Number | None:
    """The cell's number if siunitx may typeset it."""
    found = _DECIMAL.fullmatch(cell.text)
    if cell.kind in ("dash", "missing", "blank") or cell.columns > 1 or not found:
        return None
    decimals = len(found[3] or "")
    if cell.spread is None:
        return _Number(bool(found[1]), len(found[2]), decimals, None)
    spread = _DECIMAL.fullmatch(cell.spread)
    if not spread or spread[1] or len(spread[3] or "") != decimals:
        return None
    return _Number(bool(found[1]), len(found[2]), decimals, len(spread[2].lstrip("0")))


def number_column(cells: Sequence[Cell]) -> str:
    r"""The column's letter in the ``tabular``, e.g. ``S[table-format=2.3(3)]``; ``c`` where no cell is a number.

    Args:
        cells: The column from top to bottom.
    """
    numbers = [number for cell in cells if (number := _number(cell))]
    if not numbers:
        return "c"
    whole, decimals = max(n.whole for n in numbers), max(n.decimals for n in numbers)
    marked = any(cell.agreement for cell in cells)
    form = f"{whole}.{decimals}" if decimals else f"{whole}"
    spreads = [n.spread for n in numbers if n.spread is not None]
    if any(n.signed for n in numbers) and not (marked and spreads):
        form = f"+{form}"
    if not spreads:
        return rf"S[table-format={form}{{{_MARKS['agrees']}}}]" if marked else f"S[table-format={form}]"
    # siunitx counts the spread's digits as those of an integer: three in 0.128, four in 1.028.
    form += f"({max(spreads) + decimals or 1})"
    spread = "0" * max(1, *spreads) + "." * bool(decimals) + "0" * decimals
    if any(cell.bold and cell.spread for cell in cells):
        # A bold number is centred, so half of what bold adds sticks out on either side. With what it adds to the spread
        # less what it adds before the marker kept free on the right of the others, marker and ± are both in line.
        form += rf"{{\sidaroom{{\textpm {spread[whole:]}}}}}"
    return f"S[table-format={form}{HANGS if marked else ''}]"


def number_cell(cell: Cell) -> str:
    """A cell of such a column."""
    if cell.kind == "blank":
        return ""
    number = None if cell.kind == "missing" else _number(cell)
    if number is None:
        text = "--" if cell.kind == "dash" else escape(cell.plain)
        shape = r"\itshape " if cell.kind == "missing" else r"\bfseries " * cell.bold
        return f"{{{shape}{text}}}"
    text = cell.text.replace("−", "-") + (f" +- {cell.spread}" if cell.spread else "")
    mark = f"{{{_MARKS[cell.agreement]}}}" if cell.agreement else ""
    return r"\sidabold " * cell.bold + text + mark


def to_latex(table: Table) -> str:
    """The complete ``.tex`` file."""
    shape = "".join(_shape(table, place) for place in range(len(table.columns)))
    # In a document of its own the table keeps its number; by \\input the document counts.
    number = rf"\renewcommand{{\thetable}}{{{escape(str(table.number))}}}" if table.number else ""
    text = template(_FOLDER / "latex.tex").render(
        table=table,
        name=re.sub(r"[^\w.-]", "-", table.name),
        mode=re.sub(r"\W", "-", table.mode),
        label=re.sub(r"[^A-Za-z0-9-]", "-", table.name),
        number=number,
        caption=escape(table.caption or table.title),
        shape=shape,
        hangs=HANGS in shape,
        groups=_groups(table) if table.grouped else [],
        heads=[_heading(column) for column in table.columns],
        cell_of=row_cell,
        notes=[breakable(note) for note in table.notes],
    )
    return text + "\n"


def _at(cells: tuple[Cell, ...], place: int) -> Cell:
    for cell in cells:
        if place < cell.columns:
            return cell
        place -= cell.columns
    return Cell()


def _shape(table: Table, place: int) -> str:
    # Text columns stay ``l``, also those of table 8: each of its rows is another quantity (8192, 1e-5, 46.7, 8xV100,
    # False), so decimal markers that line up down a column would compare what has nothing in common.
    return number_column([_at(row.cells, place) for row in table.rows]) if table.columns[place].number else "l"


def _heading(column: Column) -> str:
    text = escape(column.title)
    return f"{{{text}}}" if column.number else text


def _groups(table: Table) -> list[str]:
    """The upper heading with a line under each group."""
    cells, rules, place = [], [], 1
    for group, columns in table.groups:
        width = len(columns)
        cells.append(rf"\multicolumn{{{width}}}{{c}}{{{escape(group)}}}" if group else " & " * (width - 1))
        if group:
            rules.append(rf"\cmidrule(lr){{{place}-{place + width - 1}}}")
        place += width
    return [" & ".join(cells) + r" \\", "".join(rules)]


def row_cell(cell: Cell, column: Column) -> str:
    """A cell of a row, as its column takes it."""
    if column.number and cell.columns == 1:
        return number_cell(cell)
    text = "--" if cell.kind == "dash" else escape(cell.plain if cell.kind == "missing" else cell.text)
    if cell.kind == "missing":
        text = rf"{{\itshape {text}}}"
    if cell.bold:
        text = rf"\textbf{{{text}}}"
    text += _MARKS[cell.agreement]
    return rf"\multicolumn{{{cell.columns}}}{{c}}{{{text}}}" if cell.columns > 1 or cell.kind == "dash" else text
