r"""Escapes plain text for LaTeX, such as cells, captions and names; nothing in the result is a command."""

from __future__ import annotations

import re

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
