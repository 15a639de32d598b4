"""A preset: the configuration and its sample sheet, checked as a whole and turned into one spec per job.

The workflow and the command line read presets through this module, so both accept the same files and report the
same faults. Specs are described in ``docs/architecture.md``.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from eval.features import extractor_assets
from eval.measuring.protocol import Protocol, load_protocol
from eval.report.needs import find_needs
from eval.results.selection import read_extended
from sida.config import from_mapping, load_yaml, names_object
from sida.datasets import dataset_spec
from sida.errors import UserError
from sida.families import SD_VAE
from sida.labels import remedy
from sida.resources import find, there
from sida.samplers import Kind, read_sampler
from sida.sheet import Run, read_runs
from workflow.preset.checks import check_references
from workflow.preset.settings import PresetSettings

MONITOR = "eval.measuring.monitor:make_monitor"


def _checkpoint_name(checkpoint: str) -> str:
    """Folder of an imported checkpoint: the asset's id, which may hold dots (``...-a1.2``), or the file's stem."""
    path = Path(checkpoint)
    return path.stem if path.suffix in (".pkl", ".pt", ".pth") else path.name


class Preset:
    """A validated preset.

    Args:
        config: Settings as loaded from ``config/<preset>.yaml`` (Snakemake's overrides included).
        source: File named in errors.
        own: Folders of the preset. Files, data sets, checkpoints, protocols and layouts that it or its sheet names are
            looked for there first (:mod:`sida.resources`).

    Raises:
        UserError: Any fault in the configuration, the sheet or between them.
    """

    def __init__(self, config: Mapping[str, Any], source: str = "config", own: Sequence[Path] = ()) -> None:
        self.source, self.own = source, list(own)
        self.config: dict[str, Any] = dataclasses.asdict(from_mapping(PresetSettings, config, f"{source}:"))
        self.name: str = self.config["preset"]
        self._find_files()
        self.sheet: str = self.config["runs"]
        self.own.append(Path(self.sheet).parent)
        self.runs: dict[str, Run] = {row.run: self._found(row) for row in read_runs(self.sheet)}
        self._protocols: dict[str, Protocol] = {}
        check_references(self)

    @classmethod
    def load(cls, path: str | Path) -> Preset:
        """Loads a preset file."""
        return cls(load_yaml(path), str(path), [Path(path).parent])

    @property
    def results(self) -> str:
        """Folder of everything this preset produces, relative to the root."""
        return f"results/{self.name}"

    def layout(self, kind: str, name: str) -> Path:
        """The layout of a table or figure (kind ``tables`` or ``figures``)."""
        return find(kind, name, self.own, f"{self.source}: {kind}")

    def _find_files(self) -> None:
        """Replaces names by paths, so that the settings as JSON mean the same without the preset's folder."""
        for key, kind in (("runs", "runs"), ("protocol", "protocols"), ("claims", "")):
            if self.config[key] is not None:
                self.config[key] = str(find(kind, self.config[key], self.own, f"{self.source}: {key}"))
        for teacher in self.config["teachers"].values():
            if teacher.get("checkpoint"):
                teacher["checkpoint"] = there(teacher["checkpoint"], self.own)
        for dataset in self.config["datasets"].values():
            if dataset.get("path"):
                dataset["path"] = there(dataset["path"], self.own)

    def _found(self, run: Run) -> Run:
        """A row with the files that it names."""
        found: dict[str, Any] = {
            key: there(path, self.own) for key in ("checkpoint", "guide") if (path := getattr(run, key))
        }
        if run.protocol:
            found["protocol"] = str(find("protocols", run.protocol, self.own, f"{self.sheet}: run '{run.run}'"))
        return dataclasses.replace(run, **found)

    def parents(self, run: Run) -> list[str]:
        """Runs of the sheet that a row's training needs: the generator it starts from and a stand-in for the data."""
        if not run.trained_here:
            return []
        source = self.config["recipes"].get(run.recipe, {}).get("real_source", "data")
        # "data" means the data set, also where a row has this name.
        return [name for name in (run.init, source if source != "data" else None) if name and name in self.runs]

    # Specs: everything that decides the result of one job.

    def _common(self) -> dict[str, Any]:
        return {"threads": self.config["threads"], "device": self.config["device"]}

    def trained_teachers(self) -> list[str]:
        """Ids of the teachers that are trained here (not downloaded)."""
        return [name for name, teacher in self.config["teachers"].items() if teacher.get("training")]

    @property
    def network_code(self) -> list[str]:
        """Network classes from outside this package that the preset names (``module:object``)."""
        networks = [teacher.get("network") or {} for teacher in self.config["teachers"].values()]
        return sorted({name for network in networks if names_object(name := str(network.get("class")))})

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
        return f"{self.results}/checkpoints/{_checkpoint_name(checkpoint)}/network.safetensors"

    @functools.cached_property
    def checkpoints(self) -> dict[str, str]:
        """Published checkpoints the preset imports: folder name to asset id or path."""
        named = [run.checkpoint for run in self.runs.values() if not run.without_network]
        named += [run.guide for run in self.runs.values()]
        used = {run.teacher for run in self.students()}
        named += [t.get("checkpoint") for name, t in self.config["teachers"].items() if name in used]
        return {_checkpoint_name(name): name for name in named if name and not name.endswith(".safetensors")}

    def teacher_spec(self, name: str) -> dict[str, Any]:
        """Spec of ``sida train-teacher`` (see :class:`sida.training.TeacherConfig`)."""
        teacher = self.config["teachers"][name]
        dataset = self.dataset(teacher.get("dataset") or self.config["dataset"], f"{self.source}: teachers.{name}")
        spec: dict[str, Any] = {"name": name, "dataset": dataset, "network": teacher["network"], **teacher["training"]}
        seed = teacher.get("seed")
        return {**spec, "seed": self.config["seed"] if seed is None else seed, **self._common()}

    def student_spec(self, name: str) -> dict[str, Any]:
        """Spec of ``sida distill`` (see :class:`sida.training.DistillConfig`)."""
        run = self.runs[name]
        recipe = dict(self.config["recipes"][run.recipe])
        dataset = self.dataset_of(run)
        evaluation = recipe.pop("evaluation", None)
        if evaluation is not None:
            kwargs: dict[str, Any] = {
                "dataset": dataset,
                "protocol": _watched(self.protocol(run)).content(),
                "device": self.config["device"],
            }
            kwargs |= {key: value for key, value in evaluation.items() if key != "every_kimg"}
            evaluation = {"every_kimg": evaluation["every_kimg"], "monitor": MONITOR, "kwargs": kwargs}
        source = recipe.get("real_source", "data")
        if source != "data" and source in self.runs:
            recipe["real_source"] = self.network_path(self.runs[source])
        init = self.network_path(self.runs[run.init]) if run.init else None
        spec: dict[str, Any] = {
            "name": name,
            "method": run.method,
            "dataset": dataset,
            "teacher": self.teacher_path(str(run.teacher)),
        }
        spec |= {"init": init, **recipe, "evaluation": evaluation, "seed": self.seed_of(run), **self._common()}
        return spec | ({"alpha": run.alpha} if run.alpha is not None else {})

    def measure_spec(self, name: str) -> dict[str, Any]:
        """Spec of ``sida-eval measure``: the generator, how to sample it, and the protocol."""
        run = self.runs[name]
        sampler = self.sampler_of(run)
        return {
            "run": name,
            "method": run.method,
            "network": self.network_path(run),
            "guide": self.checkpoint_path(run.guide) if run.guide else None,
            "sampler": sampler,
            "nfe": nfe(sampler) or run.nfe,
            "dataset": self.dataset_of(run),
            "protocol": self.protocol(run).content(),
            **self._common(),
        }

    @property
    def sampled(self) -> list[str]:
        """Rows whose images ``sida sample`` can write: samplers of this package, and pixels (no decoder)."""
        return [
            name
            for name, run in self.runs.items()
            if self.protocol(run).quantisation != "truncate_unit" and self.sampler_of(run)["kind"] in get_args(Kind)
        ]

    def sample_spec(self, name: str, trial: int | str) -> dict[str, Any]:
        """Spec of ``sida sample`` for the images that a trial of a row measures."""
        run = self.runs[name]
        protocol, dataset = self.protocol(run), self.dataset_of(run)
        first, last = protocol.seeds(int(trial))
        # Without classes there are no frequencies to read, so the data need not be there; nor where they are counted.
        classes = protocol.label_dist if dataset.get("label_dim") else "uniform"
        with_data = run.method == "data" or (classes == "empirical" and protocol.labels is None)
        return {
            "network": self.network_path(run),
            "gnet": self.checkpoint_path(run.guide) if run.guide else None,
            "sampler": self.sampler_of(run),
            "seeds": f"{first}-{last}",
            "class_labels": self.class_counts(run) or classes,
            "dataset": dataset if with_data else None,
            **self._common(),
        }

    def table_spec(self, name: str) -> dict[str, Any]:
        """Spec of ``sida-eval table``: the rows it shows and, for a table of settings, what they are trained with."""
        path = self.layout("tables", name)
        needs = find_needs(path, self.runs)
        spec: dict[str, Any] = {"runs": self._rows({*needs.measured, *needs.networks})}
        if read_extended(path).get("kind") != "hyperparameters":
            return spec
        students = {run: self._settings(run) for run in needs.networks if self.runs[run].trained_here}
        return spec | {"gpus": self.config["gpus"], "students": students}

    def figure_spec(self, name: str) -> dict[str, Any]:
        """Spec of ``sida-eval figure``: the rows it shows, and the generators it draws samples of."""
        path = self.layout("figures", name)
        needs = find_needs(path, self.runs)
        drawn = needs.networks if read_extended(path).get("kind") == "samples" else []
        rows = self._rows({*needs.measured, *needs.networks})
        return {"runs": rows, "generators": [*map(self.measure_spec, drawn)]}

    def _settings(self, run: str) -> dict[str, Any]:
        network = self.config["teachers"][str(self.runs[run].teacher)].get("network")
        return {"settings": self.student_spec(run), "network": network}

    def _rows(self, names: Collection[str]) -> list[dict[str, Any]]:
        """Rows as the sheet has them, in its order."""
        rows = (run for name, run in self.runs.items() if name in names)
        return [{key: value for key, value in vars(run).items() if value not in (None, "")} for run in rows]

    def dataset(self, name: str, where: str) -> dict[str, Any]:
        """Spec of a data set of the preset or of ``config/datasets.yaml``."""
        return dataset_spec(name, where, self.config["datasets"])

    def dataset_of(self, run: Run) -> dict[str, Any]:
        """Spec of the data set that a row is trained on and compared with."""
        return self.dataset(run.dataset or self.config["dataset"], f"{self.sheet}: run '{run.run}'")

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

    def class_counts(self, run: Run) -> dict[str, Any] | None:
        """Images per class by which a row's classes are drawn; None where it needs none.

        Raises:
            UserError: They are not here.
        """
        labels = self.protocol(run).content().get("labels")
        if labels is None or run.without_network or not self.dataset_of(run).get("label_dim"):
            return None
        if isinstance(labels, str):
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
        return sorted({asset for asset in needed if asset})

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


def _watched(protocol: Protocol) -> Protocol:
    """What an evaluation during training can use of a protocol: a change of the rest is no reason to train again."""
    return dataclasses.replace(protocol, metrics=protocol.streaming or protocol.metrics)


def nfe(sampler: Mapping[str, Any]) -> int | None:
    """Network evaluations per image; ``None`` for real images and for generators from outside."""
    return read_sampler(sampler).nfe or None if sampler["kind"] in get_args(Kind) else None
