"""Digests of a job: of the part of its spec that decides the result, and of the content of the user's files."""

import functools
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sida.config.recipe import EXCLUDED_FROM_DIGEST
from sida.eval.measuring.monitor_settings import MONITOR
from sida.eval.measuring.protocol import OF_ALL_TRIALS
from sida.eval.results.extended import read_extended
from sida.files.atomic import sha256_file
from sida.files.ordinary import open_ordinary

#: Former names of moved monitors, which digests of stored rows hold.
_RECORDED_MONITORS = {MONITOR: "eval.measuring.monitor:make_monitor"}
#: Folders of specs with a data set, which may be kept in memory or not.
_WITH_DATA = ("teachers", "students", "measurements", "samples")


def deciding(stage: str, spec: Mapping[str, Any]) -> Mapping[str, Any]:
    """A spec without settings that cannot change the result.

    Args:
        stage: Folder of the spec.
        spec: The spec.
    """
    if stage in ("teachers", "students"):
        spec = {key: value for key, value in spec.items() if key not in EXCLUDED_FROM_DIGEST}
    if stage == "students" and (evaluation := spec.get("evaluation")):
        kwargs = _without_cache(evaluation["kwargs"])
        # An evaluation has its own number of trials, and no table shows its values.
        kwargs["protocol"] = {key: value for key, value in kwargs["protocol"].items() if key not in OF_ALL_TRIALS}
        monitor = _RECORDED_MONITORS.get(evaluation["monitor"], evaluation["monitor"])
        spec = {**spec, "evaluation": {**evaluation, "monitor": monitor, "kwargs": kwargs}}
    return _without_cache(spec) if stage in _WITH_DATA else spec


def _without_cache(spec: Mapping[str, Any]) -> dict[str, Any]:
    dataset = spec.get("dataset")
    if not dataset:
        return dict(spec)
    return {**spec, "dataset": {key: value for key, value in dataset.items() if key != "cache"}}


def own_digest(stage: str, spec: Mapping[str, Any]) -> str:
    """SHA-256 of the part of a spec that decides the result."""
    text = json.dumps(deciding(stage, spec), sort_keys=True, indent=1) + "\n"
    return hashlib.sha256(text.encode()).hexdigest()


@functools.cache
def content_digest(path: str | Path) -> str:
    """SHA-256 of a user's file: of its bytes; of a YAML file's content with the files that it extends.

    For a folder: SHA-256 of names, sizes and times of its files, except hidden ones; fast for 50,000 files.
    """
    if os.path.isdir(path):
        return _folder_digest(path)
    if Path(path).suffix in (".yaml", ".yml"):
        return hashlib.sha256(json.dumps(read_extended(Path(path)), sort_keys=True, default=str).encode()).hexdigest()
    open_ordinary(path).close()
    return sha256_file(path)


def _folder_digest(folder: str | Path) -> str:
    digest = hashlib.sha256()
    for parent, folders, files in os.walk(folder, followlinks=True):
        # The order of a walk differs between file systems.
        folders.sort()
        digest.update(f"{os.path.relpath(parent, folder)}/\n".encode(errors="surrogateescape"))
        for name in sorted(files):
            if not name.startswith("."):
                digest.update(f"{name} {file_state(os.path.join(parent, name))}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def file_state(path: str | Path) -> str:
    """Size and time of a file."""
    try:
        status = os.stat(path)
    except OSError:
        # The measuring job reports the fault.
        return "unreadable"
    return f"{status.st_size} {status.st_mtime_ns}"
