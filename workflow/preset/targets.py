"""Products of a preset by name: the targets of `sida run` and `sida plan`."""

import functools
import itertools
import os
import re
from collections.abc import Iterable
from pathlib import PurePath

from sida.assets.registry import is_address
from sida.errors import UserError, suggestion
from sida.workflow.preset import Preset
from sida.workflow.preset.jobs import any_of, layout_needs, sampled_rows
from sida.workflow.preset.specs import Jobs

#: Formats of the products.
_TABLE, _FIGURE, _CLAIMS = ("tex", "csv", "md", "html"), ("pdf", "png", "csv"), ("md", "json")


class Targets:
    """Products of a preset.

    Args:
        preset: The preset.
    """

    def __init__(self, preset: Preset) -> None:
        self.preset, self.results = preset, preset.results

    def tables_and_figures(self) -> list[str]:
        """Tables, figures and claims, and the numbers behind them."""
        settings = self.preset.settings
        files = ["measurements.csv"] if self.preset.measurable else []
        files += [f"tables/{name}.{end}" for name in settings.tables for end in _TABLE]
        files += [f"figures/{name}.{end}" for name in self.figures for end in _FIGURE]
        files += [f"claims.{end}" for end in _CLAIMS] if settings.claims else []
        return [f"{self.results}/{file}" for file in files]

    @functools.cached_property
    def figures(self) -> list[str]:
        """Figures that can be drawn: their rows have networks here, or stored ones, and none is left out."""
        return [name for name in self.preset.settings.figures if not self.rows_without_network(name)]

    def rows_without_network(self, figure: str) -> list[str]:
        """Rows that a figure draws images of, but that are left out, or taken from results without their network."""
        needs, preset = layout_needs(self.preset, "figures", figure, every=True), self.preset
        rows = [preset.rows[run] for run in needs.networks if needs.sampled]
        taken = [row for row in rows if row.run in preset.taken]
        missing = {row.run for row in taken if row.network and not os.path.exists(row.network.path)}
        return [row.run for row in rows if row.run in {*missing, *preset.left_out}]

    def trials(self, runs: Iterable[str]) -> list[str]:
        """Measurements of rows, except those that are taken from stored results."""
        measured = [run for run in runs if run not in self.preset.taken]
        pairs = itertools.product(measured, range(self.preset.trials))
        return [f"{self.results}/measurements/{run}/trial-{trial}.json" for run, trial in pairs]

    @functools.cached_property
    def short(self) -> list[str]:
        """Paths below the preset's folder that are targets without the folder's name."""
        preset = self.preset
        networks = dict.fromkeys(row.network for row in preset.rows.values() if row.network)
        teachers = [teacher.network for teacher in preset.teachers.values()]
        paths = [*self.tables_and_figures(), *self.trials(preset.measurable)]
        paths += [network.path for network in (*networks, *teachers)]
        inside = [path.removeprefix(f"{self.results}/") for path in paths if path.startswith(f"{self.results}/")]
        return list(dict.fromkeys([*inside, "index.html", "paper.pdf", "manifest.json"]))

    def groups(self, jobs: Jobs) -> dict[str, list[str]]:
        """Paths by the name of their kind: products, samples of all rows that are measured here, and downloads."""
        preset, network = self.preset, re.compile("(teachers|students|checkpoints)/")
        trained = [("teachers", name) for name in preset.trained_teachers]
        trained += [("students", row.run) for row in preset.students if row.run not in preset.taken]
        measured = [("measurements", run) for run in preset.measurable]
        needs = [jobs.named(*name).needs for name in (*trained, *measured)]
        assets = [name for each in needs for name in each.get("downloads", [])]
        assets += [
            source
            for each in needs
            for name in each.get("imports", [])
            if not (is_address(source := preset.imports[name]) or os.path.exists(source))
        ]
        made = [path for each in needs for path in each.get("files", []) if path in preset.archives.made]
        assets += [name for path in made for name in preset.archives.needs(path)["downloads"]]
        inside = {
            "tables": [path for path in self.short if path.startswith("tables/")],
            "figures": [path for path in self.short if path.startswith("figures/")],
            "networks": [path for path in self.short if network.match(path)],
            "measurements": ["measurements.csv"] if preset.measurable else [],
            "samples": [
                f"samples/{run}/trial-{trial}"
                for run in sampled_rows(preset)
                if run in preset.measurable
                for trial in range(preset.trials)
            ],
            "downloads": [f"assets/{name}.json" for name in dict.fromkeys(assets)],
        }
        return {name: [f"{self.results}/{path}" for path in paths] for name, paths in inside.items()}

    def rows(self, paths: Iterable[str]) -> set[str]:
        """Rows of the tables and figures among paths of products, also those that cannot be measured."""
        rows: set[str] = set()
        for path in paths:
            kind, _, file = path.removeprefix(f"{self.results}/").partition("/")
            if kind in ("tables", "figures"):
                needs = layout_needs(self.preset, kind, os.path.splitext(file)[0], every=True)
                rows.update(needs.measured, needs.networks)
        return rows

    def paths_of(self, target: str) -> list[str]:
        """Products that a target names: a row, a kind, or a path with or without the preset's folder before it.

        Raises:
            UserError: No product has this name, or a row is taken from stored results.
        """
        place = os.path.relpath(target) if target.startswith((".", "/")) else target
        inside = place.removeprefix(f"{self.results}/").rstrip("/")
        if inside in self.preset.taken:
            remedy = "name a product that shows it, or change its settings to run it"
            raise UserError(target, f"is taken from stored results ({self.preset.stored['folder']})", remedy)
        if inside in self.preset.runs:
            return self.trials([inside])
        if paths := self.groups(Jobs(self.preset)).get(inside, []):
            return paths
        if paths := [path for path in self.short if path == inside or path.startswith(f"{inside}/")]:
            return [f"{self.results}/{path}" for path in paths]
        if match := re.fullmatch(f"samples/({any_of(sampled_rows(self.preset))})/trial-(0|[1-9][0-9]*)", inside):
            if int(match[2]) >= self.preset.trials:
                remedy = f"name one of trial-0 to trial-{self.preset.trials - 1}"
                raise UserError(target, f"the protocol has {self.preset.trials} trials", remedy)
            return [f"{self.results}/{inside}"]
        # A product by its bare name, such as table1; of its files the one for a paper.
        named = [path for path in self.short if inside in (os.path.basename(path), PurePath(path).stem)]
        named.sort(key=lambda path: not path.endswith((".tex", ".pdf")))
        others = suggestion(inside, [*self.preset.runs, *self.short], f"; rows are in {self.preset.sheet}")
        near = f" (did you mean '{named[0]}'?)" if named else others
        raise UserError(target, f"no product and no row of {self.preset.source}{near}")
