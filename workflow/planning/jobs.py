"""Finds the jobs behind targets that the workflow would run, without Snakemake."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sida.config.families import SD_VAE
from sida.errors import UserError
from workflow.planning.costs import Costs, Job
from workflow.preset.spec_files import SpecFiles
from workflow.preset.targets import Targets

#: Folders of results whose jobs have a spec with the name of the product.
_STAGES = {"teachers", "students", "measurements", "tables", "figures"}


class Jobs:
    """Jobs of a preset by the path of their product.

    Args:
        costs: Costs of the preset's jobs; with ``fresh`` existing products are made again.
    """

    def __init__(self, costs: Costs) -> None:
        self.costs, self.preset = costs, costs.preset
        self.targets, self.specs = Targets(costs.preset, False), SpecFiles(costs.preset)
        self._looked: set[str] = set()

    def behind(self, targets: Iterable[str]) -> dict[str, Job]:
        """Jobs that make targets, in an order in which each job follows those that it waits for.

        Args:
            targets: Paths of products, or the end of such paths, or rows of the sheet; empty: the whole preset.

        Raises:
            UserError: No such target.
        """
        found: dict[str, Job] = {}
        self._looked.clear()
        wanted = [path for target in targets for path in self.targets.named(target)]
        everything = [*self.targets.trials(self.targets.rows), *self.targets.tables_and_figures()]
        for path in wanted or everything:
            self._add(path, found)
        return found

    def _add(self, path: str, found: dict[str, Job]) -> None:
        key = _product(path)
        if key in found or (os.path.exists(path) and not self.costs.fresh and not self._outdated(path, found)):
            return
        job, needs = self.job(path)
        for needed in needs:
            self._add(needed, found)
        job.after = sorted({_product(needed) for needed in needs} & found.keys())
        found[key] = job

    def _outdated(self, path: str, found: dict[str, Job]) -> bool:
        """Whether an existing product is made again: its spec has changed, or one of its inputs is made again."""
        ours = path in self.preset.archives or path.startswith(f"{self.preset.results}/")
        if path in self._looked or not ours:
            return False
        self._looked.add(path)
        try:
            needs = self.job(path)[1]
        except UserError:
            # The product exists, and its cost is unknown.
            return False
        for needed in filter(os.path.exists, needs):
            self._add(needed, found)
        return self._changed(path) or any(_product(needed) in found for needed in needs)

    def _changed(self, path: str) -> bool:
        """Whether a product was made with another spec; False without a record of Snakemake."""
        stage, _, inside = path.removeprefix(f"{self.preset.results}/").partition("/")
        if stage not in _STAGES or (params := _params(path)) is None:
            return False
        name, slash, _ = inside.partition("/")
        return repr(self.specs.digest(stage, name if slash else Path(name).stem)) not in params

    def job(self, path: str) -> tuple[Job, list[str]]:
        """The job that makes a file, and the files that it needs.

        Raises:
            UserError: The network of the job, or the card's rate, is unknown.
        """
        if path in self.preset.archives:
            return self.costs.archive(path), self._archive_needs(path)
        folder, _, inside = path.removeprefix(f"{self.preset.results}/").partition("/")
        name = inside.partition("/")[0]
        if folder == "assets":
            return self.costs.fetch(name.removesuffix(".json")), []
        if folder == "checkpoints":
            return self.costs.imported(name), self.targets.checkpoint(name)
        if folder == "teachers":
            return self.costs.teacher(name), self.targets.teacher(name)
        if folder == "students":
            return self.costs.student(name), _flat(self.targets.training(name).values())
        if folder == "measurements":
            return self.costs.measurement(name), self.targets.generator(name)
        if folder == "references":
            reference = inside.removesuffix(".safetensors")
            return self.costs.reference(reference), self.targets.drawn(reference)
        if folder == "ticks":
            return self._ticks(inside)
        return Job("build", f"{folder}/{name}".rstrip("/")), self._shown(folder, name)

    def _ticks(self, inside: str) -> tuple[Job, list[str]]:
        """The job of a product below ``ticks/``, and the paths that it needs."""
        timed, name = self.preset.specs.timed, inside.split("/")[-2] if "/" in inside else inside.rsplit(".", 1)[0]
        if inside.startswith("students/"):
            return self.costs.tick(name), []
        runs = timed.get(name) or [run for runs in timed.values() for run in runs]
        return Job("build", f"ticks/{name}"), self.targets.ticks(dict.fromkeys(runs))

    def _shown(self, folder: str, name: str) -> list[str]:
        if folder == "rates.json":
            return self.targets.networks(run.run for run in self.preset.students())
        if folder not in ("tables", "figures"):
            return self.targets.trials(self.targets.rows)
        needs = self.targets.needs(folder, name.rsplit(".", 1)[0])
        return [*self.targets.trials(needs.measured), *self.targets.networks(needs.networks)]

    def _archive_needs(self, path: str) -> list[str]:
        vae = SD_VAE.assets if self.preset.archive_origin(path).dataset else ()
        return [*self.targets.sources(path), *(f"{self.preset.results}/assets/{asset}.json" for asset in vae)]


def _product(path: str) -> str:
    """Name of a job's product: all trials of a row, or all formats of a table, are one product."""
    if "/measurements/" in path:
        return os.path.dirname(path)
    return os.path.splitext(path)[0] if "/tables/" in path or "/figures/" in path else path


def _flat(values: Iterable[Any]) -> list[str]:
    return [path for value in values for path in ([value] if isinstance(value, str) else value)]


def _params(path: str) -> list[str] | None:
    """Parameters of the job that made a file, in the form of Snakemake 9; None without a record."""
    record = Path(".snakemake/metadata") / base64.urlsafe_b64encode(path.encode()).decode()
    try:
        params: list[str] | None = json.loads(record.read_bytes()).get("params")
    except (OSError, ValueError, AttributeError):
        return None
    return params
