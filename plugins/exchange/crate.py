"""A results folder as a Workflow Run RO-Crate.

The crate is ``ro-crate-metadata.json`` in the folder, with the Snakefile and the rules of the run beside it: the files
of the manifest with their hashes, the settings and downloads as inputs, the others as results of one run of the
Snakefile. No person is named, since no file of a results folder has one.

Source: https://w3id.org/ro/wfrun/workflow/0.5 (ResearchObject/workflow-run-crate), on RO-Crate 1.1.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sida.config.lookup import ROOT
from sida.config.settings import Natural, from_mapping
from sida.errors import UserError
from sida.files.atomic import json_text, write_files
from sida.files.text_files import parse_json, read_text
from sida.machine import code_version
from sida.workflow.archive.manifest import CODE, CRATE, MANIFEST, Manifest
from sida.workflow.archive.verify import check_results

if TYPE_CHECKING:
    from rocrate.model.entity import Entity
    from rocrate.rocrate import ROCrate

_PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": ("Process Run Crate", "0.5"),
    "https://w3id.org/ro/wfrun/workflow/0.5": ("Workflow Run Crate", "0.5"),
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": ("Workflow RO-Crate", "1.0"),
}
_TERMS = "https://w3id.org/ro/terms/workflow-run/context"
#: RO-Crate requires a licence, which may be a text.
_NO_LICENCE = "not stated by the maker of these results"
_SNAKEFILE, _RULES = "Snakefile", "workflow/rules/"
_ADDRESS = r"https://[^\s<>\"{}|\\^`]{1,2000}"
#: Folders of the settings of jobs, and of the records of downloads.
_INPUTS = ("specs/", "assets/")
_TYPES = {
    ".json": "application/json", ".csv": "text/csv", ".md": "text/markdown", ".html": "text/html",
    ".pdf": "application/pdf", ".png": "image/png", ".tex": "application/x-tex", ".jsonl": "application/jsonl",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Download:
    """An entry of the records of ``sida assets fetch``."""

    id: str
    url: str | None = ""
    sha256: str | None = ""
    size: Natural | None = None
    kind: str | None = ""
    target: str | None = ""
    license: str | None = ""
    source: str | None = ""
    note: str | None = ""


def write_crate(folder: str | Path, license: str = "") -> int:
    """Writes the crate of a results folder; returns the number of files that it describes.

    Args:
        folder: ``results/<preset>`` with its manifest.
        license: Address or name of the licence of the results; empty says that none is stated.

    Raises:
        UserError: The folder has a fault or no manifest, or the Snakefile of the run is unknown.
        ModuleNotFoundError: rocrate is not installed.
    """
    from rocrate.rocrate import ROCrate

    folder = Path(folder)
    report = check_results(folder)
    if report.faults:
        others = f" (and {len(report.faults) - 1:,} other faults)" if report.faults[1:] else ""
        raise UserError(folder, f"{report.faults[0]}{others}", f"look closer: sida verify {folder}")
    if (manifest := report.manifest) is None:
        make = f"sida manifest {shlex.quote(str(folder))} --out {shlex.quote(str(folder / MANIFEST))}"
        raise UserError(folder / MANIFEST, "is missing", f"finish the run, or make it: {make}")
    version = manifest.environment["code_version"]
    code = _workflow_files(version)
    if other := next((name for name in report.hashes if CODE.fullmatch(name) and name not in code), None):
        raise UserError(folder / other, "is code that does not belong to the run", "remove it")
    crate = ROCrate(version="1.1")
    crate.metadata.extra_contexts.append(_TERMS)
    _describe_root(crate, folder.resolve().name, manifest, license)
    workflow = _add_workflow(crate, code, version)
    files = {name: entry.sha256 for name, entry in manifest.files.items()} | {MANIFEST: report.hashes[MANIFEST]}
    inputs: list[Entity] = []
    results: list[Entity] = []
    for name, digest in sorted(files.items()):
        entity = _add_file(crate, name, digest, (folder / name).stat().st_size)
        (inputs if name.startswith(_INPUTS) else results).append(entity)
        if re.fullmatch(r"assets/[^/]+\.json", name):
            inputs += _add_downloads(crate, folder / name)
    _add_run(crate, workflow, inputs, results, manifest)
    # No link is in the folder, which the report says.
    contents: dict[str, str | bytes] = {**code, CRATE: json_text(crate.metadata.generate())}
    write_files({folder / path: content for path, content in contents.items()})
    return len(files) + len(code)


def _describe_root(crate: ROCrate, name: str, manifest: Manifest, license: str) -> None:
    root = crate.root_dataset
    preset = manifest.preset or {}
    title, preset_name = (text if isinstance(text, str) else "" for text in map(preset.get, ("title", "preset")))
    root["name"] = title or preset_name or name
    root["description"] = f"Results of the preset {preset_name or name} of sida-repro, with a hash of each file."
    root["datePublished"] = manifest.environment["date"]
    is_address = license.startswith(("https://", "http://"))
    licence = {"@type": "CreativeWork", "name": license, "description": "Licence of the results"}
    root["license"] = _add_context(crate, license, licence) if is_address else license or _NO_LICENCE
    profiles = []
    for address, (title, version) in _PROFILES.items():
        properties = {"@type": "CreativeWork", "name": title, "version": version}
        profiles.append(_add_context(crate, address, properties))
    root["conformsTo"] = profiles


def _add_context(crate: ROCrate, name: str, properties: dict[str, Any]) -> Entity:
    from rocrate.model.contextentity import ContextEntity

    return crate.add(ContextEntity(crate, name, properties=properties))


def _add_workflow(crate: ROCrate, code: Mapping[str, bytes], version: str) -> Entity:
    """Adds the Snakefile, as the main entity of the crate, and its rules."""
    workflow = None
    for name, content in code.items():
        facts = {"name": name, "version": version, "sha256": hashlib.sha256(content).hexdigest()}
        facts["encodingFormat"] = "text/x-snakemake"
        if name == _SNAKEFILE:
            workflow = crate.add_workflow(dest_path=name, properties=facts, main=True, lang="snakemake")
        else:
            crate.add_file(dest_path=name, properties=facts)
    assert workflow is not None
    return workflow


def _add_file(crate: ROCrate, name: str, digest: str, size: int) -> Entity:
    kind = _TYPES.get(Path(name).suffix, "application/octet-stream")
    properties = {"name": name, "sha256": digest, "contentSize": str(size), "encodingFormat": kind}
    return crate.add_file(dest_path=name, properties=properties)


def _add_downloads(crate: ROCrate, record: Path) -> list[Entity]:
    """Adds the downloads of a record of ``sida assets fetch``, by their addresses."""
    entities = []
    entries = parse_json(read_text(record), str(record))
    for number, entry in enumerate(entries if isinstance(entries, list) else [entries]):
        download = from_mapping(_Download, entry, f"{record}: [{number}]")
        # Only these addresses are known to be public.
        if re.fullmatch(_ADDRESS, download.url or "") and download.sha256 and crate.get(download.url) is None:
            facts = {
                "name": download.id,
                "sha256": download.sha256,
                "contentSize": download.size and str(download.size),
            }
            entities.append(crate.add_file(download.url, properties={key: fact for key, fact in facts.items() if fact}))
    return entities


def _add_run(
    crate: ROCrate, workflow: Entity, inputs: Iterable[Entity], results: Iterable[Entity], manifest: Manifest
) -> None:
    """Adds the run: the Snakefile made the results from the inputs."""
    environment = manifest.environment
    facts = {key: environment.get(key) for key in ("code_version", "device", "python", "torch", "numpy")}
    properties = {
        "@type": "CreateAction",
        "name": "Run of the workflow",
        "description": "; ".join(
            filter(None, [manifest.command, *(f"{key} {value}" for key, value in facts.items() if value)])
        ),
        "endTime": environment["date"].replace("Z", "+00:00"),
    }
    run = _add_context(crate, "#run", properties)
    run["instrument"], run["object"], run["result"] = workflow, list(inputs), list(results)
    crate.root_dataset["mentions"] = run


def _workflow_files(version: str) -> dict[str, bytes]:
    """The Snakefile and the rules of a version of this repository, by path.

    Raises:
        UserError: The version is neither this one nor a commit of this checkout.
    """
    if version == code_version() and (ROOT / _SNAKEFILE).is_file():
        paths = [ROOT / _SNAKEFILE, *sorted((ROOT / _RULES).glob("*.smk"))]
        return {str(path.relative_to(ROOT)): path.read_bytes() for path in paths}
    fault = f"the Snakefile of {version} is not in this checkout"
    remedy = "use the checkout that made the results, or run the workflow again"
    # The commit of a version with changes does not have the changes.
    commit = re.fullmatch(r".*\+([0-9a-f]{7,40})", version)
    if commit is None or not (ROOT / ".git").exists():
        raise UserError(MANIFEST, fault, remedy)

    def git(*words: str) -> bytes:
        return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, check=True).stdout

    try:
        names = git("ls-tree", "--name-only", commit[1], _SNAKEFILE, _RULES).decode().splitlines()
        return {name: git("show", f"{commit[1]}:{name}") for name in names}
    except (OSError, subprocess.CalledProcessError):
        raise UserError(MANIFEST, fault, remedy) from None
