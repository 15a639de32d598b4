"""Names and labels of strangers in LaTeX, HTML, Markdown, CSV and figures: text, never a command."""

import dataclasses
import html.parser
import io
import os
import re

import pytest

from sida.config.lookup import ROOT
from sida.eval.figures.style import literal, new_figure
from sida.eval.measuring.score import Score
from sida.eval.report.page import write_index
from sida.eval.report.paper import build_paper, missing_latex
from sida.eval.results.csv_files import csv_text, read_csv
from sida.eval.results.sheet import read_runs
from sida.eval.tables.build import write_table
from sida.eval.tables.latex import escape, to_latex
from sida.eval.tables.layout import ColumnSpec
from sida.eval.tables.model import Cell, Column, Row, Table
from sida.eval.tables.render import to_html, to_markdown, to_terminal
from sida.eval.tables.scores import latex_row
from tests.readers.test_text import written
from tests.refused import refusal

HOSTILE = [
    r"\input{/etc/passwd}",
    "%\n\\input{x}",
    "a\r\\immediate\\write18{x}",
    "}} \\end{table} \\input{x}",
    "[1cm] first",
    "a | b\n\n<script>x</script>",
    "\x1b[2J\x00 \x7f \x07 \x9b2J \u202egnp.exe \u2066",
    "[x](javascript:alert(1))",
    "[x]: javascript:a",
    r"[x\](javascript:alert(1))",
    r"[x\\\](javascript:a)",
    "\\<b>",
    "[x\\\n](java:a)",
]
#: ESC, BEL, C1, line ends of Unicode, and marks that turn the direction of writing.
UNSEEN = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def table(text):
    cells = (Cell(text), Cell(text, rank="best"), Cell("1.0", spread="0.1"))
    columns = (Column(text, name=True), Column(text), Column("FID", number=True))
    return Table(text, text, text, "measured", columns, (Row(cells),), notes=(text,))


def commands(latex):
    return set(re.findall(r"\\(?:[A-Za-z@]+|.)", latex, re.DOTALL))


def tags(page):
    """Names of all elements, each with its attributes."""
    found = set()
    parser = html.parser.HTMLParser()
    parser.handle_starttag = lambda tag, attributes: found.add((tag, *(name for name, _ in attributes)))
    parser.feed(page)
    return found


PLAIN = table("plain SiD2A α_x, as wide as the others: " + 40 * "x")
ESCAPES = {rf"\{character}" for character in "{}&%$#_ "} | {
    rf"\text{name}" for name in ("backslash", "asciitilde", "asciicircum", "bar")
}


@pytest.mark.parametrize("text", HOSTILE)
def test_text_is_no_command_no_element_and_no_line(text, tmp_path):
    """In LaTeX, HTML, Markdown, the terminal and the page of a stored table, whose folder anyone may have written."""
    latex, page, markdown = (write(table(text)) for write in (to_latex, to_html, to_markdown))
    assert commands(latex) <= commands(to_latex(PLAIN)) | ESCAPES
    # Braces in pairs, nothing behind a comment, no second notation for a backslash.
    bare = re.sub(r"\\.", "", latex, flags=re.DOTALL)
    assert bare.count("{") == bare.count("}")
    assert "^^" not in bare
    assert not re.search(r"\\\\\s*[\[*]", latex)
    assert tags(page) <= tags(to_html(PLAIN))
    # A bracket is escaped by an odd number of backslashes.
    assert not re.search(r"(?<!\\)(?:\\\\)*\](?=[(:])", markdown)
    assert not re.search(r"<[A-Za-z/!]", markdown)
    assert sum(line.startswith("|") for line in markdown.splitlines()) == 3
    pages = []
    for shown in (dataclasses.replace(made, name="main") for made in (PLAIN, table(text))):
        write_table(shown, tmp_path / "tables/main.tex")
        pages.append(write_index(tmp_path, tmp_path / "index.html", shown.title).read_text())
    assert tags(pages[1]) <= tags(pages[0])
    for output in (latex, page, markdown, to_terminal(shown, colour=False), pages[1]):
        assert not UNSEEN.search(output)


def test_the_row_of_a_score_is_escaped_like_a_table():
    row = latex_row(Score("a\\b_{%}^~<>&\n$", None, []), [ColumnSpec("Model", field="label")])
    assert row.endswith("\n" + escape("a\\b_{%}^~<>& $") + " \\\\")


@pytest.mark.parametrize(
    "cell", ["=1+1", "@SUM(A1)", "+cmd|' /C calc'!A0", "-2+3+cmd|x", " =1", "-\n1+cmd|x", "-\r\n2"]
)
def test_no_cell_of_a_table_is_a_formula(cell, tmp_path):
    text = csv_text(("model", "family"), [{"model": cell, "family": cell}, {"model": "-0.5", "family": "+ GAN"}])
    (_, rows) = read_csv(written(tmp_path, "t.csv", text))
    assert [tuple(row.values()) for _, row in rows] == [(f"'{cell}", f"'{cell}"), ("-0.5", "+ GAN")]


@pytest.mark.parametrize("kind", ["table", "a part of a table", "figure", "folder"])
def test_no_document_holds_or_waits_for_what_lies_elsewhere(kind, tmp_path):
    folder = tmp_path / "demo"
    write_table(dataclasses.replace(table("x"), name="main"), folder / "tables/main.tex")
    (folder / "figures").mkdir()
    if kind == "figure":
        os.mkfifo(folder / "figures/a.pdf")
        os.mkfifo(folder / "figures/a.png")
    elif kind == "a part of a table":
        (folder / "part").symlink_to(ROOT / "LICENSE")
        (folder / "tables/main.tex").write_text(r"\input{part}\input{tables/part}")
    else:
        place = folder / ("tables/main.tex" if kind == "table" else "tables")
        place.rename(tmp_path / "mine")
        place.symlink_to(tmp_path / "mine")
    if kind != "a part of a table" or missing_latex() is None:
        refusal(build_paper, folder)
    if kind in ("figure", "folder"):
        refusal(write_index, folder, tmp_path / "index.html")
    assert not (folder / "paper.pdf").exists()


@pytest.mark.parametrize("name", ["a}b.tex", "-x.tex"])
def test_files_whose_names_are_latex_are_not_put_into_a_paper(name, tmp_path):
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / name).write_text("x")
    assert "rename it" in refusal(build_paper, tmp_path)


def test_signs_at_the_beginning_of_a_cell_are_no_formula(tmp_path):
    """A formula is refused: test_text.py."""
    path = written(tmp_path, "s.tsv", "run\tlabel\tmethod\talpha\na\t+ GAN\tsid\t-0.25\nb\t− x\tsid\t\n")
    assert [run.label for run in read_runs(path)] == ["+ GAN", "− x"]


def test_dollars_in_a_figure_are_dollars():
    figure = new_figure(2, 1)
    axes = figure.subplots()
    for text in (r"$\frac$ and $", r"$\input{x}$", "5 $ of 6 $"):
        axes.set_title(literal(text))
        figure.savefig(io.BytesIO(), format="png")
