"""Rows of a preset: settings and sample sheet, with the files, data and protocol of each row."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.claims.experiments import Experiment, load_experiments
from eval.claims.model import Claim, load_claims
from eval.measuring.protocol import Protocol, load_protocol
from eval.results.sheet import SheetRow, matching, read_runs
from sida.assets.registry import is_counted
from sida.config.datasets import MadeFrom, dataset_origin, dataset_spec, remedy
from sida.config.recipe import Recipe
from sida.config.resources import base_name, find, located, located_object
from sida.config.samplers import SAMPLER_KINDS, read_sampler
from sida.config.settings import from_mapping, load_yaml, names_file_object
from sida.errors import UserError, suggestion
from sida.methods.registry import find_method
from workflow.preset.files import PresetSettings
from workflow.preset.outside_code import check_code

_NOT_TRAINED: dict[str, Any] = {"teacher": None, "init": None, "alpha": None, "recipe": None}


class Rows:
    """Settings and sample sheet of a preset; see :class:`workflow.preset.Preset`."""

    def __init__(self, config: Mapping[str, Any], source: str = "config", own: Sequence[Path] = ()) -> None:
        self.source, self.own = source, list(own)
        check_code(config, source, own)
        settings = from_mapping(PresetSettings, config, f"{source}:")
        #: Tables and figures: file of the layout by the product's name.
        self.layouts = {
            "tables": named_layouts(settings.tables, f"{source}: tables"),
            "figures": named_layouts(settings.figures, f"{source}: figures"),
        }
        self.stored = settings.stored or {}
        if self.stored:
            self.own.append(Path(self.stored["beside"]))
        self.analyses: dict[str, dict[str, Any]] = {}
        self.settings = self._found_files(settings)
        self.name: str = self.settings.preset
        self.sheet: str = self.settings.runs
        self.own.append(Path(self.sheet).parent)
        self.runs: dict[str, SheetRow] = {row.run: self._found(row) for row in read_runs(self.sheet)}
        self._find_recipes()
        self._protocols: dict[str, Protocol] = {}
        self.runs |= {run.run: run for run in self._measured_also()}

    @property
    def results(self) -> str:
        """Folder of all products of this preset, relative to the root."""
        return f"results/{self.name}"

    def layout(self, kind: str, name: str) -> Path:
        """Layout of a table or figure (kind ``tables`` or ``figures``), by the name of its product."""
        return find(kind, self.layouts[kind].get(name, name), self.own, f"{self.source}: {kind}")

    def _found_files(self, given: PresetSettings) -> PresetSettings:
        """Settings with paths in the place of names of files, so that they do not depend on the preset's folder."""
        # Mappings are changed below, and those of the caller are kept.
        settings = copy.deepcopy(given)
        files: dict[str, Any] = {}
        for key, kind in (("runs", "runs"), ("protocol", "protocols"), ("claims", ""), ("experiments", "")):
            if (name := getattr(settings, key)) is not None:
                files[key] = str(find(kind, name, self.own, f"{self.source}: {key}"))
        for teacher in settings.teachers.values():
            if not teacher.get("checkpoint"):
                continue
            # A teacher with both ways is either trained or downloaded; the other way is removed here.
            removed = "checkpoint" if settings.train_teachers and teacher.get("training") else "training"
            teacher[removed] = None
            if teacher["checkpoint"]:
                teacher["checkpoint"] = located(teacher["checkpoint"], self.own)
        for name, analysis in settings.analyses.items():
            if analysis:
                self.analyses[name] = {**analysis, "function": located_object(analysis["function"], self.own)}
        for dataset in settings.datasets.values():
            if dataset.get("path"):
                dataset["path"] = located(dataset["path"], self.own)
            if names_file_object(str((origin := dataset.get("made_from") or {}).get("source"))):
                dataset["made_from"] = {**origin, "source": located_object(origin["source"], self.own)}
        files |= {kind: tuple(layouts) for kind, layouts in self.layouts.items()} | {"analyses": self.analyses}
        return dataclasses.replace(settings, **files)

    def _find_recipes(self) -> None:
        """Adds the recipes of files in ``recipes/`` that the sheet names (``imagenet64/sida``) to the preset's own."""
        files: dict[str, dict[str, Any]] = {}
        for run in self.runs.values():
            recipe = run.recipe or ""
            file, slash, name = recipe.partition("/")
            if not slash or recipe in self.settings.recipes:
                continue
            where = f"{self.sheet}: run '{run.run}': recipe"
            path = find("recipes", file, self.own, where)
            recipes = files.setdefault(file, load_yaml(path))
            if name not in recipes:
                raise UserError(where, f"no '{name}' in {path}{suggestion(name, recipes)}")
            from_mapping(Recipe, recipes[name], f"{path}: {name}")
            self.settings.recipes[recipe] = recipes[name]

    def _found(self, run: SheetRow) -> SheetRow:
        """A row with its names of files replaced by paths."""
        named = {key: path for key in ("checkpoint", "guide") if (path := getattr(run, key))}
        if run.guide in self.settings.teachers:
            del named["guide"]
        found: dict[str, Any] = {key: located(path, self.own) for key, path in named.items()}
        if run.protocol:
            found["protocol"] = str(find("protocols", run.protocol, self.own, f"{self.sheet}: run '{run.run}'"))
        return dataclasses.replace(run, **found)

    def _measured_also(self) -> list[SheetRow]:
        """Copies of rows for the preset's second protocols; conditions on methods do not match these."""
        more = []
        for own, name in self.settings.also.items():
            path = str(find("protocols", name, self.own, f"{self.source}: also.{own}"))
            rows = [run for run in self.runs.values() if run.checkpoint and run.sampler]
            more += [
                dataclasses.replace(
                    run, run=f"{run.run}.{Path(path).stem}", method="external", protocol=path, **_NOT_TRAINED
                )
                for run in rows
                if self.protocol(run).name == own
            ]
        return more

    def recipe(self, run: SheetRow) -> dict[str, Any]:
        """Recipe of a row as the preset or its file gives it; empty for a row without one."""
        return self.settings.recipes.get(run.recipe or "", {})

    def teacher(self, run: SheetRow) -> dict[str, Any]:
        """Teacher of a row as the preset gives it; empty for a row without one."""
        return self.settings.teachers.get(run.teacher or "", {})

    def parents(self, run: SheetRow) -> list[str]:
        """Runs that a row's training needs: its initial generator, and the run whose images replace the data."""
        if not run.trained_here:
            return []
        source = self.recipe(run).get("real_source", "data")
        # "data" means the data set, even if a row has this name.
        return [name for name in (run.init, source if source != "data" else None) if name and name in self.runs]

    def trained_teachers(self) -> list[str]:
        """Ids of the teachers that are trained and not downloaded."""
        return [name for name, teacher in self.settings.teachers.items() if teacher.get("training")]

    def students(self) -> list[SheetRow]:
        """Rows that are distilled here."""
        return [run for run in self.runs.values() if run.trained_here]

    def guidance(self, run: SheetRow) -> float:
        """Strength of a row's guidance: of the training for distilled rows, else of the sampler."""
        settings = self.recipe(run) if run.trained_here else self.sampler_of(run)
        return float(settings.get("guidance", 1))

    @functools.cached_property
    def left_out(self) -> dict[str, str]:
        """Rows whose checkpoint has no public address and is not in the cache: run to asset id.

        Tables list them as not measured; they return when the file is in the cache (``sida assets list``).
        """
        from sida.assets.cache import cache_dir
        from sida.assets.registry import load_registry

        registry = load_registry() if any(self.checkpoints) else {}
        gone = {
            name for name, asset in registry.items() if not asset.urls and not (cache_dir() / asset.target).exists()
        }
        return {run.run: str(run.checkpoint) for run in self.runs.values() if run.checkpoint in gone}

    @property
    def measurable(self) -> dict[str, SheetRow]:
        """Rows that can be measured here: all but :attr:`left_out`, and those that an extension does not run."""
        out = {*self.left_out, *self.stored.get("waiting", "").split()}
        return {name: run for name, run in self.runs.items() if name not in out}

    @functools.cached_property
    def judged(self) -> dict[str, SheetRow]:
        """Rows that claims speak about: all but those that an extension adds to a study."""
        added = self.stored.get("added", "").split()
        return {name: run for name, run in self.runs.items() if name not in added}

    @property
    def judged_sheet(self) -> str:
        """Sample sheet of the rows that claims speak about."""
        return str(self.stored.get("sheet", self.sheet))

    @property
    def checkpoints(self) -> list[str | None]:
        """Checkpoints that rows name as network or guide; None for rows without one."""
        named = [run.checkpoint for run in self.runs.values() if not run.without_network]
        return named + [run.guide for run in self.runs.values() if run.guide not in self.settings.teachers]

    @property
    def sampled(self) -> list[str]:
        """Rows whose images ``sida sample`` can write: rows with a sampler of this package and without a decoder."""
        return [
            name
            for name, run in self.runs.items()
            if self.protocol(run).quantisation != "truncate_unit" and self.sampler_of(run)["kind"] in SAMPLER_KINDS
        ]

    def dataset(self, name: str, where: str) -> dict[str, Any]:
        """Spec of a data set of the preset or of ``config/datasets.yaml``."""
        return dataset_spec(name, where, self.settings.datasets)

    def dataset_of(self, run: SheetRow) -> dict[str, Any]:
        """Spec of the data set that a row is trained on and compared with."""
        return self.dataset(run.dataset or self.settings.dataset, f"{self.sheet}: run '{run.run}'")

    def origin(self, dataset: str, where: str) -> MadeFrom | None:
        """Source of a data set's archive; None if unknown."""
        return dataset_origin(dataset, where, self.settings.datasets)

    def sampler_of(self, run: SheetRow) -> dict[str, Any]:
        """Settings of a row's sampler; an external row without one is a Python callable or stored images."""
        if run.sampler is not None:
            return dict(self.settings.samplers[run.sampler])
        source = str(run.checkpoint)
        module, colon, function = source.partition(":")
        if colon and all(part.isidentifier() for part in [*module.split("."), function]):
            return {"kind": "python", "callable": source}
        return {"kind": "images", "path": source}

    def protocol_of(self, run: SheetRow) -> str:
        """Path of the protocol that a row is measured under."""
        return run.protocol or self.settings.protocol

    def protocol(self, run: SheetRow) -> Protocol:
        """The protocol that a row is measured under; read once, since sheets have hundreds of rows.

        Raises:
            UserError: It is not valid.
        """
        path = self.protocol_of(run)
        if path not in self._protocols:
            self._protocols[path] = load_protocol(path)
        return self._protocols[path]

    def class_counts(self, run: SheetRow) -> dict[str, Any] | str | None:
        """Images per class for a row's class frequencies, or the asset with them; None if the row needs none.

        Raises:
            UserError: The counts are missing.
        """
        labels = self.protocol(run).content().get("labels")
        if labels is None or run.without_network or not self.dataset_of(run).get("label_dim"):
            return None
        if isinstance(labels, str) and not is_counted(labels):
            where = f"{self.sheet}: run '{run.run}'"
            raise UserError(where, f"no class counts '{labels}' for its protocol", remedy(labels))
        return labels

    @functools.cached_property
    def trials(self) -> int:
        """Number of evaluation trials of the preset's protocols.

        Raises:
            UserError: A protocol has no valid ``trials``, or protocols differ.
        """
        paths = {self.protocol_of(run): self.protocol(run).trials for run in self.runs.values()}
        counts = {self.settings.protocol: load_protocol(self.settings.protocol).trials, **paths}
        if len(set(counts.values())) > 1:
            raise UserError(self.sheet, f"protocols differ in trials: {counts}", "use one number within a preset")
        return counts[self.settings.protocol]

    def options(self, run: SheetRow) -> Any:
        """Options of a row's method from its recipe; None if the method has none.

        Raises:
            UserError: The recipe has other options, or wrong values.
        """
        method = find_method(run.method, f"{self.sheet}: run '{run.run}': method")
        given = self.recipe(run).get("options") or {}
        return method.read_options(given, f"{self.source}: recipes.{run.recipe}.options")

    def shards(self, name: str) -> list[tuple[int, int]]:
        """Bounds (first, last + 1) of the shards of a row's trials; empty if one job measures them."""
        size = self.settings.shard_size
        if size is None:
            return []
        total = self.protocol(self.runs[name]).num_samples
        return [(begin, min(begin + size, total)) for begin in range(0, total, size)]

    def analysed(self, name: str) -> list[str]:
        """Rows that an analysis names, in the sheet's order; an empty name for an analysis without rows."""
        conditions = self.analyses[name].get("rows")
        return [""] if conditions is None else [run.run for run in matching(self.runs, conditions)]

    @functools.cached_property
    def claims(self) -> list[Claim]:
        """Claims of the preset's file; empty without such a file.

        Raises:
            UserError: A faulty file.
        """
        return load_claims(self.settings.claims) if self.settings.claims else []

    @functools.cached_property
    def experiments(self) -> dict[str, Experiment]:
        """Experiments by id, in the order of their file; empty without such a file.

        Raises:
            UserError: A faulty file.
        """
        path = self.settings.experiments
        return {experiment.id: experiment for experiment in load_experiments(path)} if path else {}

    def seed_of(self, run: SheetRow) -> int:
        """Training seed of a row."""
        return self.settings.seed if run.seed is None else run.seed


def named_layouts(layouts: Sequence[str], where: str) -> dict[str, str]:
    """Layouts by the names of their products: the name in the layout, or that of its file.

    Raises:
        UserError: Two products have one name.
    """
    found: dict[str, str] = {}
    for layout in layouts:
        name = base_name(layout)
        if name in found:
            raise UserError(where, f"'{found[name]}' and '{layout}' would both make '{name}'", "rename or remove one")
        found[name] = layout
    return found


def nfe(sampler: Mapping[str, Any]) -> int | None:
    """Network evaluations per image of a sampler; ``None`` for real images and generators from outside."""
    return read_sampler(sampler).nfe or None if sampler["kind"] in SAMPLER_KINDS else None
