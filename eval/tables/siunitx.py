r"""Columns of numbers as siunitx's ``S`` columns: what is reserved for a column, and how a cell is written.

A cell that is a plain decimal, alone or with a spread of as many decimals, is handed to siunitx as it is printed. Any
other content (a word, a dash, ``<5``, ``98 %``, ``1,000``, a spread with other decimals, which siunitx would pad) goes
into braces, where siunitx centres it untouched: no digit is ever changed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from eval.tables.escape import CHECK_MARK, escape
from eval.tables.model import Cell

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
