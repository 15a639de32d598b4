r"""Renders tables as LaTeX that compiles alone, or by ``\input`` in a document with booktabs and siunitx (version 3).

The file adds a preamble if it is compiled alone: ``\@nodocument`` is a macro before ``\begin{document}``, and
    ``\relax``
inside the body of a document.

Columns of numbers are siunitx's ``S`` columns. Siunitx typesets cells with a plain decimal, alone or with a spread of
as many decimals. Any other content (a word, a dash, ``<5``, ``98 %``, ``1,000``, a spread with other decimals, which
siunitx would pad) is set in braces, so that siunitx centres it and changes no digit.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.results.references import bibliography_items, cited_label
from eval.tables.latex_text import CHECK_MARK, breakable, escape
from eval.tables.model import Cell, Column, Table
from eval.tables.templates import template

_FOLDER = Path(__file__).resolve().parent

_MARKS = {None: "", "agrees": r"\," + CHECK_MARK, "better": r"\,$\triangle$", "worse": r"\,$\times$"}
# For differences below numbers with spreads: the mark is close to the difference and not behind the space for a spread,
# and the sign hangs out to the left (the cell there has no spread), of which TeX must not warn.
HANGS = ",table-align-uncertainty=false,table-align-text-after=false"
_DECIMAL = re.compile(r"([+−-]?)(\d+)(?:\.(\d+))?")


@dataclass(frozen=True)
class _Number:
    """Digits of a decimal: before and after the marker, and before the spread's marker without a leading zero."""

    signed: bool
    whole: int
    decimals: int
    spread: int | None


def _number(cell: Cell) -> _Number | None:
    """Digits of a cell that siunitx may typeset; None for other cells."""
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
    r"""Column type of a ``tabular``, e.g. ``S[table-format=2.3(3)]``; ``c`` if no cell is a number.

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
    # siunitx counts the digits of a spread like those of an integer: three in 0.128, four in 1.028.
    form += f"({max(spreads) + decimals or 1})"
    spread = "0" * max(1, *spreads) + "." * bool(decimals) + "0" * decimals
    if any(cell.bold and cell.spread for cell in cells):
        # A bold number is centred and wider. Space on the right of the other numbers, as wide as the difference of what
        # bold adds to the spread and before the marker, keeps markers and ± in line.
        form += rf"{{\sidaroom{{\textpm {spread[whole:]}}}}}"
    return f"S[table-format={form}{HANGS if marked else ''}]"


def number_cell(cell: Cell) -> str:
    """Cell of a column of numbers."""
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


def to_latex(table: Table, cite: bool = False) -> str:
    r"""The complete ``.tex`` file; ``cite`` puts ``\cite`` in the place of citations in labels."""
    shape = "".join(_shape(table, place) for place in range(len(table.columns)))
    cite = cite or table.cite
    # Compiled alone the table has its own number; by \\input the document counts.
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
        cell_of=functools.partial(row_cell, cite=cite),
        references=bibliography_items(cited_keys(table)) if cite else "",
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
    # Text columns are ``l``, also in Table 8: each row is another quantity (8192, 1e-5, 46.7, 8xV100, False), so
    # decimal markers are not aligned.
    return number_column([_at(row.cells, place) for row in table.rows]) if table.columns[place].number else "l"


def _heading(column: Column) -> str:
    text = escape(column.title)
    return f"{{{text}}}" if column.number else text


def _groups(table: Table) -> list[str]:
    """Upper headings with a line below each group."""
    cells, rules, place = [], [], 1
    for group, columns in table.groups:
        width = len(columns)
        cells.append(rf"\multicolumn{{{width}}}{{c}}{{{escape(group)}}}" if group else " & " * (width - 1))
        if group:
            rules.append(rf"\cmidrule(lr){{{place}-{place + width - 1}}}")
        place += width
    return [" & ".join(cells) + r" \\", "".join(rules)]


def row_cell(cell: Cell, column: Column, plain: bool = False, cite: bool = False) -> str:
    r"""Cell of a row in the form of its column.

    Args:
        cell: The cell.
        column: Its column.
        plain: Numbers as mathematics, ``$4.73 \pm 0.16$``, in the place of siunitx's.
        cite: ``\cite`` with a key of the bibliography in the place of the citation in a label.
    """
    if column.number and cell.columns == 1 and not plain:
        return number_cell(cell)
    if plain and (number := _mathematics(cell)):
        return number
    text, entry = cited_label(cell.text) if cite and column.name else (cell.text, None)
    text = "--" if cell.kind == "dash" else escape(cell.plain if cell.kind == "missing" else text)
    text += rf"~\cite{{{entry.key}}}" if entry else ""
    if cell.kind == "missing":
        text = rf"{{\itshape {text}}}"
    if cell.bold:
        text = rf"\textbf{{{text}}}"
    text += _MARKS[cell.agreement]
    return rf"\multicolumn{{{cell.columns}}}{{c}}{{{text}}}" if cell.columns > 1 or cell.kind == "dash" else text


def _mathematics(cell: Cell) -> str | None:
    """A number, with its spread, between dollars; None for other cells."""
    if cell.kind == "missing" or not _number(cell):
        return None
    text = cell.text.replace("−", "-") + (rf" \pm {cell.spread}" if cell.spread else "")
    text = rf"\mathbf{{{text}}}" if cell.bold else text
    return f"${text}${_MARKS[cell.agreement]}"


def latex_of(table: Table, plain: bool = False, cite: bool = False) -> str:
    """The ``.tex`` file for booktabs with siunitx, or for booktabs alone (``plain``)."""
    return _plain_latex(table, cite) if plain else to_latex(table, cite)


def _plain_latex(table: Table, cite: bool) -> str:
    shape = "".join("c" if column.number else "l" for column in table.columns)
    lines = [
        rf"% {table.name}: needs \usepackage{{booktabs}} and no other package.",
        r"\begin{table}[htbp]",
        r"\centering",
    ]
    if caption := table.caption or table.title:
        lines.append(rf"\caption{{{escape(caption)}}}\label{{tab:{re.sub('[^A-Za-z0-9-]', '-', table.name)}}}")
    lines += [r"\small", rf"\begin{{tabular}}{{@{{}}{shape}@{{}}}}", r"\toprule"]
    lines += _groups(table) if table.grouped else []
    lines += [" & ".join(escape(column.title) for column in table.columns) + r" \\", r"\midrule"]
    for row in table.rows:
        cells = [row_cell(cell, column, plain=True, cite=cite) for column, cell in table.placed(row)]
        lines += [r"\midrule"] * row.rule + [" & ".join(cells) + r" \\"]
    lines += [r"\bottomrule", r"\end{tabular}"]
    if table.notes:
        notes = r"\par ".join(breakable(note) for note in table.notes)
        lines += ["", rf"\begin{{minipage}}{{\linewidth}}\scriptsize\raggedright {notes}\end{{minipage}}"]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def cited_keys(table: Table) -> list[str]:
    """Keys of the bibliography that the labels of a table stand for."""
    labels = [cell.text for row in table.rows for column, cell in table.placed(row) if column.name]
    return [entry.key for _, entry in map(cited_label, labels) if entry]
