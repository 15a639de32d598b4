"""`sida verify` on a results folder: whole, damaged, inconsistent, hostile; a line for each fault, exit status 1."""

import functools
import json
import os
import shutil

import pytest

from eval.results.csv_files import csv_text, read_csv
from eval.results.measurements import read_measurement, write_measurement
from sida.files.atomic import read_hashed_json, write_hashed_json, write_json, write_text
from sida.files.ordinary import ordinary_files
from sida.files.text_files import HASH_KEY
from sida.networks import build_network
from sida.networks.file import save_network
from tests.disks import flip
from tests.training.toy import NETWORK
from tests.workflow.results_folder import STUDENT, TEACHER, VALUES, write_manifest, write_results, write_table
from workflow.archive import verify
from workflow.cli import main


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
    assert "13 files equal to their own hash, 15 files equal to the manifest, 3 parents in the folder" in summary
    assert "6 rows equal to their trials, 2 cells of tables computed again; 0 faults" in summary
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


HASHED = [
    TEACHER, STUDENT, "students/a/train.jsonl", "measurements/a/trial-1.json", "measurements.csv", "tables/main.csv",
    "collected/tables/main.csv", "claims.json", "manifest.json",
]  # fmt: skip


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
    (folder / "more.txt").write_text("more")
    found = verified(folder, capsys)[1]
    assert [fault.split(":")[0] for fault in found] == ["students/a/evaluations.jsonl", "tables/main.tex", "more.txt"]
    (folder / "manifest.json").unlink()
    trial = folder / "measurements/a/trial-0.json"
    record = json.loads(trial.read_text())
    del record[HASH_KEY]
    trial.write_text(json.dumps(record))
    status, faults, remarks, _ = verified(folder, capsys)
    assert (status, faults) == (0, [])
    assert sorted(remark.split(":")[0] for remark in remarks) == [
        "manifest.json", "measurements/a/trial-0.json", "more.txt", "specs/measurements/a.json",
        "specs/students/a.json", "tables/main.tex",
    ]  # fmt: skip
    assert verified(folder, capsys, "--quiet")[2] == []


def edit(path, **changes):
    """As someone does who knows how to compute the hash again."""
    write_measurement(path, {**read_measurement(path), **changes})


def rewrite_table(folder):
    write_table(folder, VALUES | {"a": [7.0, 7.5]})


def retrain_teacher(folder):
    save_network(build_network(NETWORK), folder / TEACHER, {"method": "teacher", "parents": {}})


def rewrite_rows(folder, change):
    columns, rows = read_csv(folder / "measurements.csv")
    changed = change([row for _, row in rows])
    write_text(folder / "measurements.csv", csv_text([*(c for c in columns if c != HASH_KEY), "saw"], changed))


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
            ["measurements.csv: fd of trial 1 of 'data' is missing", "tables/main.csv: line 3: fd of 'data' differs"],
        ),
        (
            lambda folder: rewrite_rows(folder, lambda rows: [row | {"saw": "none"} for row in rows]),
            [f"measurements.csv: line {line}: saw of fd of trial" for line in (2, 3, 4, 5)],
        ),
        (
            lambda folder: edit(folder / "measurements/data/trial-1.json", held_out={"fd": "3/50"}),
            ["measurements.csv: line 5: held_out of fd of trial 1 of 'data' differs from its trial; collect again"],
        ),
        (rewrite_table, ["tables/main.csv: line 2: fd of 'a' differs from the measurements; make the table again"]),
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
    ids=["trial", "row", "saw", "held out", "table", "teacher", "no student", "no teacher", "network", "place", "gone"],
)  # fmt: skip
def test_what_does_not_fit_together_is_found_though_every_hash_is_right(folder, capsys, change, faults):
    change(folder)
    write_manifest(folder)
    status, found, _, _ = verified(folder, capsys)
    assert status == 1
    assert len(found) == len(faults), found
    for one, start in zip(found, faults):
        assert one.startswith(start)


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
