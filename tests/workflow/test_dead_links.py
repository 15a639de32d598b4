"""A published file that no server has costs its rows alone; a temporary fault costs none."""

import re
import subprocess
import sys

import pytest
import torch

from sida.assets.cache import RUN_STARTED
from sida.config.lookup import ROOT
from sida.eval.tables.build import make_table
from sida.networks import build_network
from sida.networks.official_pickles import write_official
from sida.workflow.preset import load_preset, preset_from
from sida.workflow.preset.checks import check_preset
from sida.workflow.preset.jobs import layout_needs, product
from sida.workflow.preset.targets import Targets
from tests.assets.fault_server import serve, write_registry
from tests.refused import command, refused
from tests.workflow.workspace import SMALL_UNET, Workspace, beside_a_registry, settings_of

SHEET = """\
run	family	label	method	sampler	checkpoint
here	One Step	Here	sid	one-step	net-here
gone	One Step	Gone	sida	one-step	net-gone
"""
SID2A = ["cifar10-uncond-sid2a-a1", "cifar10-uncond-sid2a-a1.2"]


@pytest.fixture
def preset(tmp_path, monkeypatch):
    """A workspace with a preset of two published networks, and the server."""
    workspace = beside_a_registry(tmp_path, monkeypatch)
    removed = {"teachers": ..., "recipes": ...}
    workspace.config(name="two.yaml", preset="two", runs="two.tsv", figures=[], claims=None, **removed)
    (workspace.folder / "two.tsv").write_text(SHEET)
    torch.manual_seed(0)
    write_official(tmp_path / "net.pkl", build_network({"class": "EDMPrecond", "kwargs": SMALL_UNET}))
    with serve() as site:
        names = ("net-here", "net-gone")
        addresses = {name: site.add(name, (tmp_path / "net.pkl").read_bytes()) for name in names}
        rows = [{"id": name, "kind": "network", "url": url, "target": name} for name, url in addresses.items()]
        write_registry(tmp_path / "assets.tsv", *rows)
        yield workspace, site


def run(workspace: Workspace, *words: str) -> tuple[int, list[str]]:
    """Status and lines of a run of the preset's table, in which a failed job is sent again twice."""
    command = [sys.executable, "-m", "sida.workflow", "run", "two.yaml", "tables/main.tex", "--cores", "2"]
    place = {"cwd": workspace.folder, "env": workspace.environment()}
    done = subprocess.run([*command, *words, "--", "--retries", "2"], **place, capture_output=True, text=True)
    return done.returncode, (done.stdout + done.stderr).splitlines()


@pytest.mark.slow
def test_a_row_without_a_file_is_not_measured_and_the_table_is_made(preset):
    workspace, site = preset
    site.pages["/net-gone"].faults = [("status", 404)] * 9
    # A temporary fault costs no row.
    site.pages["/net-here"].faults = [("status", 501), ("cut", 100), ("status", 503)]
    status, lines = run(workspace)
    told = re.compile("not measured: gone: net-gone: .*404.*sida assets fetch net-gone")
    assert status == 1
    assert told.search(lines[-1]), lines[-5:]
    table = (workspace.folder / "results/two/tables/main.md").read_text()
    here, gone = (next(line for line in table.splitlines() if label in line) for label in ("Here", "Gone"))
    assert "not measured" in gone
    assert "not measured" not in here
    assert re.search(r"Not measured: gone \(net-gone: .*404\)", table)
    # No further attempt asks the server; the next run has nothing to do, and says what is missing.
    assert len(site.asked("net-gone")) == 1
    status, lines = run(workspace)
    assert (status, len(site.asked("net-gone"))) == (0, 1)
    assert any(line.startswith("1 row left out") for line in lines)
    # The file is there again: it is asked for, and the row returns.
    site.pages["/net-gone"].faults = []
    environment = {"cwd": workspace.folder, "env": workspace.environment()}
    subprocess.run([sys.executable, "-m", "sida.workflow", "assets", "fetch", "net-gone"], **environment, check=True)
    status, lines = run(workspace)
    assert status == 0, lines[-20:]
    assert "not measured" not in (workspace.folder / "results/two/tables/main.md").read_text()


def test_absent_networks_of_a_row_leave_it_out_and_answers_of_the_workflow_that_runs_do_not_count(preset, monkeypatch):
    workspace, site = preset
    monkeypatch.chdir(workspace.folder)
    site.pages["/net-gone"].faults = [("status", 404)] * 3
    refused("answered 404", command, "assets", "fetch", "net-gone")
    assert " gone " in command("assets", "list").splitlines()[2]
    found = load_preset("two.yaml")
    assert [*found.absent] == [*found.left_out] == ["gone"]
    assert "net-gone: 127.0.0.1" in found.left_out["gone"]
    assert [*found.measurable] == ["here"]
    # Below the table stands why.
    spec = product(found, "tables", "main").spec
    built = make_table(found.layout("tables", "main"), runs=found.sheet, mode="audit", spec=spec)
    assert re.match(r"Not measured: gone \(net-gone: .*404\)", built.notes[0])
    monkeypatch.setenv(RUN_STARTED, "0")
    assert not load_preset("two.yaml").left_out


def test_rows_are_left_out_by_name_and_by_method():
    config, own = settings_of("released"), [ROOT / "studies/papers"]
    every = preset_from(config, "released.yaml", own)
    preset = preset_from(config | {"without": ["teacher", "cifar10-uncond-sida-a1"]}, "released.yaml", own)
    named = [run for run, row in every.runs.items() if row.method == "teacher" or run == "cifar10-uncond-sida-a1"]
    assert {*preset.left_out} == {*every.left_out, *named}
    assert layout_needs(preset, "tables", "table1").measured == ["cifar10-uncond-sid-a1.2", *SID2A]
    # Inception scores are measured for one row of this table.
    look, one = settings_of("first-look"), ["cifar10-uncond-sida-a1"]
    check_preset(look := preset_from(look | {"without": one}, "first-look.yaml", own))
    # A page of pictures of all rows is left out.
    assert Targets(look).figures == []
    assert Targets(look).rows_without_network("samples") == one
    wrong = preset_from(config | {"without": ["teachers"]}, "released.yaml", own)
    refused("released.yaml: without: 'teachers' .*did you mean 'teacher'", check_preset, wrong)
