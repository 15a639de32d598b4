"""The manifest of a results folder: each file with its hash, the preset, the command and the machine."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from sida.config.settings import Natural, Pattern, from_mapping
from sida.errors import SettingError, UserError
from sida.files.atomic import read_hashed_json, sha256_file, sha256_json
from sida.files.ordinary import file_below, ordinary_files
from sida.machine import environment

#: Files of a results folder: the manifest, the crate, and the code of the run beside it.
MANIFEST, CRATE = "manifest.json", "ro-crate-metadata.json"
CODE = re.compile(r"Snakefile|workflow/rules/[^/]+\.smk")
#: Files that may be missing in the manifest: they change while a workflow runs, or are made after the manifest.
_UNLISTED = re.compile(r"(.*/)?(state|logs)/.*|(.*/)?\.[^/]*(/.*)?|manifest\.json|ro-crate-metadata\.json")

Sha256 = Annotated[str, Pattern("[0-9a-f]{64}", "64 lower-case hexadecimal digits")]
_DATE = re.compile(r"\d{4}-[01]\d-[0-3]\dT[0-2]\d:[0-5]\d:[0-5]\dZ")


@dataclass(frozen=True)
class Entry:
    """A file of the manifest: its hash and its size in bytes."""

    sha256: Sha256
    bytes: Natural


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The manifest of a results folder, which may be a stranger's.

    Attributes:
        files: Entries by name.
        environment: Facts of :func:`sida.machine.environment`.
        command: Command that made the results.
        preset: Settings of the preset.
        preset_sha256: Their digest.
    """

    files: Mapping[str, Entry]
    environment: Mapping[str, str]
    command: str | None = None
    preset: Mapping[str, Any] | None = None
    preset_sha256: Sha256 | None = None

    def __post_init__(self) -> None:
        if not _DATE.fullmatch(self.environment.get("date", "")) or "code_version" not in self.environment:
            raise SettingError("environment", "must have code_version and date, such as 2026-11-28T12:00:00Z")
        for name in self.files:
            if {"", ".", ".."} & {*name.split("/")}:
                raise SettingError(f"files.{name}", "is not the name of a file in the folder")
            if is_unlisted(name):
                raise SettingError(f"files.{name}", "is a file that a manifest leaves out")


def is_unlisted(name: str) -> bool:
    """Whether the manifest leaves a file out; the crate lists the code of the run."""
    return bool(_UNLISTED.fullmatch(name) or CODE.fullmatch(name))


def read_manifest(folder: Path) -> Manifest:
    """Reads the manifest of a results folder.

    Raises:
        UserError: It is missing, damaged or of another form.
    """
    path = file_below(folder, MANIFEST)
    try:
        return from_mapping(Manifest, read_hashed_json(path), f"{path}:")
    except SettingError as error:
        raise UserError(error.where, error.fault, error.remedy or "make it again (sida manifest)") from None


def manifest_of(folder: Path, preset: Mapping[str, Any] | None, command: str | None) -> dict[str, Any]:
    """The manifest of what is in a results folder; see :class:`Manifest`.

    Raises:
        UserError: There is a link, a pipe or a device, or a file cannot be read.
    """
    sizes = {name: size for name, size in ordinary_files(folder).items() if not is_unlisted(name)}
    files = {name: {"sha256": sha256_file(folder / name), "bytes": size} for name, size in sizes.items()}
    digest = None if preset is None else sha256_json(preset)
    return {
        "environment": environment(None), "command": command, "preset": preset, "files": files,
        "preset_sha256": digest,
    }  # fmt: skip
