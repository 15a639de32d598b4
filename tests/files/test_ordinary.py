"""The one walk of results folders: names of ordinary files, without links, pipes, devices and ways out."""

import os
import shutil
import subprocess
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sida.config.lookup import ROOT
from sida.errors import UserError
from sida.eval.report.page import write_index
from sida.eval.report.paper import build_paper
from sida.eval.results import load
from sida.eval.results.logs import logs_of
from sida.eval.results.stored import files_of
from sida.files.ordinary import file_below, ordinary_files
from tests.refused import command, refused
from tests.workflow.results_folder import write_results


def place(folder: Path, name: str, kind: str, target: Path) -> None:
    """Puts a link to a target, or a pipe, into a folder."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target) if kind == "link" else os.mkfifo(path)


def test_a_folder_nested_deeper_than_calls_is_read(tmp_path):
    results = tmp_path / "results"
    subprocess.run(["mkdir", "-p", results / ("a/" * 1200)], check=True)
    assert ordinary_files(results) == {}
    subprocess.run(["rm", "-r", results], check=True)  # Python removes by calls


@settings(max_examples=30)
@given(names=st.sets(st.from_regex(r"[a-z.]{1,3}(/[a-z .é#%:]{1,4}){0,3}", fullmatch=True), max_size=6))
def test_names_are_those_of_files_and_lead_nowhere_else(names, tmp_path_factory):
    folder = tmp_path_factory.mktemp("walk")
    (folder / "mine").write_text("secret")
    results, sizes = folder / "results", {}
    results.mkdir()
    for name in names:
        path = results / name
        if ".." not in path.parts and not os.path.lexists(path) and not any(p.is_file() for p in path.parents):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
            sizes[PurePosixPath(name).as_posix()] = len(name.encode())
    faults = []
    (results / "LINK").symlink_to(folder)
    (results / "to mine").symlink_to(folder / "mine")
    assert ordinary_files(results, fault=lambda name, text: faults.append(name)) == sizes
    assert faults == ["LINK", "to mine"]


@pytest.mark.parametrize(
    ("name", "kind", "told"),
    [
        ("students", "link", "students: is a link.*replace it by the file"),
        ("tables/main.tex", "link", "tables/main.tex: is a link"),
        ("logs", "pipe", "logs: is not an ordinary file.*remove it"),
        ("figures/\udc80.png", "file", "is .*UTF-8.*rename it"),
    ],
)
def test_every_reader_of_results_refuses_what_is_no_file(tmp_path, name, kind, told):
    results, elsewhere = tmp_path / "demo", tmp_path / "of the user"
    (elsewhere / "a").mkdir(parents=True)
    (elsewhere / "a/train.jsonl").write_text("{}")
    if kind == "file":
        (results / name).parent.mkdir(parents=True)
        (results / name).touch()
    else:
        place(results, name, kind, elsewhere)
    for read in (
        ordinary_files,
        lambda folder: list(logs_of(folder)),
        lambda folder: list(files_of(folder, ["a"])),
        build_paper,
        lambda folder: write_index(folder, folder / "index.html"),
        lambda folder: command("manifest", folder, "--out", folder / "manifest.json"),
    ):
        refused(told, read, results)
    assert [path.name for path in elsewhere.rglob("*")] == ["a", "train.jsonl"]
    assert not (results / "index.html").exists()


@settings(max_examples=30)
@given(name=st.from_regex(r"(/|[a-zA-Z.]{0,3})(/[a-z.\x00]{0,2}){0,3}", fullmatch=True))
def test_a_named_file_is_below_its_folder_or_is_refused(name, tmp_path_factory):
    folder = tmp_path_factory.mktemp("named")
    (folder / "elsewhere/x").mkdir(parents=True)
    (folder / "elsewhere/x/y").touch()
    results = folder / "results"
    (results / "b").mkdir(parents=True)
    (results / "a").symlink_to(folder / "elsewhere")
    (results / "b/x").symlink_to(folder / "elsewhere/x/y")
    (folder / "to results").symlink_to(results)
    for root in (results, folder / "to results"):
        try:
            path = file_below(root, name)
        except UserError:
            continue
        assert path == root / name
        assert path.resolve().is_relative_to(results)
        assert not path.exists() or name in ordinary_files(results, fault=lambda *_: None)


@pytest.fixture(scope="module")
def made_results(tmp_path_factory):
    """A results folder, which nobody changes."""
    folder = tmp_path_factory.mktemp("made") / "demo"
    write_results(folder)
    return folder


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("results/demo/measurements.csv", ["show", "demo"]),
        ("results/demo/measurements.csv.gz", ["show", "demo"]),
        ("results/demo/measurements.csv", ["export", "demo", "--to", "eee", "out", "--origin", "us"]),
        ("results/demo/measurements/a", ["collect", "results/demo/measurements", "--out", "out"]),
        ("results/demo/measurements/a/trial-1.json", ["collect", "results/demo/measurements", "--out", "out"]),
        ("results/demo/students/a/network.safetensors", ["export", "results/demo/students/a", "--to", "hf", "out"]),
        ("results/demo/specs", ["export", "results/demo/students/a", "--to", "hf", "out"]),
        ("stored/stored.json", ["check", "stored", "sid-a1.0"]),
        ("stored/measurements.csv", ["check", "stored", "sid-a1.0"]),
        ("stored/students", ["check", "stored", "sid-a1.0"]),
        ("stored/measurements.csv", ["collect", "none", "--stored", "stored", "sid-a1.0", "--out", "out"]),
    ],
)
def test_a_command_opens_no_link_in_the_folder_that_it_reads(made_results, tmp_path, monkeypatch, name, words):
    """Each link leads to what was there, so that nothing else is wrong with it."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made_results, "results/demo")
    shutil.copytree(ROOT / "studies/demo/stored", "stored")
    path = Path(name)
    if path.exists():
        path.rename("moved")
    else:
        Path("results/demo/measurements.csv").rename("moved")
    path.symlink_to(tmp_path / "moved")
    before = {file: file.read_bytes() for file in Path().rglob("*") if file.is_file()}
    refused(f"{name}: is a link", command, *words)
    assert {file: file.read_bytes() for file in Path().rglob("*") if file.is_file()} == before
    if path.suffix:
        path.unlink()
        os.mkfifo(path)
        refused(f"{name}: is not an ordinary file|no preset .stored.", command, *words)


def test_results_in_python_are_of_no_link(made_results, tmp_path):
    shutil.copytree(made_results, tmp_path / "demo")
    (tmp_path / "demo/claims.json").rename(tmp_path / "claims.json")
    (tmp_path / "demo/claims.json").symlink_to(tmp_path / "claims.json")
    refused("claims.json: is a link", load, tmp_path / "demo")
