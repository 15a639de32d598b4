"""The rows of a preset: its settings and sample sheet, and the files, data and protocol behind each row."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from eval.claims.experiments import Experiment, load_experiments
from eval.measuring.protocol import Protocol, load_protocol
from eval.results.selection import matching
from eval.results.sheet import Run, read_runs
from sida.assets.registry import is_counted
from sida.config.datasets import MadeFrom, dataset_origin, dataset_spec
from sida.config.label_counts import remedy
from sida.config.mapping import from_mapping, load_yaml
from sida.config.resources import base_name, find, there
from sida.config.samplers import SamplerKind, read_sampler
from sida.errors import UserError, suggestion
from sida.methods.recipe import Recipe
from sida.methods.registry import find_method
from workflow.preset.outside_code import check_code
from workflow.preset.settings import PresetSettings

_NOT_TRAINED: dict[str, Any] = {"teacher": None, "init": None, "alpha": None, "recipe": None}


class Rows:
    """Settings and sample sheet of a preset; see :class:`workflow.preset.Preset`."""

    def __init__(self, config: Mapping[str, Any], source: str = "config", own: Sequence[Path] = ()) -> None:
        self.source, self.own = source, list(own)
        check_code(config, source, own)
        self.config: dict[str, Any] = dataclasses.asdict(from_mapping(PresetSettings, config, f"{source}:"))
        self.name: str = self.config["preset"]
        self._layouts = {kind: named_layouts(self.config[kind], f"{source}: {kind}") for kind in ("tables", "figures")}
        self.config |= {kind: list(layouts) for kind, layouts in self._layouts.items()}
        self._find_files()
        self.sheet: str = self.config["runs"]
        self.own.append(Path(self.sheet).parent)
        self.runs: dict[str, Run] = {row.run: self._found(row) for row in read_runs(self.sheet)}
        self._find_recipes()
        self._protocols: dict[str, Protocol] = {}
        self.runs |= {run.run: run for run in self._measured_also()}

    @property
    def results(self) -> str:
        """Folder of everything this preset produces, relative to the root."""
        return f"results/{self.name}"

    def layout(self, kind: str, name: str) -> Path:
        """The layout of a table or figure (kind ``tables`` or ``figures``), by its product's name."""
        return find(kind, self._layouts[kind].get(name, name), self.own, f"{self.source}: {kind}")

    def _find_files(self) -> None:
        """Replaces names by paths, so that the settings as JSON mean the same without the preset's folder."""
        for key, kind in (("runs", "runs"), ("protocol", "protocols"), ("claims", ""), ("experiments", "")):
            if self.config[key] is not None:
                self.config[key] = str(find(kind, self.config[key], self.own, f"{self.source}: {key}"))
        for teacher in self.config["teachers"].values():
            if not teacher.get("checkpoint"):
                continue
            # A teacher that could be trained is either trained or downloaded: the other way is forgotten here.
            given = "checkpoint" if self.config["train_teachers"] and teacher.get("training") else "training"
            teacher[given] = None
            if teacher["checkpoint"]:
                teacher["checkpoint"] = there(teacher["checkpoint"], self.own)
        for dataset in self.config["datasets"].values():
            if dataset.get("path"):
                dataset["path"] = there(dataset["path"], self.own)

    def _find_recipes(self) -> None:
        """Adds the recipes of ``config/recipes`` that the sheet names (``imagenet64/sida``) to the preset's own."""
        files: dict[str, dict[str, Any]] = {}
        for run in self.runs.values():
            file, slash, name = (run.recipe or "").partition("/")
            if not slash or run.recipe in self.config["recipes"]:
                continue
            where = f"{self.sheet}: run '{run.run}': recipe"
            path = find("recipes", file, self.own, where)
            recipes = files.setdefault(file, load_yaml(path))
            if name not in recipes:
                raise UserError(f"{where}: no '{name}' in {path}{suggestion(name, recipes)}")
            from_mapping(Recipe, recipes[name], f"{path}: {name}")
            self.config["recipes"][run.recipe] = recipes[name]

    def _found(self, run: Run) -> Run:
        """A row with the files that it names."""
        named = {key: path for key in ("checkpoint", "guide") if (path := getattr(run, key))}
        if run.guide in self.config["teachers"]:
            del named["guide"]
        found: dict[str, Any] = {key: there(path, self.own) for key, path in named.items()}
        if run.protocol:
            found["protocol"] = str(find("protocols", run.protocol, self.own, f"{self.sheet}: run '{run.run}'"))
        return dataclasses.replace(run, **found)

    def _measured_also(self) -> list[Run]:
        """Rows of files once more, under the preset's further protocols; no claim or layout picks these by method."""
        more = []
        for own, name in self.config["also"].items():
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

    def parents(self, run: Run) -> list[str]:
        """Runs of the sheet that a row's training needs: the generator it starts from and a stand-in for the data."""
        if not run.trained_here:
            return []
        source = self.config["recipes"].get(run.recipe, {}).get("real_source", "data")
        # "data" means the data set, also where a row has this name.
        return [name for name in (run.init, source if source != "data" else None) if name and name in self.runs]

    def trained_teachers(self) -> list[str]:
        """Ids of the teachers that are trained here (not downloaded)."""
        return [name for name, teacher in self.config["teachers"].items() if teacher.get("training")]

    def students(self) -> list[Run]:
        """Rows that are distilled here."""
        return [run for run in self.runs.values() if run.trained_here]

    def guidance(self, run: Run) -> float:
        """Strength of a row's guidance: in its training where it is distilled here, else in its sampling."""
        settings = self.config["recipes"][run.recipe] if run.trained_here else self.config["samplers"][run.sampler]
        return float(settings.get("guidance", 1))

    @functools.cached_property
    def left_out(self) -> dict[str, str]:
        """Rows whose checkpoint has no public address and does not lie in the cache: run to asset id.

        They are listed in tables as not measured; a file put into the cache (``sida assets list``) brings them back.
        """
        from sida.assets.cache import cache_dir
        from sida.assets.registry import load_registry

        registry = load_registry() if any(self.checkpoints) else {}
        gone = {
            name for name, asset in registry.items() if not asset.urls and not (cache_dir() / asset.target).exists()
        }
        return {run.run: str(run.checkpoint) for run in self.runs.values() if run.checkpoint in gone}

    @property
    def measurable(self) -> dict[str, Run]:
        """Rows that can be measured here: all but :attr:`left_out`."""
        return {name: run for name, run in self.runs.items() if name not in self.left_out}

    @property
    def checkpoints(self) -> list[str | None]:
        """Checkpoints that rows name as their network or guide; None where a row names none."""
        named = [run.checkpoint for run in self.runs.values() if not run.without_network]
        return named + [run.guide for run in self.runs.values() if run.guide not in self.config["teachers"]]

    @property
    def sampled(self) -> list[str]:
        """Rows whose images ``sida sample`` can write: samplers of this package, and pixels (no decoder)."""
        return [
            name
            for name, run in self.runs.items()
            if self.protocol(run).quantisation != "truncate_unit"
            and self.sampler_of(run)["kind"] in get_args(SamplerKind)
        ]

    def dataset(self, name: str, where: str) -> dict[str, Any]:
        """Spec of a data set of the preset or of ``config/datasets.yaml``."""
        return dataset_spec(name, where, self.config["datasets"])

    def dataset_of(self, run: Run) -> dict[str, Any]:
        """Spec of the data set that a row is trained on and compared with."""
        return self.dataset(run.dataset or self.config["dataset"], f"{self.sheet}: run '{run.run}'")

    def origin(self, dataset: str, where: str) -> MadeFrom | None:
        """What the archive of a data set is made of; None where nobody says."""
        return dataset_origin(dataset, where, self.config["datasets"])

    def sampler_of(self, run: Run) -> dict[str, Any]:
        """Settings of a row's sampler; an external row without one is a Python callable or stored images."""
        if run.sampler is not None:
            return dict(self.config["samplers"][run.sampler])
        source = str(run.checkpoint)
        module, colon, function = source.partition(":")
        if colon and all(part.isidentifier() for part in [*module.split("."), function]):
            return {"kind": "python", "callable": source}
        return {"kind": "images", "path": source}

    def protocol_of(self, run: Run) -> str:
        """Path of the protocol that a row is measured under."""
        return run.protocol or self.config["protocol"]

    def protocol(self, run: Run) -> Protocol:
        """The protocol that a row is measured under; read once, since sheets have hundreds of rows.

        Raises:
            UserError: It is not valid.
        """
        path = self.protocol_of(run)
        if path not in self._protocols:
            self._protocols[path] = load_protocol(path)
        return self._protocols[path]

    def class_counts(self, run: Run) -> dict[str, Any] | str | None:
        """Images per class by which a row's classes are drawn, or the asset that has them; None where it needs none.

        Raises:
            UserError: They are not here.
        """
        labels = self.protocol(run).content().get("labels")
        if labels is None or run.without_network or not self.dataset_of(run).get("label_dim"):
            return None
        if isinstance(labels, str) and not is_counted(labels):
            where = f"{self.sheet}: run '{run.run}'"
            raise UserError(f"{where}: no class counts '{labels}' for its protocol; {remedy(labels)}")
        return labels

    @functools.cached_property
    def trials(self) -> int:
        """Number of evaluation trials of the preset's protocols.

        Raises:
            UserError: A protocol has no valid ``trials``, or two differ.
        """
        paths = {self.protocol_of(run): self.protocol(run).trials for run in self.runs.values()}
        counts = {self.config["protocol"]: load_protocol(self.config["protocol"]).trials, **paths}
        if len(set(counts.values())) > 1:
            raise UserError(f"{self.sheet}: protocols differ in trials: {counts}; use one number within a preset")
        return counts[self.config["protocol"]]

    def options(self, run: Run) -> Any:
        """The settings that only a row's method has; None where it has none.

        Raises:
            UserError: The recipe has others, or wrong values.
        """
        method = find_method(run.method, f"{self.sheet}: run '{run.run}': method")
        given = self.config["recipes"][run.recipe].get("options") or {}
        return method.read_options(given, f"{self.source}: recipes.{run.recipe}.options")

    def shards(self, name: str) -> list[tuple[int, int]]:
        """Bounds (first, last + 1) of the shards in which a trial of a row is measured; empty for one job."""
        size = self.config["shard_size"]
        if size is None:
            return []
        total = self.protocol(self.runs[name]).num_samples
        return [(begin, min(begin + size, total)) for begin in range(0, total, size)]

    @functools.cached_property
    def barrier_rows(self) -> list[str]:
        """Rows whose weights are compared with their teacher's, in the sheet's order."""
        settings = self.config["barriers"]
        return [] if settings is None else [run.run for run in matching(self.runs, settings["where"])]

    @functools.cached_property
    def experiments(self) -> dict[str, Experiment]:
        """Experiments by id, in the order of their file; none where the preset has no such file.

        Raises:
            UserError: A faulty file.
        """
        path = self.config["experiments"]
        return {experiment.id: experiment for experiment in load_experiments(path)} if path else {}

    def seed_of(self, run: Run) -> int:
        """Training seed of a row."""
        return self.config["seed"] if run.seed is None else run.seed


def named_layouts(layouts: Sequence[str], where: str) -> dict[str, str]:
    """Layouts by the names of what is made of them: a layout's own name, or that of its file.

    Raises:
        UserError: Two of one name.
    """
    found: dict[str, str] = {}
    for layout in layouts:
        name = base_name(layout)
        if name in found:
            raise UserError(f"{where}: '{found[name]}' and '{layout}' would both make '{name}'; rename or remove one")
        found[name] = layout
    return found


def nfe(sampler: Mapping[str, Any]) -> int | None:
    """Network evaluations per image; ``None`` for real images and for generators from outside."""
    return read_sampler(sampler).nfe or None if sampler["kind"] in get_args(SamplerKind) else None
