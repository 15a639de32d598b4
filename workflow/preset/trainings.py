"""Jobs that train: teachers by ``sida train-teacher``, rows by ``sida distill``."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from sida.assets.registry import is_counted
from sida.config.recipe import EvaluationPoints
from sida.eval.measuring.monitor_settings import MONITOR
from sida.workflow.preset.jobs import Job, code_files, common_settings, data_files, needs_of
from sida.workflow.preset.measuring import protocol_files
from sida.workflow.preset.outside_code import outside_code
from sida.workflow.preset.preset import Preset

#: Settings of an evaluation about its times; the monitor takes the other settings.
_POINTS = {field.name for field in dataclasses.fields(EvaluationPoints)}


def teacher_training(preset: Preset, name: str) -> Job:
    """Training of a teacher."""
    teacher = preset.teachers[name]
    entry = teacher.entry
    assert entry.network is not None
    assert entry.training is not None
    spec = {"name": name, "dataset": teacher.data, "network": entry.network, **entry.training}
    spec |= {"seed": teacher.seed, **common_settings(preset)}
    files = [*data_files(preset, teacher.data), *code_files([entry.network["class"]])]
    return Job("teachers", spec, needs_of(files=files))


def training(preset: Preset, name: str) -> Job:
    """Training of a row."""
    row = preset.rows[name]
    assert row.training_data is not None
    recipe = {key: value for key, value in row.recipe.items() if key != "evaluation"}
    teacher = row.teacher.network if row.teacher else None
    start = row.start.network if row.start else None
    spec: dict[str, Any] = {"name": name, "method": row.cells.method, "dataset": row.training_data}
    spec |= {"teacher": teacher and teacher.path, "init": start and start.path}
    spec |= {**recipe, "evaluation": None, "seed": row.seed, **common_settings(preset)}
    # A key without a value would change the digests of finished trainings.
    spec |= {} if row.cells.alpha is None else {"alpha": row.cells.alpha}
    spec |= {"guide": row.guide.path} if row.guide else {}
    code = code_files([row.cells.method, *outside_code({"recipe": recipe})])
    needs = needs_of([teacher, row.guide, start], [*data_files(preset, row.training_data), *code])
    if is_counted(counts := row.training_data.get("counts")):
        needs["downloads"].append(str(counts))
    if hasattr(row.options, "assets"):
        needs["downloads"] += row.options.assets(row.resolution)
    if evaluation := row.recipe.get("evaluation"):
        watched = row.protocol.watched_part
        facts = {"dataset": row.training_data, "protocol": watched.content(), "device": preset.settings.device}
        spec["evaluation"] = _evaluation(evaluation, facts)
        needs["downloads"] += sorted(watched.assets(row.decoder))
        needs["files"] += protocol_files(preset, watched)
    return Job("students", spec, needs)


def _evaluation(settings: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Evaluation of a training as its spec has it: times, and the monitor with ``facts`` and its other arguments."""
    kwargs = {**facts, **{key: value for key, value in settings.items() if key not in _POINTS}}
    points = {key: value for key, value in settings.items() if key in _POINTS}
    return {**points, "monitor": MONITOR, "kwargs": kwargs}


def gpus_of(preset: Preset, job: Job) -> int:
    """GPUs of a training: as many as the preset has, or fewer if micro-batches cannot be divided evenly."""
    return most_gpus(preset.settings.gpus, job.spec["batch_size"], job.spec.get("batch_gpu"))


def most_gpus(gpus: int, batch_size: int, batch_gpu: int | None) -> int:
    """Largest number of GPUs up to ``gpus`` with equal numbers of whole micro-batches; 0 for 0."""
    rounds = batch_size if batch_gpu is None else batch_size // batch_gpu
    return max((number for number in range(1, gpus + 1) if rounds % number == 0), default=0)
