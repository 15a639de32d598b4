"""Builds specs of jobs: mappings with everything that decides the result of one job."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from eval.figures.layout import load_figure_layout
from eval.measuring.protocol import Protocol
from eval.results.sheet import Needs, SheetRow, read_extended
from eval.tables.layout import TABLE_KINDS, load_table_layout
from sida.config.plugins import MONITOR
from sida.config.recipe import EvaluationPoints
from sida.errors import UserError
from sida.methods.registry import find_method
from workflow.preset.archives import training_data
from workflow.preset.rows import Rows, nfe

#: Settings of an evaluation about its times; the other settings are those of the monitor.
_POINTS = {field.name for field in dataclasses.fields(EvaluationPoints)}

#: Number of log records for timing a training (the first includes start-up), and least images of each record.
TICKS, TICK_IMAGES = 5, 2048
_SHAPE = {"resolution": "img_resolution", "channels": "img_channels", "label_dim": "label_dim"}


def most_gpus(wished: int, batch_size: int, batch_gpu: int | None) -> int:
    """Largest number of GPUs up to ``wished`` with equal numbers of whole micro-batches; 0 for 0."""
    rounds = batch_size if batch_gpu is None else batch_size // batch_gpu
    return max((number for number in range(1, wished + 1) if rounds % number == 0), default=0)


class Specs:
    """Specs of a preset's jobs.

    Args:
        rows: Settings and sample sheet of the preset.
    """

    def __init__(self, rows: Rows) -> None:
        self.rows, self.settings = rows, rows.settings

    def teacher(self, name: str) -> dict[str, Any]:
        """Spec of ``sida train-teacher`` (see :class:`sida.training.TeacherConfig`)."""
        teacher = self.settings.teachers[name]
        assert teacher.training is not None
        spec = {"name": name, "dataset": self._teacher_data(name), "network": teacher.network, **teacher.training}
        return {**spec, "seed": self.settings.seed if teacher.seed is None else teacher.seed, **self._common()}

    def _teacher_data(self, name: str) -> dict[str, Any]:
        dataset = self.settings.teachers[name].dataset or self.settings.dataset
        return self.rows.dataset(dataset, f"{self.rows.source}: teachers.{name}")

    def student(self, name: str) -> dict[str, Any]:
        """Spec of ``sida distill`` (see :class:`sida.methods.DistillConfig`)."""
        run = self.rows.runs[name]
        recipe, dataset = dict(self.rows.recipe(run)), training_data(self.rows, run)
        evaluation = recipe.pop("evaluation", None)
        if evaluation is not None:
            kwargs: dict[str, Any] = {"dataset": dataset, "protocol": _watched(self.rows.protocol(run)).content()}
            kwargs["device"] = self.settings.device
            kwargs |= {key: value for key, value in evaluation.items() if key not in _POINTS}
            if drawn := self.rows.teacher_references(run, watched=True):
                kwargs["references"] = drawn
            points = {key: value for key, value in evaluation.items() if key in _POINTS}
            evaluation = {**points, "monitor": MONITOR, "kwargs": kwargs}
        init = self.rows.network(self.rows.runs[run.init]) if run.init else None
        spec: dict[str, Any] = {"name": name, "method": run.method, "dataset": dataset}
        spec |= {"teacher": self.rows.teacher_network(str(run.teacher)), "init": init, **recipe}
        spec |= {"evaluation": evaluation, "seed": self.rows.seed_of(run), **self._common()}
        given = {"alpha": run.alpha, "guide": self.rows.guide(run)}
        return spec | {key: value for key, value in given.items() if value is not None}

    def training_gpus(self, training: Mapping[str, Any]) -> int:
        """Number of GPUs of a training: that of the preset, or fewer if micro-batches cannot be divided evenly."""
        return most_gpus(self.settings.gpus, training["batch_size"], training.get("batch_gpu"))

    def measurement(self, name: str) -> dict[str, Any]:
        """Spec of ``sida measure``: the generator, its sampler, and the protocol."""
        run = self.rows.runs[name]
        sampler = self.rows.sampler_of(run)
        drawn = self.rows.teacher_references(run)
        return {
            **({"references": drawn} if drawn else {}),
            "run": name,
            "method": run.method,
            "network": self.rows.network(run),
            "guide": self.rows.sampler_guide(run),
            "sampler": sampler,
            "nfe": nfe(sampler) or run.nfe,
            "dataset": self.rows.dataset_of(run),
            "protocol": self.rows.protocol(run).content(),
            **self._common(),
        }

    @functools.cached_property
    def drawn(self) -> dict[str, str]:
        """Files of teachers' samples, each with a row that it is made for, by path without folder and ending."""
        rows = {name: run for name, run in self.rows.runs.items() if name in self.rows.measurable}
        drawn = [(path, name) for name, run in rows.items() for path in self.rows.teacher_references(run).values()]
        return {"/".join(Path(path).with_suffix("").parts[-3:]): name for path, name in reversed(drawn)}

    def reference(self, teacher: str, protocol: str, key: str) -> dict[str, Any]:
        """Spec of ``sida reference`` for samples of a teacher: its network, data set and the protocol."""
        row = self.rows.runs[self.drawn[f"{teacher}/{protocol}/{key}"]]
        return {
            "network": self.rows.teacher_network(teacher),
            "protocol": self.rows.protocol(row).content(),
            "dataset": self._teacher_data(teacher),
            **self._common(),
        }

    @functools.cached_property
    def timed(self) -> dict[str, list[str]]:
        """Tables of hours and memory, with the students whose first log records give their numbers."""
        layouts = {name: self.rows.layout("tables", name) for name in self.settings.tables}
        tables = [name for name, path in layouts.items() if load_table_layout(path).shows_settings]
        found = {name: find_needs(layouts[name], self.rows.runs).networks for name in tables}
        return {
            name: rows for name, runs in found.items() if (rows := [r for r in runs if self.rows.runs[r].trained_here])
        }

    def tick(self, name: str) -> dict[str, Any]:
        """Spec of ``sida distill`` for :data:`TICKS` log records of a row: all terms from the start, random images.

        Batch, micro-batch, precision and network are those of the row, so hours and memory are, too.
        """
        spec = self.student(name)
        tick = max(spec["batch_size"], TICK_IMAGES) / 1000
        length = {"total_kimg": TICKS * tick, "tick_kimg": tick, "warmup_kimg": 0}
        if "adversarial_kimg" in find_method(spec["method"]).settings:
            length["adversarial_kimg"] = 0
        nothing_else = {"evaluation": None, "snapshot_kimg": None, "pictures": 0, "state_minutes": 60}
        network = self._teacher_network(str(self.rows.runs[name].teacher))
        teacher = self.rows.tick_teacher(str(self.rows.runs[name].teacher))
        return {**spec, **length, **nothing_else, "dataset": _drawn(network), "teacher": teacher}

    def tick_teacher(self, name: str) -> dict[str, Any]:
        """Spec of ``sida train-teacher`` for one training step of a teacher's network."""
        network = self._teacher_network(name)
        step = {"total_kimg": 0.008, "batch_size": 8, "lr": 1e-4, "pictures": 0}
        return {"name": name, "dataset": _drawn(network), "network": network, **step, **self._common()}

    def _teacher_network(self, name: str) -> dict[str, Any]:
        network = self.rows.architecture(name)
        if network is None:
            raise UserError(f"{self.rows.source}: teachers.{name}", "has no network to time a training with", "add it")
        return network

    def sample(self, name: str, trial: int | str) -> dict[str, Any]:
        """Spec of ``sida sample`` for the images of a row's trial."""
        run = self.rows.runs[name]
        protocol, dataset = self.rows.protocol(run), self.rows.dataset_of(run)
        first, last = protocol.seeds(int(trial))
        # The data set is not needed without classes, or if its classes are counted.
        classes = protocol.label_dist if dataset.get("label_dim") else "uniform"
        with_data = run.method == "data" or (classes == "empirical" and protocol.labels is None)
        return {
            "network": self.rows.network(run),
            "gnet": self.rows.sampler_guide(run),
            "sampler": self.rows.sampler_of(run),
            "seeds": f"{first}-{last}",
            "class_labels": self.rows.class_counts(run) or classes,
            "dataset": dataset if with_data else None,
            **self._common(),
        }

    def table(self, name: str) -> dict[str, Any]:
        """Spec of ``sida table``: its rows and, for a table of settings, the settings of their trainings."""
        path = self.rows.layout("tables", name)
        needs = find_needs(path, self.rows.runs)
        spec: dict[str, Any] = {"runs": self._sheet({*needs.measured, *needs.networks})}
        if not load_table_layout(path).shows_settings:
            return spec
        students = {run: self._settings(run) for run in needs.networks if self.rows.runs[run].trained_here}
        return spec | {"gpus": self.settings.gpus, "students": students}

    def figure(self, name: str) -> dict[str, Any]:
        """Spec of ``sida figure``: its rows, settings on its axes, and generators to sample."""
        path = self.rows.layout("figures", name)
        needs = find_needs(path, self.rows.runs)
        spec: dict[str, Any] = {"runs": self._sheet({*needs.measured, *needs.networks})}
        spec["generators"] = [*map(self.measurement, needs.networks if needs.sampled else [])]
        return spec

    def _settings(self, run: str) -> dict[str, Any]:
        return {"settings": self.student(run), "network": self.rows.architecture(self.rows.runs[run].teacher)}

    def _sheet(self, names: Collection[str]) -> list[dict[str, Any]]:
        """Rows in the form and order of the sheet."""
        rows = (run for name, run in self.rows.runs.items() if name in names)
        return [{key: value for key, value in vars(run).items() if value not in (None, "")} for run in rows]

    def _common(self) -> dict[str, Any]:
        return {"threads": self.settings.threads, "device": self.settings.device}


def _drawn(network: Mapping[str, Any]) -> dict[str, Any]:
    """Spec of random images for a network."""
    shape = {ours: network["kwargs"].get(theirs, 0) for ours, theirs in _SHAPE.items()}
    return {"name": "noise", "kind": "noise", **shape}


def _watched(protocol: Protocol) -> Protocol:
    """The part of a protocol that evaluations during training use; other changes are no reason to train again."""
    keys = tuple(metric.key for metric in protocol.watched)
    return protocol.part(keys, keys) if keys else protocol


def find_needs(path: str | Path, runs: Mapping[str, SheetRow]) -> Needs:
    """Needs of a layout of ``config/tables`` or ``config/figures``; rows that are not in the sheet are left out.

    A layout that cannot be resolved needs every row; its builder reports the fault.

    Args:
        path: The layout.
        runs: The sample sheet.
    """
    try:
        table = (
            Path(path).parent.name == "tables" or str(read_extended(Path(path)).get("kind", "results")) in TABLE_KINDS
        )
        found = (load_table_layout if table else load_figure_layout)(path).needs(runs)
    except UserError:
        return Needs(list(runs), list(runs))
    # Measured rows and networks are separate: a figure may draw measured levels beside curves of training logs.
    ordered = {key: [name for name in runs if name in getattr(found, key)] for key in ("measured", "networks")}
    return dataclasses.replace(found, **ordered)  # type: ignore[arg-type]
