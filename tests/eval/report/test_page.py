"""The index page: everything a study found on one page, alone, without clicking, in light and dark."""

import base64
import html
import html.parser
import json
import re
from collections import Counter

import pytest

from eval.report.page import write_index
from sida.config.resources import ROOT
from tests.eval.synthetic_output import write_released
from workflow.cli import main

CSS = (ROOT / "eval" / "report" / "templates" / "template.css").read_text()


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
    text = shown(study)
    assert "Made up & shown" in text
    for line in (study / "tables" / "main.md").read_text().splitlines():
        for cell in line.strip("|").split("|") if line.startswith("| ") and "---" not in line else []:
            assert cell.strip().strip("*").replace("SiD2A", "SiD 2 A") in text
    record = json.loads((study / "claims.json").read_text())
    for claim in record["claims"]:
        assert claim["statement"].replace("SiD2A", "SiD 2 A") in text
        assert claim["evidence"]
        for line in claim["evidence"]:
            assert line.replace("SiD2A", "SiD 2 A") in text
    assert "LT A is better than B" in text  # the rules that were used
    assert f"{sum(claim['verdict'] == 'supported' for claim in record['claims'])} supported" in text
    for fact in ("sida-a1.0", "10 × 5,000", "0–49999", "736964612d61312e30"[:12], "0.5 min", "0.0.0+test"):
        assert fact in text
    assert "snakemake --cores 2" in text
    assert not {"details", "dialog", "template"} & Reader((study / "index.html").read_text()).counts.keys()


def test_the_page_needs_no_network_and_links_to_files_beside_it_or_places_within(study):
    text = (study / "index.html").read_text()
    reader = Reader(text)
    assert not {"link", "iframe", "object", "embed"} & set(reader.counts)
    sources = [value for name, value in reader.attributes if name in ("src", "srcset", "poster")]
    assert len(sources) == 1
    head, _, data = sources[0].partition(",")
    assert head == "data:image/png;base64"
    picture = base64.b64decode(data)
    assert picture.startswith(b"\x89PNG")
    assert picture[16:24] == (study / "figures" / "convergence.png").read_bytes()[16:24]  # width and height
    assert not re.search(r"https?://|@import|url\(|fetch\(|XMLHttpRequest", text)
    # Its links lead to files beside it or places within.
    text = (study / "index.html").read_text()
    links = re.findall(r'href="([^"]+)"', text)
    assert "tables/main.tex" in links
    for link in links:
        if link.startswith("#"):
            assert f'id="{link[1:]}"' in text
        elif link != "manifest.json":  # made after the page
            assert (study / link).is_file(), link


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
