"""Tunes methods of distillation alike: equally many settings for each, drawn from a declared space.

1. Each method has the same number of settings: a Latin hypercube over its axes, equal for all teachers.
2. All settings are trained at the length of the first rung. Where the best one lies at the edge of an axis, one further
   setting lies beyond that edge.
3. The best settings of a rung are trained anew at the length of the next one. The best of the last rung is chosen.
4. Methods that start from the generator of another method (``init``) follow, from that method's chosen trial.

A trial counts by the lowest value of its evaluations after the first step. Lengths of a shorter trial (keys that end in
``_kimg``) are those of the recipe in proportion. Trials are rows of a generated preset (:mod:`workflow.preset`), so the
workflow runs them, and an interrupted tuning resumes where it stopped. A trial of ``trials.csv`` with the same settings
is not trained again, also where its files are gone.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import os
import random
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import yaml

from sida.config.recipe import Recipe
from sida.config.settings import Count, Name, Natural, Positive, Range, Settings, from_mapping, load_yaml
from sida.errors import SettingError, UserError, suggestion
from sida.files.atomic import read_jsonl, write_text
from sida.files.text_files import read_csv
from sida.training.plan import hopeless
from workflow.preset import Preset
from workflow.preset.files import preset_files

#: A run has diverged if its last value is this multiple of its lowest one, or not finite.
DIVERGED = 3.0
#: Largest share of samples with NaN at the end of a training that has not diverged.
MOST_NAN = Recipe.max_nan_share


@dataclass(frozen=True, kw_only=True)
class Axis(Settings):
    """Values of a setting: a range in equal steps of the logarithm, or a list.

    Attributes:
        log: Lowest and highest value.
        choose: The values.
    """

    log: tuple[Positive, Positive] | None = None
    choose: tuple[Any, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.log is None) == (self.choose is None):
            raise SettingError("log", "give either a range (log) or values (choose)")
        if self.log is not None and not self.log[0] < self.log[1]:
            raise SettingError("log", f"must rise, got {list(self.log)}")
        if self.choose is not None and not self.choose:
            raise SettingError("choose", "must list at least one value")


@dataclass(frozen=True, kw_only=True)
class TunedMethod(Settings):
    """A method to tune.

    Attributes:
        method: Name of the method.
        recipe: Recipe of the preset, whose settings on the axes are replaced.
        sampler: Sampler of the preset.
        alpha: α of the rows; null for methods without one.
        init: Method of this file whose chosen trial is the initial generator; null starts from the teacher.
        space: Axes by key of the recipe; ``options.KEY`` is an option of the method.
    """

    method: str
    recipe: str
    sampler: str
    alpha: float | None = None
    init: str | None = None
    space: dict[str, Axis]


@dataclass(frozen=True, kw_only=True)
class Rung(Settings):
    """A round of trainings of equal length.

    Attributes:
        total_kimg: Length of a training, in thousand images.
        settings: Number of the best settings that reach this rung; null for the first rung, which has all.
    """

    total_kimg: Positive
    settings: Count | None = None


@dataclass(frozen=True, kw_only=True)
class Space(Settings):
    """The file of ``sida tune``.

    Attributes:
        preset: Preset with the teachers, recipes, samplers, data and protocol.
        teachers: Teachers of the preset; each method is tuned from each of them.
        methods: Methods to tune by name of the tuned recipe.
        draws: Number of settings of each method.
        rungs: Rounds of trainings, the longest last.
        metric: Metric of the evaluations during training; lower is better.
        seed: Seed of the draws and of all trainings.
    """

    preset: str
    teachers: tuple[Name, ...]
    methods: dict[Name, TunedMethod]
    draws: Annotated[int, Range(least=2, most=1000)] = 8
    rungs: tuple[Rung, ...]
    metric: str = "fd"
    seed: Natural = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        lengths = [rung.total_kimg for rung in self.rungs]
        if not lengths or lengths != sorted(lengths):
            raise SettingError("rungs", "must list lengths that rise")
        for number, rung in enumerate(self.rungs):
            if (number == 0) != (rung.settings is None):
                raise SettingError("rungs", "the first has all settings, and each later one says how many (settings)")


@dataclass(frozen=True)
class Trial:
    """A setting of a method from one teacher, trained at the length of a rung.

    Attributes:
        method: Name of the tuned recipe.
        teacher: Name of the teacher.
        rung: Number of the rung.
        name: ``1`` to ``8`` for drawn settings, ``edge-AXIS`` beyond an edge.
        settings: Values by axis.
        init: Trial with the initial generator; None starts from the teacher.
        values: Evaluations after the first step, or the lowest and the last one of a stored trial; empty without a
            training.
        seconds: Seconds of training.
    """

    method: str
    teacher: str
    rung: int
    name: str
    settings: Mapping[str, Any]
    init: Trial | None = None
    values: Sequence[float] = field(default=(), compare=False)
    seconds: float = field(default=0.0, compare=False)

    @property
    def run(self) -> str:
        """Name of the row."""
        return f"tune-{self.teacher}-{self.method}-{self.rung}-{self.name.replace('.', '-')}"

    @property
    def lowest(self) -> float:
        """Lowest finite value; infinity without one."""
        return min(filter(math.isfinite, self.values), default=math.inf)

    @property
    def diverged(self) -> bool:
        """Whether the training ended in NaN, or its last value is far above the lowest."""
        return not (self.values and self.values[-1] <= DIVERGED * self.lowest)


def draws(method: str, space: Mapping[str, Axis], count: int, seed: int) -> list[dict[str, Any]]:
    """Settings of a method: a Latin hypercube, so that each axis is covered evenly."""
    source = random.Random(f"{seed} {method}")
    columns: dict[str, list[Any]] = {}
    for key, axis in space.items():
        places = source.sample(range(count), count)
        if axis.log is not None:
            low, high = axis.log
            columns[key] = [_rounded(low * (high / low) ** ((place + source.random()) / count)) for place in places]
        else:
            assert axis.choose is not None
            columns[key] = [axis.choose[place % len(axis.choose)] for place in places]
    return [{key: values[number] for key, values in columns.items()} for number in range(count)]


def beyond(best: Mapping[str, Any], space: Mapping[str, Axis], count: int) -> dict[str, dict[str, Any]]:
    """Settings beyond the edges at which the best one lies, by axis: a quarter of the range further, else the same."""
    found = {}
    for key, axis in space.items():
        if axis.log is None:
            continue
        low, high = axis.log
        place = math.log(best[key] / low) / math.log(high / low)
        side = -1 if place < 1 / count else 1 if place > 1 - 1 / count else 0
        if side:
            edge = low if side < 0 else high
            found[key] = {**best, key: _rounded(edge * (high / low) ** (side / 4))}
    return found


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")


def trial_recipe(
    base: Mapping[str, Any], settings: Mapping[str, Any], total_kimg: float | None = None
) -> dict[str, Any]:
    """A recipe with settings of a trial, and with all lengths in proportion to ``total_kimg`` (None: its own)."""
    factor = 1.0 if total_kimg is None else total_kimg / base["total_kimg"]
    made: dict[str, Any] = _scaled(base, factor)
    for key, value in settings.items():
        group, dot, name = key.rpartition(".")
        holder = made.setdefault(group, {}) if dot else made
        holder[name] = value
    return made


def _scaled(value: Any, factor: float, key: str = "") -> Any:
    if isinstance(value, Mapping):
        return {name: _scaled(item, factor, name) for name, item in value.items()}
    return _rounded(value * factor) if key.endswith("_kimg") and isinstance(value, (int, float)) else value


class Tuning:
    """A tuning of several methods.

    Args:
        path: File with the space; ``trials.csv`` and ``tuned.yaml`` are written beside it.

    Raises:
        UserError: A key, a preset or one of its parts is unknown.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.space = path, from_mapping(Space, load_yaml(path), f"{path}:")
        self.files = preset_files(self.space.preset, path.parent)
        self.preset = Preset.load(*self.files)
        known = {"recipe": self.preset.settings.recipes, "sampler": self.preset.settings.samplers}
        for name in self.space.teachers:
            self._check(name, self.preset.settings.teachers, "teachers")
        from_teacher = [name for name, method in self.space.methods.items() if method.init is None]
        for name, method in self.space.methods.items():
            for key, names in known.items():
                self._check(getattr(method, key), names, f"methods.{name}.{key}")
            if method.init not in (None, *from_teacher):
                fault = f"'{method.init}' is no method of this file that starts from the teacher"
                raise UserError(f"{path}: methods.{name}.init", fault)
        self.stored = self._stored()

    def _stored(self) -> dict[tuple[str, str], tuple[list[float], float]]:
        """Lowest and last value, and seconds, of the trials of ``trials.csv``, by row and settings.

        Raises:
            UserError: A column is missing, or a number is none.
        """
        path, found = self.path.parent / "trials.csv", {}
        if not path.is_file():
            return {}
        lengths = {f"{rung.total_kimg:g}": number for number, rung in enumerate(self.space.rungs)}
        for line, record in read_csv(path)[1]:
            try:
                rung = lengths.get(record["kimg"], len(lengths))
                trial = Trial(
                    record["method"], record["teacher"], rung, record["trial"], json.loads(record["settings"])
                )
                metric = self.space.metric
                values = [float(record[metric]), float(record[f"{metric}_end"])]
                found[trial.run, json.dumps(dict(trial.settings))] = values, float(record["seconds"])
            except (KeyError, ValueError) as fault:
                raise UserError(path, f"line {line}: {fault!r}", "restore the file that `sida tune` wrote") from None
        return found

    def _check(self, name: str, known: Mapping[str, Any], key: str) -> None:
        if name not in known:
            raise UserError(f"{self.path}: {key}", f"{self.files[0]} has no '{name}'{suggestion(name, known)}")

    @property
    def results(self) -> Path:
        """Folder of the preset's results."""
        return Path(self.preset.results)

    def next_trials(self) -> list[Trial]:
        """Trials that are decided and not trained yet; empty when the tuning is complete."""
        for wanted in self._passes():
            missing = [trial for trial in wanted if not trial.values]
            if missing:
                return missing
        return []

    def trials(self) -> list[Trial]:
        """All trained trials, in the order of passes."""
        found: dict[str, Trial] = {}
        for wanted in self._passes():
            found |= {trial.run: trial for trial in wanted if trial.values}
            if not all(trial.values for trial in wanted):
                break
        return list(found.values())

    def chosen(self) -> dict[str, Trial]:
        """The best trial of the last rung by name of the tuned recipe, ``METHOD-TEACHER``."""
        last = [trial for trial in self.trials() if trial.rung == len(self.space.rungs) - 1]
        groups = {(trial.method, trial.teacher): trial for trial in sorted(last, key=lambda t: t.lowest, reverse=True)}
        return {f"{method}-{teacher}": trial for (method, teacher), trial in groups.items()}

    def _passes(self) -> Iterator[list[Trial]]:
        """Trials of each pass; a pass is decided by the values of the one before."""
        first: dict[tuple[str, str], Trial | None] = {}
        then: dict[tuple[str, str], str] = {}
        for teacher in self.space.teachers:
            for name, method in self.space.methods.items():
                if method.init is None:
                    first[name, teacher] = None
                else:
                    then[name, teacher] = method.init
        reached = yield from self._rungs(first)
        if then:
            best = {pair: min(trials, key=lambda trial: trial.lowest) for pair, trials in reached.items()}
            yield from self._rungs({(name, teacher): best[init, teacher] for (name, teacher), init in then.items()})

    def _rungs(
        self, starts: Mapping[tuple[str, str], Trial | None]
    ) -> Generator[list[Trial], None, dict[tuple[str, str], list[Trial]]]:
        """Passes of methods and teachers by their initial generator; returns the trials of the last rung."""
        reached: dict[tuple[str, str], list[Trial]] = {}
        for (method, teacher), start in starts.items():
            settings = draws(method, self.space.methods[method].space, self.space.draws, self.space.seed)
            drawn = [Trial(method, teacher, 0, str(number), one, start) for number, one in enumerate(settings, 1)]
            reached[method, teacher] = [*map(self._read, drawn)]
        yield [trial for trials in reached.values() for trial in trials]
        edges = []
        for (method, teacher), trials in reached.items():
            best = min(trials, key=lambda trial: trial.lowest)
            further = beyond(best.settings, self.space.methods[method].space, self.space.draws)
            start = starts[method, teacher]
            new = [self._read(Trial(method, teacher, 0, f"edge-{key}", one, start)) for key, one in further.items()]
            reached[method, teacher] = [*trials, *new]
            edges += new
        yield edges
        for number, rung in enumerate(self.space.rungs[1:], 1):
            for pair, trials in reached.items():
                best_first = sorted(trials, key=lambda trial: trial.lowest)[: rung.settings]
                reached[pair] = [self._read(dataclasses.replace(trial, rung=number)) for trial in best_first]
            yield [trial for trials in reached.values() for trial in trials]
        return reached

    def _read(self, trial: Trial) -> Trial:
        """The trial with the values of its training, if that is complete."""
        folder = self.results / "students" / trial.run
        if not (folder / "network.safetensors").is_file():
            values, seconds = self.stored.get((trial.run, json.dumps(dict(trial.settings))), ((), 0.0))
            return dataclasses.replace(trial, values=values, seconds=seconds)
        lines = [line for line in read_jsonl(folder / "evaluations.jsonl") if line["nimg"] > 0]
        # A value that is not finite is null in a log.
        values = [math.nan if (value := line.get(self.space.metric)) is None else float(value) for line in lines]
        ticks = read_jsonl(folder / "train.jsonl")
        # A run of NaN alone ends early, and its images stay as they were.
        values += [math.nan] if ticks and hopeless(ticks[-1], MOST_NAN) else []
        seconds = sum(line.get("seconds", 0.0) for line in ticks)
        return dataclasses.replace(trial, values=values, seconds=seconds)

    def write_preset(self, trials: Sequence[Trial]) -> tuple[Path, list[str]]:
        """Writes a preset with a row for each trial; returns its file and the targets of the trainings."""
        folder = self.results / "tuning"
        config: dict[str, Any] = {
            "base": os.path.relpath(self.files[0], folder),
            "runs": "runs.tsv",
            **{"tables": [], "figures": [], "claims": None, "experiments": None, "recipes": {}},
        }
        lines = ["run\tlabel\tmethod\tteacher\tinit\talpha\trecipe\tsampler\tseed"]
        starts = {trial.init.run: trial.init for trial in trials if trial.init is not None}
        for trial in (*starts.values(), *trials):
            method = self.space.methods[trial.method]
            # A setting that diverges is a trial like others, and does not stop the tuning.
            recipe = self._recipe(trial, self.space.rungs[trial.rung].total_kimg) | {"on_divergence": "publish"}
            config["recipes"][trial.run] = recipe
            alpha = "" if method.alpha is None else str(method.alpha)
            init = "" if trial.init is None else trial.init.run
            row = (trial.run, trial.run, method.method, trial.teacher, init, alpha, trial.run, method.sampler)
            lines.append("\t".join([*row, str(self.space.seed)]))
        write_text(folder / "runs.tsv", "\n".join(lines) + "\n")
        write_text(folder / "preset.yaml", yaml.safe_dump(config, sort_keys=False))
        return folder / "preset.yaml", [f"students/{trial.run}/network.safetensors" for trial in trials]

    def _recipe(self, trial: Trial, total_kimg: float | None = None) -> dict[str, Any]:
        """The recipe of a trial, of a length; None: of the length of its preset's recipe."""
        base = self.preset.settings.recipes[self.space.methods[trial.method].recipe]
        return trial_recipe(base, trial.settings, total_kimg)

    def write_results(self) -> list[Path]:
        """Writes all trained trials as ``trials.csv`` and, when all are there, the chosen recipes as ``tuned.yaml``."""
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        metric = self.space.metric
        table.writerow(
            ["method", "teacher", "kimg", "trial", metric, f"{metric}_end", "diverged", "seconds", "settings"]
        )
        for trial in self.trials():
            length = self.space.rungs[trial.rung].total_kimg
            numbers = (f"{trial.lowest:.4g}", f"{trial.values[-1]:.4g}", "yes" if trial.diverged else "")
            row = (trial.method, trial.teacher, f"{length:g}", trial.name, *numbers, f"{trial.seconds:.0f}")
            table.writerow([*row, json.dumps(dict(trial.settings))])
        write_text(self.path.parent / "trials.csv", text.getvalue())
        written = [self.path.parent / "trials.csv"]
        if not self.next_trials():
            recipes = {}
            for name, trial in self.chosen().items():
                recipes[name] = self._recipe(trial)
                if trial.init is not None:
                    recipes[f"{name}-init"] = self._recipe(trial.init, self.space.rungs[-1].total_kimg)
            head = f"# Written by `sida tune {self.path}`: the settings that won, with their recipes.\n"
            # The detour by JSON makes equal lists separate ones, which YAML writes without anchors.
            recipes = json.loads(json.dumps(recipes))
            text_of = yaml.safe_dump({"recipes": recipes}, sort_keys=False, default_flow_style=None, width=160)
            write_text(self.path.parent / "tuned.yaml", head + text_of)
            written.append(self.path.parent / "tuned.yaml")
        return written
