"""The paper's tables: every published number as printed, and never mixed with measurements."""

import csv
import dataclasses
import itertools
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest

from sida.config.settings import from_mapping
from sida.eval.measuring.protocol import load_protocol
from sida.eval.results.identity import comparable
from sida.eval.results.measurements import Measurements, load_measurements
from sida.eval.results.published import load_published, protocols, published_number
from sida.eval.tables.build import build_table, write_table
from sida.eval.tables.hyperparameters import HyperRow
from sida.eval.tables.layout import TableSources, load_layout, load_table_layout
from sida.eval.tables.render import to_csv, to_markdown
from sida.methods.registry import DistillConfig
from sida.workflow.preset import load_preset
from sida.workflow.preset.jobs import product, training
from tests.eval.conftest import _registered, recorded_cache  # noqa: F401
from tests.eval.synthetic_output import csv_rows, measurement_lines, write_csv, write_released
from tests.eval.tables.test_tables import assert_one_page, needs_latex, pdflatex, text_of
from tests.refused import refused, refusing
from tests.workflow.workspace import shipped

ROOT = Path(__file__).parents[3]
PAPERS = ROOT / "studies/papers"
TABLES = ["table1", "table2", "table3", "table4", "table5", "table6", "table7"]
SIZES = ["XS (125M)", "S (280M)", "M (498M)", "L (777M)", "XL (1.1B)", "XXL (1.5B)"]
SETS = ["CIFAR-10 32×32", "ImageNet 64×64", "FFHQ 64×64", "AFHQ-v2 64×64"]
PUBLISHED = load_published()
EMPTY = Measurements([], "none")


def paper(name, mode="paper", measured=EMPTY, runs=None):
    path = PAPERS / "tables" / f"{name}.yaml"
    if name == "table8":
        return load_table_layout(path).build(TableSources(None, None, mode))
    return build_table(load_layout(path), measured, runs or {}, mode)


def audited(tmp_path, name, lines):
    """A table with these measurements beside the published numbers."""
    return paper(name, "audit", load_measurements(write_csv(tmp_path / "m.csv", lines)))


def records(table):
    return csv_rows(to_csv(table))


@pytest.fixture(scope="module")
def preset():
    return load_preset(PAPERS / "released.yaml")


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    return load_measurements(write_released(tmp_path_factory.mktemp("released")))


#: Titles of each table's columns, number of its rows, and what is bold in it, as in the paper.
PRINTED = {
    "table1": (["Family", "Model", "NFE", "FID ↓", "IS ↑"], 22, {"1.499", "10.323"}),
    "table2": (["Family", "Model", "FID ↓"], 17, {"1.396"}),
    "table3": (["Family", "Model", "NFE", "FID ↓", "Prec. ↑", "Rec. ↑"], 32, {"1.110"}),
    "table4": (["Method", "CFG", "NFE", *SIZES], 9, {"2.156", "1.669", "1.488", "1.465", "1.449", "1.88"}),
    "table5": (["Family", "Model", "NFE", "FID ↓"], 9, {"1.040"}),
    "table6": (["Family", "Model", "NFE", "FID ↓"], 6, {"1.276"}),
    "table7": (["Method", "CFG", "NFE", *SIZES], 5, None),
    "table8": (["Method", "Hyperparameters", *SETS], 25, None),
}


#: Number of values of each table: the paper's cells, and in tables 4 and 7 six numbers of parameters in their headers.
VALUES = {
    "table1": 22 + 14, "table2": 17, "table3": 32 + 14 + 18, "table4": 46 + 6, "table5": 9, "table6": 6,
    "table7": 26 + 6, "table8": 8 * 4 + 9 + 2 * 5 * 4,
}  # fmt: skip


def test_published_numbers_are_those_that_the_paper_prints():
    """``printed_tables.csv`` was transcribed from Tables 1 to 8 of arXiv:2410.14919v2, without the suite's columns."""
    with (ROOT / "tests/studies/papers/printed_tables.csv").open() as file:
        printed = {row["id"]: (row["value"], row["std"]) for row in csv.DictReader(file)}
    assert {name: sum(id.startswith(f"{name}-") for id in printed) for name in VALUES} == VALUES
    assert {p.id: (p.text, p.std) for p in PUBLISHED.values() if p.source in VALUES} == printed


@pytest.mark.parametrize("name", PRINTED)
def test_a_table_has_every_published_number_once_as_printed_and_nothing_else(name):
    expected = {(p.id, p.text, p.std, p.literal) for p in PUBLISHED.values() if p.source == name}
    table = paper(name)
    columns = ("published_id", "published", "published_std", "published_literal")
    found = [tuple(record[column] for column in columns) for record in records(table)]
    assert len(found) == len(expected)
    assert set(found) == expected
    assert f"Published numbers as printed ({name} in results/published)." in table.notes
    titles, rows, bold = PRINTED[name]
    assert ([column.title for column in table.columns], len(table.rows)) == (titles, rows)
    cells = [cell for row in table.rows for cell in row.cells]
    assert bold is None or {cell.text for cell in cells if cell.bold} == bold
    if name in TABLES:
        printed = {(cell.text, cell.spread or "") for cell in cells if cell.kind == "published"}
        assert printed == {(p.text, p.std) for p in PUBLISHED.values() if p.source == name and p.metric != "params"}
        assert {cell.kind for cell in cells} <= {"published", "text", "blank", "dash"}


def test_row_order_groups_blank_cells_and_dashes():
    one, three, four = (paper(name) for name in ("table1", "table3", "table4"))
    labels = [row.cells[1].text for row in one.rows]
    assert labels[0].startswith("VP-EDM")
    assert labels[-5:] == ["SiD, α=1.0", "SiD, α=1.2", "SiDA, α=1.0", "SiD2A, α=1.0", "SiD2A, α=1.2"]
    assert [row.cells[0].text for row in one.rows if row.cells[0].text] == ["Teacher", "Diffusion", "One Step"]
    assert [row.cells[2].text for row in three.rows[:2]] == ["511", "79"]
    assert three.rows[1].cells[1].kind == "blank"  # one label, two lines
    assert sum(cell.kind == "dash" for row in four.rows for cell in row.cells) == 4 + 3 + 1
    assert [place for place, row in enumerate(four.rows) if row.rule] == [2, 6]


def test_version_4_values_are_a_separate_table():
    assert [cell.text for cell in paper("table4-v4").rows[-1].cells[3:]] == [
        "2.156",
        "1.669",
        "1.488",
        "1.413",
        "1.379",
        "1.366",
    ]
    assert "1.413" not in to_markdown(paper("table4"))


def test_audit_never_puts_published_and_measured_in_one_cell(released):
    for name in TABLES:
        table = paper(name, "audit", released)
        for row in table.rows:
            for cell in row.cells:
                if cell.kind == "published":
                    assert (cell.text, cell.spread or "") in {(p.text, p.std) for p in PUBLISHED.values()}
        for record in records(table):
            if record["measured"]:
                estimate = released.estimate(record["run"], record["metric"])
                assert float(record["measured"]) == estimate.mean
            own = record["published_id"] and PUBLISHED[record["published_id"]].protocol
            if own and record["measured"] and record["run"] != "edm2-l-sid2a":  # a later version
                difference = float(record["measured_lowest"] or record["measured"]) - float(record["published"])
                assert float(record["difference"]) == pytest.approx(difference)
                agrees = abs(difference) <= float(record["tolerance"]) + 1e-12
                better = (difference > 0) == (record["metric"] in ("is", "precision", "recall"))
                assert record["agreement"] == ("agrees" if agrees else "better" if better else "worse")


def test_unmeasured_cells_say_so_and_quoted_rows_stay_blank():
    rows = paper("table1", "audit").rows
    missing = [cell for row in rows for cell in row.cells if cell.kind == "missing"]
    assert {cell.plain for cell in missing} == {"not measured"}
    ddpm = next(row for row in rows if "DDPM" in row.cells[1].text)
    assert [c.kind for c in ddpm.cells[4:]] == ["published", "published"]
    assert not any(c.kind in ("measured", "difference") for row in rows for c in row.cells)


def test_stacked_audit_keeps_a_measurement_where_the_paper_has_a_dash(released):
    table = paper("table4", "audit", released)
    names = [row.cells[3].text for row in table.rows]
    assert names.count("measured") == names.count("Δ") == 5
    assert names.count("published") == 9
    last = [row for row in table.rows if row.cells[3].text in ("published", "measured")][-2:]
    assert last[0].cells[-1].kind == "dash"
    assert last[1].cells[-1].kind == ("measured" if released.has("edm2-xxl-sid2a", "fid") else "blank")
    assert any(row.cells[-1].kind == "measured" for row in table.rows if row.cells[3].text == "measured")


def test_a_released_file_of_a_later_version_stands_beside_the_number_without_a_verdict(tmp_path):
    truth = {f"edm2-{size}-sid2a": (1, {"fid": 1.4, "fd_dinov2": 40.0}) for size in ("m", "l")}
    lines = list(measurement_lines(truth=truth))
    for name in ("table4", "table7"):
        table = audited(tmp_path, name, lines)
        m, large = (next(r for r in records(table) if r["run"] == run) for run in truth)
        assert "" not in (m["agreement"], m["difference"])
        assert "" not in (large["published"], large["measured"])
        assert large["agreement"] == large["difference"] == ""
        delta = next(row for row in reversed(table.rows) if row.cells[3].text == "Δ")
        assert [cell.kind for cell in delta.cells[6:8]] == ["difference", "blank"]
    four = {r["run"]: r for r in records(audited(tmp_path, "table4-v4", lines)) if r["run"]}
    assert (four["edm2-l-sid2a"]["published"], four["edm2-l-sid2a"]["agreement"]) == ("1.413", "agrees")


def test_identities_of_published_numbers_are_those_of_the_configuration():
    # A changed protocol is another one: then correct the identity, if the paper's is still meant.
    found = {name: {key: load_protocol(name).identity(key) for key in metrics} for name, metrics in protocols().items()}
    for number in PUBLISHED.values():
        key = number.metric.lower().replace("-", "_")
        assert number.identity.quoted == (key not in found.get(number.protocol, {}))
        if not number.identity.quoted:
            assert comparable(number.identity, found[number.protocol][key]) is None
    assert {number.protocol for number in PUBLISHED.values()} == {*protocols(), ""}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"protocol": "imagenet64-uniform", "classes": "uniform"}, "classes: uniform != labels-imagenet"),
        ({"reference_sha256": "4e" * 32}, "reference: 4e4e4e4e4e4e != "),
    ],
)
def test_numbers_of_two_identities_stand_side_by_side_without_a_verdict(tmp_path, change, reason):
    truth = {"imagenet64-sid2a-a1": (1, {"fid": 1.108}), "imagenet64-gdd-i": (1, {"fid": 1.16})}
    for changed, verdict in (({}, "agrees"), (change, "")):
        lines = [line | changed for line in measurement_lines(truth=truth)]
        for line in lines:
            line |= {"seed_first": line["trial"] * line["n"], "seed_last": (line["trial"] + 1) * line["n"] - 1}
            line |= {"value": truth[line["run"]][1]["fid"] + 1e-4 * line["trial"]}
        table = audited(tmp_path, "table3", lines)
        found = {record["run"]: record for record in records(table) if record["measured"]}
        assert found["imagenet64-sid2a-a1"]["agreement"] == verdict
        assert bool(found["imagenet64-sid2a-a1"]["difference"]) == bool(verdict)
        assert found["imagenet64-gdd-i"]["agreement"] == ""
        text = to_markdown(table)
        assert ("1.108" in text, "✓ |" in text) == (True, bool(verdict))
        assert ("Not compared: imagenet64-sid2a-a1" in text, reason in text) == (not verdict, not verdict)
        assert "published under the protocol of another paper" in text


def test_one_trial_and_an_unknown_reference_get_no_verdict(tmp_path, monkeypatch):
    lines = list(measurement_lines(truth={"imagenet64-sid2a-a1": (1, {"fid": 1.108})}))
    table = audited(tmp_path, "table3", lines[:1])
    assert "single trial" in to_markdown(table)
    assert {record["agreement"] for record in records(table)} == {""}
    # A cache without a record of the reference cannot say that a file is the published one.
    monkeypatch.setenv("SIDA_CACHE", str(tmp_path))
    table = audited(tmp_path, "table3", lines)
    assert {record["agreement"] for record in records(table)} == {""}
    assert "sida assets fetch" in to_markdown(table)


def test_a_teacher_is_held_against_its_paper_by_its_lowest_of_three(tmp_path):
    lines = [
        line | {"value": 1.5 - 0.07 * line["trial"]}
        for line in measurement_lines(truth={"teacher-edm-imagenet64": (511, {"fid": 1.4})})
    ]
    table = audited(tmp_path, "table3", lines)
    (record,) = (record for record in records(table) if record["measured"])
    assert float(record["measured_lowest"]) == pytest.approx(1.36)
    assert (float(record["difference"]), record["agreement"]) == (pytest.approx(0, abs=1e-9), "agrees")
    assert "teacher-edm-imagenet64 1.360" in to_markdown(table)
    two = audited(tmp_path, "table3", [line for line in lines if line["trial"] < 2])
    assert {record["agreement"] for record in records(two)} == {""}


@pytest.mark.parametrize("name", [*TABLES, "table4-v4"])
def test_measured_mode_shows_every_generator_and_says_which_cannot_be_measured(preset, released, name):
    kept = [row for row in released.rows if row.run not in preset.left_out]
    measured = Measurements(kept, "measurements.csv")
    table = paper(name, "measured", measured, preset.runs)
    named = {run for record in records(paper(name, "audit")) for run in record["run"].split()}
    shown = {run for record in records(table) for run in record["run"].split()}
    assert shown == named
    for record in records(table):
        assert (record["measured"] != "") == measured.has(record["run"], record["metric"])
    kinds = [cell.kind for row in table.rows for cell in row.cells]
    assert kinds.count("missing") == sum(record["measured"] == "" for record in records(table)) > 0
    assert set(kinds) <= {"measured", "missing", "text", "blank"}
    assert "published" not in " ".join(table.notes)


def test_our_numbers_stand_under_our_labels_beside_version_4(preset, released):
    table = paper("table4-v4", "measured", released, preset.runs)
    assert [row.cells[0].text for row in table.rows] == ["EDM2", "EDM2", "SiD", "SiDA", "SiD2A"]
    ours = {f"edm2-{size}-sid2a" for size in ("xs", "s", "m", "l", "xl", "xxl")}
    assert {r["run"] for r in records(table) if r["model"] == "SiD2A"} == ours
    assert "version" not in to_markdown(table).replace(table.title, "").replace(table.caption, "")
    labels = [row.cells[0].text for row in paper("table4-v4").rows]
    assert labels[2:] == ["SiD, version 2", "SiDA, version 2", "SiD2A, version 2", "SiD2A, abstract of version 4"]


def test_unknown_published_id_names_layout_and_key(tmp_path):
    text = (PAPERS / "tables/table6.yaml").read_text().replace("table6-sida", "table6-sidda")
    (tmp_path / "t.yaml").write_text(text)
    with refusing(r"t\.yaml: rows\[3\]\.published: .*'table6-sidda.*'table6-sida"):
        build_table(load_layout(tmp_path / "t.yaml"), EMPTY, {}, "paper")
    refused("place: .*'x'", published_number, "x", "place")


def test_faulty_published_files(tmp_path):
    refused("no published numbers", load_published, tmp_path)
    text = (ROOT / "results" / "published" / "published.csv").read_text()
    lines = text.splitlines(keepends=True)
    twice = "".join([*lines[:3], lines[2]])
    for content, fault in (
        (twice, r"a\.csv:4: id 'table1-vp-edm-is'"),
        (text.replace("row_label", "row", 1), r"a\.csv:2: column 'row_label'"),
        (text.replace(",cifar10,3", ",cifar11,3", 1), r"a\.csv:\d+: suite_protocol: .*'cifar11'.*'cifar10'"),
        (text.replace(",cifar10,3", ",cifar10,three", 1), r"a\.csv:\d+: lowest_of: .*fix it"),
    ):
        (tmp_path / "a.csv").write_text(content)
        refused(fault, load_published, tmp_path)


@needs_latex
@pytest.mark.parametrize("name", ["table1", "table3", "table4", "table8"])
@pytest.mark.parametrize("mode", ["paper", "audit"])
def test_tables_compile_on_one_page_with_every_digit(tmp_path, released, name, mode):
    table = paper(name, mode, released if mode == "audit" else EMPTY)
    write_table(table, tmp_path / "host.tex")
    assert_one_page(pdflatex(tmp_path, "host.tex"))
    if shutil.which("pdftotext"):
        text = text_of(tmp_path)
        found = Counter(re.findall(r"[+−]?\d+\.\d+(?:±\d+\.\d+)?", text.replace(" ±", "±").replace("± ", "±")))
        kinds = ("published", "measured", "difference")
        cells = [cell for row in table.rows for cell in row.cells if cell.kind in kinds]
        printed = Counter(c.text + (f"±{c.spread}" if c.spread else "") for c in cells if re.search(r"\d\.\d", c.text))
        assert not {text: n for text, n in (printed - found).items() if " " not in text}


def test_table_8_prints_the_settings_that_training_receives(tmp_path):
    demo = shipped("demo")
    preset = dataclasses.replace(demo, folders=(*demo.folders, tmp_path))
    (tmp_path / "tables").mkdir()
    layout, base = tmp_path / "tables" / "t8.yaml", ROOT / "config" / "tables" / "table8.yaml"
    columns = "columns: [{head: digits, key: cifar-10, sid: sid-a1.2, sida: sida-a1.0}]\n"
    layout.write_text(f"extends: {base}\n{columns}")
    sources = TableSources(None, None, "measured", settings=product(preset, "tables", "t8").spec, results=tmp_path)
    table = load_table_layout(layout).build(sources)
    found = {row.cells[1].text: row.cells[2].text for row in table.rows if row.cells[1].text}
    config = from_mapping(DistillConfig, training(preset, "sida-a1.0").spec, "demo")
    assert found["Batch size"] == str(config.batch_size)
    assert float(found["Learning rate of (ψ, θ)"]) == config.lr
    assert found["Loss scaling of (λ_sid, λ_adv)"] == f"({config.lambda_sid:g}, {config.lambda_adv:g})"
    assert found["∼seconds per 1k images"] == ""  # the cell is marked instead
    assert {row.cells[2].plain for row in table.rows if row.cells[2].kind == "missing"} == {"not measured"}


def test_table_8_has_the_papers_settings():
    """Settings of the preset, cell by cell beside the printed ones; the paper names the GPU and a second α."""
    sources = TableSources(None, None, "audit", settings=product(shipped("paper"), "tables", "table8").spec)
    table = load_table_layout(PAPERS / "tables/table8.yaml").build(sources)
    rows = [[cell.text for cell in row.cells] for row in table.rows]
    pairs = {a[1]: (a[3:], b[3:]) for a, b in itertools.pairwise(rows) if (a[2], b[2]) == ("published", "configured")}
    assert len(pairs) == 14
    names, ours = pairs.pop("Number of GPUs")
    assert [name.partition("x")[0] for name in names] == [name.partition(" ")[0] for name in ours]
    printed, ours = pairs.pop("α (SiDA; SiD2A)")
    assert [text.partition(".")[0] for text in printed] == ours
    assert pairs["Gradient accumulation rounds"] == (["1", "32", "1", "1"],) * 2
    assert all(printed == ours for printed, ours in pairs.values())


@pytest.mark.parametrize("form", ["{} {}", "{x}", "{"])
def test_a_form_of_table_8_that_does_not_fit_its_values_is_told(form):
    with refusing(r"^row\.form: .* must have {} for each of 1 values"):
        from_mapping(HyperRow, {"label": "α", "setting": ["alpha"], "form": form}, "row")


def test_settings_of_another_form_are_told():
    layout = load_table_layout(PAPERS / "tables/table8.yaml")
    for given, place in (({"gpus": 1}, "students"), ({"gpus": 1, "students": {"x": {}}}, "students.x.settings")):
        with refusing(f"^--spec: {place}: "):
            layout.build(TableSources(None, None, "measured", settings=given))


def test_a_line_without_published_numbers_has_ours_alone():
    path = ROOT / "studies/afternoon/tables/digits-table8.yaml"
    layout = load_table_layout(path)
    table = layout.build(TableSources(None, None, "audit"))
    assert {row.cells[2].text for row in table.rows} <= {"", "configured", "measured"}
    assert {cell.kind for row in table.rows for cell in row.cells[3:]} == {"missing"}
    # And one with published numbers alone, which is nothing of ours.
    alone = HyperRow("α", published=("table8-alpha-sida",), span=True)
    table = dataclasses.replace(layout, rows=(alone,)).build(TableSources(None, None, "audit"))
    assert [row.cells[2].text for row in table.rows] == ["published"]
    refused("a line needs", HyperRow, "α")


def test_the_first_line_of_a_group_that_is_shown_has_its_name_below_a_rule():
    layout = load_table_layout(ROOT / "studies/afternoon/tables/digits-table8.yaml")
    printed, own = HyperRow("α", "SiDA", published=("table8-alpha-sida",), span=True), HyperRow("b", "SiDA", text="x")
    rows = (HyperRow("a", text="x"), printed, own, HyperRow("c", "SiDA", text="x"))
    table = dataclasses.replace(layout, rows=rows).build(TableSources(None, None, "measured"))
    assert [(row.cells[0].text, row.cells[1].text, row.rule) for row in table.rows] == [
        ("", "a", False), ("SiDA", "b", True), ("", "c", False),
    ]  # fmt: skip
