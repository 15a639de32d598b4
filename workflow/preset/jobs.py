"""A job: its spec, the names of its inputs, and a digest that contains the digests of the upstream jobs.

A job's spec is a file, ``results/<preset>/specs/<stage>/<name>.json``, with everything that decides its result; its
command names the file. The job's digest is a parameter of its rule: it contains the spec, the digests of its upstream
jobs, which make its inputs, and the content of the user's files. So a changed setting reaches every product downstream,
also after interruptions, and a setting that is changed back runs no job.
"""

import os
import re
import sysconfig
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sida.assets.registry import is_address
from sida.config.families import NULL_LABEL
from sida.config.lookup import source_file
from sida.config.settings import names_object
from sida.files.atomic import sha256_json
from workflow.preset.archives import archive_of, archives, own_archives
from workflow.preset.digests import content_digest, file_state, own_digest
from workflow.preset.networks import FOLDERS, Network, imports
from workflow.preset.preset import Preset

#: Kinds of inputs; rules put their names into paths.
KINDS = (*FOLDERS, "downloads", "files")
#: Folders of installed packages.
_PACKAGES = {"site-packages", "dist-packages"}


@dataclass(frozen=True)
class Job:
    """A job of the workflow.

    Attributes:
        spec: Everything that its command reads.
        needs: Names of its inputs, by kind.
        own: SHA-256 of the part of the spec that can change the result.
        digest: SHA-256 of that part, of its upstream jobs, and of the content of the user's files.
    """

    spec: Mapping[str, Any]
    needs: Mapping[str, list[str]]
    own: str
    digest: str


def make_job(
    preset: Preset,
    stage: str,
    spec: Mapping[str, Any],
    needs: Mapping[str, list[str]],
    upstream: Iterable[Job] = (),
    raw: Iterable[str | Path] = (),
) -> Job:
    """Makes a job with its digest.

    Args:
        preset: The preset.
        stage: Folder of its spec.
        spec: Its spec.
        needs: Names of its inputs.
        upstream: Jobs that make its inputs.
        raw: The user's files, besides the ones in ``needs``.
    """
    files = [path for path in needs.get("files", []) if path not in archives(preset)]
    files += [source for name in needs.get("imports", []) if not is_address(source := imports(preset)[name])]
    contents = {str(path): _content(preset, path) for path in (*files, *raw) if os.path.exists(path)}
    own = own_digest(stage, spec)
    return Job(spec, needs, own, sha256_json([own, sorted({job.digest for job in upstream}), contents]))


def _content(preset: Preset, path: str | Path) -> str:
    """Content of a user's file for a digest; an archive of images, which may have terabytes, by its size and time."""
    return file_state(path) if path in own_archives(preset) and not os.path.isdir(path) else content_digest(path)


def common_settings(preset: Preset) -> dict[str, Any]:
    """Settings that every spec of a training, measurement or sample has."""
    return {"threads": preset.settings.threads, "device": preset.settings.device}


def needs_of(networks: Iterable[Network | None] = (), files: Iterable[str] = ()) -> dict[str, list[str]]:
    """Names of networks and files by kind; a network is named once."""
    needs: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for kind, name in dict.fromkeys(filter(None, networks)):
        # The null label is a guide without a file.
        if name != NULL_LABEL:
            needs[kind].append(name)
    needs["files"] += files
    return needs


def source_of(name: str) -> str | None:
    """File behind a name: stored images, or the source of a ``module:object``, wherever Python finds the module.

    Modules of Python and of installed packages have none: a new version of a package would run everything again.
    """
    if os.path.exists(name) or not names_object(name):
        return name if os.path.exists(name) else None
    path = source_file(name)
    installed = path and (_PACKAGES & {*Path(path).parts} or Path(path).is_relative_to(sysconfig.get_path("stdlib")))
    return None if installed else path


def code_files(names: Iterable[str]) -> list[str]:
    """Source files of custom objects among names."""
    return [path for name in dict.fromkeys(names) if ":" in name and (path := source_of(name))]


def data_files(preset: Preset, spec: Mapping[str, Any]) -> list[str]:
    """Files behind a data set that are inputs of jobs: its archive, and the source of a custom kind."""
    return [*archive_of(preset, spec), *code_files([str(spec.get("kind"))])]


def any_of(names: Iterable[str]) -> str:
    """Pattern for a wildcard with one of these names; without names a pattern that never matches."""
    return "|".join(map(re.escape, sorted(names))) or "none"
