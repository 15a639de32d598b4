"""Packs a results folder as an RO-Crate: files with their hashes, authors, version of the code, and command.

RO-Crate (w3id.org/ro/crate) is a format of research data that repositories such as Zenodo and WorkflowHub accept.
"""

from __future__ import annotations

import mimetypes
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sida.config.resources import ROOT, how_to_install
from sida.config.settings import load_yaml
from sida.errors import UserError
from sida.files.atomic import atomic_folder, atomic_path, read_hashed_json, sha256_file
from workflow.archive.files import MANIFEST
from workflow.archive.verify import verify

if TYPE_CHECKING:
    from rocrate.rocrate import ROCrate

_TYPES = {
    ".cff": "application/yaml",
    ".safetensors": "application/octet-stream",
    ".jsonl": "application/jsonl",
    ".md": "text/markdown",
}
CITATION = "CITATION.cff"
_NOBODY = {"name": "authors: to be filled in"}


def write_crate(folder: str | Path, out: str | Path, citation: str | Path | None = None) -> int:
    """Packs a results folder; returns the number of files.

    Args:
        folder: ``results/<preset>`` with its manifest; all its files are checked first.
        out: ``FILE.zip``, or a new folder.
        citation: ``CITATION.cff`` with the authors; by default that of the code.

    Raises:
        UserError: A fault in the folder, an existing target, or the library is not installed.
    """
    folder, out = Path(folder), Path(out)
    if os.path.lexists(out):
        raise UserError(out, "is there already", "name another --out, or remove it")
    if not out.name or out.resolve().is_relative_to(folder.resolve()):
        raise UserError(out, f"must be a new folder or FILE.zip outside {folder}")
    _library()
    report = verify(folder)
    if report.faults:
        raise UserError(folder, f"{report.faults[0]} (sida verify shows all {len(report.faults)} faults)", "fix that")
    if not (folder / MANIFEST).is_file():
        raise UserError(
            folder, f"has no {MANIFEST}", f"make it with `sida manifest {folder} --out {folder}/{MANIFEST}`"
        )
    manifest = read_hashed_json(folder / MANIFEST)
    path = Path(citation) if citation is not None else ROOT / CITATION
    crate, count = _described(folder, manifest, _authors(path, citation is None))
    if path.is_file() and CITATION not in manifest["files"]:
        _add(crate, path, CITATION)
        count += 1
    if out.suffix == ".zip":
        with atomic_path(out) as temporary:
            crate.write_zip(temporary)
        return count
    with atomic_folder(out) as part:
        crate.write(part)
    return count


def _library() -> type[ROCrate]:
    try:
        from rocrate.rocrate import ROCrate
    except ImportError:
        raise UserError("", "the package rocrate is not installed", how_to_install("rocrate>=0.14")) from None
    return ROCrate


def _authors(path: Path, optional: bool) -> dict[str, Any]:
    if optional and not path.is_file():
        return {"authors": [_NOBODY]}
    found = load_yaml(path)
    if not isinstance(found.get("authors"), list) or not all(isinstance(a, Mapping) for a in found["authors"]):
        raise UserError(path, "authors: must be a list of names", "see citation-file-format.github.io")
    return found


def _described(folder: Path, manifest: Mapping[str, Any], citation: Mapping[str, Any]) -> tuple[ROCrate, int]:
    """The crate, and its number of files."""
    crate = _library()()
    preset, environment = manifest.get("preset") or {}, manifest.get("environment") or {}
    crate.name = str(preset.get("title") or folder.name)
    crate.description = f"Results of the preset '{preset.get('preset', folder.name)}' of sida-repro."
    crate.license = str(citation.get("license", "to be filled in"))
    crate.root_dataset["author"] = _people(crate, citation)
    names = list(dict.fromkeys([*manifest["files"], MANIFEST]))
    for name in names:
        _add(crate, folder / name, name)
    _describe_run(crate, manifest.get("command"), environment)
    return crate, len(names)


def _add(crate: ROCrate, path: Path, name: str) -> None:
    """Adds a file with its hash and size, under a name within the crate."""
    kind = _TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    facts = {"name": Path(name).name, "sha256": sha256_file(path), "contentSize": str(path.stat().st_size)}
    crate.add_file(path, dest_path=name, properties={**facts, "encodingFormat": kind})


def _people(crate: ROCrate, citation: Mapping[str, Any]) -> list[Any]:
    """Authors as entities of the crate, identified by ORCID if they have one."""
    from rocrate.model.person import Person

    found = []
    for number, author in enumerate(citation["authors"], start=1):
        parts = [str(author[key]) for key in ("given-names", "family-names") if author.get(key)]
        facts = {"name": str(author.get("name") or " ".join(parts))}
        if author.get("affiliation"):
            facts["affiliation"] = str(author["affiliation"])
        person = Person(crate, str(author.get("orcid") or f"#author-{number}"), properties=facts)
        found.append(crate.add(person))
    return found


def _describe_run(crate: ROCrate, command: str | None, environment: Mapping[str, Any]) -> None:
    """Adds the command that made the results, and the version of the code."""
    from rocrate.model.softwareapplication import SoftwareApplication

    version = str(environment.get("code_version", "unknown"))
    names = ("python", "torch", "numpy")
    needs = [f"{name} {environment[name]}" for name in names if name in environment]
    facts = {"name": "sida-repro", "softwareVersion": version, "softwareRequirements": ", ".join(needs)}
    software = crate.add(SoftwareApplication(crate, "#sida-repro", properties=facts))
    action = {
        "name": "Training and measuring",
        "description": command or "the command is not recorded",
        "endTime": str(environment.get("date", "")),
    }
    crate.add_action(software, identifier="#run", result=crate.root_dataset, properties=action)
