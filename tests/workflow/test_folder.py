"""Faults of a folder, a command and its files are one line before anything starts; settings given in it are kept."""

import os
import re
import sys
import time

import pytest
import yaml

from sida.config.resources import ROOT
from tests.disks import make_read_only, small_disk
from tests.refused import refused, refusing
from tests.workflow.workspace import Workspace, forked_snakemake
from workflow.checks import check_folder, check_results, closed_results
from workflow.start import PresetLock

DEMO = ROOT / "studies/demo/preset.yaml"


def test_snakemake_needs_a_folder_it_can_write(tmp_path, monkeypatch):
    check_folder(tmp_path)
    access, closed = os.access, {tmp_path}
    # Root may write anywhere but on a read-only disk, which only root can make.
    monkeypatch.setattr(os, "access", lambda path, mode: path not in closed and access(path, mode))
    refused(r"cannot be written, .* start it in a writable folder", check_folder, tmp_path)
    # Records that are there may lie in a folder of somebody else.
    (tmp_path / ".snakemake").mkdir()
    check_folder(tmp_path)
    closed.add(tmp_path / ".snakemake")
    refused("snakemake: cannot be written", check_folder, tmp_path)


def test_results_that_may_only_be_read_are_told(tmp_path):
    assert closed_results(tmp_path / "none") is None
    with small_disk(tmp_path / "demo") as disk:
        assert closed_results(disk) is None
        make_read_only(disk)
        assert closed_results(disk).startswith(f"{disk}: is read-only, ")
        refused(r"demo: cannot be written .*read-only file system", PresetLock(disk, ["snakemake"]).take)
        assert list(disk.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        ([], rf"error: --configfile: .* {DEMO}"),
        (["--configfile", f"{ROOT}/config/demo.yaml"], r"error: --configfile: .*config/demo.yaml.*'demo'"),
    ],
    ids=["no preset", "no file"],
)
def test_a_faulty_command_is_one_line_and_never_the_demo(tmp_path, monkeypatch, words, fault):
    monkeypatch.setattr(sys, "argv", ["snakemake", *words])
    status, said = forked_snakemake(tmp_path, "-s", f"{ROOT}/Snakefile", "--cores", "1", "-n", *words)
    assert status == 1
    assert "Traceback" not in said
    assert re.search(fault, said), said
    assert not (tmp_path / "results").exists()


def test_settings_of_the_command_line_reach_report_page_and_manifest(tmp_path):
    """Their commands start the workflow again; without the settings they would be about other results."""
    workspace = Workspace(tmp_path)
    base = str(ROOT / "studies/papers/published.yaml")
    small = {"tables": ["table8"], "figures": [], "claims": None, "paper": False}
    (tmp_path / "few.yaml").write_text(yaml.safe_dump({"base": base, **small}))
    changes = ["preset=other", "title=Two words"]
    planned = workspace.done("-n", "-p", "--configfile", "few.yaml", "--config", *changes)
    commands = [line for line in planned.splitlines() if "--configfile few.yaml --config preset=other " in line]
    assert len(commands) == 2  # of the page and of the manifest
    assert all("title=Two words" in line for line in commands)


DAY = 86_400


def dated(path, seconds):
    """A file that is dated so many seconds from now."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.utime(path, (time.time() + seconds,) * 2)
    return path


def test_files_of_the_future_are_dated_now_by_the_disks_clock(tmp_path, capfd):
    results = tmp_path / "results/demo"
    ahead = [dated(results / name, DAY) for name in ("a.csv", "samples/a/.snakemake_timestamp", "students/a/b/c")]
    kept = [dated(results / "past", -DAY), dated(results / "other clock", 20)]
    before = {path: path.stat().st_mtime_ns for path in kept}
    clock = dated(results / ".workflow.lock", 0)
    check_results(results, clock)
    assert "results/demo: 3 files were dated in the future; they are dated now" in capfd.readouterr().err
    assert all(abs(path.stat().st_mtime - time.time()) < 50 for path in ahead)
    assert {path: path.stat().st_mtime_ns for path in kept} == before
    # A server's clock runs a day ahead of this machine's: its file of a minute ago is none of the future.
    dated(results / "a.csv", DAY - 60)
    dated(clock, DAY)
    check_results(results, clock)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("name", "kind"), [("students", "link"), ("tables/main.tex", "link"), ("logs", "pipe")])
def test_results_with_links_or_pipes_are_refused_before_a_job(tmp_path, kind, name):
    results, elsewhere = tmp_path / "results/demo", tmp_path / "of the user"
    elsewhere.mkdir()
    place = results / name
    place.parent.mkdir(parents=True)
    place.symlink_to(elsewhere) if kind == "link" else os.mkfifo(place)
    with refusing(rf"results/demo/{name}: is a link, a pipe or a device; remove it"):
        check_results(results, dated(results / ".workflow.lock", 0))
    assert list(elsewhere.iterdir()) == []
