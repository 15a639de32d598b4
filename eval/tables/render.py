r"""Renders tables as Markdown, as CSV records, as aligned lines for the terminal, as HTML and as LaTeX.

The LaTeX compiles alone, or by ``\input`` in a document with booktabs and siunitx (version 3). The file adds a preamble
if it is compiled alone: ``\@nodocument`` is a macro before ``\begin{document}``, and ``\relax`` inside the body of a
document.

Columns of numbers are siunitx's ``S`` columns. Siunitx typesets cells with a plain decimal, alone or with a spread of
as many decimals. Any other content (a word, a dash, ``<5``, ``98 %``, ``1,000``, a spread with other decimals, which
siunitx would pad) is set in braces, so that siunitx centres it and changes no digit. Plain text (cells, captions,
names) is escaped: nothing in the result is a command.
"""

from __future__ import annotations

import functools
import html
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from eval.results.published import bibliography_items, cited_label
from eval.tables.model import RECORD_FIELDS, Cell, Column, Table
from sida.files.content_hash import csv_text

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup


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
        lines.append("| " + " | ".join(map(_markdown_cell, row.by_column)) + " |")
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
    cells = [row.by_column for row in table.rows]
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


#: All Greek letters; TeX has no commands for letters that look like Latin ones.
_GREEK = {
    "α": r"\alpha", "β": r"\beta", "γ": r"\gamma", "δ": r"\delta", "ε": r"\varepsilon", "ζ": r"\zeta", "η": r"\eta",
    "θ": r"\theta", "ι": r"\iota", "κ": r"\kappa", "λ": r"\lambda", "μ": r"\mu", "ν": r"\nu", "ξ": r"\xi", "ο": "o",
    "π": r"\pi", "ρ": r"\rho", "ς": r"\varsigma", "σ": r"\sigma", "τ": r"\tau", "υ": r"\upsilon", "φ": r"\phi",
    "χ": r"\chi", "ψ": r"\psi", "ω": r"\omega", "ϵ": r"\epsilon", "ϑ": r"\vartheta", "ϕ": r"\phi", "ϱ": r"\varrho",
    "ϖ": r"\varpi", "Γ": r"\Gamma", "Δ": r"\Delta", "Θ": r"\Theta", "Λ": r"\Lambda", "Ξ": r"\Xi", "Π": r"\Pi",
    "Σ": r"\Sigma", "Υ": r"\Upsilon", "Φ": r"\Phi", "Ψ": r"\Psi", "Ω": r"\Omega",
    **{letter: rf"\mathrm{{{latin}}}" for letter, latin in zip("ΑΒΕΖΗΙΚΜΝΟΡΤΧ", "ABEZHIKMNOPTX")},
}  # fmt: skip
_MATH = {
    **_GREEK,
    "±": r"\pm", "×": r"\times", "−": "-", "∼": r"\sim", "≤": r"\le", "≥": r"\ge", "↓": r"\downarrow",
    "↑": r"\uparrow", "✗": r"\times", "△": r"\triangle", "√": r"\surd", "→": r"\to",
    "∞": r"\infty", "≈": r"\approx", "≠": r"\ne",
}  # fmt: skip
#: ✓ of the AMS symbols by its font, so that a document that inputs a table needs no further package.
CHECK_MARK = r"{\usefont{U}{msa}{m}{n}\char88}"
_SPECIAL = {
    "✓": CHECK_MARK,
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "–": "--", "—": "---", "\u00a0": "~",
    "‘": "`", "’": "'", "“": "``", "”": "''",
}  # fmt: skip
#: Line ends (which also end comments), and characters that are invalid in TeX.
_UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
#: Straight quotes that open: at the start, or after a space, bracket, dash or another quote.
_OPENING = re.compile(r"(?<![^\s(\[{–—=/'\"])(['\"])(?=\S)")
_DIGITS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_WORDS = re.compile(rf"([{''.join(_GREEK)}])(?:_([A-Za-z]+)|([₀-₉]+))|SiD2A|10\^(\d)|\bt_max\b")
_HEX = re.compile(r"\b(?=[0-9a-f]*\d)[0-9a-f]{7,}\b")


def escape(text: str) -> str:
    r"""Turns plain Unicode text into LaTeX: special characters, Greek and arrows, ``σ_init``, ``β₁``, ``SiD2A``.

    Nothing in the result is a command, neither by its characters nor by line ends nor by the text before it (``\\``
    takes a following bracket or star as its argument).
    """
    text = _OPENING.sub(lambda quote: "‘" if quote[0] == "'" else "“", _UNSEEN.sub(" ", text)).replace('"', "”")
    out = ["{}"] if text.lstrip()[:1] in ("[", "*") else []
    position = 0
    for match in _WORDS.finditer(text):
        out.append(_characters(text[position : match.start()]))
        if match.group(1):
            below = rf"\mathrm{{{match.group(2)}}}" if match.group(2) else str(match.group(3)).translate(_DIGITS)
            out.append(rf"${_GREEK[match.group(1)]}_{{{below}}}$")
        else:
            word = r"$t_{\max}$" if match.group() == "t_max" else r"SiD$^2$A"
            out.append(rf"$10^{match.group(4)}$" if match.group(4) else word)
        position = match.end()
    return "".join(out) + _characters(text[position:])


def _characters(text: str) -> str:
    # The empty group prevents that two hyphens, as in the name of an option, become a dash.
    parts = re.split(r"(?<=-)(?=-)", text)
    return "{}".join("".join(f"${_MATH[c]}$" if c in _MATH else _SPECIAL.get(c, c) for c in part) for part in parts)


def breakable(text: str) -> str:
    """Escaped text with possible line breaks in long hexadecimal words."""
    parts = []
    position = 0
    for match in _HEX.finditer(text):
        parts.append(escape(text[position : match.start()]))
        word = match.group()
        parts.append(r"\texttt{" + r"\allowbreak ".join(word[i : i + 8] for i in range(0, len(word), 8)) + "}")
        position = match.end()
    return "".join(parts) + escape(text[position:])


#: Delimiters in templates of LaTeX, in which braces and ``%`` are special.
_LATEX = {
    "variable_start_string": "<<", "variable_end_string": ">>", "block_start_string": "<%", "block_end_string": "%>",
    "comment_start_string": "<#", "comment_end_string": "#>",
}  # fmt: skip


@functools.cache
def template(path: Path, **filters: Callable[[str], Any]) -> Template:
    """Loads a template; HTML templates escape values that are not Markup, LaTeX templates escape nothing.

    Args:
        path: The template, ``.html`` or ``.tex``.
        **filters: Filters by name.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    latex = path.suffix == ".tex"
    environment = Environment(
        loader=FileSystemLoader(path.parent),
        autoescape=not latex,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **(_LATEX if latex else {}),  # type: ignore[arg-type]
    )
    environment.filters |= filters
    return environment.get_template(path.name)


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
    numbers = [number for number in map(_number, cells) if number]
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
    # Text columns are ``l``, also in Table 8: each row is another quantity (8192, 1e-5, 46.7, 8xV100, False), so
    # decimal markers are not aligned.
    shape = "".join(
        number_column([row.by_column[place] for row in table.rows]) if column.number else "l"
        for place, column in enumerate(table.columns)
    )
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
        groups=_groups(table),
        heads=[_heading(column) for column in table.columns],
        cell_of=functools.partial(row_cell, cite=cite),
        references=bibliography_items(cited_keys(table)) if cite else "",
        notes=[breakable(note) for note in table.notes],
    )
    return text + "\n"


def _heading(column: Column) -> str:
    text = escape(column.title)
    return f"{{{text}}}" if column.number else text


def _groups(table: Table) -> list[str]:
    """Upper headings with a line below each group; empty without groups."""
    if not table.grouped:
        return []
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
    if not plain:
        return to_latex(table, cite)
    shape = "".join("c" if column.number else "l" for column in table.columns)
    lines = [
        rf"% {table.name}: needs \usepackage{{booktabs}} and no other package.",
        r"\begin{table}[htbp]",
        r"\centering",
    ]
    if caption := table.caption or table.title:
        lines.append(rf"\caption{{{escape(caption)}}}\label{{tab:{re.sub('[^A-Za-z0-9-]', '-', table.name)}}}")
    lines += [r"\small", rf"\begin{{tabular}}{{@{{}}{shape}@{{}}}}", r"\toprule"]
    lines += _groups(table)
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


class Page(NamedTuple):
    """The parts of a table's page, as HTML."""

    title: Markup
    caption: Markup
    table: Markup
    notes: Markup


def to_html(table: Table) -> str:
    """A complete page, readable in light and dark mode and on narrow screens."""
    return pages(table.title or table.name, [table])


def pages(title: str, tables: Sequence[Table]) -> str:
    """A complete page of several tables."""
    return _template("page.html").render(title=title, pages=[page_of(table) for table in tables]) + "\n"


def page_of(table: Table) -> Page:
    """Title, caption, ``table`` element and notes of a table.

    In the element, the class ``num`` marks columns of numbers and ``part`` marks rows that continue the row above.
    """
    from markupsafe import Markup

    notes = "".join(f"<p>{html_text(note)}</p>" for note in table.notes)
    title, element = html.escape(table.title or table.name), _template("table.html").render(table=table)
    return Page(Markup(title), Markup(html_text(table.caption)), Markup(element), Markup(notes))


def _template(name: str) -> Template:
    return template(_FOLDER / name, plain=_markup)


def _markup(text: str) -> Markup:
    from markupsafe import Markup

    return Markup(html_text(text))


def html_text(text: str) -> str:
    """Plain text as HTML, with the superscript of SiD2A and subscripts after Greek letters."""
    escaped = html.escape(text, quote=False).replace("SiD2A", "SiD<sup>2</sup>A")
    return re.sub(r"([α-ω])_([A-Za-z]+)", r"\1<sub>\2</sub>", escaped)
