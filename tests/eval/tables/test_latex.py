"""Tables as LaTeX: escaping, siunitx columns, and compiling alone and by ``\\input``."""

import functools
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.report.paper import missing_latex
from eval.tables.build import build_table, write_table
from eval.tables.latex import cited_keys, escape, latex_cell, number_column, to_latex
from eval.tables.layout import load_layout
from eval.tables.model import Cell, Column

MAIN = Path(__file__).parents[3] / "config" / "tables" / "main.yaml"


@pytest.fixture(scope="module")
def table(measured, runs):
    return build_table(load_layout(MAIN), measured, runs)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SiD2A, α=1.0", r"SiD$^2$A, $\alpha$=1.0"),
        ("(λ_sid, λ_adv)", r"($\lambda_{\mathrm{sid}}$, $\lambda_{\mathrm{adv}}$)"),
        ("Adam β₂", r"Adam $\beta_{2}$"),
        ("(10^4 k)", r"($10^4$ k)"),
        ("FID ↓ 32×32", r"FID $\downarrow$ 32$\times$32"),
        (r"a\b{c}", r"a\textbackslash{}b\{c\}"),
        ("(--config) 0–9", "(-{}-config) 0--9"),
        ("✓ ✗ √", r"{\usefont{U}{msa}{m}{n}\char88} $\times$ $\surd$"),
        (
            "ω_max, Ω₁, ε, ο, Α_a",
            r"$\omega_{\mathrm{max}}$, $\Omega_{1}$, $\varepsilon$, $o$, $\mathrm{A}_{\mathrm{a}}$",
        ),
        ("'a', the \"best\" EDM's", "`a', the ``best'' EDM's"),
        ("+∞ ≈ n ≠ 0", r"+$\infty$ $\approx$ n $\ne$ 0"),
    ],
)
def test_latex_escaping(text, expected):
    assert escape(text) == expected


@given(st.text(alphabet="abc&%$#_{}~^\\ α", max_size=20))
def test_no_active_character_survives_escaping(text):
    safe = escape(text)
    for name in ("textbackslash{}", "textasciitilde{}", "textasciicircum{}"):
        safe = safe.replace("\\" + name, "")
    safe = re.sub(r"\$\\alpha(_\{\\mathrm\{[a-z]+\}\})?\$", "", safe)
    assert not re.search(r"(?<!\\)[&%$#_{}~^]", safe)


NUMBER = Column("FID", number=True)


@pytest.mark.parametrize(
    ("cell", "plain", "siunitx"),
    [
        (Cell("2.028", "published", "0.020"), r"$2.028 \pm 0.020$", "2.028 +- 0.020"),
        (Cell("2.0", "measured", "0.1", bold=True), r"$\mathbf{2.0 \pm 0.1}$", r"\bfseries 2.0 +- 0.1"),
        (Cell("−0.02", "difference", agreement="worse"), r"$-0.02$\,$\times$", r"{$-0.02$\,$\times$}"),
        (Cell(kind="missing"), r"{\itshape not measured}", r"{{\itshape not measured}}"),
        (Cell(kind="dash"), "--", "{--}"),
        (Cell(kind="blank"), "", ""),
        (Cell("<5", "published"), "$<$5", "{$<$5}"),
        (Cell("98 %", "published", bold=True), r"\textbf{98 \%}", r"{\textbf{98 \%}}"),
        (Cell("10,000", "measured"), "10,000", "{10,000}"),
    ],
)
def test_a_number_is_mathematics_or_a_cell_of_siunitx(cell, plain, siunitx):
    assert latex_cell(cell, NUMBER) == plain
    assert latex_cell(cell, NUMBER, siunitx=True) == siunitx


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["1.97", "14.73", "2.028"], "S[table-format=2.3]"),
        (["35", "1000", "–"], "S[table-format=4]"),
        (["2.028 ± 0.020", "16.3"], "S[table-format=2.3(2)]"),
        (["−0.5 ± 0.1"], "S[table-format=+1.1(1)]"),
        (["<5", "–"], "c"),
    ],
)
def test_a_column_of_siunitx_reserves_the_digits_of_its_numbers(texts, expected):
    cells = [Cell(text, "measured", spread or None) for text, _, spread in (text.partition(" ± ") for text in texts)]
    assert number_column([*cells, Cell(kind="blank"), Cell(kind="missing")]) == expected


needs_latex = pytest.mark.skipif(missing_latex() is not None, reason=str(missing_latex()))


def pdflatex(folder, name, fault=None):
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", name]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=60)
    if fault:
        assert fault in done.stdout
        return None
    assert done.returncode == 0, done.stdout[-2000:]
    assert "undefined" not in done.stdout
    assert "Overfull" not in done.stdout
    return done.stdout


@needs_latex
@pytest.mark.parametrize("siunitx", [False, True])
def test_a_table_compiles_alone_and_by_input_with_every_number(tmp_path, table, siunitx):
    write_table(table, tmp_path / "main.tex", functools.partial(to_latex, siunitx=siunitx))
    assert "Output written on main.pdf (1 page" in pdflatex(tmp_path, "main.tex")
    packages = "booktabs,siunitx" if siunitx else "booktabs"
    host = rf"\documentclass{{article}}\usepackage{{{packages}}}\begin{{document}}A\input{{main}}B\input{{main.tex}}C"
    (tmp_path / "host.tex").write_text(host + r"\end{document}")
    # Everything after the first \input must still be there: the file does not end its host.
    assert "Output written on host.pdf (1 page" in pdflatex(tmp_path, "host.tex")
    if shutil.which("pdftotext"):
        command = ["pdftotext", "-layout", "host.pdf", "-"]
        text = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True).stdout
        for cell in (cell for row in table.rows for cell in row.cells if cell.kind == "measured"):
            assert all(text.count(number) >= 2 for number in (cell.text, cell.spread) if number)


@needs_latex
def test_every_greek_letter_compiles_alone_and_with_an_index(tmp_path):
    letters = [chr(code) for code in (*range(0x391, 0x3AA), *range(0x3B1, 0x3CA)) if code != 0x3A2]
    text = " ".join(f"{letter} {letter}_max {letter}₁" for letter in letters)
    body = rf"\documentclass{{article}}\begin{{document}}{escape(text)}\end{{document}}"
    (tmp_path / "greek.tex").write_text(body.replace(" ", "\n"))
    assert "Output written on greek.pdf (1 page" in pdflatex(tmp_path, "greek.tex")


@needs_latex
def test_a_plain_table_needs_booktabs_alone_and_cites_by_key(tmp_path):
    from eval.results.published import bibliography
    from eval.tables.build import make_table

    table = make_table("table1", mode="paper")
    (tmp_path / "t.tex").write_text(to_latex(table, cite=True))
    (tmp_path / "refs.bib").write_text(bibliography(cited_keys(table)))
    host = r"\documentclass{article}\usepackage{booktabs}\begin{document}\input{t}\bibliographystyle{plain}"
    (tmp_path / "host.tex").write_text(host + r"\bibliography{refs}\end{document}")
    latex = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "host.tex"]
    for command in (latex, ["bibtex", "host"], latex, latex):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=60)
        assert done.returncode == 0, done.stdout[-2000:]
    assert "undefined" not in done.stdout
    text = subprocess.run(
        ["pdftotext", "-layout", "host.pdf", "-"], cwd=tmp_path, capture_output=True, text=True
    ).stdout
    assert re.search(r"SiDA, α=1\.0 \[\d+\]\s+1\s+1\.516 ± 0\.010\s+10\.323 ± 0\.048", text)
    assert "Rapidly surpassing the teacher" in " ".join(text.split())
