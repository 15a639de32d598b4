"""Rows measured by a second protocol: FID (clean) and KID (clean.yaml), FD-DINOv2 (C-41, C-76)."""

import dataclasses
from pathlib import Path

import pytest

from eval.results.sheet import matching
from eval.results.summary import Measurements
from eval.tables.build import build_table
from eval.tables.layout import load_layout
from sida.config.resources import ROOT, find
from tests.refused import refusing
from tests.workflow.workspace import settings_of
from workflow.planning.costs import Costs
from workflow.preset import Preset
from workflow.preset.jobs import row_digest
from workflow.preset.placeholders import _placeholders, check_preset, unshown_remark

TABLES = {"table1": "cifar10", "table2": "cifar10", "table5": "ffhq64", "table6": "afhqv2"}


PAPERS = ROOT / "studies" / "papers"


@pytest.fixture(scope="module")
def released():
    return Preset.load(PAPERS / "released.yaml")


@pytest.fixture(scope="module")
def clean():
    return Preset.load(PAPERS / "released.yaml", PAPERS / "clean.yaml")


def test_the_preset_passes_its_check_and_shows_all_it_measures(clean):
    check_preset(clean)
    assert unshown_remark(clean) is None
    cifar10 = ["fid-ref-cifar10-clean", "inception"]
    assert clean.downloads("cifar10-cond-sida-a1.cifar10-clean") == cifar10
    # clean-fid has no statistics of these sets at 64×64: the images themselves are asked for.
    assert clean.downloads("ffhq64-sida-a1.ffhq64-clean") == ["inception"]
    assert "datasets/ffhq-64x64.zip" in clean.measurement("ffhq64-sida-a1.ffhq64-clean").needs["files"]


def test_rows_are_measured_twice_and_the_first_time_as_before(released, clean):
    more = set(clean.runs) - set(released.runs)
    for second in (clean.runs[run] for run in more):
        assert clean.network(second) == clean.network(clean.runs[second.first])
        assert second.method == released.runs[second.first].method
    for method in {run.method for run in released.runs.values()}:
        assert not {run.run for run in matching(clean.runs, {"method": method})} & more
    for run in released.runs:
        assert clean.measurement(run).spec == released.measurement(run).spec


def test_clean_numbers_have_columns_without_a_published_side(clean):
    measured = Measurements(_placeholders(clean))
    for name, protocol in TABLES.items():
        layout, plain = (load_layout(find("tables", each, [PAPERS])) for each in (f"clean-{name}", name))
        table = build_table(layout, measured, clean.runs, "audit")
        assert [column.title for column in table.columns][-2:] == ["FID (clean) ↓", "KID ×10³ ↓"]
        found = {(r["column"], r["protocol"]) for r in table.records if r["measured"]}
        own = {(column, f"{protocol}-clean") for column in ("fid_clean", "kid_clean")}
        assert own | {("fid", protocol)} <= found
        assert not any(r["published"] for r in table.records if r["column"].endswith("_clean"))
        before = build_table(plain, measured, clean.runs)
        cells = [[cell.plain for cell in row.cells] for row in before.rows]
        assert [[cell.plain for cell in row.cells[: len(before.columns)]] for row in table.rows] == cells


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
        assert more.measurement(second.run).spec["network"] == more.measurement(name).spec["network"]
        assert row_digest(preset, name) == row_digest(more, name) != row_digest(more, second.run)
    assert more.measurement("sida-a1.0.digits-mini").needs["students"] == ["sida-a1.0"]


@pytest.mark.parametrize(
    ("second", "rows", "remedy"),
    [("digits", "", "another"), ("digits-mini", "x.digits-mini\tY\tdata\tdata\t\n", "rename")],
    ids=["the first once more", "a row of that name"],
)
def test_faults_of_a_second_protocol(tmp_path, second, rows, remedy):
    head = "run\tlabel\tmethod\tsampler\tsecond_protocol"
    (tmp_path / "own.tsv").write_text(f"{head}\nx\tX\tdata\tdata\t{second}\n{rows}")
    demo, own = settings_of("demo"), [ROOT / "studies" / "demo"]
    with refusing(f"own.tsv: run 'x': second_protocol: .*{remedy}"):
        Preset(demo | {"runs": str(tmp_path / "own.tsv"), "claims": None}, "d.yaml", own)
    with refusing(r"d.yaml: second_protocols.digits: no .*'digits-min'"):
        Preset(demo | {"second_protocols": {"digits": "digits-min"}}, "d.yaml", own)


@pytest.fixture(scope="module")
def leakage():
    return Preset.load(ROOT / "studies/papers/leakage.yaml")


def test_leakage_passes_its_check_and_shares_the_papers_rows(paper, leakage):
    check_preset(leakage)
    assert unshown_remark(leakage) is None
    rows = [{name for name in preset.runs if name.endswith("-leakage")} for preset in (paper, leakage)]
    # The released generators of other methods, and finetuned teachers, are not trained in the other preset.
    assert {name.partition(".")[0] for name in rows[1] ^ rows[0]} == {
        "imagenet64-dmd2", "imagenet64-dmd2-longer", "imagenet64-dmd2-no-gan", "cifar10-uncond-ect",
        "teacher-edm-cifar10-uncond-ddo", "teacher-edm-cifar10-cond-ddo",
    }  # fmt: skip


def test_a_row_waits_for_its_student_its_set_and_both_feature_networks(paper, leakage):
    needs = paper.measurement("imagenet64-gdd-i.imagenet64-leakage").needs
    assert needs["students"] == ["imagenet64-gdd-i"]
    assert "datasets/imagenet-64x64.zip" in needs["files"]
    wanted = ["dinov2-code", "dinov2-vitl14", "fid-ref-imagenet64", "inception", "labels-imagenet"]
    assert paper.downloads("imagenet64-gdd-i.imagenet64-leakage") == wanted
    assert leakage.downloads("imagenet64-sida-a1.imagenet64-leakage") == wanted


def test_a_plan_counts_the_images_of_a_reference_that_is_made_here(paper):
    costs = Costs(paper, "H200")
    row = "imagenet64-sida-a1"
    more = costs.measurement(f"{row}.imagenet64-leakage").gpu_hours - costs.measurement(row).gpu_hours
    images = 500_000 + 1_281_167
    assert more == pytest.approx(images * costs.assumptions.gflop["dinov2"] * 1e9 / costs._rate(False) / 3600)
