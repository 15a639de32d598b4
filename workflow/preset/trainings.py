"""Jobs that train: teachers by ``sida train-teacher``, rows by ``sida distill``."""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

from eval.measuring.monitor_settings import MONITOR
from eval.measuring.protocol import Protocol
from eval.results.sheet import SheetRow
from sida.assets.registry import is_counted
from sida.config.recipe import EvaluationPoints
from workflow.preset.jobs import Job, code_files, common_settings, data_files, make_job, needs_of
from workflow.preset.measuring_needs import add_protocol_needs
from workflow.preset.networks import generator, guide_of, network_path, teacher_network
from workflow.preset.once import once
from workflow.preset.outside_code import outside_code
from workflow.preset.preset import Preset
from workflow.preset.rows import (
    from_scratch,
    lineage,
    options_of,
    protocol_path,
    recipe_of,
    resolution_of,
    seed_of,
    teacher_data,
    training_data,
)

#: Settings of an evaluation about its times; the monitor takes the other settings.
_POINTS = {field.name for field in dataclasses.fields(EvaluationPoints)}


@once
def teacher_training(preset: Preset, name: str) -> Job:
    """Training of a teacher."""
    teacher, dataset = preset.settings.teachers[name], teacher_data(preset, name)
    assert teacher.network is not None
    assert teacher.training is not None
    spec = {"name": name, "dataset": dataset, "network": teacher.network, **teacher.training}
    spec |= {"seed": preset.settings.seed if teacher.seed is None else teacher.seed, **common_settings(preset)}
    files = [*data_files(preset, dataset), *code_files([teacher.network["class"]])]
    return make_job(preset, "teachers", spec, needs_of(files=files))


def training(preset: Preset, name: str) -> Job:
    """Training of a row."""
    jobs = _trainings(preset)
    # Starts come first: Python's stack is shorter than a long chain of rows.
    for row in reversed([*itertools.takewhile(lambda row: row not in jobs, lineage(preset, name))]):
        jobs[row] = _training(preset, preset.runs[row])
    return jobs[name]


@once
def _trainings(preset: Preset) -> dict[str, Job]:
    """Trainings of a preset that were made so far, by row."""
    return {}


def _training(preset: Preset, row: SheetRow) -> Job:
    dataset, recipe = training_data(preset, row), dict(recipe_of(preset, row))
    evaluation = _evaluation(preset, row, dataset, recipe.pop("evaluation", None))
    init = generator(preset, preset.runs[row.init]) if row.init else None
    teacher = None if from_scratch(preset, row) else teacher_network(preset, str(row.teacher))
    guide = guide_of(preset, row)
    spec: dict[str, Any] = {"name": row.run, "method": row.method, "dataset": dataset}
    spec |= {"teacher": network_path(preset, teacher), "init": network_path(preset, init)}
    spec |= {**recipe, "evaluation": evaluation, "seed": seed_of(preset, row), **common_settings(preset)}
    # A key without a value would change the digests of finished trainings.
    optional = {"alpha": row.alpha, "guide": network_path(preset, guide)}
    spec |= {key: value for key, value in optional.items() if value is not None}
    code = code_files([row.method, *outside_code({"recipe": recipe})])
    needs = needs_of([teacher, guide, init], [*data_files(preset, dataset), *code])
    needs["downloads"] += _downloads(preset, row, dataset)
    if evaluation is not None:
        add_protocol_needs(preset, row, _watched_part(preset, protocol_path(preset, row)), needs)
    return make_job(preset, "students", spec, needs, trainings_of(preset, needs))


def _evaluation(
    preset: Preset, row: SheetRow, dataset: Mapping[str, Any], settings: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """Evaluation of a training as its spec has it: times, and the monitor with its arguments."""
    if settings is None:
        return None
    kwargs: dict[str, Any] = {
        "dataset": dataset,
        "protocol": _watched_part(preset, protocol_path(preset, row)).content(),
    }
    kwargs |= {"device": preset.settings.device}
    kwargs |= {key: value for key, value in settings.items() if key not in _POINTS}
    points = {key: value for key, value in settings.items() if key in _POINTS}
    return {**points, "monitor": MONITOR, "kwargs": kwargs}


@once
def _watched_part(preset: Preset, path: str) -> Protocol:
    """The part of a protocol that evaluations during training use; changes of the rest start no new training."""
    protocol = preset.protocols[path]
    keys = tuple(metric.key for metric in protocol.watched)
    return protocol.part(keys, keys) if keys else protocol


def _downloads(preset: Preset, row: SheetRow, dataset: Mapping[str, Any]) -> list[str]:
    """Registered downloads that a row's method needs for its training."""
    options = options_of(preset, row)
    counts = [str(dataset["counts"])] if is_counted(dataset.get("counts")) else []
    return counts + list(options.assets(resolution_of(preset, row)) if hasattr(options, "assets") else [])


def trainings_of(preset: Preset, needs: Mapping[str, list[str]]) -> list[Job]:
    """Jobs that make the networks among what a job reads."""
    teachers = [teacher_training(preset, name) for name in needs.get("teachers", [])]
    return teachers + [training(preset, name) for name in needs.get("students", [])]


def gpus_of(preset: Preset, job: Job) -> int:
    """GPUs of a training: as many as the preset has, or fewer if micro-batches cannot be divided evenly."""
    return most_gpus(preset.settings.gpus, job.spec["batch_size"], job.spec.get("batch_gpu"))


def most_gpus(gpus: int, batch_size: int, batch_gpu: int | None) -> int:
    """Largest number of GPUs up to ``wanted`` with equal numbers of whole micro-batches; 0 for 0."""
    rounds = batch_size if batch_gpu is None else batch_size // batch_gpu
    return max((number for number in range(1, gpus + 1) if rounds % number == 0), default=0)
