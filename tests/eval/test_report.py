"""What people read: the page of a study (alone, without clicking), paper.pdf, the overview."""

import base64
import html
import html.parser
import json
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from sida.config.lookup import ROOT
from sida.eval.report.page import write_index
from sida.eval.report.paper import build_paper, compile_latex, figure_caption, missing_latex, paper_source
from sida.workflow.cli import main
from tests.eval.synthetic_output import inputs_of, write_released
from tests.refused import refused

CSS = (ROOT / "eval" / "report" / "templates" / "template.css").read_text()
TABLE_CSS = (ROOT / "eval/tables/table.css").read_text()


class Reader(html.parser.HTMLParser):
    """Checks that a page is well formed; collects text, attributes and the number of each tag."""

    def __init__(self, text):
        super().__init__()
        self.stack, self.counts, self.attributes, self.words = [], Counter(), [], []
        self.feed(text)
        assert self.stack == []

    def handle_starttag(self, tag, attrs):
        self.counts[tag] += 1
        self.attributes += attrs
        if tag not in ("meta", "link", "img", "br"):
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        if self.stack and self.stack[-1] not in ("script", "style"):
            self.words.append(data)


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A study like `released`: published beside measured."""
    folder = tmp_path_factory.mktemp("p") / "released"
    inputs = ["--measurements", str(write_released(folder)), "--runs", str(ROOT / "studies/papers/runs/released.tsv")]
    for layout in ("table1", "table4"):
        out = str(folder / "tables" / f"{layout}.tex")
        assert main(["table", layout, *inputs, "--mode", "audit", "--out", out]) == 0
    write_index(folder, folder / "index.html")
    return folder


def shown(folder):
    reader = Reader((folder / "index.html").read_text())
    return " ".join(" ".join(reader.words).split())


def test_everything_is_shown_without_clicking(study):
    text, claims = shown(study), json.loads((study / "claims.json").read_text())["claims"]
    rows = [line for line in (study / "tables/main.md").read_text().splitlines() if line.startswith("| ")]
    found = [cell.strip(" *") for line in rows if "---" not in line for cell in line.strip("|").split("|")]
    for claim in claims:
        assert claim["evidence"]
        found += [claim["statement"], *claim["evidence"]]
    found += ["Made up & shown", "snakemake --cores 2", "LT A is better than B"]  # the rules that were used
    found += [f"{sum(claim['verdict'] == 'supported' for claim in claims)} supported"]
    found += ["sida-a1.0", "10 × 5,000", "0–49,999", "736964612d61312e30"[:12], "0.5 min", "0.0.0+test"]
    assert [fact for fact in found if fact.replace("SiD2A", "SiD²A") not in text] == []
    assert "SiD2A" not in (study / "index.html").read_text() + (study / "claims.md").read_text()
    assert "this study's statements" in text


def test_the_page_needs_no_network_and_links_to_files_beside_it_or_places_within(study):
    text = (study / "index.html").read_text()
    reader = Reader(text)
    assert not {"link", "iframe", "object", "embed", "details", "dialog", "template"} & reader.counts.keys()
    sources = [value for name, value in reader.attributes if name in ("src", "srcset", "poster")]
    assert len(sources) == 1
    head, _, data = sources[0].partition(",")
    assert head == "data:image/png;base64"
    picture = base64.b64decode(data)
    assert picture.startswith(b"\x89PNG")
    assert picture[16:24] == (study / "figures" / "convergence.png").read_bytes()[16:24]  # width and height
    assert not re.search(r"https?://|@import|url\(|fetch\(|XMLHttpRequest", text)
    links = re.findall(r'href="([^"]+)"', text)
    assert "tables/main.tex" in links
    for link in links:
        if link.startswith("#"):
            assert f'id="{link[1:]}"' in text
        elif link != "manifest.json":  # made after the page
            assert (study / link).is_file(), link


def test_links_lead_to_files_whatever_their_names_are(copied):
    folder = copied.rename(copied.with_name("50%25 of #1"))
    (folder / "tables/main.tex").rename(folder / "tables/best?.tex")
    text = write_index(folder, folder.parent / "index.html").read_text()
    links = [link for link in re.findall(r'href="([^#"][^"]*)"', text) if not link.endswith("manifest.json")]
    files = [folder.parent / unquote(urlsplit(link).path) for link in links]
    assert folder / "tables/best?.tex" in files
    assert [file for file in files if not file.is_file()] == []


def test_published_and_measured_numbers_look_different(released, study):
    text = (released / "index.html").read_text()
    cells = re.findall(r'<td class="(published|measured) [^"]*">(?:<b>)?([^<]+)', text)
    assert {kind for kind, _ in cells} == {"published", "measured"}
    assert ("published", "1.923 ± 0.017") in cells
    styles = dict(re.findall(r"^\.(measured|published) \{ (.*) \}$", CSS, re.MULTILINE))
    assert styles["measured"] != styles["published"]
    words = shown(released)
    assert "measured here" in words
    assert "as published" in words
    assert "published_id" in words  # where a published number comes from
    # A page of measurements alone has no published numbers.
    assert "as published" not in shown(study)


def test_at_400_pixels_a_table_begins_with_its_metric_and_a_wide_one_says_that_it_goes_on(released):
    text = (released / "index.html").read_text()
    first = text[text.index('id="results"') :].partition("</table>")[0]
    heads = re.findall(r"<th\b([^>]*)>([^<]*)", first)
    narrow = [head for marks, head in heads if "about" not in marks]
    assert narrow == ["Model", "", "FID ↓", "IS ↑"]
    assert 'data-about="One Step · NFE 1"' in first
    style = re.sub(r"/[*].*?[*]/", "", CSS + TABLE_CSS, flags=re.DOTALL)
    narrow_style = style.partition("@media (max-width: 44rem)")[2]
    assert "th.about, td.about { display: none; }" in narrow_style
    # Four sizes of networks beside each other are wider than the screen.
    more = text[text.index('id="table-table4"') :].partition("</table>")[0]
    assert "The table goes on to the right." in more


def test_rules_of_tables_have_one_colour(released):
    """A border without a colour has that of its text, which is coloured where a number is published."""
    for text in (CSS, TABLE_CSS, (released / "tables/table1.html").read_text()):
        borders = re.findall(r"border(?:-top|-bottom|-inline)?: (?!0|collapse)([^;}]+)", text)
        assert all("var(--line)" in border or "currentColor" in border for border in borders), borders


def test_a_figure_without_curves_says_that_the_papers_print_none(tmp_path):
    (tmp_path / "figures").mkdir()
    figure = tmp_path / "figures/convergence.png"
    captions = {}
    for kinds in (("line",), ("line", "curve"), ("line", "missing")):
        figure.with_suffix(".csv").write_text("".join(f"{word}\n" for word in ("kind", *kinds)))
        captions[kinds] = figure_caption(figure)
    assert "print no numbers" in captions["line",]
    assert not any("print no numbers" in captions[kinds] for kinds in captions if len(kinds) > 1)


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        ({"title": "FD vs. training images"}, "FD vs. training images"),
        ({"title": "Figure 12. FD vs. images", "caption": "On digits."}, "FD vs. images. On digits."),
        ({"caption": "On digits"}, "On digits"),
        ({}, "mine"),
    ],
)
def test_a_caption_has_all_words_of_the_title_but_its_number(tmp_path, layout, expected):
    (tmp_path / "figures").mkdir()
    text = json.dumps({"kind": "curves", "panels": [{"series": []}], **layout})
    (tmp_path / "figures/mine.yaml").write_text(text)
    assert figure_caption(tmp_path / "results/figures/mine.png", tmp_path) == expected


def test_the_page_of_the_working_folder_names_it(copied, monkeypatch):
    monkeypatch.chdir(copied)
    write_index(".", "index.html")
    assert f"Results of the preset {copied.name}" in shown(copied)


def test_a_search_without_tables_has_a_page_and_an_empty_folder_has_none(study, tmp_path, refusal):
    shutil.copy(study / "measurements.csv", tmp_path)
    words = shown(write_index(tmp_path, tmp_path / "index.html", again="sida run mine").parent)
    assert "sida-a1.0" in words
    assert "sida run mine" in words
    (tmp_path / "measurements.csv").unlink()
    assert str(tmp_path) in refusal("page", str(tmp_path), "--out", str(tmp_path / "index.html"))


def test_the_same_files_give_the_same_page_and_run_it_again_names_what_was_given(study, tmp_path):
    for name in ("a.html", "b.html"):
        write_index(study, tmp_path / name)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    # Without a command, no file is guessed.
    text = html.unescape((tmp_path / "a.html").read_text())
    assert "Run it again" not in text
    assert "configfile" not in text
    write_index(study, tmp_path / "a.html", again="snakemake -s '../check out/Snakefile' --cores 2")
    assert "snakemake -s '../check out/Snakefile' --cores 2" in html.unescape((tmp_path / "a.html").read_text())


def test_a_table_is_written_whole_or_not_at_all(study, tmp_path, refusal):
    (tmp_path / "t.html").mkdir()
    assert "t.html: is a folder" in refusal("table", "main", *inputs_of(study), "--out", str(tmp_path / "t.tex"))
    assert [path.name for path in tmp_path.iterdir()] == ["t.html"]


def test_show_prints_the_first_table_and_paths_within_the_terminal(capsys):
    assert main(["show", "demo", "--table", "man"]) == 1
    assert "(did you mean 'main'?)" in capsys.readouterr().err
    assert main(["show", "demo"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 100
    assert "SiDA, α = 1.0" in text
    assert "measurements.csv" in text


def test_show_prints_a_table_that_was_made_alone_with_its_numbers(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    collected = Path("results/released/collected/tables/table3.csv")
    collected.parent.mkdir(parents=True)
    header, *rows = (ROOT / "studies/demo/stored/measurements.csv").read_text().splitlines()
    rows = [row.replace("sida-a1.0,", "imagenet64-sida-a1,", 1) for row in rows if row.startswith("sida-a1.0,")]
    collected.write_text("\n".join([header, *rows]) + "\n")
    assert main(["show", "released"]) == 0
    text = capsys.readouterr().out
    assert "DFNO" in text
    assert f"numbers   {collected}" in text
    assert main(["show", "released", "--table", "table4"]) == 0
    assert "none measured" in capsys.readouterr().out


def test_paper_source_holds_every_table_figure_claim_and_digest(copied, monkeypatch, tmp_path, capsys):
    shutil.copy(copied / "figures" / "convergence.pdf", copied / "figures" / "figure10.pdf")
    shutil.copy(copied / "figures" / "convergence.pdf", copied / "figures" / "figure2.pdf")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["paper", str(copied)]) == 0
    assert "paper.pdf skipped: pdflatex is not installed" in capsys.readouterr().out
    assert main(["paper", str(copied), "--require-pdf"]) == 1
    text = (copied / "paper.tex").read_text()
    assert r"\input{tables/main.tex}" in text
    places = [text.index(f"figures/{name}.pdf") for name in ("figure2", "figure10", "convergence")]
    assert places == sorted(places)
    assert "D-01" in text
    assert "4ef4ef4e" in text
    assert "0.5 min" in text  # ten ticks of 2.9 s
    assert not (copied / "paper.pdf").exists()
    # Of the packages, only booktabs is needed.
    for name, text in {"pdflatex": "exit 1", "kpsewhich": "exit 1"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    capsys.readouterr()
    assert main(["paper", str(copied)]) == 0
    assert "paper.pdf skipped: LaTeX has no booktabs.sty" in capsys.readouterr().out
    (tmp_path / "kpsewhich").write_text("#!/bin/sh\necho /texmf/booktabs.sty; exit 1\n")
    assert missing_latex() is None


@pytest.mark.skipif(missing_latex() is not None, reason=str(missing_latex()))
def test_paper_compiles_to_the_same_bytes_and_leaves_nothing_else(copied):
    before = {path.name for path in copied.iterdir()}
    _, pdf = build_paper(copied, "Made-up numbers & 100 %")
    assert pdf is not None
    first = pdf.read_bytes()
    assert first.startswith(b"%PDF")
    assert build_paper(copied, "Made-up numbers & 100 %")[1].read_bytes() == first
    assert {path.name for path in copied.iterdir()} - before == {"paper.tex", "paper.pdf"}
    (copied / "tables" / "main.tex").write_text(r"\undefinedcommand")
    refused(r"paper\.tex: LaTeX stopped: Undefined control sequence\.?; packages needed", build_paper, copied)
    (copied / "tables" / "main.tex").write_text("中")
    refused(r"paper\.tex: LaTeX stopped: .*中.*; use Latin letters", build_paper, copied)
    assert pdf.read_bytes() == first


@pytest.mark.skipif(missing_latex() is not None, reason="needs LaTeX")
@pytest.mark.parametrize("name", ["{outside}", "../secret.txt"])
def test_latex_of_a_results_folder_reads_no_file_outside_it(tmp_path, name):
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "study").mkdir()
    source = tmp_path / "study" / "paper.tex"
    read = name.format(outside=tmp_path / "secret.txt")
    source.write_text(rf"\documentclass{{article}}\begin{{document}}\input{{{read}}}\end{{document}}")
    refused(r"paper\.tex: LaTeX stopped: .*secret", compile_latex, source)
    assert not source.with_suffix(".pdf").exists()


def test_the_paper_lists_what_the_published_numbers_alone_decide(tmp_path, monkeypatch):
    claim = {"id": "C", "statement": "s", "verdict": "not decided here", "chance": False, "by_published": {}}
    claims = [claim | {"printed": {"verdict": "supported", "chance": True}}, claim | {"printed": None}]
    record = {"preamble": "", "comparisons": "† marks verdicts of chance.", "claims": claims}
    monkeypatch.setattr("sida.eval.report.paper.read_verdicts", lambda path: record)
    (tmp_path / "claims.json").write_text("{}")
    source = paper_source(tmp_path, [], [], "")
    assert "claim & statement & as published" in source
    assert r"supported $\dagger$" in source
    assert r"$\dagger$ marks verdicts of chance." in source
    assert "not decided here" not in source
    assert "& --" not in source
    assert "1 of 2 claims" in source


@pytest.mark.slow
def test_no_two_tables_and_no_two_figures_of_the_paper_have_one_number(copied, tmp_path):
    inputs = ["--measurements", str(write_released(tmp_path / "m"))]
    inputs += ["--runs", str(ROOT / "studies/papers/runs/released.tsv")]
    layouts = [*sorted((ROOT / "studies/papers/tables").glob("table[1-7]*.yaml")), tmp_path / "twice.yaml"]
    layouts[-1].write_text(f"extends: {ROOT / 'studies/papers/tables/table4.yaml'}\n")
    for layout in layouts:
        out = copied / "tables" / f"{layout.stem}.tex"
        assert main(["table", str(layout), *inputs, "--mode", "measured", "--out", str(out)]) == 0
    for name in ("figure2", "figure10", "samples"):
        shutil.copy(copied / "figures" / "convergence.pdf", copied / "figures" / f"{name}.pdf")
    source = build_paper(copied)[0].read_text()
    labels = [re.findall(rf"\\renewcommand{{\\the{kind}}}{{(.*?)}}", source) for kind in ("table", "figure")]
    assert labels[0] == ["A1", "1", "2", "3", "4", "4 (version 4)", "5", "6", "7", "A2"]
    assert labels[1] == ["2", "10", "A1", "A2"]
    if shutil.which("pdftotext") and missing_latex() is None:
        text = subprocess.run(["pdftotext", copied / "paper.pdf", "-"], capture_output=True, text=True).stdout
        captions = re.findall(r"(?:Table|Figure) A?\d+(?: \(version 4\))?:", text)
        assert len(captions) == len(set(captions)) == 14
