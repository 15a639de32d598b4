"""A preset: the configuration and its sample sheet, checked as a whole and turned into one spec per job.

The workflow and the command line read presets through this module, so both accept the same files and report the
same faults. Specs are described in ``docs/architecture.md``.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.claims.experiments import Experiment, load_experiments
from eval.claims.model import load_claims
from eval.claims.rows import claim_rows
from eval.figures.layout import load_figure_layout
from eval.figures.points_layout import PointsLayout
from eval.measuring.protocol import Protocol
from eval.report.needs import Needs, find_needs
from eval.results.selection import matching, read_extended
from sida.assets.registry import is_counted
from sida.config.evaluation import EvaluationPoints
from sida.config.mapping import load_yaml
from sida.config.plugins import MONITOR
from sida.config.resources import base_name
from sida.errors import UserError
from workflow.preset.archives import find_archives, training_data
from workflow.preset.checks import check_references
from workflow.preset.figure_settings import figure_settings
from workflow.preset.rows import Rows, nfe

#: Settings of an evaluation that say when it takes place; the others are the monitor's.
_POINTS = {field.name for field in dataclasses.fields(EvaluationPoints)}

#: Log records by which a training is timed, the first of which has its start-up, and the least images of each.
TICKS, TICK_IMAGES = 5, 2048
_SHAPE = {"resolution": "img_resolution", "channels": "img_channels", "label_dim": "label_dim"}


def most_gpus(wished: int, batch_size: int, batch_gpu: int | None) -> int:
    """The greatest number up to ``wished`` that divides a batch into equal numbers of whole rounds; 0 for 0."""
    rounds = batch_size if batch_gpu is None else batch_size // batch_gpu
    return max((number for number in range(1, wished + 1) if rounds % number == 0), default=0)


def named_layouts(layouts: Sequence[str], where: str) -> dict[str, str]:
    """Layouts by the names of what is made of them: a layout's own name, or that of its file.

    Raises:
        UserError: Two of one name.
    """
    found: dict[str, str] = {}
    for layout in layouts:
        name = base_name(layout)
        if name in found:
            raise UserError(f"{where}: '{found[name]}' and '{layout}' would both make '{name}'; rename or remove one")
        found[name] = layout
    return found


class Preset(Rows):
    """A validated preset. A spec is everything that decides the result of one job.

    Args:
        config: Settings as loaded from ``config/<preset>.yaml`` (Snakemake's overrides included).
        source: File named in errors.
        own: Folders of the preset. Files, data sets, checkpoints, protocols and layouts that it or its sheet names are
            looked for there first (:mod:`sida.config.resources`).

    Raises:
        UserError: Any fault in the configuration, the sheet or between them.
    """

    def __init__(self, config: Mapping[str, Any], source: str = "config", own: Sequence[Path] = ()) -> None:
        super().__init__(config, source, own)
        self._layouts = {kind: named_layouts(self.config[kind], f"{source}: {kind}") for kind in ("tables", "figures")}
        self.config |= {kind: list(layouts) for kind, layouts in self._layouts.items()}
        check_references(self)

    @classmethod
    def load(cls, path: str | Path) -> Preset:
        """Loads a preset file."""
        return cls(load_yaml(path), str(path), [Path(path).parent])

    def layout(self, kind: str, name: str) -> Path:
        """The layout of a table or figure (kind ``tables`` or ``figures``), by its product's name."""
        return super().layout(kind, self._layouts[kind].get(name, name))

    def teacher_spec(self, name: str) -> dict[str, Any]:
        """Spec of ``sida train-teacher`` (see :class:`sida.training.TeacherConfig`)."""
        teacher = self.config["teachers"][name]
        dataset = self.dataset(teacher.get("dataset") or self.config["dataset"], f"{self.source}: teachers.{name}")
        spec: dict[str, Any] = {"name": name, "dataset": dataset, "network": teacher["network"], **teacher["training"]}
        seed = teacher.get("seed")
        return {**spec, "seed": self.config["seed"] if seed is None else seed, **self._common()}

    @functools.cached_property
    def archives(self) -> dict[str, str]:
        """Archives that the workflow can make, of the data sets that rows and teachers name: path to data set."""
        return find_archives(self)

    def training_assets(self, name: str) -> list[str]:
        """Registered downloads that a row's method needs for its training."""
        options = self.options(self.runs[name])
        dataset = training_data(self, self.runs[name])
        counted = [dataset["counts"]] if is_counted(dataset.get("counts")) else []
        return counted + (options.assets(dataset["resolution"]) if hasattr(options, "assets") else [])

    def student_spec(self, name: str) -> dict[str, Any]:
        """Spec of ``sida distill`` (see :class:`sida.methods.DistillConfig`)."""
        run = self.runs[name]
        recipe = dict(self.config["recipes"][run.recipe])
        dataset = training_data(self, run)
        evaluation = recipe.pop("evaluation", None)
        if evaluation is not None:
            kwargs: dict[str, Any] = {
                "dataset": dataset,
                "protocol": _watched(self.protocol(run)).content(),
                "device": self.config["device"],
            }
            kwargs |= {key: value for key, value in evaluation.items() if key not in _POINTS}
            points = {key: value for key, value in evaluation.items() if key in _POINTS}
            evaluation = {**points, "monitor": MONITOR, "kwargs": kwargs}
        source = recipe.get("real_source", "data")
        if source != "data" and source in self.runs:
            recipe["real_source"] = self.network_path(self.runs[source])
        init = self.network_path(self.runs[run.init]) if run.init else None
        spec: dict[str, Any] = {
            "name": name,
            "method": run.method,
            "dataset": dataset,
            "teacher": self.teacher_path(str(run.teacher)),
        }
        spec |= {"init": init, **recipe, "evaluation": evaluation, "seed": self.seed_of(run), **self._common()}
        given = {"alpha": run.alpha, "guide": self.guide_path(run)}
        return spec | {key: value for key, value in given.items() if value is not None}

    def training_gpus(self, training: Mapping[str, Any]) -> int:
        """GPUs for a training's spec: as many as the preset wishes, fewer where rounds cannot be shared."""
        return most_gpus(self.config["gpus"], training["batch_size"], training.get("batch_gpu"))

    def measure_spec(self, name: str) -> dict[str, Any]:
        """Spec of ``sida-eval measure``: the generator, how to sample it, and the protocol."""
        run = self.runs[name]
        sampler = self.sampler_of(run)
        return {
            "run": name,
            "method": run.method,
            "network": self.network_path(run),
            "guide": self.sampler_guide(run),
            "sampler": sampler,
            "nfe": nfe(sampler) or run.nfe,
            "dataset": self.dataset_of(run),
            "protocol": self.protocol(run).content(),
            **self._common(),
        }

    @functools.cached_property
    def timed(self) -> dict[str, list[str]]:
        """Tables of hours and memory, with the students whose first log records can fill them."""
        layouts = {name: self.layout("tables", name) for name in self.config["tables"]}
        tables = [name for name, path in layouts.items() if read_extended(path).get("kind") == "hyperparameters"]
        found = {name: find_needs(layouts[name], self.runs).networks for name in tables}
        return {name: rows for name, runs in found.items() if (rows := [r for r in runs if self.runs[r].trained_here])}

    def tick_spec(self, name: str) -> dict[str, Any]:
        """Spec of ``sida distill`` for :data:`TICKS` log records of a row: all terms from the start, drawn images.

        Batch, rounds, precision and network are the row's, and so are hours and memory; its result is of no use.
        """
        spec = self.student_spec(name)
        tick = max(spec["batch_size"], TICK_IMAGES) / 1000
        length = {"total_kimg": TICKS * tick, "tick_kimg": tick, "warmup_kimg": 0, "adversarial_kimg": 0}
        beside = {"evaluation": None, "snapshot_kimg": None, "pictures": 0, "state_minutes": 60}
        network = self._teacher_network(str(self.runs[name].teacher))
        teacher = self.tick_teacher(str(self.runs[name].teacher))
        return {**spec, **length, **beside, "dataset": _drawn(network), "teacher": teacher}

    def tick_teacher(self, name: str) -> str:
        """Path of the stand-in for a teacher that rows are timed with."""
        return f"{self.results}/ticks/teachers/{name}/network.safetensors"

    def tick_teacher_spec(self, name: str) -> dict[str, Any]:
        """Spec of ``sida train-teacher`` for a network of a teacher's shape after one step."""
        network = self._teacher_network(name)
        step = {"total_kimg": 0.008, "batch_size": 8, "lr": 1e-4, "pictures": 0}
        return {"name": name, "dataset": _drawn(network), "network": network, **step, **self._common()}

    def _teacher_network(self, name: str) -> dict[str, Any]:
        network: dict[str, Any] | None = self.config["teachers"][name].get("network")
        if network is None:
            raise UserError(f"{self.source}: teachers.{name}: has no network to time a training with; add it")
        return network

    @functools.cached_property
    def barrier_rows(self) -> list[str]:
        """Rows whose weights are compared with their teacher's, in the sheet's order."""
        settings = self.config["barriers"]
        return [] if settings is None else [run.run for run in matching(self.runs, settings["where"])]

    def barrier_spec(self, name: str) -> dict[str, Any]:
        """Spec of ``sida-eval barrier``: the student, its teacher, and how the line between them is measured."""
        run = self.runs[name]
        settings = {key: value for key, value in self.config["barriers"].items() if key != "where"}
        return {
            "run": name,
            "method": run.method,
            "teacher": self.teacher_path(str(run.teacher)),
            "student": self.network_path(run),
            "dataset": self.dataset_of(run),
            "protocol": _watched(self.protocol(run)).content(),
            **settings,
            **self._common(),
        }

    def sample_spec(self, name: str, trial: int | str) -> dict[str, Any]:
        """Spec of ``sida sample`` for the images that a trial of a row measures."""
        run = self.runs[name]
        protocol, dataset = self.protocol(run), self.dataset_of(run)
        first, last = protocol.seeds(int(trial))
        # Without classes there are no frequencies to read, so the data need not be there; nor where they are counted.
        classes = protocol.label_dist if dataset.get("label_dim") else "uniform"
        with_data = run.method == "data" or (classes == "empirical" and protocol.labels is None)
        return {
            "network": self.network_path(run),
            "gnet": self.sampler_guide(run),
            "sampler": self.sampler_of(run),
            "seeds": f"{first}-{last}",
            "class_labels": self.class_counts(run) or classes,
            "dataset": dataset if with_data else None,
            **self._common(),
        }

    def table_spec(self, name: str) -> dict[str, Any]:
        """Spec of ``sida-eval table``: the rows it shows and, for a table of settings, what they are trained with."""
        path = self.layout("tables", name)
        needs = find_needs(path, self.runs)
        spec: dict[str, Any] = {"runs": self._rows({*needs.measured, *needs.networks})}
        if read_extended(path).get("kind") != "hyperparameters":
            return spec
        students = {run: self._settings(run) for run in needs.networks if self.runs[run].trained_here}
        return spec | {"gpus": self.config["gpus"], "students": students}

    def figure_spec(self, name: str) -> dict[str, Any]:
        """Spec of ``sida-eval figure``: its rows, what points stand against, and the generators it draws samples of."""
        path = self.layout("figures", name)
        needs = find_needs(path, self.runs)
        kind = read_extended(path).get("kind")
        spec: dict[str, Any] = {"runs": self._rows({*needs.measured, *needs.networks})}
        spec["generators"] = [*map(self.measure_spec, needs.networks if kind == "samples" else [])]
        layout = load_figure_layout(path) if kind == "points" else None
        return spec | (
            {"settings": figure_settings(self, layout, self.student_spec)} if isinstance(layout, PointsLayout) else {}
        )

    @functools.cached_property
    def experiments(self) -> dict[str, Experiment]:
        """Experiments by id, in the order of their file; none where the preset has no such file.

        Raises:
            UserError: A faulty file.
        """
        path = self.config["experiments"]
        return {experiment.id: experiment for experiment in load_experiments(path)} if path else {}

    def experiment_needs(self, name: str) -> Needs:
        """Rows that an experiment's tables, figures and claims need and that can be measured here."""
        experiment = self.experiments[name]
        layouts = [(kind, layout) for kind in ("tables", "figures") for layout in getattr(experiment, kind)]
        needs = [find_needs(self.layout(kind, layout), self.measurable) for kind, layout in layouts]
        claims = [claim for claim in load_claims(self.config["claims"]) if claim.id in experiment.predicted]
        # Rules read measurements and, some of them, the training logs, which lie beside the networks.
        compared = claim_rows(claims, self.measurable)
        measured = {*compared, *(run for need in needs for run in need.measured)}
        networks = {*compared, *(run for need in needs for run in need.networks)}
        return Needs([run for run in self.runs if run in measured], [run for run in self.runs if run in networks])

    def experiment_spec(self, name: str) -> dict[str, Any]:
        """Spec of ``sida-eval experiment``: what was asked and predicted, and the rows that answer it."""
        needs = self.experiment_needs(name)
        rows = self._rows({*needs.measured, *needs.networks})
        return {"experiment": {**dataclasses.asdict(self.experiments[name])}, "runs": rows}

    def _settings(self, run: str) -> dict[str, Any]:
        network = self.config["teachers"][str(self.runs[run].teacher)].get("network")
        return {"settings": self.student_spec(run), "network": network}

    def _rows(self, names: Collection[str]) -> list[dict[str, Any]]:
        """Rows as the sheet has them, in its order."""
        rows = (run for name, run in self.runs.items() if name in names)
        return [{key: value for key, value in vars(run).items() if value not in (None, "")} for run in rows]

    def _common(self) -> dict[str, Any]:
        return {"threads": self.config["threads"], "device": self.config["device"]}


def _drawn(network: Mapping[str, Any]) -> dict[str, Any]:
    """Spec of drawn images for a network."""
    shape = {ours: network["kwargs"].get(theirs, 0) for ours, theirs in _SHAPE.items()}
    return {"name": "noise", "kind": "noise", **shape}


def _watched(protocol: Protocol) -> Protocol:
    """What an evaluation during training can use of a protocol: a change of the rest is no reason to train again."""
    return dataclasses.replace(protocol, metrics=protocol.watched or protocol.metrics)
