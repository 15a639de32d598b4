"""The one walk of results folders: names of ordinary files, without links, pipes, devices and ways out."""

import os
import subprocess
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.report.page import write_index
from eval.report.paper import build_paper
from eval.results.logs import logs_of
from eval.results.stored import files_of
from sida.files.ordinary import ordinary_files
from tests.refused import command, refused


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
