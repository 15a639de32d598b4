r"""Tables as LaTeX that compiles alone and by ``\input`` in a document that loads booktabs and siunitx (version 3).

The file finds out where it is: inside a document body LaTeX has set ``\@nodocument`` to ``\relax``, before
``\begin{document}`` it is a macro. In the second case the file brings its own preamble.
"""

from __future__ import annotations

import re
from itertools import groupby

from eval.tables.escape import breakable, escape
from eval.tables.model import Cell, Column, Table
from eval.tables.siunitx import CHECK, HANGING, HANGS, MARKS, SETUP, number_cell, number_column


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
    return _PROLOGUE.format(name=table.name, mode=table.mode, number=number) + "\n" + CHECK


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
            cells.append(_cell(cell, table.columns[place]))
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


def _cell(cell: Cell, column: Column) -> str:
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
