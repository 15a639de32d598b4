"""Products and inputs of rules: paths of products, and the files that rows, tables and figures need."""

from __future__ import annotations

import functools
import itertools
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from eval.features import extractor_entry
from eval.results.sheet import Needs
from sida.assets.registry import is_address, is_counted, load_registry
from sida.config.families import SD_VAE
from sida.errors import UserError, suggestion
from workflow.preset import Preset
from workflow.preset.archives import training_data
from workflow.preset.extension import taken_rows
from workflow.preset.rows import nfe
from workflow.preset.specs import find_needs


def any_of(names: Iterable[str]) -> str:
    """Pattern for a wildcard with one of these names; without names a pattern that never matches."""
    return "|".join(map(re.escape, sorted(names))) or "none"


def source_of(name: str) -> str | None:
    """File behind a name: stored images, or the source of a ``module:object``; a newer file makes results outdated."""
    module = name.partition(":")[0].replace(".", "/")
    return next((path for path in (name, f"{module}.py", f"{module}/__init__.py") if os.path.exists(path)), None)


def _code(names: Iterable[str]) -> list[str]:
    """Source files of custom objects among names."""
    return [path for name in dict.fromkeys(names) if ":" in name and (path := source_of(name))]


class Targets:
    """Products of a preset and their inputs.

    Args:
        preset: The preset.
        paper: Whether ``paper.pdf`` is made.
    """

    def __init__(self, preset: Preset, paper: bool) -> None:
        self.preset, self.results, self.paper = preset, preset.results, paper
        self.rows = list(preset.measurable)
        #: Rows whose numbers and logs are taken from stored results: no job makes them.
        self.taken = taken_rows(preset)
        #: Rows that others start from.
        self.parents = {parent for run in preset.students() for parent in preset.parents(run)}

    # Products.

    @property
    def measurements(self) -> list[str]:
        """The file of all measurements; empty for a preset without rows."""
        return [f"{self.results}/measurements.csv"] if self.rows else []

    def tables_and_figures(self) -> list[str]:
        """Tables, figures and claims, and the numbers behind them."""
        settings = self.preset.settings
        claims = [f"{self.results}/claims.{end}" for end in ("md", "json")] if settings.claims else []
        rates = [f"{self.results}/rates.json"] if settings.rates else []
        shown = self._files(settings.tables, self.figures)
        return [*self.measurements, *rates, *shown, *claims]

    @functools.cached_property
    def figures(self) -> list[str]:
        """Figures that can be drawn: not those of images of stored rows whose networks are not stored."""
        return [name for name in self.preset.settings.figures if not self.undrawn(name)]

    def undrawn(self, figure: str) -> list[str]:
        """Rows that a figure draws images of, but whose networks are not stored."""
        needs = self.needs("figures", figure)
        rows = [self.preset.runs[run] for run in needs.networks if needs.sampled and run in self.taken]
        networks = {row.run: self.preset.network(row) for row in rows}
        return [run for run, path in networks.items() if path and not os.path.exists(path)]

    def stored_option(self, runs: Iterable[str]) -> list[str]:
        """Option of ``sida collect`` for the rows that are taken from stored results."""
        taken = [run for run in runs if run in self.taken]
        return ["--stored", self.preset.stored["folder"], *taken] if taken else []

    def _files(self, tables: Iterable[str], figures: Iterable[str]) -> list[str]:
        """All formats of tables and figures."""
        files = [f"tables/{name}.{end}" for name in tables for end in ("tex", "csv", "md", "html", "json")]
        files += [f"figures/{name}.{end}" for name in figures for end in ("pdf", "png", "csv")]
        return [f"{self.results}/{file}" for file in files]

    def paper_files(self) -> list[str]:
        """``paper.pdf``, if it is made."""
        return [f"{self.results}/paper.pdf"] if self.paper else []

    def products(self) -> list[str]:
        """Final products of the preset."""
        return [*self.tables_and_figures(), *self.paper_files(), f"{self.results}/index.html"]

    def ticks(self, runs: Iterable[str]) -> list[str]:
        """Networks of the rows' timing runs, beside their first log records."""
        return [f"{self.results}/ticks/students/{run}/network.safetensors" for run in runs]

    def from_ticks(self) -> list[str]:
        """Tables of hours and memory from a few log records, and the claims that these decide."""
        names = [*self.preset.specs.timed]
        names += ["claims"] if names and self.preset.settings.claims else []
        return [f"{self.results}/ticks/{name}.md" for name in names]

    @functools.cached_property
    def short(self) -> list[str]:
        """Paths below the preset's folder that are targets without the folder's name."""
        paths = [*self.tables_and_figures(), *self.from_ticks()]
        paths += [f"{self.results}/{name}" for name in ("index.html", "paper.pdf", "manifest.json")]
        paths += [*self.trials(self.rows), *self.networks(self.preset.runs)]
        paths += [self.preset.teacher_network(name) for name in self.preset.settings.teachers]
        inside = [path for path in paths if path.startswith(f"{self.results}/")]
        return list(dict.fromkeys(os.path.relpath(path, self.results) for path in inside))

    def found(self, target: str) -> list[str]:
        """Products that a target names: a row, or a path or folder with or without the preset's folder before it."""
        inside = target.removeprefix(f"{self.results}/").rstrip("/")
        if inside in self.preset.runs:
            return self.trials([inside])
        return [f"{self.results}/{name}" for name in self.short if name == inside or name.startswith(f"{inside}/")]

    def named(self, target: str) -> list[str]:
        """The same products.

        Raises:
            UserError: There is no such product.
        """
        if found := self.found(target):
            return found
        near = suggestion(target.removeprefix(f"{self.results}/"), [*self.preset.runs, *self.short])
        near = near if len(near) < 200 else f"; rows are in {self.preset.sheet}"
        raise UserError(target, f"no product and no row of {self.preset.source}{near}")

    def trials(self, runs: Iterable[str]) -> list[str]:
        """Measurements of rows, except those that are taken from stored results."""
        pairs = itertools.product((run for run in runs if run not in self.taken), range(self.preset.trials))
        return [f"{self.results}/measurements/{run}/trial-{trial}.json" for run, trial in pairs]

    def shards(self, run: str, trial: str) -> list[str]:
        """All shards of one trial."""
        folder = f"{self.results}/statistics/{run}/trial-{trial}"
        return [f"{folder}/shard-{begin}-{end}.safetensors" for begin, end in self.preset.shards(run)]

    def networks(self, runs: Iterable[str]) -> list[str]:
        """Networks and guides that rows are sampled from; training logs are beside the networks of students.

        Rows that are taken from stored results have no job.
        """
        rows = [self.preset.runs[run] for run in runs if run not in self.taken]
        paths = [path for row in rows for path in (self.preset.network(row), self.preset.sampler_guide(row))]
        return sorted({path for path in paths if path})

    # Inputs of jobs.

    def checkpoint(self, name: str) -> list[str]:
        """Inputs of an import: the record of a fetched asset, or an existing file; none for an address."""
        source = self.preset.imports[name]
        if is_address(source):
            return []
        return [source if os.path.exists(source) else self._asset(source)]

    def sources(self, path: str) -> list[str]:
        """Inputs of an archive that the workflow makes: an asset or another archive."""
        origin = self.preset.archive_origin(path)
        if origin.dataset:
            return [str(self.preset.dataset(origin.dataset, self.preset.source)["path"])]
        return [self._asset(origin.source)] if origin.source in load_registry() else []

    def archive_flags(self, path: str) -> list[str]:
        """Options of ``sida data prepare`` or ``encode`` for an archive."""
        origin = self.preset.archive_origin(path)
        dataset = self.preset.dataset(self.preset.archives[path], self.preset.source)
        values = {"source": origin.source or self.sources(path)[0], "out": path, "resolution": origin.resolution}
        values |= {"transform": origin.transform, "labels": origin.labels, "subset": origin.subset}
        values |= {"max-images": origin.images, "expect": dataset.get("num_images")}
        if origin.dataset:
            values["device"] = self.preset.settings.device
        return [word for key, value in values.items() if value is not None for word in (f"--{key}", str(value))]

    def _data(self, dataset: Mapping[str, Any]) -> list[str]:
        """The archive of a data set, if the workflow makes it."""
        return [path] if (path := dataset.get("path")) in self.preset.archives else []

    def teacher(self, name: str) -> list[str]:
        """Inputs of a teacher's training: data, and the source file of a custom network class."""
        return [*self._teacher_data(name), *_code([(self.preset.architecture(name) or {})["class"]])]

    def _teacher_data(self, name: str) -> list[str]:
        named = self.preset.settings.teachers[name].dataset or self.preset.settings.dataset
        return self._data(self.preset.dataset(named, self.preset.source))

    def training(self, run: str) -> dict[str, str | list[str]]:
        """Inputs of a student's training: data, teacher, guide, generators (start, source of images) and downloads."""
        row = self.preset.runs[run]
        parents = [self.preset.network(self.preset.runs[name]) for name in self.preset.parents(row)]
        # Evaluations during training need the inputs of measuring.
        evaluated = self.preset.recipe(row).get("evaluation") is not None
        return {
            "data": self._data(training_data(self.preset, row)),
            "teacher": self.preset.teacher_network(str(row.teacher)),
            "guide": self.preset.guide(row) or [],
            "generators": [path for path in parents if path],
            "method": [*map(self._asset, self.training_assets(run)), *_code([row.method])],
            "measuring": self._measuring(run, watched=True) if evaluated else [],
        }

    def generator(self, run: str) -> list[str]:
        """Inputs of a row's measurement: its network and guide, and the inputs of its protocol."""
        row, protocol = self.preset.runs[run], self.preset.protocol(self.preset.runs[run])
        files = [self.preset.network(row), self.preset.sampler_guide(row)]
        if row.method == "external" and row.without_network:
            files.append(source_of(str(row.checkpoint)))
        opened = row.method == "data" or any(source.kind == "dataset" for source in protocol.sources.values())
        data = self._data(self.preset.dataset_of(row)) if opened else []
        return [*(path for path in files if path), *data, *self._measuring(run)]

    def _measuring(self, run: str, watched: bool = False) -> list[str]:
        """Downloads, archives and teacher's samples of a row's protocol, and files of its custom kinds and extractors.

        ``watched``: with the samples that evaluations during training use, in place of all.
        """
        protocol = self.preset.protocol(self.preset.runs[run])
        named = [name for metric in protocol.metrics for name in (metric.kind, metric.extractor)]
        data = [self.preset.dataset(name, where) for where, name in protocol.fixed_datasets().items()]
        drawn = self.preset.teacher_references(self.preset.runs[run], watched).values()
        archives = (path for part in data for path in self._data(part))
        return [*map(self._asset, self.assets_of(run)), *_code(named), *archives, *drawn]

    def drawn(self, reference: str) -> list[str]:
        """Inputs of a teacher's samples: its network, its data, and the downloads and code of the protocol."""
        run, teacher = self.preset.specs.drawn[reference], reference.split("/")[0]
        measuring = [path for path in self._measuring(run) if not path.startswith(f"{self.results}/references/")]
        return [self.preset.teacher_network(teacher), *self._teacher_data(teacher), *measuring]

    def assets_of(self, name: str) -> list[str]:
        """Registered downloads for measuring a row, besides its network: references, extractors, a decoder."""
        run = self.preset.runs[name]
        protocol = self.preset.protocol(run)
        needed = [source.asset for source in protocol.sources.values()]
        needed += [asset for extractor in protocol.extractors() for asset in extractor_entry(extractor).assets]
        if protocol.quantisation == "truncate_unit" and not run.without_network:
            needed += SD_VAE.assets
        if isinstance(counts := self.preset.class_counts(run), str):
            needed.append(counts)
        return sorted({asset for asset in needed if asset})

    def measure_jobs(self) -> list[tuple[int, int, list[str]]]:
        """Jobs of the evaluation without shards: first trial, last trial, rows; samplers of many steps have several."""
        runs, trials = self.preset.runs, self.preset.trials
        size, slow = self.preset.settings.trials_per_job or trials, list[str]()
        if size < trials:
            slow = [name for name, run in runs.items() if (nfe(self.preset.sampler_of(run)) or run.nfe or 1) > 1]
        quick = [name for name in runs if name not in slow]
        jobs = [(0, trials - 1, quick)] if quick else []
        return jobs + [(first, min(first + size, trials) - 1, slow) for first in range(0, trials, size) if slow]

    def training_assets(self, name: str) -> list[str]:
        """Registered downloads that a row's method needs for its training."""
        options = self.preset.options(self.preset.runs[name])
        dataset = training_data(self.preset, self.preset.runs[name])
        counted = [dataset["counts"]] if is_counted(dataset.get("counts")) else []
        return counted + (options.assets(dataset["resolution"]) if hasattr(options, "assets") else [])

    def _asset(self, name: str) -> str:
        return f"{self.results}/assets/{name}.json"

    @functools.cache  # noqa: B019 - a preset lives as long as its run
    def needs(self, kind: str, name: str) -> Needs:
        """Needs of a table or figure, limited to measurable rows."""
        return find_needs(self.preset.layout(kind, name), self.preset.measurable)

    def shown(self, kind: str, name: str) -> dict[str, str | list[str]]:
        """Inputs of a table or figure: only its own rows, so that it can be made alone."""
        needs = self.needs(kind, name)
        # A table of measurements needs the file even if none of its rows can be measured.
        wanted = needs.measured or (kind == "tables" and self.preset.settings.table_mode == "measured")
        collected = {"measurements": f"{self.results}/collected/{kind}/{name}.csv"} if wanted else {}
        return {"networks": self.networks(needs.networks), **collected}
