"""A stored study as the source of numbers, and its page."""

from __future__ import annotations

import contextlib
import json
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from eval.claims.evidence import Evidence
from eval.claims.experiments import load_experiments
from eval.claims.model import SIGNS, Claim, Outcome, load_claims
from eval.claims.verdicts import decide_claims
from eval.figures.build import build_figure
from eval.report.answers import Answer, answer_block, answers_of, answers_table
from eval.report.needs import find_needs
from eval.results.published import load_published
from eval.results.selection import matching, parse_condition
from eval.results.summary import Estimate, load_measurements, measured_days
from eval.results.training_logs import read_evaluations
from eval.tables import make_table, write_table
from sida.analytic.numbers import NUMBERS, read_analytic
from sida.errors import UserError, suggestion
from sida.io import read_sealed_json, write_text
from sida.sheet import Run
from workflow.docs.costs import PAPER, planned
from workflow.docs.effects import FORM, FORMS, queries_of_effects
from workflow.docs.stored import read_csv, read_study, unpack
from workflow.preset import Preset
from workflow.preset.experiments import check_experiments


class Study:
    """Answers the queries of markers from ``<page>/data`` (see :mod:`workflow.docs.stored`).

    Args:
        folder: The stored study.
        root: The repository: presets, sheets and claims are read below it.
        unpacked: Folder for the unpacked files.
    """

    def __init__(self, folder: Path, root: Path, unpacked: Path) -> None:
        self.folder, self.root, self.unpacked = folder, root, unpacked
        self.facts: dict[str, Any] = read_study(folder)
        self.preset = Preset.load(root / self.facts["preset"])
        unpack(folder, unpacked)
        self.measured = load_measurements(unpacked / "measurements.csv")

    def query(self, words: Sequence[str]) -> str:
        """The text of one query: its name and arguments.

        Raises:
            UserError: Unknown query, run, metric or claim.
        """
        queries: dict[str, Callable[..., str]] = {
            "trials": self.trials, "seeds": self.seeds, "mean": self.mean, "gain": self.gain, "start": self.start,
            "end": self.end, "lowest": self.lowest, "slower": self.slower, "verdict": self.verdict,
            "verdicts": self.verdicts, "fact": self.fact, "setting": self.setting, "table": self.table,
            "experiments": self.experiments, "experiment": self.experiment, "analytic": self.analytic,
            **queries_of_effects(self),
        }  # fmt: skip
        if not words or words[0] not in queries:
            raise UserError(f"no query '{' '.join(words[:1])}'{suggestion(' '.join(words[:1]), queries)}")
        return queries[words[0]](*words[1:])

    def trials(self, metric: str, run: str) -> str:
        """Mean ± standard deviation of one generator over its trials."""
        return _text(metric, self.measured.estimate(run, metric))

    def mean(self, metric: str, run: str) -> str:
        """Mean of one generator over its trials."""
        estimate = self.measured.estimate(run, metric)
        return _text(metric, Estimate(estimate.mean, None, 1))

    def seeds(self, metric: str, run: str) -> str:
        """Mean ± standard deviation over training seeds; a single seed has no spread."""
        return _text(metric, self._over_seeds(metric, run))

    def gain(self, metric: str, worse: str, better: str) -> str:
        """Difference of the means over training seeds, with its sign."""
        decimals, factor, unit = FORMS.get(metric, FORM)
        difference = self._over_seeds(metric, worse).mean - self._over_seeds(metric, better).mean
        return f"{difference * factor:+.{decimals}f}{unit}".replace("-", "−")

    def start(self, metric: str, run: str) -> str:
        """First evaluation during training, over seeds."""
        return _text(metric, Estimate.of([values[0] for values in self._curves(metric, run)]))

    def end(self, metric: str, run: str) -> str:
        """Last evaluation during training, over seeds."""
        return _text(metric, Estimate.of([values[-1] for values in self._curves(metric, run)]))

    def lowest(self, metric: str, run: str) -> str:
        """Lowest evaluation during training, over seeds."""
        return _text(metric, Estimate.of([min(values) for values in self._curves(metric, run)]))

    def slower(self, run: str, other: str) -> str:
        """How much more time per image a run took than another: medians over the records of their logs."""
        times = [self._seconds(name) for name in (run, other)]
        return f"{100 * (times[0] / times[1] - 1):+.0f} %".replace("-", "−")

    def setting(self, run: str, key: str) -> str:
        """What a run was trained with, e.g. ``lambda_adv``."""
        self._siblings(run)
        spec = self.preset.student_spec(run)
        if key not in spec:
            raise UserError(f"run '{run}' has no setting '{key}'{suggestion(key, spec)}")
        return f"{spec[key]:g}" if isinstance(spec[key], float) else str(spec[key])

    def verdict(self, claim: str) -> str:
        """``✓ M-04``."""
        if claim not in self._verdicts:
            raise UserError(f"no claim '{claim}'{suggestion(claim, self._verdicts)}")
        return f"{SIGNS[self._verdicts[claim]]} {claim}"

    def verdicts(self) -> str:
        """``17 ✓, 9 ✗, 12 –``."""
        outcomes = list(self._verdicts.values())
        return ", ".join(f"{outcomes.count(word)} {mark}" for word, mark in SIGNS.items())

    def analytic(self, name: str, form: str = ".3g") -> str:
        """A number of the analytic study, in a format of Python's; ``–`` while it is not stored, or does not exist."""
        if name not in NUMBERS:
            raise UserError(f"no number '{name}' of the analytic study{suggestion(name, NUMBERS)}")
        path = self.unpacked / "analytic.json"
        value = read_analytic(path)["numbers"].get(name) if path.is_file() else None
        return "–" if value is None else format(value, form).replace("-", "−")

    def fact(self, name: str) -> str:
        """A fact about the whole study."""
        known: dict[str, Callable[[], str]] = {
            "generators": lambda: str(len(self.measured.runs)),
            "measured": lambda: f"{len(self.measured.runs)} of {len(self.preset.runs)} rows are measured.",
            "trained": lambda: str(len({row["run"] for row in read_csv(self.folder / "training.csv")})),
            "teachers": lambda: str(len(self.facts["teachers"])),
            "core-hours": lambda: f"{self.facts['seconds_of_training'] / 3600:.1f}",
            "origin": lambda: f"Run of {measured_days(self.measured.rows)}, code {self.fact('code')}.",
            "days": lambda: measured_days(self.measured.rows),
            "code": lambda: ", ".join(sorted({row.code_version for row in self.measured.rows})),
        }
        if name not in known:
            raise UserError(f"no fact '{name}'{suggestion(name, known)}")
        return known[name]()

    @cached_property
    def _verdicts(self) -> dict[str, Outcome]:
        claims = read_sealed_json(self.verdicts_file)["claims"]
        return {claim["id"]: claim["verdict"] for claim in claims}

    @cached_property
    def claims(self) -> list[Claim]:
        """The claims of the preset.

        Raises:
            UserError: It has none.
        """
        path = self.preset.config["claims"]
        if not path:
            raise UserError(f"{self.facts['preset']} has no claims")
        return load_claims(self.root / path)

    @cached_property
    def evidence(self) -> Evidence:
        """What claims about this study are decided from."""
        return Evidence(self.measured, self.preset.runs, load_published(), self.unpacked / "students")

    def table(self, name: str) -> str:
        """A whole table of the preset; its markers stand on lines of their own."""
        if name not in self.preset.config["tables"]:
            raise UserError(f"no table '{name}'{suggestion(name, self.preset.config['tables'])}")
        self._make_table(name)
        lines = (self.unpacked / "tables" / f"{name}.md").read_text(encoding="utf-8").splitlines()
        return "\n".join(["", "", *(line for line in lines if line.startswith("|")), "", ""])

    def experiments(self) -> str:
        """All questions with their answers in a table of one screen; its markers stand on lines of their own."""
        return f"\n\n{answers_table(self.answers, f'{self.folder.parent.name}.md#')}\n\n"

    def experiment(self, name: str) -> str:
        """One question: prediction, answer, first figure, limits and the cost of more."""
        known = {answer.experiment.id: answer for answer in self.answers}
        if name not in known:
            raise UserError(f"no experiment '{name}'{suggestion(name, known)}")
        return f"\n\n{self._block(known[name], f'{self.folder.parent.name}.md#')}\n\n"

    def _block(self, answer: Answer, page: str) -> str:
        experiment, pictures = answer.experiment, self.folder.parent
        there = [name for name in experiment.figures[:1] if (pictures / f"{name}.png").is_file()]
        picture = f"{pictures.name}/{there[0]}.png" if there else ""
        hours = planned(self.root, PAPER, experiment.plan, "gpu_hours") if experiment.plan else ""
        return answer_block(answer, picture, page, f"{hours} hours of an H200" if hours else "")

    @cached_property
    def answers(self) -> list[Answer]:
        """Answers to the preset's experiments; none where it has none.

        Raises:
            UserError: A row was measured before the prediction of what it answers was written.
        """
        path = self.preset.config["experiments"]
        if not path:
            return []
        check_experiments(self.preset)
        answers = answers_of(load_experiments(self.root / path), self.verdicts_file, self.measured)
        for answer in answers:
            answer.require_foreseen()
        return answers

    @cached_property
    def verdicts_file(self) -> Path:
        """The verdicts as JSON, decided anew from the stored results; their page lies beside it."""
        if not self.preset.config["claims"]:
            raise UserError(f"{self.facts['preset']} has no claims")
        claims, out = self.root / self.preset.config["claims"], self.unpacked / "claims.md"
        measured, runs = self.unpacked / "measurements.csv", self.root / self.preset.sheet
        decide_claims(claims, out, measurements=measured, runs=runs, results=self.unpacked)
        return out.with_suffix(".json")

    def _siblings(self, run: str) -> list[str]:
        """The rows of the sheet that differ from a row by their training seed only."""
        if run not in self.preset.runs:
            raise UserError(f"no run '{run}' in {self.preset.sheet}{suggestion(run, self.preset.runs)}")

        def place(row: Run) -> tuple[object, ...]:
            return (row.method, row.teacher, row.recipe, row.alpha, row.sampler, row.dataset, row.label, row.family)

        wanted = place(self.preset.runs[run])
        return [row.run for row in self.preset.runs.values() if place(row) == wanted]

    def group(self, text: str) -> list[str]:
        """Rows that a marker names: runs with their siblings, or conditions on the sheet."""
        if "=" not in text:
            return list(dict.fromkeys(name for run in text.split(",") for name in self._siblings(run)))
        conditions: dict[str, Any] = {}
        for part in text.split(","):
            column, _, values = part.partition("=")
            conditions[column] = [parse_condition(column, value) for value in values.split("|")]
        found = [run.run for run in matching(self.preset.runs, conditions)]
        if not found:
            raise UserError(f"no row of {self.preset.sheet} is {text}")
        return found

    def _over_seeds(self, metric: str, run: str) -> Estimate:
        return Estimate.of([self.measured.estimate(name, metric).mean for name in self.group(run)])

    def _curves(self, metric: str, run: str) -> list[list[float]]:
        logs = [self.unpacked / "students" / name / "evaluations.jsonl" for name in self._siblings(run)]
        return [[point.value for point in read_evaluations(log, metric)] for log in logs]

    def _seconds(self, run: str) -> float:
        speeds = [float(row["img_per_s"]) for row in read_csv(self.folder / "training.csv") if row["run"] == run]
        if not speeds:
            raise UserError(f"no training log of run '{run}' is stored")
        return 1 / statistics.median(speeds[1:] or speeds)

    def page(self, pictures: Path, link: str) -> str:
        """The study's page: tables and verdicts built anew, with the pictures that are there."""
        from eval.report.page import page_text

        for name in self.preset.config["tables"]:
            # Of a study that grows over sessions, tables of which no row is measured yet are left out.
            if self.rows_of("tables", name) & set(self.measured.runs):
                self._make_table(name)
        assert self.verdicts_file.is_file()  # the page shows the verdicts
        shown = [pictures / f"{name}.png" for name in self.preset.config["figures"]]
        there = [path for path in shown if path.is_file()]
        text = page_text(self.unpacked, there, link, self.facts["title"], answers=self.answers)
        made = self.unpacked / "tables"
        waiting = [f"Table {name}" for name in self.preset.config["tables"] if not (made / f"{name}.md").is_file()]
        waiting += [f"Figure {path.stem}" for path in shown if path not in there]
        heading = "\n## Not measured yet\n" if waiting else ""
        return text + heading + "".join(f"\n### {name}\n\nNot all of its rows are measured.\n" for name in waiting)

    def rows_of(self, kind: str, name: str) -> set[str]:
        """Rows that a table or figure of the preset shows."""
        needs = find_needs(self._layout(kind, name), self.preset.runs)
        return {*needs.measured, *needs.networks}

    def _layout(self, kind: str, name: str) -> Path:
        return self.root / "config" / kind / f"{name}.yaml"

    def _make_table(self, name: str) -> None:
        """Builds a table of the preset into the unpacked folder."""
        spec = self.preset.table_spec(name)
        table = make_table(
            self._layout("tables", name),
            self.unpacked / "measurements.csv",
            self._written("tables", name, json.dumps(spec)),
            mode="measured",
            spec=spec,
            results=self.unpacked,
        )
        write_table(table, self.unpacked / "tables" / f"{name}.tex")

    def _written(self, kind: str, name: str, spec: str) -> Path:
        path = self.unpacked / "specs" / kind / f"{name}.json"
        write_text(path, spec)
        return path

    def make_figure(self, name: str, spec: str) -> None:
        """Draws a figure of the preset into the unpacked folder; ``spec`` as for ``sida-eval figure``."""
        build_figure(
            self._layout("figures", name),
            self._written("figures", name, spec),
            self.unpacked,
            self.unpacked / "figures" / f"{name}.pdf",
            measurements=self.unpacked / "measurements.csv",
            spec=spec,
        )


@contextlib.contextmanager
def opened(root: Path, folders: Sequence[Path]) -> Iterator[dict[str, Study]]:
    """Stored studies by their preset's name; their unpacked files live as long as the context."""
    with tempfile.TemporaryDirectory() as temporary:
        studies = {}
        for folder in folders:
            name = folder.parent.name
            (Path(temporary) / name).mkdir()
            studies[name] = Study(folder, root, Path(temporary) / name)
        yield studies


def draw(study: Study, results: Path, pictures: Path) -> None:
    """Draws the study's figures with the code of today; those whose rows are not all measured yet are left out.

    Grids of samples need the networks in ``results``; where rows were measured elsewhere, their earlier picture stays.
    """
    from eval.report.page import reduced

    for name in study.preset.config["figures"]:
        if not study.rows_of("figures", name) <= set(study.measured.runs):
            continue
        spec = json.dumps(study.preset.figure_spec(name)).replace(study.preset.results, str(results))
        networks = [generator.get("network") for generator in json.loads(spec).get("generators", [])]
        if all(network is None or Path(network).is_file() for network in networks):
            study.make_figure(name, spec)
    drawn = {path.stem: path for path in (study.unpacked / "figures").glob("*.png")}
    for path in pictures.glob("*.png"):
        if path.stem in drawn or path.stem not in study.preset.config["figures"]:
            path.unlink()
    for name, path in sorted(drawn.items()):
        reduced(path, pictures / f"{name}.png")


def _text(metric: str, estimate: Estimate) -> str:
    decimals, factor, unit = FORMS.get(metric, FORM)
    text = f"{estimate.mean * factor:.{decimals}f}"
    return text + (f" ± {estimate.std * factor:.{decimals}f}" if estimate.std is not None else "") + unit
