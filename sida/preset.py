"""A preset: the configuration and its sample sheet, checked as a whole and turned into one spec per job.

The workflow and the command line read presets through this module, so both accept the same files and report the
same faults. Specs are described in ``docs/architecture.md``.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sida.config import load_yaml
from sida.errors import UserError, suggestion
from sida.schema import validated

ROOT = Path(__file__).resolve().parent.parent
SCHEMAS = ROOT / "workflow" / "schemas"
STUDENT_METHODS = ("sid", "sida", "sid2a")
MONITOR = "eval.monitor:make_monitor"


@dataclass(frozen=True)
class Run:
    """A row of the sample sheet: one generator to measure; empty cells are ``None``."""

    run: str
    label: str
    method: str
    sampler: str
    family: str = ""
    teacher: str | None = None
    init: str | None = None
    alpha: float | None = None
    recipe: str | None = None
    seed: int | None = None
    checkpoint: str | None = None
    dataset: str | None = None
    protocol: str | None = None
    notes: str = ""

    @property
    def trained_here(self) -> bool:
        """Whether the workflow distils this generator itself."""
        return self.method in STUDENT_METHODS and self.checkpoint is None


def read_runs(path: str | Path) -> list[Run]:
    """Reads and validates a sample sheet (tab-separated; lines starting with # are comments).

    Raises:
        UserError: Missing file, unknown column, wrong value, or a run named twice (file and line are named).
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such sample sheet; set 'runs' to a .tsv file")
    numbered = [
        (number, line)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if line.strip() and not line.startswith("#")
    ]
    rows = list(csv.reader((line for _, line in numbered), delimiter="\t"))
    if not rows:
        raise UserError(f"{path}: the sample sheet is empty; it needs a header line and one row per generator")
    header, runs = rows[0], []
    for (number, _), cells in zip(numbered[1:], rows[1:]):
        where = f"{path}:{number}"
        if len(cells) > len(header):
            raise UserError(f"{where}: {len(cells)} cells but {len(header)} columns; separate cells by single tabs")
        record: dict[str, Any] = {key: cell.strip() for key, cell in zip(header, cells) if cell.strip()}
        for key, convert in (("alpha", float), ("seed", int)):
            if key in record:
                try:
                    record[key] = convert(record[key])
                except ValueError:
                    raise UserError(f"{where}: {key}: must be a number, got '{record[key]}'") from None
        run = Run(**validated(record, SCHEMAS / "runs.schema.yaml", where))
        if any(run.run == other.run for other in runs):
            raise UserError(f"{where}: run '{run.run}' appears twice; give each row its own id")
        runs.append(run)
    return runs


@functools.cache
def _datasets() -> dict[str, Any]:
    return load_yaml(ROOT / "config" / "datasets.yaml")


def dataset_spec(name: str, where: str) -> dict[str, Any]:
    """Looks a data set up in ``config/datasets.yaml``; its spec carries its ``name``.

    Raises:
        UserError: No data set of that name.
    """
    known = _datasets()
    if name not in known:
        raise UserError(f"{where}: no data set '{name}' in config/datasets.yaml{suggestion(name, known)}")
    return {"name": name, **known[name]}


class Preset:
    """A validated preset.

    Args:
        config: Settings as loaded from ``config/<preset>.yaml`` (Snakemake's overrides included).
        source: File named in errors.

    Raises:
        UserError: Any fault in the configuration, the sheet or between them.
    """

    def __init__(self, config: Mapping[str, Any], source: str = "config") -> None:
        self.source = source
        self.config = validated(config, SCHEMAS / "config.schema.yaml", source)
        self.name: str = self.config["preset"]
        self.sheet: str = self.config["runs"]
        rows = read_runs(self._file(self.sheet))
        self.runs: dict[str, Run] = {row.run: row for row in rows}
        self._check_references()

    @classmethod
    def load(cls, path: str | Path) -> Preset:
        """Loads a preset file."""
        return cls(load_yaml(path), str(path))

    @property
    def results(self) -> str:
        """Folder of everything this preset produces, relative to the root."""
        return f"results/{self.name}"

    def _file(self, name: str) -> Path:
        path = Path(name)
        return path if path.is_absolute() or path.exists() else ROOT / path

    def _check_references(self) -> None:
        teachers, recipes, samplers = self.config["teachers"], self.config["recipes"], self.config["samplers"]
        dataset_spec(self.config["dataset"], f"{self.source}: dataset")
        if not self._file(self.config["protocol"]).is_file():
            raise UserError(f"{self.source}: protocol: no such file '{self.config['protocol']}'")
        for name, teacher in teachers.items():
            if "dataset" in teacher:
                dataset_spec(teacher["dataset"], f"{self.source}: teachers.{name}.dataset")
        for run in self.runs.values():
            where = f"{self.sheet}: run '{run.run}'"
            if run.sampler not in samplers:
                raise UserError(
                    f"{where}: no sampler '{run.sampler}' in {self.source}{suggestion(run.sampler, samplers)}"
                )
            if run.dataset:
                dataset_spec(run.dataset, where)
            if (run.method == "data") != (samplers[run.sampler]["kind"] == "data"):
                raise UserError(f"{where}: method 'data' and a sampler of kind 'data' belong together")
            needs_teacher = run.trained_here or (run.method == "teacher" and run.checkpoint is None)
            if needs_teacher and not run.teacher:
                raise UserError(
                    f"{where}: column 'teacher' is empty; name one of {', '.join(teachers) or 'none defined'}"
                )
            if run.teacher and needs_teacher and run.teacher not in teachers:
                raise UserError(
                    f"{where}: no teacher '{run.teacher}' in {self.source}{suggestion(run.teacher, teachers)}"
                )
            if run.trained_here:
                self._check_student(run, where, recipes)

    def _check_student(self, run: Run, where: str, recipes: Mapping[str, Any]) -> None:
        if not run.recipe:
            raise UserError(f"{where}: column 'recipe' is empty; name one of {', '.join(recipes) or 'none defined'}")
        if run.recipe not in recipes:
            raise UserError(f"{where}: no recipe '{run.recipe}' in {self.source}{suggestion(run.recipe, recipes)}")
        if (run.method == "sid2a") != (run.init is not None):
            raise UserError(f"{where}: column 'init' must name a generator for sid2a and be empty for '{run.method}'")
        if run.init is not None:
            if run.init not in self.runs:
                raise UserError(
                    f"{where}: init names no run of this sheet: '{run.init}'{suggestion(run.init, self.runs)}"
                )
            if self.runs[run.init].method not in STUDENT_METHODS:
                raise UserError(f"{where}: init '{run.init}' is not a one-step generator")
            seen = {run.run}
            current: Run | None = self.runs[run.init]
            while current is not None:
                if current.run in seen:
                    raise UserError(f"{where}: init goes in a circle through '{current.run}'")
                seen.add(current.run)
                current = self.runs.get(current.init) if current.init else None

    # Specs: everything that decides the result of one job.

    def _common(self) -> dict[str, Any]:
        return {"threads": self.config["threads"], "device": self.config["device"]}

    def trained_teachers(self) -> list[str]:
        """Ids of the teachers that are trained here (not downloaded)."""
        return [name for name, teacher in self.config["teachers"].items() if "training" in teacher]

    def students(self) -> list[Run]:
        """Rows that are distilled here."""
        return [run for run in self.runs.values() if run.trained_here]

    def network_path(self, run: Run) -> str | None:
        """Path of the network a row samples from; ``None`` for the data themselves."""
        if run.method == "data":
            return None
        if run.checkpoint is not None:
            return f"{self.results}/checkpoints/{run.run}/network.safetensors"
        if run.method == "teacher":
            return self.teacher_path(str(run.teacher))
        return f"{self.results}/students/{run.run}/network.safetensors"

    def teacher_path(self, name: str) -> str:
        """Path of a teacher's network."""
        return f"{self.results}/teachers/{name}/network.safetensors"

    def teacher_spec(self, name: str) -> dict[str, Any]:
        """Spec of ``sida train-teacher`` (see :class:`sida.training.TeacherConfig`)."""
        teacher = self.config["teachers"][name]
        dataset = dataset_spec(teacher.get("dataset", self.config["dataset"]), f"{self.source}: teachers.{name}")
        spec = {"name": name, "dataset": dataset, "network": teacher["network"], **teacher["training"]}
        return {**spec, "seed": teacher.get("seed", self.config["seed"]), **self._common()}

    def student_spec(self, name: str) -> dict[str, Any]:
        """Spec of ``sida distill`` (see :class:`sida.training.DistillConfig`)."""
        run = self.runs[name]
        recipe = dict(self.config["recipes"][run.recipe])
        dataset = self.dataset_of(run)
        evaluation = recipe.pop("evaluation", None)
        if evaluation is not None:
            kwargs = {"dataset": dataset, "protocol": self.protocol_of(run), "device": self.config["device"]}
            kwargs |= {key: value for key, value in evaluation.items() if key != "every_kimg"}
            evaluation = {"every_kimg": evaluation["every_kimg"], "monitor": MONITOR, "kwargs": kwargs}
        init = self.network_path(self.runs[run.init]) if run.init else None
        spec = {"name": name, "method": run.method, "dataset": dataset, "teacher": self.teacher_path(str(run.teacher))}
        spec |= {"init": init, **recipe, "evaluation": evaluation, "seed": self.seed_of(run), **self._common()}
        return spec | ({"alpha": run.alpha} if run.alpha is not None else {})

    def measure_spec(self, name: str) -> dict[str, Any]:
        """Spec of ``sida-eval measure``: the generator, how to sample it, and the protocol."""
        run = self.runs[name]
        sampler = self.config["samplers"][run.sampler]
        return {
            "run": name,
            "method": run.method,
            "label": run.label,
            "family": run.family,
            "network": self.network_path(run),
            "sampler": sampler,
            "nfe": nfe(sampler),
            "dataset": self.dataset_of(run),
            "protocol": self.protocol_of(run),
            **self._common(),
        }

    def figure_spec(self) -> dict[str, Any]:
        """All generators of the preset, for figures that draw samples."""
        return {"preset": self.name, "title": self.config["title"], "generators": [*map(self.measure_spec, self.runs)]}

    def dataset_of(self, run: Run) -> dict[str, Any]:
        """Spec of the data set that a row is trained on and compared with."""
        return dataset_spec(run.dataset or self.config["dataset"], f"{self.sheet}: run '{run.run}'")

    def protocol_of(self, run: Run) -> str:
        """Path of the protocol that a row is measured under."""
        return run.protocol or self.config["protocol"]

    @functools.cached_property
    def trials(self) -> int:
        """Number of evaluation trials of the preset's protocol.

        Raises:
            UserError: The protocol has no valid ``trials``, or a row's own protocol has another number.
        """
        counts = {}
        for path in {self.config["protocol"], *(self.protocol_of(run) for run in self.runs.values())}:
            trials = load_yaml(self._file(path)).get("trials")
            if not isinstance(trials, int) or isinstance(trials, bool) or trials < 1:
                raise UserError(f"{path}: trials: must be an integer of at least 1, got {trials!r}")
            counts[path] = trials
        if len(set(counts.values())) > 1:
            raise UserError(f"{self.sheet}: protocols differ in trials: {counts}; use one number within a preset")
        return counts[self.config["protocol"]]

    def seed_of(self, run: Run) -> int:
        """Training seed of a row."""
        return self.config["seed"] if run.seed is None else run.seed


def nfe(sampler: Mapping[str, Any]) -> int | None:
    """Number of network evaluations per image: 1, or 2n − 1 for n Heun steps; ``None`` for data."""
    kind = sampler["kind"]
    if kind == "data":
        return None
    return 1 if kind == "one_step" else 2 * int(sampler["num_steps"]) - 1
