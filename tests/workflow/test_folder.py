"""A folder that cannot be written is one line before anything starts."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sida.config.resources import ROOT
from sida.errors import UserError
from tests.disks import make_read_only, small_disk
from tests.workflow.workspace import forked_snakemake
from workflow.checks import check_folder, closed_results
from workflow.start import PresetLock

DEMO = ROOT / "studies/demo/preset.yaml"


def test_snakemake_needs_a_folder_it_can_write(tmp_path, monkeypatch):
    check_folder(tmp_path)
    access, closed = os.access, {tmp_path}
    # Root may write anywhere but on a read-only disk, which only root can make.
    monkeypatch.setattr(os, "access", lambda path, mode: path not in closed and access(path, mode))
    with pytest.raises(UserError, match=r"cannot be written, .* start it in a writable folder") as told:
        check_folder(tmp_path)
    assert "\n" not in str(told.value)
    # Records that are there may lie in a folder of somebody else.
    (tmp_path / ".snakemake").mkdir()
    check_folder(tmp_path)
    closed.add(tmp_path / ".snakemake")
    with pytest.raises(UserError, match="snakemake: cannot be written"):
        check_folder(tmp_path)


def test_results_that_may_only_be_read_are_told(tmp_path):
    assert closed_results(tmp_path / "none") is None
    with small_disk(tmp_path / "demo") as disk:
        assert closed_results(disk) is None
        make_read_only(disk)
        assert closed_results(disk) == (
            f"{disk}: is read-only, so nothing can be made there; start in a writable folder to make more"
        )
        with pytest.raises(UserError, match=r"demo: cannot be written \(Read-only file system\); fix that"):
            PresetLock(disk, ["snakemake"]).take()
        assert list(disk.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        ([], f"error: --configfile: no preset is named; give --configfile FILE, for the demo {DEMO}"),
        (["--configfile", f"{ROOT}/config/demo.yaml"], f"presets moved to studies/; name {DEMO}"),
        (
            ["--configfile", str(DEMO), "--", "tables/mian.tex"],
            "error: tables/mian.tex: no product and no row of .*demo/preset.yaml (did you mean 'tables/main.tex'?)",
        ),
    ],
    ids=["no preset", "preset", "target"],
)
def test_a_misspelt_command_is_one_line(tmp_path, monkeypatch, words, fault):
    monkeypatch.setattr(sys, "argv", ["snakemake", *words])
    status, text = forked_snakemake(tmp_path, "-s", f"{ROOT}/Snakefile", "--cores", "1", "-n", *words)
    assert status == 1
    assert "Traceback" not in text
    assert re.search(re.escape(fault).replace(re.escape(".*"), ".*"), text)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="only root can mount a read-only disk")
def test_a_read_only_disk_ends_a_run_with_that_line(tmp_path):
    snakemake = Path(sys.executable).parent / "snakemake"
    script = (
        f"mount -t tmpfs none {tmp_path} && mount -o remount,ro {tmp_path} && cd {tmp_path} && "
        f"{snakemake} -s {ROOT}/Snakefile --cores 1 --configfile {DEMO} -- tables/main.tex"
    )
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, timeout=300)
    if "mount" in done.stderr:
        pytest.skip("nothing can be mounted here")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert f"error: {tmp_path}: cannot be written" in done.stderr
