"""A stored study as the source of what stands in the documentation."""

from __future__ import annotations

import contextlib
import json
import re
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
from eval.report.answers import Answer, answers_of
from eval.report.needs import find_needs
from eval.results.published import load_published
from eval.results.selection import matching, parse_condition
from eval.results.sheet import Run
from eval.results.summary import load_measurements, measured_days
from eval.tables import Table, make_table, to_markdown, write_table
from sida.errors import UserError, suggestion
from sida.files.atomic import read_sealed_json, write_text
from workflow.docs.stored import read_study, unpack
from workflow.docs.stored_lines import read_csv
from workflow.preset import Preset
from workflow.preset.checks import check_experiments


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

    def verdict(self, claim: str) -> str:
        """``✓ M-04``."""
        if claim not in self._verdicts:
            raise UserError(f"no claim '{claim}'{suggestion(claim, self._verdicts)}")
        return f"{SIGNS[self._verdicts[claim]]} {claim}"

    def verdicts(self) -> str:
        """``17 ✓, 9 ✗, 12 –``."""
        outcomes = list(self._verdicts.values())
        return ", ".join(f"{outcomes.count(word)} {mark}" for word, mark in SIGNS.items())

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
    def decided(self) -> dict[str, dict[str, Any]]:
        """Records of ``claims.json`` by claim."""
        return {claim["id"]: claim for claim in read_sealed_json(self.verdicts_file)["claims"]}

    @property
    def _verdicts(self) -> dict[str, Outcome]:
        return {name: claim["verdict"] for name, claim in self.decided.items()}

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
        """A whole table of the preset, whose cells do not break; its markers stand on lines of their own."""
        if name not in self.preset.config["tables"]:
            raise UserError(f"no table '{name}'{suggestion(name, self.preset.config['tables'])}")
        lines = to_markdown(self.make_table(name)).splitlines()
        return "\n".join(["", "", *(_unbroken(line) for line in lines if line.startswith("|")), "", ""])

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

    def siblings(self, run: str) -> list[str]:
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
            return list(dict.fromkeys(name for run in text.split(",") for name in self.siblings(run)))
        conditions: dict[str, Any] = {}
        for part in text.split(","):
            column, _, values = part.partition("=")
            conditions[column] = [parse_condition(column, value) for value in values.split("|")]
        found = [run.run for run in matching(self.preset.runs, conditions)]
        if not found:
            raise UserError(f"no row of {self.preset.sheet} is {text}")
        return found

    def rows_of(self, kind: str, name: str) -> set[str]:
        """Rows that a table or figure of the preset shows."""
        needs = find_needs(self._layout(kind, name), self.preset.runs)
        return {*needs.measured, *needs.networks}

    def _layout(self, kind: str, name: str) -> Path:
        return self.root / "config" / kind / f"{name}.yaml"

    def make_table(self, name: str) -> Table:
        """Builds a table of the preset, also into the unpacked folder."""
        spec = self.preset.specs.table(name)
        table = make_table(
            self._layout("tables", name),
            self.unpacked / "measurements.csv",
            self._written("tables", name, json.dumps(spec)),
            mode="measured",
            spec=spec,
            results=self.unpacked,
        )
        write_table(table, self.unpacked / "tables" / f"{name}.tex")
        return table

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


def _unbroken(line: str) -> str:
    """A row of a Markdown table with no-break spaces inside its cells."""
    return "|".join(re.sub(r"(?<=\S) (?=\S)", "\u00a0", cell) for cell in line.split("|"))


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
