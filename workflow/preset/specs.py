"""Jobs by the names of their specs, the digests of these jobs and of stored rows, and the specs as files."""

import functools
import hashlib
import json
import os
from collections.abc import Callable, Container, Iterable, Mapping
from pathlib import Path
from typing import Any

from sida.assets.registry import is_address
from sida.config.lookup import ROOT
from sida.config.recipe import EXCLUDED_FROM_DIGEST
from sida.errors import UserError
from sida.eval.measuring.monitor_settings import MONITOR
from sida.eval.measuring.protocol import OF_ALL_TRIALS
from sida.eval.results.extended import read_extended
from sida.eval.results.stored import read_stored, unchanged_rows
from sida.files.atomic import sha256_file, sha256_json, write_text
from sida.files.ordinary import open_ordinary
from sida.workflow.preset.jobs import (
    Job,
    collection,
    everything,
    measurement,
    product,
    sampling,
    teacher_training,
    training,
    verdicts,
)
from sida.workflow.preset.preset import Preset

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


#: Functions of a preset and a name that make jobs, by the folder of their specs.
MAKERS: dict[str, Callable[[Preset, str], Job]] = {
    "teachers": teacher_training,
    "students": training,
    "measurements": measurement,
    "samples": sampling,
    "tables": lambda preset, name: product(preset, "tables", name),
    "figures": lambda preset, name: product(preset, "figures", name),
    "collected": lambda preset, name: collection(preset),
    "claims": lambda preset, name: verdicts(preset),
    "preset": lambda preset, name: everything(preset),
}


def job_named(preset: Preset, stage: str, name: str) -> Job:
    """A job by the folder of its spec and its name there."""
    return MAKERS[stage](preset, name)


class Jobs:
    """Jobs of a preset with their digests, each made when it is first asked for.

    Args:
        preset: The preset.
    """

    def __init__(self, preset: Preset) -> None:
        self.preset = preset
        self._jobs: dict[tuple[str, str], Job] = {}
        self._digests: dict[tuple[str, str], str] = {}

    def named(self, stage: str, name: str = "") -> Job:
        """A job by the folder of its spec and its name there."""
        if (stage, name) not in self._jobs:
            self._jobs[stage, name] = job_named(self.preset, stage, name)
        return self._jobs[stage, name]

    def digest(self, stage: str, name: str = "") -> str:
        """SHA-256 of what decides a job's result: of its spec, its upstream jobs, and the content of the user's files.

        A setting that cannot change the result does not count.
        """
        # Starts come first: Python's stack is shorter than a long chain of rows.
        for key in reversed([(stage, name), *self._starts(stage, name)]):
            if key not in self._digests:
                self._digests[key] = self._digest(*key)
        return self._digests[stage, name]

    def _starts(self, stage: str, name: str) -> list[tuple[str, str]]:
        rows = [*self.preset.rows[name].lineage()][1:] if stage == "students" else []
        return [("students", row.run) for row in rows if row.method is not None]

    def _digest(self, stage: str, name: str) -> str:
        job, preset = self.named(stage, name), self.preset
        files = [path for path in job.needs.get("files", []) if path not in preset.archives.made]
        files += [source for folder in job.needs.get("imports", []) if not is_address(source := preset.imports[folder])]
        contents = {str(path): self._content(path) for path in (*files, *job.files) if os.path.exists(path)}
        trainings = [(kind, each) for kind in ("teachers", "students") for each in job.needs.get(kind, [])]
        upstream = sorted({self.digest(*key) for key in (*trainings, *job.upstream)})
        return sha256_json([own_digest(stage, job.spec), upstream, contents])

    def _content(self, path: str | Path) -> str:
        """Content of a user's file; an archive of images, which may have terabytes, by its size and time."""
        is_archive = path in self.preset.archives.own and not os.path.isdir(path)
        return file_state(path) if is_archive else content_digest(path)


def write_specs(preset: Preset, names: Iterable[str]) -> None:
    """Writes specs, ``<stage>/<name>``, whose content changed; other files keep their times.

    Raises:
        UserError: A file cannot be read or written.
    """
    for spec_name in names:
        path, (stage, _, name) = f"{preset.results}/specs/{spec_name}.json", spec_name.partition("/")
        text = json.dumps(job_named(preset, stage, name).spec, sort_keys=True, indent=1) + "\n"
        try:
            if not Path(path).is_file() or Path(path).read_bytes() != text.encode():
                write_text(path, text)
        except OSError as error:
            raise UserError(path, f"cannot be written ({error.strerror})", "fix that, then start again") from None


def missing_data(preset: Preset, spec_name: str, made: Container[str]) -> str | None:
    """Path of a data set that a training or measurement opens and that is neither there nor ``made``; None without.

    A measurement opens its references after the trainings that it waits for.

    Args:
        preset: The preset.
        spec_name: The job, ``<stage>/<name>``.
        made: Paths of data sets that the workflow makes.
    """
    stage, _, name = spec_name.partition("/")
    datasets = [job_named(preset, stage, name).spec["dataset"]]
    if stage == "measurements":
        row = preset.rows[name]
        datasets = datasets if row.measured_with_data else []
        datasets += [preset.data.named(one.dataset) for one in row.protocol.used_sources.values() if one.fixed]
    # A kind from outside may mean something else by its path.
    paths = (spec.get("path") for spec in datasets if ":" not in spec.get("kind", ""))
    return next((path for path in paths if path and path not in made and not os.path.exists(path)), None)


def stored_rows(preset: Preset) -> frozenset[str]:
    """Rows of a preset that have stored results with equal settings."""
    if not preset.stored:
        return frozenset()
    folder, results = preset.stored["folder"], f"results/{preset.stored['preset']}"
    rows = [run for run in read_stored(folder)["rows"] if run in preset.rows]
    return frozenset(unchanged_rows(folder, {run: row_digest(preset, run, results) for run in rows}))


def row_digest(preset: Preset, name: str, results: str | None = None) -> str:
    """SHA-256 of everything that decides a row's images: sampler, training, teacher, guide and parent rows.

    It does not hold metrics, since each value has an identity.

    Args:
        preset: The preset.
        name: A row of its sheet.
        results: Folder of results in the paths of networks; None: the preset's.
    """
    chain, digests = [preset.rows[name]], dict[str, str]()
    if (first := preset.rows[preset.runs[name].first]).cells.trained_here:
        chain += [*first.lineage()][1:]
    # Starts come first: Python's stack is shorter than a long chain of rows.
    for row in reversed(chain):
        spec = measurement(preset, row.run).spec
        facts: dict[str, Any] = {"measure": {**spec, "protocol": row.protocol.image_facts()}}
        if (first := preset.rows[row.cells.first]).cells.trained_here:
            facts["student"] = deciding("students", training(preset, first.run).spec)
            facts["parents"] = {first.start.run: digests[first.start.run]} if first.start else {}
        teachers = {key: getattr(row.cells, key) for key in ("teacher", "guide")}
        facts |= {
            key: teacher_training(preset, teacher).spec
            for key, teacher in teachers.items()
            if teacher in preset.trained_teachers
        }
        digests[row.run] = sha256_json(_moved(facts, {f"{preset.results}/": f"{results or preset.results}/"}))
    return digests[name]


def _moved(value: Any, folders: dict[str, str]) -> Any:
    """A document whose paths in the checkout are relative to it, and whose paths in some folders are in others."""
    if isinstance(value, dict):
        return {_moved(key, folders): _moved(item, folders) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_moved(item, folders) for item in value]
    if not isinstance(value, str):
        return value
    # The workflow reads presets by their paths from the current folder, other commands by absolute ones.
    value = value.removeprefix(f"{ROOT}/").removeprefix(f"{os.path.relpath(ROOT)}/")
    folder = next((folder for folder in folders if value.startswith(folder)), "")
    return folders.get(folder, "") + value.removeprefix(folder)
