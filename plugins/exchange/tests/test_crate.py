"""A results folder as a Workflow Run RO-Crate: what it says, and what `sida verify` compares."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import sys

import pytest
from rocrate.rocrate import ROCrate

from sida.config.lookup import ROOT
from sida.errors import UserError
from sida.files.atomic import read_hashed_json, sha256_file, write_hashed_json, write_json
from sida.plugins.exchange.tests.validators import validate_crate
from sida.workflow.archive.verify import verify
from tests.refused import command, refused
from tests.workflow.results_folder import write_results
from tests.workflow.workspace import put

CRATE = "ro-crate-metadata.json"
DOWNLOAD = {"id": "inception", "sha256": "ab" * 32, "size": 3, "url": "https://example.org/inception.pt"}


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    """A results folder with its manifest and crate, which nobody changes."""
    folder = tmp_path_factory.mktemp("described") / "made-up"
    write_results(folder)
    write_json(folder / "specs/preset.json", {"preset": "made-up"})
    write_json(folder / "assets/inception.json", [DOWNLOAD, {"id": "code", "url": "git://example.org/x"}])
    settings = json.dumps({"preset": "made-up", "title": "Made up"})
    command(
        "manifest", folder, "--preset", settings, "--command", "snakemake --cores 2", "--out", folder / "manifest.json"
    )
    command("crate", folder)
    return folder


@pytest.fixture
def folder(described, tmp_path):
    """A copy of the results folder with its manifest and crate."""
    return shutil.copytree(described, tmp_path / "made-up", symlinks=True)


def faults(folder):
    return "\n".join(verify(folder).faults)


def test_the_crate_has_each_file_of_the_manifest_as_input_or_result_of_one_run(folder):
    content = json.loads((folder / CRATE).read_text())
    assert content["@context"] == [
        "https://w3id.org/ro/crate/1.1/context",
        "https://w3id.org/ro/terms/workflow-run/context",
    ]
    graph = {entity["@id"]: entity for entity in content["@graph"]}
    root, run, workflow = graph["./"], graph["#run"], graph["Snakefile"]
    profiles = {one["@id"] for one in root["conformsTo"]}
    run_profiles = {f"https://w3id.org/ro/wfrun/{name}/0.5" for name in ("process", "workflow")}
    assert profiles == run_profiles | {"https://w3id.org/workflowhub/workflow-ro-crate/1.0"}
    assert root["mainEntity"] == {"@id": "Snakefile"} == run["instrument"]
    assert root["license"] == "not stated by the maker of these results"
    assert {*workflow["@type"]} == {"File", "SoftwareSourceCode", "ComputationalWorkflow"}
    assert graph[workflow["programmingLanguage"]["@id"]]["name"] == "Snakemake"
    assert (run["@type"], root["mentions"]) == ("CreateAction", {"@id": "#run"})
    assert "snakemake --cores 2" in run["description"]
    # Nobody is named.
    assert "agent" not in run
    assert not {"Person", "Organization"} & {str(entity["@type"]) for entity in graph.values()}

    manifest = read_hashed_json(folder / "manifest.json")["files"]
    made, used = ({one["@id"] for one in run[key]} for key in ("result", "object"))
    assert used == {
        "assets/inception.json", DOWNLOAD["url"], *(name for name in manifest if name.startswith("specs/"))
    }  # fmt: skip
    assert made == {*manifest, "manifest.json"} - used
    for name, facts in manifest.items():
        assert graph[name]["sha256"] == facts["sha256"]
    assert graph[DOWNLOAD["url"]]["sha256"] == DOWNLOAD["sha256"]
    assert (folder / "Snakefile").read_bytes() == (ROOT / "Snakefile").read_bytes()
    # Each part is described, and each file of the run's code is a part.
    parts = {one["@id"] for one in root["hasPart"]}
    assert parts <= graph.keys()
    assert {*manifest, "manifest.json", "Snakefile", "workflow/rules/train.smk"} < parts
    assert {entity.id for entity in ROCrate(folder).data_entities} == parts


@pytest.mark.slow
def test_the_validator_of_ro_crate_passes_a_crate(folder, tmp_path):
    done = validate_crate(folder, tmp_path)
    assert (done.returncode, "workflow-run-crate-0.5" in done.stdout) == (0, True), done.stdout
    content = json.loads((folder / CRATE).read_text())
    run = next(entity for entity in content["@graph"] if entity["@id"] == "#run")
    run["instrument"] = {"@id": "#run"}
    (folder / CRATE).write_text(json.dumps(content))
    assert validate_crate(folder, tmp_path).returncode == 1


def test_a_licence_is_named_by_its_address(folder):
    command("crate", folder, "--license", "https://spdx.org/licenses/CC-BY-4.0")
    graph = {entity["@id"]: entity for entity in json.loads((folder / CRATE).read_text())["@graph"]}
    assert graph[graph["./"]["license"]["@id"]]["@type"] == "CreativeWork"


def test_verify_compares_the_crate_and_the_manifest_leaves_it_out(folder):
    assert faults(folder) == ""
    assert verify(folder).counts["files equal to the crate"] > 5
    # The manifest of the same files is the same with and without a crate.
    names = {*read_hashed_json(folder / "manifest.json")["files"]}
    command("manifest", folder, "--out", folder / "manifest.json")
    assert {*read_hashed_json(folder / "manifest.json")["files"]} == names
    assert "manifest.json: is not the file that the crate lists" in faults(folder)
    command("crate", folder)
    assert faults(folder) == ""


def test_faults_of_crates_are_named(folder):
    rule = folder / "workflow/rules/train.smk"
    whole = rule.read_text()
    rule.write_text(whole + "shell('rm')\n")
    assert "workflow/rules/train.smk: is not the file that the crate lists" in faults(folder)
    rule.unlink()
    assert "workflow/rules/train.smk: is missing" in faults(folder)
    rule.write_text(whole)
    (folder / "workflow/rules/more.smk").write_text("")
    assert "workflow/rules/more.smk: is code that no crate lists" in faults(folder)
    (folder / "workflow/rules/more.smk").unlink()
    for text in ("[]", '{"@graph": [1]}', '{"@graph": [{"sha256": 1}]}', "{"):
        (folder / CRATE).write_text(text)
        assert f"{CRATE}: " in faults(folder)
    (folder / CRATE).unlink()
    assert "Snakefile: is code that no crate lists" in faults(folder)


def test_what_no_crate_can_say_is_refused_before_anything_is_written(folder, monkeypatch):
    (folder / CRATE).unlink()
    manifest = read_hashed_json(folder / "manifest.json")
    old = {**manifest, "environment": {**manifest["environment"], "code_version": "0.1.0+nogit.1234"}}
    write_hashed_json(folder / "manifest.json", old)
    refused("manifest.json: the Snakefile of 0.1.0.nogit.1234 is not in this checkout", command, "crate", folder)
    write_hashed_json(folder / "manifest.json", manifest)
    path = folder / "measurements.csv"
    text = path.read_text()
    path.write_text(text + "\n")
    refused("measurements.csv: is not the file that the manifest lists.*sida verify", command, "crate", folder)
    path.write_text(text)
    assert sha256_file(path) == manifest["files"]["measurements.csv"]["sha256"]
    with monkeypatch.context() as context:
        context.setitem(sys.modules, "rocrate.rocrate", None)
        refused("package rocrate: ", command, "crate", folder)
    (folder / "manifest.json").unlink()
    error = refused("manifest.json: is missing.*sida manifest", command, "crate", folder)
    command(*shlex.split(str(error).partition("make it: sida ")[2]))
    assert (folder / "manifest.json").is_file()
    assert not (folder / CRATE).exists()


NAME = "tables/main.csv"
#: Changes of a folder by someone who makes the hashes again, one of each kind, and the answer of `sida crate`.
HOSTILE = {
    "rules": (lambda folder, mine: (folder / "workflow").symlink_to(ROOT / "workflow"), "workflow: is a link"),
    "manifest": (lambda folder, mine: link(folder / "manifest.json", mine), "manifest.json: is a link"),
    "loop": (lambda folder, mine: (folder / "more").symlink_to("."), "more: is a link"),
    "pipe": (lambda folder, mine: os.mkfifo(folder / "assets/x.json"), "assets/x.json: is not an ordinary file"),
    "file for a folder": (lambda folder, mine: put(folder / "workflow", "x"), "workflow/rules: Not a directory"),
    "folder for a file": (lambda folder, mine: put(folder / "Snakefile/x", "x"), "Snakefile: is not an ordinary file"),
    "another rule": (lambda folder, mine: put(folder / "workflow/rules/x.smk", "x"), "x.smk: is code that does not"),
    "no UTF-8": (lambda folder, mine: put(folder / "a\udcff.txt", "x"), "UTF-8"),
    "deep": (lambda folder, mine: put(folder / ("a/" * 50 + "x.txt"), "x"), None),
    "signs": (lambda folder, mine: put(folder / "tables/#é %41 ?x&<b>.txt", "x"), None),
    "address": (lambda folder, mine: put(folder / "https:/example.org/x", "x"), None),
    "line end": (lambda folder, mine: put(folder / "a\nb.txt", "x"), None),
    "assets no list": (lambda folder, mine: put(folder / "assets/x.json", "3"), r"assets/x.json: \[0\]"),
    "address of lists": (lambda folder, mine: downloads(folder, url=[1]), r"x.json: \[0\].url"),
    "no address": (lambda folder, mine: downloads(folder, url="https://a b/<x>"), None),
    "no files": (lambda folder, mine: manifest(folder, files=None), "manifest.json: files"),
    "way out": (lambda folder, mine: entry(folder, f"../{mine.name}"), "is not the name of a file"),
    "absolute": (lambda folder, mine: entry(folder, str(mine)), "is not the name of a file"),
    "code": (lambda folder, mine: entry(folder, "Snakefile"), "Snakefile: is a file that a manifest leaves out"),
    "null": (lambda folder, mine: entry(folder, "a\0b"), "b: is missing"),
    "digest": (lambda folder, mine: manifest(folder, files={NAME: {"sha256": 1, "bytes": 1}}), "sha256"),
    "no environment": (lambda folder, mine: manifest(folder, environment=None), "manifest.json: environment"),
    "options": (lambda folder, mine: environment(folder, code_version="1+--output=x"), "not in this checkout"),
    "title": (lambda folder, mine: manifest(folder, preset={"title": {"@id": "./"}, "preset": [1]}), None),
    "JSON": (lambda folder, mine: put(folder / "manifest.json", "[" * 99_999), "manifest.json: damaged"),
}  # fmt: skip


def link(path, target):
    path.unlink(missing_ok=True)
    put(path).unlink()
    path.symlink_to(target)


def downloads(folder, **change):
    write_json(folder / "assets/x.json", [DOWNLOAD | change])


def manifest(folder, **change):
    record = read_hashed_json(folder / "manifest.json")
    write_hashed_json(folder / "manifest.json", record | change)


def environment(folder, **change):
    manifest(folder, environment=read_hashed_json(folder / "manifest.json")["environment"] | change)


def entry(folder, name):
    files = read_hashed_json(folder / "manifest.json")["files"]
    manifest(folder, files=files | {name: {"sha256": "0" * 64, "bytes": 6}})


def contents(folder):
    """Files, and links with their targets, of a folder."""
    return {
        path: os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


@pytest.mark.parametrize("case", HOSTILE)
def test_a_strangers_folder_is_described_or_refused_and_nothing_else_is_written(folder, tmp_path, case):
    change, told = HOSTILE[case]
    mine = put(tmp_path / "mine.txt", "secret")
    (folder / CRATE).unlink()
    shutil.rmtree(folder / "workflow")
    (folder / "Snakefile").unlink()
    listed = (folder / "manifest.json").read_bytes()
    before_rules = contents(ROOT / "workflow")
    change(folder, mine)
    if (folder / "manifest.json").read_bytes() == listed:
        # As someone does who knows how to make it again.
        with contextlib.suppress(UserError):
            command("manifest", folder, "--out", folder / "manifest.json")
    before = contents(folder)
    if told is None:
        command("crate", folder)
        assert faults(folder) == ""
    else:
        refused(told, command, "crate", folder)
        assert contents(folder) == before
    assert mine.read_text() == "secret"
    assert contents(ROOT / "workflow") == before_rules
