"""Jobs by the names of their specs, the digests of these jobs, and the specs as files."""

import json
import os
from collections.abc import Callable, Container, Iterable
from pathlib import Path

from sida.assets.registry import is_address
from sida.errors import UserError
from sida.files.atomic import sha256_json, write_text
from sida.workflow.preset.digests import content_digest, file_state, own_digest
from sida.workflow.preset.jobs import Job
from sida.workflow.preset.measuring import measurement, sampling
from sida.workflow.preset.preset import Preset
from sida.workflow.preset.products import collection, everything, product, verdicts
from sida.workflow.preset.trainings import teacher_training, training

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
