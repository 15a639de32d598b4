"""Rows of a preset: settings and sample sheet, with the files, data, protocol and network of each row."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.claims import Claim, load_claims
from eval.measuring.protocol import Protocol, load_protocol
from eval.results.sheet import SheetRow, read_runs
from sida.assets.cache import cache_dir
from sida.assets.registry import find_asset, is_address, is_counted, load_registry
from sida.config.datasets import MadeFrom, dataset_origin, dataset_spec, remedy
from sida.config.recipe import Recipe
from sida.config.resources import base_name, find, found_object, found_path
from sida.config.samplers import SAMPLER_KINDS, read_sampler
from sida.config.settings import from_mapping, load_yaml, names_file_object, names_object
from sida.errors import UserError, suggestion
from sida.methods.registry import find_method
from workflow.preset.files import PresetSettings, TeacherEntry
from workflow.preset.outside_code import check_code


class Rows:
    """Settings and sample sheet of a preset; see :class:`workflow.preset.Preset`."""

    def __init__(self, config: Mapping[str, Any], source: str, own: Sequence[Path]) -> None:
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
        self.settings = self._with_paths(settings)
        self.name: str = self.settings.preset
        #: Folder of all products of this preset, relative to the root.
        self.results = f"results/{self.name}"
        self.sheet: str = self.settings.runs
        self.own.append(Path(self.sheet).parent)
        self.runs: dict[str, SheetRow] = {row.run: self._row_with_paths(row) for row in read_runs(self.sheet)}
        self._find_recipes()
        self._protocols: dict[str, Protocol] = {}
        self._add_second_measurements()

    def layout(self, kind: str, name: str) -> Path:
        """Layout of a table or figure (kind ``tables`` or ``figures``), by the name of its product."""
        return find(kind, self.layouts[kind].get(name, name), self.own, f"{self.source}: {kind}")

    def _with_paths(self, settings: PresetSettings) -> PresetSettings:
        """Settings with paths in the place of names of files, so that they do not depend on the preset's folder."""
        found: dict[str, Any] = {kind: tuple(layouts) for kind, layouts in self.layouts.items()}
        for key, kind in (("runs", "runs"), ("protocol", "protocols"), ("claims", "")):
            if (name := getattr(settings, key)) is not None:
                found[key] = str(find(kind, name, self.own, f"{self.source}: {key}"))
        found["teachers"] = {
            name: self._one_way(teacher, settings.train_teachers) for name, teacher in settings.teachers.items()
        }
        for dataset in settings.datasets.values():
            if dataset.get("path"):
                dataset["path"] = found_path(dataset["path"], self.own)
            if names_file_object(str((origin := dataset.get("made_from") or {}).get("source"))):
                dataset["made_from"] = {**origin, "source": found_object(origin["source"], self.own)}
        return dataclasses.replace(settings, **found)

    def _one_way(self, teacher: TeacherEntry, train: bool) -> TeacherEntry:
        """A teacher that is either trained or downloaded; an entry may describe both ways."""
        if not teacher.checkpoint:
            return teacher
        if train and teacher.training:
            return dataclasses.replace(teacher, checkpoint=None)
        return dataclasses.replace(teacher, training=None, checkpoint=found_path(teacher.checkpoint, self.own))

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

    def _row_with_paths(self, run: SheetRow) -> SheetRow:
        """A row with its names of files replaced by paths."""
        named = {key: path for key in ("checkpoint", "guide") if (path := getattr(run, key))}
        if run.guide in self.settings.teachers:
            del named["guide"]
        found: dict[str, Any] = {key: found_path(path, self.own) for key, path in named.items()}
        for key in ("protocol", "second_protocol"):
            if name := getattr(run, key):
                found[key] = str(find("protocols", name, self.own, f"{self.sheet}: run '{run.run}'"))
        return dataclasses.replace(run, **found)

    def _add_second_measurements(self) -> None:
        """Adds a key (run, second protocol) for each row with one, its own or the preset's for its first protocol."""
        seconds = {
            own: str(find("protocols", name, self.own, f"{self.source}: second_protocols.{own}"))
            for own, name in self.settings.second_protocols.items()
        }
        for run in list(self.runs.values()):
            default = None if run.without_network else seconds.get(self.protocol(run).name)
            protocol = run.second_protocol or default
            if protocol is None:
                continue
            second = (first := dataclasses.replace(run, second_protocol=protocol)).under_second()
            where = f"{self.sheet}: run '{run.run}': second_protocol"
            if protocol == self.protocol_of(run):
                raise UserError(where, f"'{protocol}' is the row's first protocol", "name another one")
            if second.run in self.runs:
                raise UserError(where, f"'{second.run}' is a row of its own", "rename or remove it")
            self.runs |= {run.run: first, second.run: second}

    def recipe(self, run: SheetRow) -> dict[str, Any]:
        """Recipe of a row as the preset or its file gives it; empty for a row without one."""
        return self.settings.recipes.get(run.recipe or "", {})

    def teacher(self, run: SheetRow) -> TeacherEntry | None:
        """Teacher of a row; None for a row without a teacher of the preset."""
        return self.settings.teachers.get(run.teacher or "")

    def architecture(self, teacher: str | None) -> dict[str, Any] | None:
        """Network ``{class, kwargs}`` of a teacher of the preset; None if the preset does not describe one."""
        entry = self.settings.teachers.get(teacher or "")
        return entry.network if entry else None

    def parents(self, run: SheetRow) -> list[str]:
        """Runs that a row's training needs: its initial generator."""
        return [run.init] if run.trained_here and run.init in self.runs else []

    def trained_teachers(self) -> list[str]:
        """Ids of the teachers that are trained and not downloaded."""
        return [name for name, teacher in self.settings.teachers.items() if teacher.training]

    def students(self) -> list[SheetRow]:
        """Rows that are distilled here."""
        return [run for run in self.runs.values() if run.trained_here]

    @functools.cached_property
    def left_out(self) -> dict[str, str]:
        """Rows whose checkpoint has no public address and is not in the cache: run to asset id.

        Tables list them as not measured; they return when the file is in the cache (``sida assets list``).
        """
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
        return {"kind": "python", "callable": source} if names_object(source) else {"kind": "images", "path": source}

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

    @functools.cached_property
    def claims(self) -> list[Claim]:
        """Claims of the preset's file; empty without such a file.

        Raises:
            UserError: A faulty file.
        """
        return list(load_claims(self.settings.claims).claims) if self.settings.claims else []

    def seed_of(self, run: SheetRow) -> int:
        """Training seed of a row."""
        return self.settings.seed if run.seed is None else run.seed

    # Paths of networks.

    def network(self, run: SheetRow) -> str | None:
        """Path of the network that a row samples from; ``None`` for rows without a network."""
        if run.without_network:
            return None
        if run.checkpoint is not None:
            return self.imported(run.checkpoint)
        if run.method == "teacher":
            return self.teacher_network(str(run.teacher))
        return f"{self.results}/students/{run.first}/network.safetensors"

    def teacher_network(self, name: str) -> str:
        """Path of a teacher's network: trained here, or imported from its checkpoint."""
        checkpoint = self.settings.teachers[name].checkpoint
        return self.imported(checkpoint) if checkpoint else f"{self.results}/teachers/{name}/network.safetensors"

    def teacher_references(self, run: SheetRow, watched: bool = False) -> dict[str, str]:
        """Paths of the samples of a row's teacher by key of its protocol's references, all or the watched ones."""
        protocol = self.protocol(run)
        used = {key for metric in protocol.watched for key in metric.references}
        keys = [key for key in protocol.drawn_references() if key in used or not watched]
        return {key: f"{self.results}/references/{run.teacher}/{protocol.name}/{key}.safetensors" for key in keys}

    def tick_teacher(self, name: str) -> str:
        """Path of the network that replaces a teacher while rows are timed."""
        return f"{self.results}/ticks/teachers/{name}/network.safetensors"

    def guide(self, run: SheetRow) -> str | None:
        """Path of a row's guiding network, a teacher of the preset or a checkpoint; ``None`` without one."""
        if run.guide is None:
            return None
        return self.teacher_network(run.guide) if run.guide in self.settings.teachers else self.imported(run.guide)

    def sampler_guide(self, run: SheetRow) -> str | None:
        """Path of the guiding network of a row's sampler; rows distilled here use their guide in training only."""
        return None if self.runs[run.first].trained_here else self.guide(run)

    def imported(self, checkpoint: str) -> str:
        """Path of a published checkpoint after its import; a .safetensors file is used in place."""
        if _used_in_place(checkpoint):
            return checkpoint
        return f"{self.results}/checkpoints/{self._import_folders[checkpoint]}/network.safetensors"

    @functools.cached_property
    def imports(self) -> dict[str, str]:
        """Published checkpoints that the preset imports: folder name to asset id, address or path."""
        runs = self.runs.values()
        used = {run.teacher for run in runs if run.trained_here or run.method == "teacher"}
        used |= {run.teacher for run in runs if self.protocol(run).drawn_references()}
        used |= {run.guide for run in runs}
        named = self.checkpoints
        named += [teacher.checkpoint for name, teacher in self.settings.teachers.items() if name in used]
        return {self._import_folders[name]: name for name in named if name in self._import_folders}

    @functools.cached_property
    def _import_folders(self) -> dict[str, str]:
        return import_folders([*self.checkpoints, *(t.checkpoint for t in self.settings.teachers.values())])


def import_folders(checkpoints: Iterable[str | None]) -> dict[str, str]:
    """Names of folders for imported checkpoints, by asset id or path.

    The folder is the asset's id, which may contain dots (``...-a1.2``), or the file's stem. Checkpoints of equal stems
    (``a/network-snapshot.pkl``, ``b/network-snapshot.pkl``) get a digest of their path at the end.
    """
    names = {name: _plain(name) for name in checkpoints if name and not _used_in_place(name)}
    shared = Counter(names.values())
    return {
        name: folder if shared[folder] == 1 else f"{folder}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
        for name, folder in names.items()
    }


def _used_in_place(checkpoint: str) -> bool:
    return checkpoint.endswith(".safetensors") and not is_address(checkpoint)


def _plain(checkpoint: str) -> str:
    path = Path(find_asset({}, checkpoint).target if is_address(checkpoint) else checkpoint)
    return path.stem if path.suffix in (".pkl", ".pt", ".pth", ".safetensors") else path.name


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
