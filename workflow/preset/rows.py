"""The rows of a preset: its settings and sample sheet, and the files, data and protocol behind each row."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from eval.features import extractor_assets
from eval.measuring.protocol import Protocol, load_protocol
from eval.results.sheet import Run, read_runs
from sida.assets.registry import is_counted
from sida.config.datasets import MadeFrom, dataset_origin, dataset_spec
from sida.config.families import SD_VAE
from sida.config.label_counts import remedy
from sida.config.mapping import from_mapping, load_yaml
from sida.config.resources import find, there
from sida.config.samplers import Kind, read_sampler
from sida.errors import UserError, suggestion
from sida.methods.recipe import Recipe
from sida.methods.registry import find_method
from workflow.preset.imports import import_folders
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
        """The layout of a table or figure (kind ``tables`` or ``figures``)."""
        return find(kind, name, self.own, f"{self.source}: {kind}")

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

    def network_path(self, run: Run) -> str | None:
        """Path of the network a row samples from; ``None`` for rows without one."""
        if run.without_network:
            return None
        if run.checkpoint is not None:
            return self.checkpoint_path(run.checkpoint)
        if run.method == "teacher":
            return self.teacher_path(str(run.teacher))
        return f"{self.results}/students/{run.run}/network.safetensors"

    def teacher_path(self, name: str) -> str:
        """Path of a teacher's network: trained here, or imported from its checkpoint."""
        checkpoint = self.config["teachers"][name].get("checkpoint")
        return self.checkpoint_path(checkpoint) if checkpoint else f"{self.results}/teachers/{name}/network.safetensors"

    def guide_path(self, run: Run) -> str | None:
        """Path of a row's guiding network: of a teacher of the preset, or of a checkpoint; ``None`` without one."""
        if run.guide is None:
            return None
        return self.teacher_path(run.guide) if run.guide in self.config["teachers"] else self.checkpoint_path(run.guide)

    def sampler_guide(self, run: Run) -> str | None:
        """The guiding network that a row is sampled with; that of a row distilled here ends with its training."""
        return None if run.trained_here else self.guide_path(run)

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

        registry = load_registry() if self.checkpoints else {}
        gone = {
            name for name, asset in registry.items() if not asset.urls and not (cache_dir() / asset.target).exists()
        }
        return {run.run: str(run.checkpoint) for run in self.runs.values() if run.checkpoint in gone}

    @property
    def measurable(self) -> dict[str, Run]:
        """Rows that can be measured here: all but :attr:`left_out`."""
        return {name: run for name, run in self.runs.items() if name not in self.left_out}

    def checkpoint_path(self, checkpoint: str) -> str:
        """Path of a published checkpoint after its import; a .safetensors file is used where it lies."""
        if checkpoint.endswith(".safetensors"):
            return checkpoint
        return f"{self.results}/checkpoints/{self._import_folders[checkpoint]}/network.safetensors"

    @functools.cached_property
    def _import_folders(self) -> dict[str, str]:
        return import_folders([*self._named_by_rows, *(t.get("checkpoint") for t in self.config["teachers"].values())])

    @property
    def _named_by_rows(self) -> list[str | None]:
        named = [run.checkpoint for run in self.runs.values() if not run.without_network]
        return named + [run.guide for run in self.runs.values() if run.guide not in self.config["teachers"]]

    @functools.cached_property
    def checkpoints(self) -> dict[str, str]:
        """Published checkpoints the preset imports: folder name to asset id or path."""
        used = {run.teacher for run in self.runs.values() if run.trained_here or run.method == "teacher"}
        used |= {run.guide for run in self.runs.values()}
        teachers = self.config["teachers"]
        named = [*self._named_by_rows, *(t.get("checkpoint") for name, t in teachers.items() if name in used)]
        return {self._import_folders[name]: name for name in named if name in self._import_folders}

    @property
    def sampled(self) -> list[str]:
        """Rows whose images ``sida sample`` can write: samplers of this package, and pixels (no decoder)."""
        return [
            name
            for name, run in self.runs.items()
            if self.protocol(run).quantisation != "truncate_unit" and self.sampler_of(run)["kind"] in get_args(Kind)
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

    def assets_of(self, name: str) -> list[str]:
        """Registered downloads that measuring a row needs besides its network: references, extractors, a decoder."""
        run = self.runs[name]
        protocol = self.protocol(run)
        needed = [source.asset for source in protocol.sources.values()]
        needed += [asset for extractor in protocol.extractors() for asset in extractor_assets(extractor)]
        if protocol.quantisation == "truncate_unit" and not run.without_network:
            needed += SD_VAE.assets
        if isinstance(counts := self.class_counts(run), str):
            needed.append(counts)
        return sorted({asset for asset in needed if asset})

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

    def measure_jobs(self) -> list[tuple[int, int, list[str]]]:
        """Jobs of the evaluation without shards: first trial, last trial, rows; those of many steps in parts."""
        size = self.config["trials_per_job"] or self.trials
        slow = [name for name, run in self.runs.items() if self._many_steps(run)] if size < self.trials else []
        quick = [name for name in self.runs if name not in slow]
        parts = [(first, min(first + size, self.trials) - 1) for first in range(0, self.trials, size)]
        jobs = [(0, self.trials - 1, quick)] if quick else []
        return jobs + [(first, last, slow) for first, last in parts if slow]

    def _many_steps(self, run: Run) -> bool:
        return (nfe(self.sampler_of(run)) or run.nfe or 1) > 1

    def seed_of(self, run: Run) -> int:
        """Training seed of a row."""
        return self.config["seed"] if run.seed is None else run.seed


def nfe(sampler: Mapping[str, Any]) -> int | None:
    """Network evaluations per image; ``None`` for real images and for generators from outside."""
    return read_sampler(sampler).nfe or None if sampler["kind"] in get_args(Kind) else None
