"""``sida run --rehearse``: stand-ins of published files, marked everywhere, comparable with no measurement."""

from __future__ import annotations

import json
import os
from unittest.mock import Mock

import pytest
import yaml

from sida.config.lookup import ROOT
from sida.eval.measuring.protocol import load_protocol
from sida.eval.results.identity import comparable
from sida.plugins.planner import rehearsal
from sida.plugins.planner.doctor import examine
from sida.workflow.cli import main
from sida.workflow.preset import load_preset
from sida.workflow.preset.checks import check_preset
from sida.workflow.preset.files import find_preset
from tests.refused import refused


@pytest.fixture(autouse=True)
def _stand_ins(tmp_path, monkeypatch):
    """A folder of the test's own, and empty stand-ins of large files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rehearsal, "maker", lambda asset, preset: lambda path: path.write_bytes(b""))


@pytest.fixture
def rehearsed(monkeypatch):
    """Files and environment of the rehearsal of `first-look`."""
    files = [find_preset("first-look")]
    path, environment = rehearsal.write_rehearsal(files)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return [*files, path]


@pytest.mark.slow
def test_a_rehearsal_is_marked_and_lacks_nothing(rehearsed):
    preset = load_preset(*rehearsed)
    check_preset(preset)
    shown = [preset.settings.title, *(row.protocol.title for row in preset.rows.values())]
    for kind, names in preset.layouts.items():
        for name in names:
            layout = yaml.safe_load(preset.layout(kind, name).read_text())
            shown += [layout["title"], layout["caption"]]
    assert all(rehearsal.MARK in text for text in shown)
    assert all(row.label.startswith("rehearsal") for row in preset.runs.values())
    # No file is missing, and no code waits for a permission.
    assert [found.verdict for found in examine(rehearsed, []) if found.subject in ("assets", "code")] == ["ok", "ok"]


def test_the_option_starts_the_preset_with_its_stand_ins(monkeypatch, tmp_path):
    for name, value in (("SIDA_CACHE", tmp_path), ("SIDA_ASSETS", ROOT / "config/assets.tsv")):
        monkeypatch.setenv(name, str(value))
    execve = Mock(side_effect=SystemExit)
    monkeypatch.setattr(os, "execve", execve)
    with pytest.raises(SystemExit):
        main(["run", "first-look", "--rehearse", "tables/first-look.tex"])
    _, words, environment = execve.call_args[0]
    folder = "results/rehearsal-first-look"
    first = words.index("--configfile") + 1
    assert words[first : first + 2] == [str(find_preset("first-look")), f"{folder}/rehearsal/preset.yaml"]
    assert words[-1] == f"{folder}/tables/first-look.tex"
    assert environment["SIDA_CACHE"] == str(tmp_path / folder / "rehearsal/cache")
    assert environment["SIDA_ASSETS"] == str(tmp_path / folder / "rehearsal/assets.tsv")


def test_a_layout_named_by_its_path_is_marked(tmp_path):
    layout = load_preset(find_preset("imagenet256")).layout("tables", "teachers256")
    (tmp_path / "mine.yaml").write_text(layout.read_text())
    (tmp_path / "own.yaml").write_text(f"base: {find_preset('imagenet256')}\ntables: [mine.yaml]\n")
    files = [tmp_path / "own.yaml"]
    path, _ = rehearsal.write_rehearsal(files, ["sit-xl"])
    shown = load_preset(*files, path).layout("tables", "mine")
    assert rehearsal.MARK in yaml.safe_load(shown.read_text())["title"]


def test_tables_of_a_rehearsal_have_their_rows_and_promise_no_best_value():
    path, _ = rehearsal.write_rehearsal([find_preset("released")], ["cifar10-uncond-sida-a1"])
    layouts = [yaml.safe_load(layout.read_text()) for layout in (path.parent / "tables").glob("*.yaml")]
    runs = {layout.get("number"): [row.get("run") for row in layout["rows"]] for layout in layouts}
    assert {"teacher-edm-{set}", "{set}-sida-a1"} <= {*runs[1]}
    # A column for each size.
    assert "edm2-{column}-sida" in {*runs[4]} & {*runs[7]}
    assert not any("bold" in layout or "Bold:" in layout["caption"] for layout in layouts)


def test_a_rehearsal_is_comparable_with_no_measurement(rehearsed):
    preset = load_preset(*rehearsed)
    protocol = preset.rows["cifar10-uncond-sida-a1"].protocol
    real = load_protocol({**protocol.content(), "rehearsal": False})
    for metric in protocol.metrics:
        facts = ("reference", "extractor")
        assert comparable(protocol.identity(metric.key, *facts), real.identity(metric.key, *facts))
    assert json.loads(json.dumps(protocol.record()))["fields"]["rehearsal"]
    assert "rehearsal" not in real.record()["fields"]


def test_protocols_named_by_path_and_second_ones_are_marked(monkeypatch):
    files = [find_preset("clean")]
    path, environment = rehearsal.write_rehearsal(files, ["cifar10-uncond-sida-a1"])
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    preset = load_preset(*files, path)
    assert preset.trials == 1
    assert "cifar10-uncond-sida-a1.cifar10-clean" in preset.runs
    assert all(row.protocol.rehearsal for row in preset.rows.values())


@pytest.mark.parametrize("name", ["demo", "published"])
def test_a_preset_without_published_files_is_refused_before_anything_is_written(name, tmp_path):
    refused("published files", lambda: rehearsal.write_rehearsal([find_preset(name)]))
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("name", ["first-look", "imagenet256-train"])
def test_a_dry_run_writes_no_weights_and_decides_the_same_jobs(name):
    written, after = (
        {file.relative_to(path.parent): file.read_bytes() for file in path.parent.rglob("*") if file.is_file()}
        for path, _ in (rehearsal.write_rehearsal([find_preset(name)], dry_run=dry_run) for dry_run in (True, False))
    )
    assert {name: after[name] for name in written} == written
    weights = {name for name in after if name not in written}
    assert weights
    assert all(name.parts[0] == "cache" for name in weights)


def test_a_second_rehearsal_leaves_the_archives_as_they_are_so_that_no_job_runs_again():
    files = [find_preset("imagenet256-train")]
    folder = rehearsal.write_rehearsal(files)[0].parent / "datasets"
    found = {path: path.stat().st_ino for path in folder.iterdir()}
    assert found
    rehearsal.write_rehearsal(files)
    assert {path: path.stat().st_ino for path in folder.iterdir()} == found
