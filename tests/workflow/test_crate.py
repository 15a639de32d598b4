"""A results folder as a Workflow Run RO-Crate: what it says, and what `sida verify` compares.

roc-validator 0.13 passed a crate of the demo at level REQUIRED of workflow-run-crate 0.5 (2026-11-27). It fetches
contexts from the network, so that these tests check what it asks for.
"""

from __future__ import annotations

import json
import sys

import pytest
from rocrate.rocrate import ROCrate

from sida.config.lookup import ROOT
from sida.files.atomic import read_hashed_json, sha256_file, write_hashed_json, write_json
from tests.eval.synthetic_output import write_preset
from tests.refused import command, refused
from workflow.archive.verify import verify

CRATE = "ro-crate-metadata.json"
DOWNLOAD = {"id": "inception", "sha256": "ab" * 32, "size": 3, "url": "https://example.org/inception.pt"}


@pytest.fixture
def folder(tmp_path):
    """A results folder with its manifest and crate."""
    folder = write_preset(tmp_path / "made-up")
    write_json(folder / "specs/preset.json", {"preset": "made-up"})
    write_json(folder / "assets/inception.json", [DOWNLOAD, {"id": "code", "url": "git://example.org/x"}])
    settings = json.dumps({"preset": "made-up", "title": "Made up"})
    command(
        "manifest", folder, "--preset", settings, "--command", "snakemake --cores 2", "--out", folder / "manifest.json"
    )
    command("crate", folder)
    return folder


def faults(folder):
    """Faults of the crate and of code; the made-up results have no trials."""
    return "\n".join(fault for fault in verify(folder).faults if not fault.startswith("measurements.csv: line"))


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
    assert used == {"specs/preset.json", "assets/inception.json", DOWNLOAD["url"]}
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
    refused("measurements.csv: differs from the manifest.*sida verify", command, "crate", folder)
    path.write_text(text)
    assert sha256_file(path) == manifest["files"]["measurements.csv"]["sha256"]
    with monkeypatch.context() as context:
        context.setitem(sys.modules, "rocrate.rocrate", None)
        refused(r"rocrate: is not installed.*crate\]", command, "crate", folder)
    (folder / "manifest.json").unlink()
    refused("manifest.json: is missing.*sida manifest", command, "crate", folder)
    assert not (folder / CRATE).exists()
