r"""Tables as LaTeX that compiles alone and by ``\input``, with booktabs as its only package.

The file finds out where it is: inside a document body LaTeX has set ``\@nodocument`` to ``\relax``, before
``\begin{document}`` it is a macro. In the second case the file brings its own preamble. Numbers are set in two
columns around ``±`` so that the digits align without siunitx.
"""

from __future__ import annotations

import re

from eval.tables.model import Cell, Column, Table

_GREEK = {
    "α": "alpha", "β": "beta", "γ": "gamma", "θ": "theta", "λ": "lambda", "σ": "sigma", "φ": "phi", "ψ": "psi",
    "Δ": "Delta",
}  # fmt: skip
_MATH = {
    **{letter: rf"\{name}" for letter, name in _GREEK.items()},
    "±": r"\pm", "×": r"\times", "−": "-", "∼": r"\sim", "≤": r"\le", "≥": r"\ge", "↓": r"\downarrow",
    "↑": r"\uparrow", "✓": r"\surd", "✗": r"\times", "√": r"\surd", "→": r"\to",
}  # fmt: skip
_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "–": "--", "—": "---", "\u00a0": "~",
}  # fmt: skip
_DIGITS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_HEX = re.compile(r"\b(?=[0-9a-f]*\d)[0-9a-f]{7,}\b")


def escape(text: str) -> str:
    r"""Turns plain Unicode text into LaTeX: special characters, Greek and arrows, ``σ_init``, ``β₁``, ``SiD2A``."""
    out = []
    position = 0
    for match in re.finditer(r"([α-ωΔ])(?:_([A-Za-z]+)|([₀-₉]+))|SiD2A|10\^(\d)|\bt_max\b", text):
        out.append(_characters(text[position : match.start()]))
        if match.group(1):
            below = rf"\mathrm{{{match.group(2)}}}" if match.group(2) else str(match.group(3)).translate(_DIGITS)
            out.append(rf"$\{_GREEK[match.group(1)]}_{{{below}}}$")
        else:
            word = r"$t_{\max}$" if match.group() == "t_max" else r"SiD$^2$A"
            out.append(rf"$10^{match.group(4)}$" if match.group(4) else word)
        position = match.end()
    return "".join(out) + _characters(text[position:])


def _characters(text: str) -> str:
    return "".join(f"${_MATH[c]}$" if c in _MATH else _SPECIAL.get(c, c) for c in text)


def to_latex(table: Table) -> str:
    """The complete ``.tex`` file."""
    label = re.sub(r"[^A-Za-z0-9-]", "-", table.name)
    body = "\n".join([_prologue(table), r"\begin{table}[htbp]", r"\centering"])
    if table.caption or table.title:
        body += "\n" + rf"\caption{{{escape(table.caption or table.title)}}}\label{{tab:{label}}}\vspace{{4pt}}"
    body += "\n" + r"\begingroup" + "\n" + r"\long\def\sidatabular{%" + "\n" + tabular(table) + "\n}%\n" + _FIT
    if table.notes:
        notes = r"\par ".join(breakable(note) for note in table.notes)
        body += r"\par\smallskip" + "\n" + r"\begin{minipage}{\linewidth}\scriptsize\raggedright " + notes
        body += r"\end{minipage}" + "\n"
    return body + r"\endgroup" + "\n" + r"\end{table}" + "\n" + r"\sidatableend" + "\n"


def _prologue(table: Table) -> str:
    # In a document of its own the table keeps its number; by \\input the document counts.
    counter = rf"\setcounter{{table}}{{{table.number - 1}}}" if table.number else ""
    return _PROLOGUE.format(name=table.name, mode=table.mode, counter=counter)


def breakable(text: str) -> str:
    """Escaped text whose long hexadecimal words may be broken."""
    parts = []
    position = 0
    for match in _HEX.finditer(text):
        parts.append(escape(text[position : match.start()]))
        word = match.group()
        parts.append(r"\texttt{" + r"\allowbreak ".join(word[i : i + 8] for i in range(0, len(word), 8)) + "}")
        position = match.end()
    return "".join(parts) + escape(text[position:])


def tabular(table: Table) -> str:
    """The ``tabular`` environment alone."""
    pairs = [column.number and _has_spread(table, i) for i, column in enumerate(table.columns)]
    shape = "".join(_shape(column, pair) for column, pair in zip(table.columns, pairs))
    lines = [rf"\begin{{tabular}}{{@{{}}{shape}@{{}}}}", r"\toprule"]
    if table.grouped:
        lines += _groups(table, pairs)
    lines.append(" & ".join(_heading(column, pair) for column, pair in zip(table.columns, pairs)) + r" \\")
    lines.append(r"\midrule")
    for row in table.rows:
        if row.rule:
            lines.append(r"\midrule")
        cells, place = [], 0
        for cell in row.cells:
            cells.append(_cell(cell, table.columns[place], pairs[place : place + cell.columns]))
            place += cell.columns
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}%"])


def _has_spread(table: Table, place: int) -> bool:
    return any(_at(row.cells, place).spread for row in table.rows)


def _at(cells: tuple[Cell, ...], place: int) -> Cell:
    for cell in cells:
        if place < cell.columns:
            return cell
        place -= cell.columns
    return Cell()


def _shape(column: Column, pair: bool) -> str:
    if pair:
        return r"r@{$\,$}l"
    return "r" if column.number else "l"


def _heading(column: Column, pair: bool) -> str:
    text = escape(column.title)
    return rf"\multicolumn{{2}}{{c}}{{{text}}}" if pair else text


def _groups(table: Table, pairs: list[bool]) -> list[str]:
    """The upper heading with a line under each group."""
    cells, rules, place = [], [], 1
    index = 0
    while index < len(table.columns):
        group, end, width = table.columns[index].group, index, 0
        while end < len(table.columns) and table.columns[end].group == group:
            width += 2 if pairs[end] else 1
            end += 1
        cells.append(rf"\multicolumn{{{width}}}{{c}}{{{escape(group)}}}" if group else " & ".join([""] * width))
        if group:
            rules.append(rf"\cmidrule(lr){{{place}-{place + width - 1}}}")
        index, place = end, place + width
    return [" & ".join(cells) + r" \\", "".join(rules)]


def _cell(cell: Cell, column: Column, pairs: list[bool]) -> str:
    width = sum(2 if pair else 1 for pair in pairs)
    if cell.kind == "dash":
        return rf"\multicolumn{{{width}}}{{c}}{{--}}"
    text = rf"{{\itshape {escape(cell.plain)}}}" if cell.kind == "missing" else escape(cell.text)
    mark = "" if cell.within is None else r"\,$\surd$" if cell.within else r"\,$\times$"
    if cell.bold:
        text = rf"\textbf{{{text}}}"
    if cell.columns == 1 and width == 2 and cell.kind != "missing":
        spread = escape(cell.spread) if cell.spread else ""
        if spread:
            spread = r"$\pm$\," + (rf"\textbf{{{spread}}}" if cell.bold else spread)
        return f"{text} & {spread}{mark}"
    text += mark
    if width > 1 or (cell.kind == "missing" and column.number):
        return rf"\multicolumn{{{width}}}{{c}}{{{text}}}"
    return text


_PROLOGUE = r"""%% {name} ({mode}). Compile this file alone, or \input it in a document that loads booktabs.
\expandafter\ifx\csname @nodocument\endcsname\relax
  \let\sidatableend\relax
\else
  \documentclass[10pt]{{article}}
  \usepackage[T1]{{fontenc}}
  \IfFileExists{{lmodern.sty}}{{\usepackage{{lmodern}}}}{{\renewcommand{{\encodingdefault}}{{OT1}}}}
  \usepackage[a4paper,margin=18mm]{{geometry}}
  \usepackage{{booktabs}}
  \pagestyle{{empty}}
  \begin{{document}}{counter}
  \def\sidatableend{{\end{{document}}}}
\fi"""

# The largest type size at which the table fits the line; never scaled, so strokes stay even.
_FIT = r"""\def\sidafits#1#2{\ifdim\wd0>\linewidth#1\setlength{\tabcolsep}{#2}\setbox0\hbox{\sidatabular}\fi}%
\small\setbox0\hbox{\sidatabular}%
\sidafits{\small}{3pt}\sidafits{\footnotesize}{3pt}\sidafits{\scriptsize}{3pt}%
\sidafits{\scriptsize}{1.5pt}\sidafits{\fontsize{6}{7.2}\selectfont}{2pt}\sidafits{\tiny}{1.5pt}%
\noindent\makebox[\linewidth]{\box0}%
"""
