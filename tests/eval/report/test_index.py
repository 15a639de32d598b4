"""The index page: everything a study found on one page, alone, without clicking, in light and dark."""

import base64
import html
import html.parser
import json
import re
import shutil
import subprocess

import pytest
import yaml

from eval.report.index import write_index
from sida.config.resources import ROOT
from tests.eval.claims.evidence import experiment
from tests.eval.pages import Reader
from tests.eval.synthetic_output import write_released
from workflow.cli import main

CSS = (ROOT / "eval" / "report" / "templates" / "template.css").read_text()
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


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
    assert "snakemake --cores 2 -- tables/main.tex" in text
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
    assert "table1-sid-a1.2-{fid, is}" in words  # where a published number comes from
    # A page of measurements alone has no published numbers.
    assert "as published" not in shown(study)


def _luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_has_enough_contrast(scheme):
    colours = {
        name: values[scheme] for name, *values in re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\);", CSS)
    }
    pairs = [(ink, back) for ink in ("ink", "muted", "accent", "published", "bad") for back in ("page", "card")]
    for ink, back in [*pairs, *((name, f"{name}-back") for name in ("good", "bad", "open"))]:
        high, low = sorted((_luminance(colours[ink]), _luminance(colours[back])), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 4.5, (ink, back)


def test_the_same_files_give_the_same_page_and_run_it_again_names_what_is_there(study, tmp_path):
    for name in ("a.html", "b.html"):
        write_index(study, tmp_path / name)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    # Run it again names only what is there.
    assert "make setup source .venv/bin/activate snakemake" in shown(study)
    out = study / "study.html"
    write_index(study, out, again="snakemake -s '../check out/Snakefile' --cores 2")
    text = html.unescape(out.read_text())
    assert "make -C '../check out' setup\nsource '../check out'/.venv/bin/activate\nsnakemake -s" in text


def written_experiments(path, written="2030-01-01"):
    """A file of two experiments that show one figure; returns its path."""
    shown = {"tables": ["main"], "plan": ["figures/figure1.pdf"], "question": "Is SiDA better than its teacher?"}
    first = experiment("first", {"D-01": "contradicted"}, written=written, figures=["convergence"], **shown)
    second = experiment("second", {"D-02": "undecided"}, figures=["convergence"])
    path.write_text(yaml.safe_dump({"experiments": [first, second]}))
    return str(path)


@pytest.mark.parametrize("written", ["2030-01-01T12:00Z", "2040-01-01"])
def test_questions_and_answers_come_first(copied, tmp_path, written):
    command = ["page", str(copied), "--experiments", written_experiments(tmp_path / "e.yaml", written)]
    assert main([*command, "--out", str(copied / "index.html")]) == 0
    text = (copied / "index.html").read_text()
    assert not Reader(text).stack
    assert text.index('id="questions"') < text.index('id="results"')
    answer = text[text.index('id="first"') : text.index('id="second"')]
    assert answer.index("Is SiDA better") < answer.index(written) < answer.index("of 1 claim as predicted")
    verdicts = {claim["id"]: claim for claim in json.loads((copied / "claims.json").read_text())["claims"]}
    assert f'class="badge {verdicts["D-01"]["verdict"].replace(" ", "-")}"' in answer
    assert ("no test of it" in answer) == (written > "2035")
    assert "<code>sida plan figures/figure1.pdf</code>" in answer
    # Each picture once, in the first answer that names it; the other links to it.
    assert text.count("<img ") == 1
    assert "<img " in answer
    assert '<a href="#figure-convergence">' in text[text.index('id="second"') :]
    for link in re.findall(r'href="#([^"]+)"', text):
        assert f'id="{link}"' in text, link


def test_a_claim_whose_rows_are_not_measured_waits(copied, tmp_path):
    verdicts = json.loads((copied / "claims.json").read_text())
    for claim in verdicts["claims"]:
        if claim["id"] == "D-02":
            claim.update(verdict="not decided here", unmeasured=["somewhere"])
    del verdicts["content_sha256"]
    (copied / "claims.json").write_text(json.dumps(verdicts))
    out = copied / "index.html"
    assert (
        main(["page", str(copied), "--experiments", written_experiments(tmp_path / "e.yaml"), "--out", str(out)]) == 0
    )
    answer = out.read_text().partition('id="second"')[2]
    assert "… not measured yet" in answer[: answer.index("</article>")]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.parametrize("name", ["study", "released"])
def test_tables_sort_and_the_page_fits_a_phone(request, tmp_path, name):
    folder = request.getfixturevalue(name)
    script = """<script>
    const table = document.querySelector("table"), result = {width: document.documentElement.scrollWidth};
    const head = [...table.querySelectorAll("th.num button")].find((b) => /FD|measured/.test(b.textContent));
    const place = [...head.closest("tr").cells].indexOf(head.closest("th"));
    const read = () => [...table.tBodies[0].rows].map((row) => row.cells[place].textContent);
    result.before = read();
    head.click(); result.up = read(); result.family = table.tBodies[0].rows[1].cells[0].textContent;
    head.click(); result.down = read();
    head.click(); result.after = read();
    parent.document.title = JSON.stringify(result);
    </script></body>"""
    page = (folder / "index.html").read_text().replace("</body>", script)
    frame = html.escape(page)
    (tmp_path / "phone.html").write_text(f'<title></title><iframe width="390" height="800" srcdoc="{frame}"></iframe>')
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", "--dump-dom"]
    done = subprocess.run([*command, f"file://{tmp_path}/phone.html"], capture_output=True, text=True, timeout=120)
    result = json.loads(html.unescape(re.search(r"<title>(.*?)</title>", done.stdout)[1]))
    assert result["width"] <= 390
    up, down = ([float(t.split()[0]) for t in result[order] if t[:1].isdigit()] for order in ("up", "down"))
    assert up == sorted(up)
    assert down == up[::-1]
    assert result["after"] == result["before"] != result["up"]
    assert result["family"]
