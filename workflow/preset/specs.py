"""Specs of jobs as files, and jobs by the names of these files."""

import json
import os
from collections.abc import Callable, Container, Iterable
from pathlib import Path

from sida.errors import UserError
from sida.files.atomic import write_text
from workflow.preset.jobs import Job
from workflow.preset.measuring import measurement, sampling
from workflow.preset.measuring_needs import drawn_from_data
from workflow.preset.preset import Preset
from workflow.preset.products import everything, product
from workflow.preset.rows import dataset_named, protocol_of
from workflow.preset.trainings import teacher_training, training

#: Functions of a preset and a name that make jobs, by the folder of their specs.
MAKERS: dict[str, Callable[[Preset, str], Job]] = {
    "teachers": teacher_training,
    "students": training,
    "measurements": measurement,
    "samples": sampling,
}


def job_named(preset: Preset, stage: str, name: str) -> Job:
    """A job by the folder of its spec and its name there."""
    if stage in ("tables", "figures"):
        return product(preset, stage, name)
    return everything(preset) if stage == "preset" else MAKERS[stage](preset, name)


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
        row = preset.runs[name]
        sources = protocol_of(preset, row).used_sources.values()
        references = [source for source in sources if source.kind == "dataset"]
        opened = drawn_from_data(preset, row) or not all(source.fixed for source in references)
        datasets = datasets if opened else []
        datasets += [dataset_named(preset, source.dataset) for source in references if source.fixed]
    # A kind from outside may mean something else by its path.
    paths = (spec.get("path") for spec in datasets if ":" not in spec.get("kind", ""))
    return next((path for path in paths if path and path not in made and not os.path.exists(path)), None)
