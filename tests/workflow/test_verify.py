"""`sida verify` on a results folder: whole, damaged, inconsistent, hostile; a line for each fault, exit status 1."""

import functools
import json
import os
import re
import shutil

import pytest

from sida.config.lookup import ROOT
from sida.eval.results.csv_files import csv_text, read_csv
from sida.eval.results.extended import read_extended
from sida.eval.results.trial_files import read_measurement, write_measurement
from sida.files.atomic import read_hashed_json, write_hashed_json, write_json, write_text
from sida.files.ordinary import ordinary_files
from sida.files.text_files import HASH_KEY
from sida.networks import build_network
from sida.networks.file import save_network
from sida.workflow.archive import verify
from sida.workflow.cli import main
from tests.disks import flip
from tests.training.toy import NETWORK
from tests.workflow.results_folder import STUDENT, TEACHER, write_manifest, write_results


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A small results folder."""
    folder = tmp_path_factory.mktemp("verify") / "tiny"
    write_results(folder)
    return folder


@pytest.fixture
def folder(whole, tmp_path):
    """A copy that a test may damage."""
    shutil.copytree(whole, tmp_path / "tiny")
    return tmp_path / "tiny"


def verified(folder, capsys, *more):
    """Exit status, faults, remarks and the last line."""
    capsys.readouterr()
    status = main(["verify", str(folder), *more])
    lines = capsys.readouterr().out.splitlines()
    faults, remarks = ([x[8:] for x in lines if x.startswith(kind)] for kind in ("fault   ", "remark  "))
    return status, faults, remarks, lines[-1]


def test_a_whole_folder_has_no_fault(folder, capsys):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    status, faults, remarks, summary = verified(folder, capsys)
    assert (status, faults, remarks) == (0, [], [])
    assert "8 files equal to their own hash, 25 files equal to the manifest, 3 parents in the folder" in summary
    made = (
        "7 files of tables, figures and verdicts equal to those made again, 2 layouts that are not of this checkout, "
    )
    made += "and are taken as they are, 2 pictures of figures, not compared"
    assert f"12 rows equal to their trials, {made}; 0 faults" in summary
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


HASHED = [TEACHER, STUDENT, "measurements/a/trial-1.json", "claims.json", "manifest.json"]


@pytest.mark.parametrize("name", HASHED)
def test_a_flipped_bit_and_a_cut_off_file_are_found_without_the_manifest(folder, capsys, name):
    if name != "manifest.json":
        (folder / "manifest.json").unlink()
    whole = (folder / name).read_bytes()
    flip(folder / name, 0.9)
    status, faults, _, summary = verified(folder, capsys)
    assert status == 1
    assert any(fault.startswith(name) and "damaged" in fault for fault in faults)
    assert summary.endswith(f"{len(faults)} fault{'s' if len(faults) > 1 else ''}")
    for part in (0, 0.6):
        (folder / name).write_bytes(whole[: int(part * len(whole))])
        status, faults, _, _ = verified(folder, capsys)
        assert status == 1
        assert any(fault.startswith(name) for fault in faults), part


def test_files_without_a_hash_of_their_own_are_compared_with_the_manifest(folder, capsys):
    flip(folder / "tables/main.tex", 0.0)
    (folder / "students/a/evaluations.jsonl").unlink()
    for name in ("more.txt", "manifest.json.x"):
        (folder / name).write_text("more")
    found = {fault.split(":")[0] for fault in verified(folder, capsys)[1]}
    assert found == {"students/a/evaluations.jsonl", "tables/main.tex", "figures/curves", "more.txt", "manifest.json.x"}
    shutil.rmtree(folder / "figures")
    shutil.rmtree(folder / "tables")
    (folder / "manifest.json").unlink()
    trial = folder / "measurements/a/trial-0.json"
    record = json.loads(trial.read_text())
    del record[HASH_KEY]
    trial.write_text(json.dumps(record))
    status, faults, remarks, _ = verified(folder, capsys)
    assert (status, faults) == (0, [])
    assert sorted(remark.split(":")[0] for remark in remarks) == [
        "claims.md", "collected/figures/curves.csv", "collected/tables/main.csv", "manifest.json", "manifest.json.x",
        "measurements.csv", "measurements/a/trial-0.json", "more.txt",
        *(f"specs/{name}.json" for name in ("claims", "figures/curves", "measurements/a", "students/a", "tables/main")),
        "students/a/train.jsonl",
    ]  # fmt: skip


def edit(path, **changes):
    """As someone does who knows how to compute the hash again."""
    write_measurement(path, {**read_measurement(path), **changes})


def retrain_teacher(folder):
    save_network(build_network(NETWORK), folder / TEACHER, {"method": "teacher", "parents": {}})


def rewrite_rows(folder, change):
    columns, rows = read_csv(folder / "measurements.csv")
    changed = change([row for _, row in rows])
    write_text(folder / "measurements.csv", csv_text([*columns, "saw"], changed))


@pytest.mark.parametrize(
    ("change", "faults"),
    [
        (
            lambda folder: edit(folder / "measurements/a/trial-0.json", metrics={"fd": 1.0}),
            ["collected/tables/main.csv: line 2: value of fd of trial 0 of 'a' differs from its trial",
             "measurements.csv: line 2: value of fd of trial 0 of 'a' differs from its trial"],
        ),
        (
            lambda folder: rewrite_rows(folder, lambda rows: rows[:-1]),
            ["measurements.csv: fd of trial 1 of 'data' is missing"],
        ),
        (
            lambda folder: rewrite_rows(folder, lambda rows: [row | {"saw": "none"} for row in rows]),
            [f"measurements.csv: line {line}: saw of fd of trial" for line in (2, 3, 4, 5)],
        ),
        (
            lambda folder: edit(folder / "measurements/data/trial-1.json", held_out={"fd": "3/50"}),
            ["measurements.csv: line 5: held_out of fd of trial 1 of 'data' differs from its trial; collect again"],
        ),
        (retrain_teacher, [f"{STUDENT}: was made from another teacher than {TEACHER} is now"]),
        (
            lambda folder: (folder / STUDENT).unlink(),
            [f"measurements/a/trial-{t}.json: was made from {STUDENT}, which is missing; run" for t in (0, 1)],
        ),
        (lambda folder: (folder / TEACHER).unlink(), [f"{STUDENT}: was made from {TEACHER}, which is missing; run"]),
        (
            lambda folder: edit(folder / "measurements/a/trial-1.json", network_sha256="0" * 64),
            ["measurements/a/trial-1.json: was made from another network than", "collected/", "measurements.csv"],
        ),
        (
            lambda folder: edit(folder / "measurements/data/trial-1.json", trial=4, seeds=[40, 79]),
            ["measurements/data/trial-1.json: holds trial 4 of run 'data'; was it copied?", "measurements.csv: line 5",
             "measurements.csv: fd of trial 4 of 'data' is missing"],
        ),
        (
            lambda folder: (folder / "measurements/data/trial-1.json").unlink(),
            ["measurements.csv: line 5: no trial holds fd of trial 1 of 'data'"],
        ),
    ],
    ids=["trial", "row", "saw", "held out", "teacher", "no student", "no teacher", "network", "place", "gone"],
)  # fmt: skip
def test_what_does_not_fit_together_is_found_though_every_hash_is_right(folder, capsys, change, faults):
    change(folder)
    write_manifest(folder)
    status, found, _, _ = verified(folder, capsys)
    assert status == 1
    for start in faults:
        assert any(fault.startswith(start) for fault in found), (start, found)
    assert [fault for fault in found if not fault.startswith((*faults, "collected/"))] == []


def replace(name, old, new):
    """An edit of a file's text."""

    def change(folder):
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))

    return change


def rows_of_table(**changes):
    """An edit of the CSV of the table, with its hash; the column ``added`` adds the row of a run."""

    def change(folder):
        columns, rows = read_csv(folder / "tables/main.csv")
        rows = [row | {key: value for key, value in changes.items() if key in row} for _, row in rows]
        rows += [rows[0] | {"run": changes["added"]}] if "added" in changes else []
        names = [changes.get(f"column_{column}", column) for column in columns]
        renamed = [{changes.get(f"column_{key}", key): value for key, value in row.items()} for row in rows]
        write_text(folder / "tables/main.csv", csv_text(names, renamed))

    return change


def hashed(name, change):
    """An edit of a JSON object, with its hash."""

    def edit(folder):
        record = read_hashed_json(folder / name)
        change(record)
        write_hashed_json(folder / name, record)

    return edit


def copied(name, change=None):
    """A copy of the table in another place, edited."""

    def edit(folder):
        for suffix in (".tex", ".csv", ".md", ".html"):
            write_text((folder / name).with_suffix(suffix), (folder / "tables/main").with_suffix(suffix).read_text())
        if change:
            change(folder)

    return edit


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (replace("tables/main.tex", "7.375", "1.375"), "tables/main.tex"),
        (replace("tables/main.tex", r"\mathbf{", "{"), "tables/main.tex"),
        (replace("tables/main.md", "SiD", "SiDA"), "tables/main.md"),
        (replace("tables/main.md", "\n", "\r\n"), "tables/main.md"),
        (replace("tables/main.html", "3.06", "3.07"), "tables/main.html"),
        (replace("tables/main.html", "</table>", "</table><p>SiD is best</p>"), "tables/main.html"),
        (rows_of_table(measured="1.5"), "tables/main.csv"),
        (rows_of_table(run="A"), "tables/main.csv"),
        (rows_of_table(added="b"), "tables/main.csv"),
        (rows_of_table(column_measured="true"), "tables/main.csv"),
        (rows_of_table(measured_rank="best"), "tables/main.csv"),
        (rows_of_table(agreement="agrees"), "tables/main.csv"),
        (rows_of_table(difference="0.0"), "tables/main.csv"),
        (rows_of_table(not_compared="no"), "tables/main.csv"),
        (lambda folder: (folder / "tables/main.md").unlink(), "tables/main.md"),
        (copied("more/main.tex", replace("more/main.md", "SiD", "SiDA")), "more/main.md"),
        (copied("tables/more/main.tex", replace("tables/more/main.tex", "7.375", "1.375")), "tables/more/main.tex"),
        (replace("figures/curves.csv", "7.4", "5.4"), "figures/curves.csv"),
        (replace("figures/curves.csv", "independent measurement", "measured"), "figures/curves.csv"),
        (replace("claims.md", "not decided", "decided"), "claims.md"),
        (
            hashed("claims.json", lambda record: record["claims"][0].update(verdict="supported")),
            "claims.json",
        ),
    ],
)  # fmt: skip
def test_products_are_those_that_the_measurements_give(folder, capsys, change, name):
    change(folder)
    write_manifest(folder)
    status, faults, _, _ = verified(folder, capsys)
    assert (status, {fault.split(": ")[0] for fault in faults}) == (1, {name})


def swapped_labels(spec):
    for row, label in zip(spec["runs"], ("Data", "SiD")):
        row["label"] = label


@pytest.mark.parametrize("product", ["tables/main", "figures/curves", "claims"])
@pytest.mark.parametrize(
    ("change", "key"),
    [
        (swapped_labels, "label of row 'a' is 'Data', and 'SiD' in measurements/a/trial-0.json"),
        (lambda spec: spec["runs"][1].update(method="sida"), "method of row 'data' is 'sida', and 'data'"),
    ],
)
def test_rows_of_specs_have_the_names_of_their_trials(folder, capsys, product, change, key):
    path = folder / f"specs/{product}.json"
    spec = json.loads(path.read_text())
    change(spec)
    write_json(path, spec)
    assert any(fault.startswith(product) and key in fault for fault in verified(folder, capsys)[1])


def test_layouts_are_those_of_the_checkout_or_counted_and_a_run_left_out_is_named(folder, capsys):
    path = folder / "specs/tables/main.json"
    layout = read_extended(ROOT / "config/tables/main.yaml")
    for changes, count in (({}, 1), ({"title": "Another"}, 2)):
        write_json(path, json.loads(path.read_text()) | {"layout": layout | changes})
        assert f"{count} layouts that are not of this checkout" in verified(folder, capsys)[3]
    rewrite_rows(folder, lambda rows: [row for row in rows if row["run"] != "data"])
    remarks = verified(folder, capsys)[2]
    assert any(remark.startswith("measurements.csv: has no row of 'data'") for remark in remarks)


def test_what_is_not_compared_is_counted_and_named(folder, capsys):
    copied("tables/else.tex")(folder)
    copied("more/of others.tex")(folder)
    spec = json.loads((folder / "specs/figures/curves.json").read_text())
    write_json(folder / "specs/figures/curves.json", spec | {"layout": spec["layout"] | {"kind": "mine:Curves"}})
    claims = json.loads((folder / "specs/claims.json").read_text())
    write_json(folder / "specs/claims.json", claims | {"study": None})
    write_text(folder / "index.html", "<p>0.0")
    write_manifest(folder)
    status, faults, remarks, summary = verified(folder, capsys)
    assert (status, faults) == (0, [])
    assert [remark.split(": ")[0] for remark in remarks] == ["claims", "figures/curves"]
    assert "mine:Curves is code from outside" in remarks[1]
    for text in (
        "4 files of tables, figures and verdicts equal to those made again", "2 pictures of figures, not compared",
        "5 files of tables, not compared", "1 files of figures, not compared", "2 files of verdicts, not compared",
        "1 pages, not compared",
    ):  # fmt: skip
        assert text in summary


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"layout": None}, "tables/main: "),
        ({"layout": {"columns": [], "rows": []}}, "tables/main: .*columns"),
        ({"layout": {"kind": "hyperparameters", "columns": [], "rows": []}}, "tables/main: "),
        ({"layout": {"extends": "/etc/passwd"}}, "tables/main: .*extends"),
        ({"mode": "best"}, "tables/main"),
        ({"runs": [{"run": "../a", "label": "x", "method": "sid"}]}, r"tables/main: .*runs\[0\].run"),
        ({"runs": {"a": 1}}, "tables/main: "),
        ({"retraining": 3}, "tables/main: "),
    ],
)
def test_a_strangers_spec_ends_in_a_line(folder, capsys, change, told):
    path = folder / "specs/tables/main.json"
    write_json(path, json.loads(path.read_text()) | change)
    write_manifest(folder)
    status, faults, _, _ = verified(folder, capsys)
    assert status == 1
    assert any(re.match(told, fault) for fault in faults), faults


def test_a_strangers_folder_leads_nowhere_else_and_ends_in_lines(folder, capsys, tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    os.symlink(tmp_path / "secret.txt", folder / "tables/other.csv")
    os.symlink("/", folder / "root")
    os.mkfifo(folder / "pipe")
    write_json(folder / "specs/students/a.json", ["no mapping"])
    write_json(folder / "specs/measurements/a.json", {"network": "../../../../../etc/passwd"})
    (folder / "claims.json").write_text("[" * 100_000)
    (folder / "measurements/a/trial-0.json").write_text(json.dumps({"metrics": [], "protocol": 3}))
    (folder / "measurements/a/\x1b[2J.json").write_text("{}")
    record = read_measurement(folder / "measurements/a/trial-1.json")
    edit(folder / "measurements/a/trial-1.json", protocol=record["protocol"] | {"fields": [1]})
    status, faults, _, _ = verified(folder, capsys)
    assert status == 1
    text = "\n".join(faults)
    for name in ("tables/other.csv: is a link", "root: is a link", "pipe: is not an ordinary", "claims.json: damaged"):
        assert name in text
    assert "\x1b" not in text
    assert "measurements/a/trial-0.json: " in text
    assert "measurements/a/trial-1.json: " in text
    assert "students/a/network.safetensors: " in text


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"files": {"../secret.txt": {"sha256": "0" * 64, "bytes": 6}}}, "files.../secret.txt: is not the name of a"),
        ({"files": {"/etc/passwd": {"sha256": "0" * 64, "bytes": 6}}}, "files./etc/passwd: is not the name of a file"),
        ({"files": {"tables/../../x": {"sha256": "0" * 64, "bytes": 6}}}, "files.tables/../../x: is not the name"),
        ({"files": {"Snakefile": {"sha256": "0" * 64, "bytes": 6}}}, "files.Snakefile: is a file that a manifest"),
        ({"files": {"a.csv": {"sha256": "../x", "bytes": 6}}}, "files.a.csv.sha256: must be 64"),
        ({"files": [1]}, "files: must be a mapping"),
        ({"environment": {"code_version": "1", "date": ["2035"]}}, "environment.date: must be"),
        ({"environment": {}}, "environment: must have code_version and date"),
        ({"more": 1}, "more: unknown key"),
    ],
)
def test_a_manifest_names_files_of_the_folder_by_their_hashes(folder, capsys, change, told):
    write_hashed_json(folder / "manifest.json", read_hashed_json(folder / "manifest.json") | change)
    status, faults, _, _ = verified(folder, capsys)
    assert status == 1
    assert any(fault.startswith(f"manifest.json: {told}") for fault in faults), faults


def test_a_folder_of_more_files_than_any_is_one_line(folder, capsys, monkeypatch):
    monkeypatch.setattr(verify, "ordinary_files", functools.partial(ordinary_files, limit=10))
    assert main(["verify", str(folder)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("tiny: has more than 10 files; is it the right folder?")


def test_a_folder_without_results_is_one_line(folder, capsys):
    (folder.parent / "notes.txt").write_text("mine")
    (folder / "figures/sub").mkdir(parents=True)
    for wrong, remedy in (
        (folder.parent / "none", "no such file or folder"),
        (folder.parent, f"sida verify {folder}"),
        (folder / "figures/sub", "name the results"),
    ):
        assert main(["verify", str(wrong)]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert remedy in line
