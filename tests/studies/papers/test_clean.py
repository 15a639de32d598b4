"""FID (clean) and KID beside Tables 1, 2, 5 and 6: studies/papers/clean.yaml behind studies/papers/released.yaml."""

import dataclasses
from pathlib import Path

import pytest

from eval.results.published import load_published
from eval.results.sheet import matching
from eval.results.summary import Measurements
from eval.tables import build_table, load_layout
from sida.config.resources import ROOT, find
from sida.errors import UserError
from tests.workflow.workspace import settings_of
from workflow.preset import Preset
from workflow.preset.rehearsal import _placeholders, check_preset, unshown_rows
from workflow.preset.spec_files import row_digest
from workflow.preset.targets import Targets

TABLES = {"clean-table1": "cifar10", "clean-table2": "cifar10", "clean-table5": "ffhq64", "clean-table6": "afhqv2"}


PAPERS = ROOT / "studies" / "papers"


@pytest.fixture(scope="module")
def released():
    return Preset.load(PAPERS / "released.yaml")


@pytest.fixture(scope="module")
def clean():
    return Preset.load(PAPERS / "released.yaml", PAPERS / "clean.yaml")


def test_the_preset_passes_its_check_and_shows_all_it_measures(clean):
    check_preset(clean)
    targets = Targets(clean, False)
    assert unshown_rows(targets) == []
    assert Targets(clean, False).assets_of("cifar10-cond-sida-a1.cifar10-clean") == [
        "fid-ref-cifar10-clean",
        "inception",
    ]
    # clean-fid has no statistics of these sets at 64×64: the images themselves are asked for.
    assert Targets(clean, False).assets_of("ffhq64-sida-a1.ffhq64-clean") == ["inception"]
    assert "datasets/ffhq-64x64.zip" in targets.generator("ffhq64-sida-a1.ffhq64-clean")


def test_rows_are_measured_twice_and_the_first_time_as_before(released, clean):
    more = set(clean.runs) - set(released.runs)
    assert len(more) == 31
    for second in (clean.runs[run] for run in more):
        assert clean.network(second) == clean.network(clean.runs[second.first])
        assert second.method == released.runs[second.first].method
    for method in {run.method for run in released.runs.values()}:
        assert not {run.run for run in matching(clean.runs, {"method": method})} & more
    for run in released.runs:
        assert clean.specs.measurement(run) == released.specs.measurement(run)


@pytest.fixture(scope="module")
def measured(clean):
    """Pretended measurements of every row."""
    return Measurements(_placeholders(clean))


@pytest.mark.parametrize("name", TABLES)
def test_clean_numbers_have_columns_without_a_published_side(clean, measured, name):
    protocol = f"{TABLES[name]}-clean"
    layout = load_layout(find("tables", name, [PAPERS]))
    table = build_table(layout, measured, clean.runs, load_published(), "audit")
    heads = [(column.group, column.head) for column in table.columns]
    assert heads[-2:] == [("FID (clean) ↓", "measured"), ("KID ×10³ ↓", "measured")]
    found = {(r["column"], r["protocol"]) for r in table.records if r["measured"]}
    assert {("fid_clean", protocol), ("kid_clean", protocol), ("fid", TABLES[name])} <= found
    assert not any(r["published"] for r in table.records if r["column"].endswith("_clean"))
    plain = build_table(
        load_layout(find("tables", name.removeprefix("clean-"), [PAPERS])), measured, clean.runs, load_published()
    )
    width = len(plain.columns)
    assert [[c.plain for c in row.cells[:width]] for row in table.rows] == [
        [c.plain for c in row.cells] for row in plain.rows
    ]


def test_rows_that_are_trained_here_are_measured_twice_and_trained_once():
    demo, own = settings_of("demo"), [ROOT / "studies" / "demo"]
    preset, more = (
        Preset(demo, "d.yaml", own),
        Preset(demo | {"second_protocols": {"digits": "digits-mini"}}, "d.yaml", own),
    )
    networks = [name for name, run in preset.runs.items() if not run.without_network]
    assert set(more.runs) - set(preset.runs) == {f"{name}.digits-mini" for name in networks}
    assert more.students() == [
        dataclasses.replace(r, second_protocol=more.runs[r.run].second_protocol) for r in preset.students()
    ]
    check_preset(more)
    for name in networks:
        first, second = more.runs[name], more.runs[f"{name}.digits-mini"]
        assert Path(more.protocol_of(second)).stem == "digits-mini" != Path(more.protocol_of(first)).stem
        assert more.specs.measurement(second.run)["network"] == more.specs.measurement(name)["network"]
        assert row_digest(preset, name) == row_digest(more, name) != row_digest(more, second.run)
    targets = Targets(more, False)
    assert "results/demo/students/sida-a1.0/network.safetensors" in targets.generator("sida-a1.0.digits-mini")


@pytest.mark.parametrize(
    ("second", "rows", "remedy"),
    [("digits", "", "another"), ("digits-mini", "x.digits-mini\tY\tdata\tdata\t\n", "rename")],
    ids=["the first once more", "a row of that name"],
)
def test_faults_of_a_second_protocol(tmp_path, second, rows, remedy):
    (tmp_path / "own.tsv").write_text(
        f"run\tlabel\tmethod\tsampler\tsecond_protocol\nx\tX\tdata\tdata\t{second}\n{rows}"
    )
    own = settings_of("demo") | {"runs": str(tmp_path / "own.tsv"), "experiments": None, "claims": None}
    with pytest.raises(UserError, match=f"own.tsv: run 'x': second_protocol: .*{remedy}"):
        Preset(own, "d.yaml", [ROOT / "studies" / "demo"])
    demo, own = settings_of("demo"), [ROOT / "studies" / "demo"]
    with pytest.raises(UserError, match=r"d.yaml: second_protocols.digits: no .*'digits-min'"):
        Preset(demo | {"second_protocols": {"digits": "digits-min"}}, "d.yaml", own)
