"""Stored rows that two studies trained alike, the scatter that rules take from them, and quoted numbers."""

from __future__ import annotations

import pytest

from eval.claims import load_claims
from eval.results.published import load_published
from sida.config.resources import ROOT
from sida.files.text_files import read_csv
from workflow.docs.pages import RepeatedRows, repeated_table
from workflow.docs.study import opened

STUDIES = ROOT / "studies"
FILES = ("miniature/claims", "miniature/afternoon-claims", "adm/claims", "letters/claims", "demo/claims")


@pytest.fixture(scope="module")
def repeated():
    folders = [STUDIES / "miniature/stored", STUDIES / "miniature/afternoon/stored"]
    with opened(ROOT, folders) as studies:
        first, second = studies.values()
        yield RepeatedRows.of(first, second), repeated_table(first, second, ("one", "two"))


def test_rules_add_the_scatter_that_the_table_of_repeated_rows_prints(repeated):
    found, _ = repeated
    for file in FILES:
        (known,) = {id(c.repeats): c.repeats for c in load_claims(STUDIES / f"{file}.yaml")}.values()
        assert known.rows <= len(found.moved)
        for metric in ("fd", "fd_pixel", "is", "precision", "recall", "accuracy"):
            assert known.std[metric] == pytest.approx(found.std(metric), abs=0.0011), f"{file}: {metric}"


def test_the_table_has_each_row_that_moved_with_its_change(repeated):
    found, table = repeated
    assert all(f"(`{run}`)" in table for run in found.moved)
    u, v = found.moved["t10-sida"]["fd"]
    assert f"| {u:.2f} | {v:.2f} | −{100 * (1 - v / u):.1f} % |" in table
    assert "data" not in found.moved


@pytest.mark.parametrize("path", STUDIES.glob("*/quoted.csv"), ids=lambda path: path.parent.name)
def test_quoted_fids_are_published_numbers(path):
    published = load_published()
    quoted = [record for _, record in read_csv(path)[1]]
    assert len(quoted) >= 8
    for record in quoted:
        assert record["source"]
        assert published[record["published"]].value == float(record["fid"])
