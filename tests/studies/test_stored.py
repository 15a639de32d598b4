"""Stored rows of each study are rows of its preset today, so that `--extend` takes them and trains none again.

Verdicts and tables of the stored rows are those that are stored.
"""

import hashlib
import itertools
import json
import os
import re
from collections import Counter
from pathlib import Path

import pytest

from sida.config.lookup import ROOT
from sida.eval.claims.write import verdict_texts, verdicts_of_file
from sida.eval.results.measurements import load_measurements
from sida.eval.results.stored import read_stored, unchanged_rows
from sida.eval.tables.build import make_table
from sida.eval.tables.latex import to_latex
from sida.eval.tables.render import to_csv, to_html, to_markdown
from sida.workflow.preset import load_preset
from sida.workflow.preset.extension import stored_results
from sida.workflow.preset.jobs import product
from sida.workflow.preset.specs import row_digest
from tests.near import assert_same
from tests.slow import quick_but

PRESETS = [path for path in sorted(ROOT.glob("studies/*/*.yaml")) if (stored_results([path]) / "stored.json").is_file()]


@pytest.mark.parametrize("where", quick_but({"above", "elsewhere"}, ["checkout", "above", "elsewhere"]))
@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.relative_to(ROOT / "studies").as_posix())
def test_stored_rows_have_the_digests_of_todays_settings(path, where, monkeypatch, tmp_path):
    stored_folder = stored_results([path])
    stored = list(read_stored(stored_folder)["rows"])
    assert stored
    monkeypatch.chdir({"checkout": ROOT, "above": ROOT.parent, "elsewhere": tmp_path}[where])
    # The workflow reads a preset by its path from the current folder, other commands by its absolute one.
    for file in (path, os.path.relpath(path)):
        preset = load_preset(file)
        digests = {run: row_digest(preset, run) for run in stored if run in preset.runs}
        assert unchanged_rows(stored_folder, digests) == stored


JUDGED = [path for path in PRESETS if (stored_results([path]) / "claims.json").is_file()]


@pytest.mark.parametrize("path", JUDGED, ids=lambda path: path.relative_to(ROOT / "studies").as_posix())
def test_stored_verdicts_are_those_of_todays_rules(path):
    assert len(JUDGED) == 4
    stored, preset = stored_results([path]), load_preset(path)
    (measurements,) = stored.glob("measurements.csv*")
    texts = verdict_texts(
        verdicts_of_file(preset.settings.claims, load_measurements(measurements), preset.judged, stored)
    )
    assert texts[".md"] == (stored / "claims.md").read_text()
    ours, theirs = (json.loads(text) for text in (texts[".json"], (stored / "claims.json").read_text()))
    # A hash of all digits, of which the last ones are the processor's.
    del ours["content_sha256"], theirs["content_sha256"]
    assert_same(ours, theirs)


#: Folder of a study with stored rows and the number of its tables.
TABLES = {"afternoon": 8, "demo": 1, "fashion": 2, "scratch": 1, "steps": 1}
RECORDED = Path(__file__).with_name("recorded_tables.md")


def test_tables_of_stored_rows_are_those_of_earlier_versions():
    """Markdown as it was at e4b8f19b, and hashes of the other formats; RECORD=1 writes ``recorded_tables.md`` again."""
    texts, count = [], Counter()
    for path in PRESETS:
        stored, preset = stored_results([path]), load_preset(path)
        (measurements,) = stored.glob("measurements.csv*")
        for name, mode in itertools.product(preset.settings.tables, ("measured", "audit")):
            spec, layout = product(preset, "tables", name).spec, preset.layout("tables", name)
            table = make_table(layout, measurements, preset.judged_sheet, mode=mode, spec=spec, results=stored)
            hashes = (f"{form.__name__} {hash_of(form(table))}" for form in (to_csv, to_latex, to_html))
            texts.append(f"# {path.parent.name}: {name}, {mode}\n\n{to_markdown(table)}\n{', '.join(hashes)}\n")
            count[path.parent.name] += mode == "audit"
    assert count == TABLES
    if os.environ.get("RECORD"):
        RECORDED.write_text("\n".join(texts))
    assert "\n".join(texts).split("\n") == RECORDED.read_text().split("\n")


def hash_of(text):
    """Of a text whose numbers have nine digits, since the last ones are the processor's."""
    shorter = re.sub(r"\d+\.\d{9,}(e-?\d+)?", lambda number: f"{float(number[0]):.9g}", text)
    return hashlib.sha256(shorter.encode()).hexdigest()[:16]
