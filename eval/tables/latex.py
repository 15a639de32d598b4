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
from itertools import groupby

from eval.tables.latex_text import CHECK_MARK, breakable, escape
from eval.tables.model import Cell, Column, Table

CHECK = r"""\ifcsname\detokenize{siunitx_print_number:n}\endcsname\else
  \PackageError{sida}{This table needs siunitx 3}{Write \string\usepackage{booktabs,siunitx} above
    \string\begin{document}; Debian: texlive-latex-recommended texlive-science.}%
\fi"""
# Local to the table. Digits come in the document's text font and in the weight around them; nothing is rounded, grouped
# or left out, whatever the document has set for its own numbers. Versions before 3.1 do not know both keys that keep
# the sign of -0.00 and the spread 0.00; there they are passed over. ± and − are those of the math fonts, because text
# fonts may have them as bitmaps only (Computer Modern without cm-super).
SETUP = r"""\sisetup{mode=text,reset-text-series=false,uncertainty-mode=separate,retain-explicit-plus,%
  round-mode=none,group-digits=none}%
\csname\detokenize{keys_set_known:nn}\endcsname{siunitx}{retain-negative-zero,retain-zero-uncertainty}%
\protected\def\textpm{\ensuremath{\pm}}\protected\def\textminus{\ensuremath{-}}%
% Bold digits are wider: \sidaroom reserves the difference in the other rows, so that all rows stay in line.
\protected\def\sidaroom#1{\setbox2\hbox{#1}\setbox4\hbox{\sidabold#1}\kern\dimexpr\wd4-\wd2\relax}%
\def\sidanoroom#1{}%
\protected\def\sidabold{\bfseries\boldmath\let\sidaroom\sidanoroom}%"""
MARKS = {None: "", "agrees": r"\," + CHECK_MARK, "better": r"\,$\triangle$", "worse": r"\,$\times$"}
# Differences stacked under numbers with spreads: their mark stays close to them, not behind the space for a spread, and
# their sign hangs out to the left (the cell beside it has no spread either), of which TeX need not warn.
HANGS = ",table-align-uncertainty=false,table-align-text-after=false"
HANGING = r"\hfuzz=1em"
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
        return rf"S[table-format={form}{{{MARKS['agrees']}}}]" if marked else f"S[table-format={form}]"
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
    mark = f"{{{MARKS[cell.agreement]}}}" if cell.agreement else ""
    return r"\sidabold " * cell.bold + text + mark


def to_latex(table: Table) -> str:
    """The complete ``.tex`` file."""
    label = re.sub(r"[^A-Za-z0-9-]", "-", table.name)
    body = "\n".join([_prologue(table), r"\begin{table}[htbp]", r"\centering"])
    if table.caption or table.title:
        body += "\n" + rf"\caption{{{escape(table.caption or table.title)}}}\label{{tab:{label}}}\vspace{{4pt}}"
    body += "\n" + r"\begingroup" + SETUP + "\n" + r"\long\def\sidatabular{%" + "\n" + tabular(table) + "\n}%\n" + _FIT
    if table.notes:
        notes = r"\par ".join(breakable(note) for note in table.notes)
        body += r"\par\smallskip" + "\n" + r"\begin{minipage}{\linewidth}\scriptsize\raggedright " + notes
        body += r"\end{minipage}" + "\n"
    return body + r"\endgroup" + "\n" + r"\end{table}" + "\n" + r"\sidatableend" + "\n"


def _prologue(table: Table) -> str:
    # In a document of its own the table keeps its number; by \\input the document counts.
    number = rf"\renewcommand{{\thetable}}{{{escape(str(table.number))}}}" if table.number else ""
    name = re.sub(r"[^\w.-]", "-", table.name)
    return _PROLOGUE.format(name=name, mode=table.mode, number=number) + "\n" + CHECK


def tabular(table: Table) -> str:
    """The ``tabular`` environment alone."""
    shape = "".join(_shape(table, place) for place in range(len(table.columns)))
    lines = [HANGING] if HANGS in shape else []
    lines += [rf"\begin{{tabular}}{{@{{}}{shape}@{{}}}}", r"\toprule"]
    if table.grouped:
        lines += _groups(table)
    lines.append(" & ".join(_heading(column) for column in table.columns) + r" \\")
    lines.append(r"\midrule")
    for row in table.rows:
        if row.rule:
            lines.append(r"\midrule")
        cells, place = [], 0
        for cell in row.cells:
            cells.append(row_cell(cell, table.columns[place]))
            place += cell.columns
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}%"])


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
    cells, rules = [], []
    for group, columns in groupby(enumerate(table.columns, 1), key=lambda item: item[1].group):
        places = [place for place, _ in columns]
        cells.append(rf"\multicolumn{{{len(places)}}}{{c}}{{{escape(group)}}}" if group else " & " * (len(places) - 1))
        if group:
            rules.append(rf"\cmidrule(lr){{{places[0]}-{places[-1]}}}")
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
    text += MARKS[cell.agreement]
    return rf"\multicolumn{{{cell.columns}}}{{c}}{{{text}}}" if cell.columns > 1 or cell.kind == "dash" else text


_PROLOGUE = r"""%% {name} ({mode}). Compile this file alone, or \input it in a document that loads booktabs and siunitx.
\expandafter\ifx\csname @nodocument\endcsname\relax
  \let\sidatableend\relax
\else
  \documentclass[10pt]{{article}}
  \usepackage[T1]{{fontenc}}
  \IfFileExists{{lmodern.sty}}{{\usepackage{{lmodern}}}}{{\renewcommand{{\encodingdefault}}{{OT1}}}}
  \usepackage[a4paper,margin=18mm]{{geometry}}
  \usepackage{{booktabs,siunitx}}
  \pagestyle{{empty}}
  \begin{{document}}{number}
  \def\sidatableend{{\end{{document}}}}
\fi"""

# The largest type size at which the table fits the line; never scaled, so strokes stay even. Before the type becomes
# smaller, the space between columns and then that around ± is given up.
_FIT = r"""\def\sidafits#1#2{\ifdim\wd0>\linewidth#1\setlength{\tabcolsep}{#2}\setbox0\hbox{\sidatabular}\fi}%
\small\setbox0\hbox{\sidatabular}%
\sidafits{\small}{4.5pt}\sidafits{\small}{3pt}\sidafits{\small\sisetup{tight-spacing}}{3pt}%
\sidafits{\footnotesize}{3pt}\sidafits{\scriptsize}{3pt}\sidafits{\scriptsize}{2pt}%
\sidafits{\fontsize{6}{7.2}\selectfont}{3pt}\sidafits{\fontsize{6}{7.2}\selectfont}{2pt}%
\sidafits{\tiny}{1.5pt}\sidafits{\tiny}{1pt}%
\noindent\makebox[\linewidth]{\box0}%
"""
