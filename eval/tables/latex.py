r"""Tables as LaTeX for booktabs, with numbers as mathematics.

The file compiles alone, or by ``\input`` in a document. It adds a preamble if it is compiled alone: ``\@nodocument`` is
a macro before ``\begin{document}``, and ``\relax`` inside the body of a document. Plain text (cells, captions, names)
is escaped: nothing in the result is a command.
"""

import re
import unicodedata
from pathlib import Path

from sida.eval.results.bibliography import bibliography_items, cited_label
from sida.eval.tables.model import Cell, Column, Table
from sida.eval.tables.render import spelled, template, terminal_text

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
    # Of mathematics: in text these come from a font that many installations have as a bitmap alone.
    "§": r"\mathsection", "¶": r"\mathparagraph", "†": r"\dagger", "‡": r"\ddagger",
    **{letter: f"^{digit}" for digit, letter in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")},
    **{letter: f"_{digit}" for digit, letter in enumerate("₀₁₂₃₄₅₆₇₈₉")},
    "∞": r"\infty", "≈": r"\approx", "≠": r"\ne",
}  # fmt: skip
#: ✓ of the AMS symbols by its font, so that a document that inputs a table needs no further package.
CHECK_MARK = r"{\usefont{U}{msa}{m}{n}\char88}"
_SPECIAL = {
    "✓": CHECK_MARK,
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "|": r"\textbar{}",
    "–": "--", "—": "---", "\u00a0": "~", "‘": "`", "’": "'", "“": "``", "”": "''",
}  # fmt: skip
#: Straight quotes that open: at the start, or after a space, bracket, dash or another quote.
_OPENING = re.compile(r"(?<![^\s(\[{–—=/'\"])(['\"])(?=\S)")
_DIGITS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_WORDS = re.compile(rf"([{''.join(_GREEK)}])(?:_([A-Za-z]+)|([₀-₉]+))|10\^(\d)|\bt_max\b")


def escape(text: str) -> str:
    r"""Turns plain Unicode text into LaTeX: special characters, Greek and arrows, ``σ_init``, ``β₁``, ``SiD²A``.

    Nothing in the result is a command, neither by its characters nor by line ends nor by the text before it (``\\``
    takes a following bracket or star as its argument).
    """
    # Names of files may have accents behind their letters, which pdfLaTeX does not know.
    text = unicodedata.normalize("NFC", terminal_text(spelled(text)))
    text = _OPENING.sub(lambda quote: "‘" if quote[0] == "'" else "“", text).replace('"', "”")
    out = ["{}"] if text.lstrip()[:1] in ("[", "*") else []
    position = 0
    for match in _WORDS.finditer(text):
        out.append(_characters(text[position : match.start()]))
        if match.group(1):
            below = rf"\mathrm{{{match.group(2)}}}" if match.group(2) else str(match.group(3)).translate(_DIGITS)
            out.append(rf"${_GREEK[match.group(1)]}_{{{below}}}$")
        else:
            out.append(rf"$10^{match.group(4)}$" if match.group(4) else r"$t_{\max}$")
        position = match.end()
    return "".join(out) + _characters(text[position:])


def _characters(text: str) -> str:
    # The empty group prevents that two hyphens, as in the name of an option, become a dash.
    parts = re.split(r"(?<=-)(?=-)", text)
    return "{}".join("".join(f"${_MATH[c]}$" if c in _MATH else _SPECIAL.get(c, c) for c in part) for part in parts)


_MARKS = {None: "", "agrees": r"\," + CHECK_MARK, "better": r"\,$\triangle$", "worse": r"\,$\times$"}
#: Marks of networks and images that a generator was exposed to.
_EXPOSURE_MARKS = {"": "", "‡": r"\,$\ddagger$", "§": r"\,$\mathsection$", "¶": r"\,$\mathparagraph$"}
_LEVEL = r"\,$\approx$"
#: A decimal number, also with commas between thousands.
_DECIMAL = re.compile(r"([+−-]?)(\d{1,3}(?:,\d{3})+|\d+)(?:\.(\d+))?")


def _is_number(cell: Cell) -> bool:
    """Whether mathematics print the cell without a change of digits."""
    has_number = cell.kind not in ("dash", "missing", "blank") and bool(_DECIMAL.fullmatch(cell.text))
    return has_number and bool(cell.spread is None or _DECIMAL.fullmatch(cell.spread))


def latex_cell(cell: Cell, column: Column, cite: bool = False) -> str:
    r"""A cell in the form of its column.

    Args:
        cell: The cell.
        column: Its column.
        cite: ``\cite`` with a key of the bibliography instead of the citation in a label.
    """
    if cell.kind == "blank":
        return ""
    if _is_number(cell):
        text, spread = cell.text.replace("−", "-"), cell.spread or ""
        # In mathematics a comma alone has a space after it.
        text = (text + (rf" \pm {spread}" if spread else "")).replace(",", "{,}")
        text = rf"\mathbf{{{text}}}" if cell.bold else text
        level = _LEVEL if cell.rank == "level" else ""
        return f"${text}${_MARKS[cell.agreement]}{level}{_EXPOSURE_MARKS[cell.mark]}"
    label, entry = cited_label(cell.text) if cite and column.name else (cell.plain, None)
    latex = "--" if cell.kind == "dash" else escape(label)
    latex += rf"~\cite{{{entry.key}}}" if entry else ""
    latex = rf"{{\itshape {latex}}}" if cell.kind == "missing" else latex
    return rf"\textbf{{{latex}}}" if cell.bold and latex else latex


def tabular(table: Table, cite: bool) -> str:
    """The ``tabular`` of a table, by pandas."""
    import pandas

    forms = "".join("c" if column.number else "l" for column in table.columns)
    heads = [escape(column.title) for column in table.columns]
    cells = [[latex_cell(cell, c, cite) for cell, c in zip(row.cells, table.columns)] for row in table.rows]
    style = pandas.DataFrame(cells, columns=heads).style.hide(axis="index")
    lines = style.to_latex(hrules=True, column_format=f"@{{}}{forms}@{{}}").splitlines()
    # The lines of rows follow \\begin, \\toprule, the heading and \\midrule.
    for number in reversed([number for number, row in enumerate(table.rows) if row.rule]):
        lines.insert(4 + number, r"\midrule")
    return "\n".join(lines)


def to_latex(table: Table, cite: bool = False) -> str:
    r"""The complete ``.tex`` file; ``cite`` puts ``\cite`` instead of citations in labels."""
    cite = cite or table.cite
    notes = [escape(note) for note in table.notes]
    if cite and table.cited:
        notes.append(rf"Measured with sida-repro, by its metrics \cite{{{','.join(table.cited)}}}.")
    text = template(Path(__file__).with_name("latex.tex")).render(
        name=re.sub(r"[^\w.-]", "-", table.name),
        mode=re.sub(r"\W", "-", table.mode),
        label=re.sub(r"[^A-Za-z0-9-]", "-", table.name),
        # Compiled alone the table has its own number; by \input the document counts.
        number=rf"\renewcommand{{\thetable}}{{{escape(str(table.number))}}}" if table.number else "",
        caption=escape(table.caption or table.title),
        tabular=tabular(table, cite),
        references=bibliography_items(cited_keys(table)) if cite else "",
        notes=notes,
    )
    return text + "\n"


def cited_keys(table: Table) -> list[str]:
    """Keys of the bibliography that a table cites: of its labels and of added rows."""
    labels = [cell.text for row in table.rows for column, cell in zip(table.columns, row.cells) if column.name]
    return [*(entry.key for _, entry in map(cited_label, labels) if entry), *table.cited]
