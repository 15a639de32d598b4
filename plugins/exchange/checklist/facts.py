"""Answers to a reproducibility checklist for a table: compute, error bars, settings, licences, seeds, commands, gaps.

The questions are those that venues ask about experiments (the checklists of NeurIPS and of the ML Reproducibility
Challenge), in words of this suite. Every answer comes from a file: the preset, logs of trainings, measurements, the
registry of downloads. An answer that no file has is marked so.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sida.assets.registry import Asset, find_asset, is_address, load_registry
from sida.config.lookup import ROOT
from sida.config.settings import load_spec
from sida.errors import UserError
from sida.eval.results.logs import has_log, log_path, read_log
from sida.eval.results.measurements import measured_in
from sida.eval.results.retraining import load_retraining
from sida.eval.results.stored import STORED, unchanged_rows
from sida.eval.results.trial_files import read_measurement
from sida.eval.tables.model import Table
from sida.files.atomic import read_hashed_json
from sida.files.ordinary import file_below, ordinary_files
from sida.workflow.planning.costs import Costs
from sida.workflow.preset import Preset
from sida.workflow.preset.files import listed_name
from sida.workflow.preset.jobs import layout_needs, measurement, product
from sida.workflow.preset.specs import job_named, row_digest

NOT_RECORDED = "not recorded"


@dataclass(frozen=True)
class Answer:
    """An answer.

    Attributes:
        question: The question.
        lines: Sentences.
        heads: Headings of a list of facts; empty without one.
        rows: The facts.
        commands: Commands, one a line.
    """

    question: str
    lines: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    commands: tuple[str, ...] = ()


class Checklist:
    """Facts of a table of a preset.

    Args:
        preset: The preset.
        name: Name of the table.
        table: The table, built from the results.
        results: Folder with measurements and logs: results, or stored results.
        settings: File that the settings are written to; empty if none is.
    """

    def __init__(self, preset: Preset, name: str, table: Table, results: Path, settings: str = "") -> None:
        self.preset, self.name, self.table, self.results, self.settings = preset, name, table, results, settings
        needs = layout_needs(preset, "tables", name, every=True)
        names = {*needs.measured, *needs.networks}
        #: Rows of the sheet that the table shows, in the sheet's order.
        self.runs = [run for run in preset.runs if run in names]
        self.lines = [line for line in measured_in(results).rows if line.run in names]
        self.registry = load_registry()

    @functools.cached_property
    def trainings(self) -> list[tuple[str, str]]:
        """Folder and name of each training behind the table, teachers and earlier generators first."""
        jobs: dict[tuple[str, str], None] = {}
        for run in self.runs:
            for row in reversed([*self.preset.rows[self.preset.runs[run].first].lineage()]):
                networks = [row.guide, row.network]
                if row.cells.teacher and (row.method is not None or row.cells.method == "teacher"):
                    networks.insert(0, self.preset.teachers[row.cells.teacher].network)
                jobs |= {(n.kind, n.name): None for n in networks if n and n.kind in ("teachers", "students")}
        return sorted(jobs, key=lambda job: job[0] != "teachers")

    def jobs(self) -> dict[str, Any]:
        """Settings of every job behind the table, by the name of its spec."""
        specs = {f"{kind}/{name}": job_named(self.preset, kind, name).spec for kind, name in self.trainings}
        specs |= {f"measurements/{run}": measurement(self.preset, run).spec for run in self.runs}
        return specs | {f"tables/{self.name}": product(self.preset, "tables", self.name).spec}

    def answers(self) -> list[Answer]:
        """All answers, in order."""
        return [
            self._commands(),
            self._settings(),
            self._seeds(),
            self._compute(),
            self._error_bars(),
            self._licences(),
            self._not_run(),
        ]

    def _commands(self) -> Answer:
        commands = [
            f"sida run {listed_name(self.preset.source)} tables/{self.name}.tex",
            f"sida verify {self.preset.results}",
        ]
        lines = ["The first command trains, measures and builds the table; the second compares every file by its hash."]
        versions = sorted({line.code_version for line in self.lines if line.code_version})
        lines.append(f"The numbers were measured by sida-repro {', '.join(versions) or NOT_RECORDED}.")
        if (manifest := self._manifest()) and manifest.get("command"):
            lines.append(f"The manifest of {self.results} records this command: {manifest['command']}")
        return Answer("Exact commands", tuple(lines), commands=tuple(commands))

    def _settings(self) -> Answer:
        paths = (self.preset.source, self.preset.sheet, str(self.preset.layout("tables", self.name)))
        # Files of the checkout are named from its root: a reader's checkout lies elsewhere.
        files = [os.path.relpath(path, ROOT) if Path(path).is_relative_to(ROOT) else path for path in paths]
        where = f"in {self.settings}" if self.settings else "in a file that --out writes beside its own"
        lines = [
            f"Every setting of every job is {where}; its sources are {', '.join(files)}.",
            self._settings_sentence(),
        ]
        return Answer("All settings", tuple(lines))

    def _settings_sentence(self) -> str:
        """Sentence that compares the preset's present settings with the results'."""
        changed_rows = []
        if (self.results / STORED).is_file():
            digests = {run: row_digest(self.preset, run) for run in self.runs}
            same = {*unchanged_rows(self.results, digests)}
            changed_rows = [run for run in self.runs if run not in same and not self.preset.runs[run].second]
        else:
            for name, spec in self.jobs().items():
                path = file_below(self.results, f"specs/{name}.json")
                if not path.is_file() or load_spec(str(path)) != spec:
                    changed_rows.append(name)
        if changed_rows:
            return f"The results have other settings, or no record of them, for {_names_text(changed_rows)}."
        return "The results have the digests of these settings."

    def _seeds(self) -> Answer:
        kinds = {name: kind for kind, name in self.trainings}
        rows = []
        for run in self.runs:
            row, lines = self.preset.runs[run], [line for line in self.lines if line.run == run]
            seed = str(self.preset.rows[run].seed) if kinds.get(row.first) == "students" else ""
            if row.method == "teacher" and kinds.get(str(row.teacher)) == "teachers":
                seed = f"as teacher {row.teacher}"
            seeds = [seed for line in lines for seed in (line.seed_first, line.seed_last) if seed is not None]
            elsewhere = "no training" if row.method == "data" else "trained elsewhere"
            rows.append((run, seed or elsewhere, f"{min(seeds)} to {max(seeds)}" if seeds else NOT_RECORDED))
        for kind, name in self.trainings:
            if kind == "teachers":
                rows.append((f"teacher {name}", str(job_named(self.preset, kind, name).spec["seed"]), ""))
        line = (
            "An image is a function of its seed; a draw of a training is one of training seed, purpose, images seen, "
            "and position in the batch."
        )
        return Answer("Seeds", (line,), ("row", "training seed", "image seeds"), tuple(rows))

    def _compute(self) -> Answer:
        costs = Costs(self.preset)
        rows, steps_by_training, wall, cards = [], list[str](), 0.0, 0.0
        for kind, name in self.trainings:
            log = self._log(kind, name)
            hours = _hours([*log, *self._log(kind, name, "evaluations")]) if log else None
            memory = max((tick.get("memory_mb") or 0 for tick in log), default=0) / 1024
            card = next((str(tick["gpus"]) for tick in log if tick.get("gpus")), NOT_RECORDED)
            wall, cards = wall + (hours or 0), cards + (hours or 0) * _number_of_cards(card)
            if steps := sum(tick.get("bad_steps") or 0 for tick in log):
                steps_by_training.append(f"{name} ({steps:,} of {sum(tick.get('steps') or 0 for tick in log):,})")
            memory_text = f"{memory:.1f}" if memory else NOT_RECORDED
            rows.append((f"train {name}", card, _number(hours), _planned_hours(costs, kind, name), memory_text))
        for run in self.runs:
            hours = self._measuring_hours(run)
            wall, cards = wall + (hours or 0), cards + (hours or 0)
            devices = sorted({line.device for line in self.lines if line.run == run and line.device})
            card = "; ".join(devices) or NOT_RECORDED
            rows.append(
                (f"measure {run}", card, _number(hours), _planned_hours(costs, "measurements", run), NOT_RECORDED)
            )
        count = sum(row[2] != NOT_RECORDED for row in rows)
        lines = [
            f"Recorded in all: {wall:.2f} hours of wall time, {cards:.2f} hours of cards or processes, of {count} of "
            f"{len(rows)} jobs.",
            *self._cards(NOT_RECORDED in {row[1] for row in rows}),
            *self._failures(steps_by_training),
        ]
        heads = ("job", "card", "hours", f"planned hours ({costs.gpu_name})", "memory (GB)")
        return Answer("Compute by row", tuple(lines), heads, tuple(rows))

    def _cards(self, unknown: bool) -> Iterator[str]:
        """Sentence on the cards of jobs whose logs name none."""
        if unknown:
            settings = self.preset.settings
            request = f"device {settings.device}" + (f", {settings.gpus} GPUs" if settings.gpus else "")
            machine = (self._manifest() or {}).get("environment", {}).get("device")
            wrote = f"; the manifest was written on {machine}" if machine else ""
            yield f"Where no log names the card, the preset asks for {request}{wrote}."

    def _failures(self, steps_by_training: list[str]) -> Iterator[str]:
        if self.trainings:
            yield f"Logged training steps with gradients that are not finite: {', '.join(steps_by_training) or 'none'}."
        aside = sum(name.endswith(".damaged") for name in ordinary_files(self.results))
        if aside:
            yield f"Files that were damaged, set aside and made again: {aside}; the time of the first try is not known."
        if self.preset.settings.search:
            yield (
                f"The recipes were chosen by trainings of {', '.join(self.preset.settings.search)}, whose compute is "
                "not listed here."
            )
        yield (
            "A training that was interrupted and resumed is listed with all its logged time. Attempts that started "
            "anew, and preliminary ones, leave no file here: add them."
        )

    def _error_bars(self) -> Answer:
        shapes: dict[tuple[str, ...], list[str]] = {}
        pooled = False
        for record in self.table.records:
            if record["measured"] and record["n"]:
                trainings, trials = int(record["training_seeds"] or 1), int(record["trials"] or 1)
                pooled |= trainings > 1
                spread = f"{trainings} training seeds" if trainings > 1 else f"{trials} trials of one network"
                spread = "none: a single trial" if trainings == trials == 1 else spread
                names = shapes.setdefault((spread, f"{int(record['n']):,}"), [])
                pooled_runs = record["run"].replace(" ", " + ")
                names += [pooled_runs] if pooled_runs not in names else []
        lines = [
            "Each ± is a sample standard deviation (divisor: number less one), not a standard error. Over trials it "
            "covers the draw of images and nothing else: no other training, no other choice of a checkpoint.",
        ]
        lines += ["Over training seeds it is the standard deviation of the seeds' means."] if pooled else []
        if scatter := self.preset.settings.retraining:
            training = load_retraining(scatter)
            shares = ", ".join(f"{metric} {std:.1%}" for metric, std in training.std.items())
            lines.append(f"Another training, as the bold rule counts it: relative std {shares} ({training.source}).")
        else:
            lines.append(
                "Nothing is recorded about the scatter of another training, so that no single training is ranked."
            )
        rows = tuple((_names_text(runs, 99), spread, n) for (spread, n), runs in shapes.items())
        return Answer("Error bars and what they cover", tuple(lines), ("rows", "± over", "images a trial"), rows)

    def _licences(self) -> Answer:
        licence_rows: dict[tuple[str, ...], None] = {
            ("sida-repro", "code, embedded networks", "Apache-2.0", "this suite"): None
        }
        jobs = [job_named(self.preset, kind, name) for kind, name in self.trainings]
        jobs += [measurement(self.preset, run) for run in self.runs]
        for job in jobs:
            for name in (*job.needs["downloads"], *(self.preset.imports[folder] for folder in job.needs["imports"])):
                licence_rows[self._asset(name)] = None
            licence_rows |= dict.fromkeys(self._dataset(job.spec.get("dataset")))
        licence_rows |= {
            (name, "code from outside", NOT_RECORDED, str(where)): None for name, where in self.preset.code.items()
        }
        is_missing = any(row[2] == NOT_RECORDED for row in licence_rows)
        lines = ["No file records some licences: add them."] if is_missing else []
        heads = ("asset", "kind", "licence", "source")
        return Answer("Licences of the assets", tuple(lines), heads, tuple(licence_rows))

    def _asset(self, name: str) -> tuple[str, ...]:
        if not is_address(name) and name not in self.registry:
            return name, "file", NOT_RECORDED, name
        asset: Asset = find_asset(self.registry, name)
        return name, asset.kind, asset.license or NOT_RECORDED, asset.source or asset.url or NOT_RECORDED

    def _dataset(self, spec: Mapping[str, Any] | None) -> Iterator[tuple[str, ...]]:
        """A data set, and the registered files that its archive is made of."""
        if spec is None:
            return
        path = spec.get("path")
        archives = self.preset.archives
        origin = archives.made_from(path) if path in archives.made else None
        sources = [name for name in (origin.source, *origin.beside) if name] if origin else []
        sources = [name for name in sources if name in self.registry]
        yield from map(self._asset, sources)
        if not sources:
            yield str(spec.get("name") or path), "data set", NOT_RECORDED, str(path or spec.get("kind") or NOT_RECORDED)

    def _not_run(self) -> Answer:
        lines = []
        measured_runs = {line.run for line in self.lines}
        missing_runs = [run for run in self.runs if run not in measured_runs]
        for run in missing_runs:
            reason = self.preset.left_out.get(run)
            lines.append(f"Row {run} was not measured{f': {reason}' if reason else ''}.")
        empty: dict[str, list[str]] = {}
        for record in self.table.records:
            if record["run"] and not record["measured"] and record["run"] not in missing_runs:
                empty.setdefault(record["run"], []).append(record["metric"])
        lines += [f"Row {run} was not measured by {', '.join(dict.fromkeys(keys))}." for run, keys in empty.items()]
        incomplete_rows = {run: trials for run in measured_runs if (trials := self._trials(run)) < self.preset.trials}
        lines += [
            f"Row {run} has {trials} of {self.preset.trials} trials." for run, trials in sorted(incomplete_rows.items())
        ]
        others = sorted({line.origin for line in self.lines if line.origin})
        lines += [f"Rows were measured elsewhere: {origin}." for origin in others]
        unlogged = [name for kind, name in self.trainings if not self._log(kind, name)]
        lines += [f"No log is here of the trainings {_names_text(unlogged)}."] if unlogged else []
        elsewhere = [run for run in self.runs if (row := self.preset.runs[run]).checkpoint and row.method != "data"]
        lines += [f"Networks of others, which were not trained here: {_names_text(elsewhere)}."] if elsewhere else []
        return Answer("Not run", tuple(lines or ["Every row of the table was measured by every metric."]))

    def _trials(self, run: str) -> int:
        return len({line.trial for line in self.lines if line.run == run})

    def _measuring_hours(self, run: str) -> float | None:
        """Hours of all trials of a row; None unless each trial's file is there and has its time."""
        trials = {line.trial for line in self.lines if line.run == run}
        paths = [file_below(self.results, f"measurements/{run}/trial-{trial}.json") for trial in sorted(trials)]
        if not paths or not all(path.is_file() for path in paths):
            return None
        seconds = [read_measurement(path).get("seconds") for path in paths]
        return None if None in seconds else sum(float(s) for s in seconds if s is not None) / 3600

    def _log(self, kind: str, name: str, log: str = "train") -> list[dict[str, Any]]:
        path = log_path(self.results, name, log, kind)
        return read_log(path) if has_log(path) else []

    def _manifest(self) -> dict[str, Any] | None:
        path = file_below(self.results, "manifest.json")
        return read_hashed_json(path) if path.is_file() else None


def _hours(records: Iterable[Mapping[str, Any]]) -> float | None:
    seconds = [record.get("seconds") for record in records]
    numbers = [float(value) for value in seconds if value is not None]
    return sum(numbers) / 3600 if numbers else None


def _number_of_cards(text: str) -> int:
    """Number of cards of ``4 × NAME``; 1 without one."""
    number = text.partition(" × ")[0]
    return int(number) if number.isdecimal() else 1


def _planned_hours(costs: Costs, kind: str, name: str) -> str:
    """Hours of a plan on its card; unknown without rates or networks."""
    try:
        return f"{costs.of(kind, name).gpu_hours:.2f}"
    except UserError:
        return "unknown"


def _number(hours: float | None) -> str:
    return NOT_RECORDED if hours is None else f"{hours:.2f}"


def _names_text(names: list[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
