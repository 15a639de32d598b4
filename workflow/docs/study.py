"""Stored results of a study: builds their claims, tables, figures and page."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from eval.claims.evidence import Evidence
from eval.claims.experiments import load_experiments
from eval.claims.model import Claim
from eval.claims.verdicts import decide_claims, main_scope
from eval.figures.build import build_figure
from eval.report.answers import Answer, answers_of
from eval.report.page import page_text, reduced
from eval.results.published import load_published
from eval.results.sheet import matching, parse_condition, with_other_seeds
from eval.results.stored import read_stored
from eval.results.summary import load_measurements, measurements_file
from eval.tables import Table, make_table, write_table
from sida.errors import UserError, suggestion
from sida.files.atomic import read_hashed_json, write_text
from workflow.docs.counts import planned
from workflow.planning.rates import load_assumptions
from workflow.preset import Preset
from workflow.preset.checks import check_experiments
from workflow.preset.files import preset_files
from workflow.preset.specs import find_needs


class Study:
    """Stored results of a study (:mod:`eval.results.stored`).

    Args:
        folder: Folder of the stored results, ``studies/NAME/stored``.
        root: The repository with presets, sheets and claims.
        work: Folder for the tables, figures and verdicts.
    """

    def __init__(self, folder: Path, root: Path, work: Path) -> None:
        self.folder, self.root, self.work = folder, root, work
        self.facts: dict[str, Any] = read_stored(folder)
        self.preset = Preset.load(*preset_files(self.facts["preset"], root))
        self.measured = load_measurements(folder)
        file = measurements_file(folder)
        (work / file.name).symlink_to(file.resolve())

    @cached_property
    def decided(self) -> dict[str, dict[str, Any]]:
        """Records of ``claims.json`` by claim."""
        return {claim["id"]: claim for claim in read_hashed_json(self.verdicts_file)["claims"]}

    @cached_property
    def claims(self) -> list[Claim]:
        """Claims of the preset with the study's scope.

        Raises:
            UserError: The preset has no claims.
        """
        if not self.preset.settings.claims:
            raise UserError("", f"{self.facts['preset']} has no claims")
        claims = self.preset.claims
        scope = main_scope(claims, self.evidence)
        return [claim for claim in claims if claim.scope == scope]

    @cached_property
    def evidence(self) -> Evidence:
        """Measurements, runs, published numbers and logs that decide claims about this study."""
        return Evidence(self.measured, self.preset.runs, load_published(), self.folder / "students")

    @cached_property
    def answers(self) -> list[Answer]:
        """Answers to the preset's experiments; empty without experiments.

        Raises:
            UserError: A row was measured before the prediction of its experiment was written.
        """
        path = self.preset.settings.experiments
        if not path:
            return []
        check_experiments(self.preset)
        answers = answers_of(load_experiments(path), self.verdicts_file, self.measured)
        for answer in answers:
            answer.require_foreseen()
        return answers

    @cached_property
    def verdicts_file(self) -> Path:
        """File of the verdicts (JSON), decided from the stored results; their page is beside it."""
        claims, out = self.preset.settings.claims, self.work / "claims.md"
        if not claims:
            raise UserError("", f"{self.facts['preset']} has no claims")
        decide_claims(claims, out, measurements=self.folder, runs=self.preset.sheet, results=self.folder)
        return out.with_suffix(".json")

    def group(self, text: str) -> list[str]:
        """Runs of a group; see :class:`~workflow.docs.numbers.StudyNumbers`."""
        runs = self.preset.runs
        if "=" in text:
            pairs = (part.partition("=") for part in text.split(","))
            conditions: dict[str, Any] = {
                column: [parse_condition(column, value) for value in values.split("|")] for column, _, values in pairs
            }
            if found := [run.run for run in matching(runs, conditions)]:
                return found
            raise UserError("", f"no row of {self.preset.sheet} is {text}")
        alike: dict[str, None] = {}
        for name in text.split(","):
            if name not in runs:
                raise UserError("", f"no run '{name}' in {self.preset.sheet}{suggestion(name, runs)}")
            alike |= dict.fromkeys(with_other_seeds(runs, name))
        return list(alike)

    def make_table(self, name: str) -> Table:
        """Builds a table of the preset, with its files."""
        spec = self.preset.specs.table(name)
        file = self._written("tables", name, json.dumps(spec))
        layout = self.preset.layout("tables", name)
        table = make_table(layout, self.folder, file, mode="measured", spec=spec, results=self.folder)
        write_table(table, self.work / "tables" / f"{name}.tex")
        return table

    def _written(self, kind: str, name: str, spec: str) -> Path:
        path = self.work / "specs" / kind / f"{name}.json"
        write_text(path, spec)
        return path

    def _rows(self, kind: str, name: str) -> set[str]:
        """Rows that a table or figure of the preset shows."""
        needs = find_needs(self.preset.layout(kind, name), self.preset.runs)
        return {*needs.measured, *needs.networks}

    def page(self, link: str) -> str:
        """Page of the study: the text of ``about.md``, rebuilt tables, and verdicts with the stored pictures.

        Args:
            link: Address of the folder of pictures (the parent of the data) in the page.
        """
        tables = self.preset.settings.tables
        # A growing study has tables without any measured row.
        shown = [name for name in tables if self._rows("tables", name) & set(self.measured.runs)]
        for name in shown:
            self.make_table(name)
        assert self.verdicts_file.is_file()  # the page shows the verdicts
        files = [self.folder.parent / f"{name}.png" for name in self.preset.settings.figures]
        pictures = [path for path in files if path.is_file()]
        plans = {answer.experiment.id: answer.experiment.plan for answer in self.answers if answer.experiment.plan}
        costs = {
            name: f"{planned(self.root, load_assumptions().preset, p, 'gpu_hours')} hours of an H200"
            for name, p in plans.items()
        }
        about = self.folder.with_name("about.md")
        text = page_text(
            self.work,
            pictures,
            link,
            self.facts["title"],
            answers=self.answers,
            costs=costs,
            evidence=f"{self.folder.name}/claims.md",
            about=about.read_text(encoding="utf-8") if about.is_file() else "",
        )
        waiting = [f"Table {name}" for name in tables if name not in shown]
        waiting += [f"Figure {path.stem}" for path in files if path not in pictures]
        heading = "\n## Not measured yet\n" if waiting else ""
        return text + heading + "".join(f"\n### {name}\n\nNot all of its rows are measured.\n" for name in waiting)

    def products(self) -> dict[str, str]:
        """Verdicts by their path in the results; empty without claims."""
        made = [self.verdicts_file, self.verdicts_file.with_suffix(".md")] if self.preset.settings.claims else []
        return {path.name: path.read_text(encoding="utf-8") for path in made}

    def draw(self, results: Path, pictures: Path) -> None:
        """Draws the study's figures, except those with rows that are not measured yet.

        Grids of samples need the networks in ``results``; without them the earlier picture stays.
        """
        for name in self.preset.settings.figures:
            if not self._rows("figures", name) <= set(self.measured.runs):
                continue
            spec = json.dumps(self.preset.specs.figure(name)).replace(self.preset.results, str(results))
            networks = [generator.get("network") for generator in json.loads(spec)["generators"]]
            if all(network is None or Path(network).is_file() for network in networks):
                layout, out = self.preset.layout("figures", name), self.work / "figures" / f"{name}.pdf"
                file = self._written("figures", name, spec)
                build_figure(layout, file, self.folder, out, measurements=self.folder, spec=spec)
        drawn = {path.stem: path for path in (self.work / "figures").glob("*.png")}
        for path in pictures.glob("*.png"):
            if path.stem in drawn or path.stem not in self.preset.settings.figures:
                path.unlink()
        for name, path in sorted(drawn.items()):
            reduced(path, pictures / f"{name}.png")


@contextlib.contextmanager
def opened(root: Path, folders: Sequence[Path]) -> Iterator[dict[str, Study]]:
    """Context with stored studies by name of the preset; leaving it removes the files that they made."""
    with tempfile.TemporaryDirectory() as temporary:
        studies = {}
        for folder in folders:
            name = folder.parent.name
            (Path(temporary) / name).mkdir()
            studies[name] = Study(folder, root, Path(temporary) / name)
        yield studies
