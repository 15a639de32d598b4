"""A job: its spec, the names of its inputs, and what its digest reads.

A job's spec is a file, ``results/<preset>/specs/<stage>/<name>.json``, with everything that decides its result; its
command names the file. The job's digest (:mod:`sida.workflow.preset.specs`) is a parameter of its rule: it contains the
spec, the digests of its upstream jobs, which make its inputs, and the content of the user's files. So a changed
setting reaches every product downstream, also after interruptions, and a setting that is changed back runs no job.
"""

import os
import re
import sysconfig
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sida.config.families import NULL_LABEL
from sida.config.lookup import source_file
from sida.config.settings import names_object
from sida.workflow.preset.networks import FOLDERS, Network
from sida.workflow.preset.preset import Preset

#: Kinds of inputs; rules put their names into paths.
KINDS = (*FOLDERS, "downloads", "files")
#: Folders of installed packages.
_PACKAGES = {"site-packages", "dist-packages"}


@dataclass(frozen=True)
class Job:
    """A job of the workflow.

    Attributes:
        stage: Folder of its spec.
        spec: Everything that its command reads.
        needs: Names of its inputs, by kind. The trainings of ``teachers`` and ``students`` are upstream jobs.
        upstream: Its other upstream jobs, each by stage and name.
        files: The user's files that its digest reads, besides the ones in ``needs``.
    """

    stage: str
    spec: Mapping[str, Any]
    needs: Mapping[str, list[str]]
    upstream: tuple[tuple[str, str], ...] = ()
    files: tuple[str | Path, ...] = ()


def common_settings(preset: Preset) -> dict[str, Any]:
    """Settings that every spec of a training, measurement or sample has."""
    return {"threads": preset.settings.threads, "device": preset.settings.device}


def needs_of(networks: Iterable[Network | None] = (), files: Iterable[str] = ()) -> dict[str, list[str]]:
    """Names of networks and files by kind; a network is named once."""
    needs: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for network in dict.fromkeys(filter(None, networks)):
        # The null label is a guide without a file.
        if network.name != NULL_LABEL:
            needs[network.kind].append(network.name)
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
    return [*preset.archives.of(spec), *code_files([str(spec.get("kind"))])]


def any_of(names: Iterable[str]) -> str:
    """Pattern for a wildcard with one of these names; without names a pattern that never matches."""
    return "|".join(map(re.escape, sorted(names))) or "none"
