"""Rows of a preset: settings and sample sheet, with the files, data, protocol and network of each row."""

import dataclasses
import functools
import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from eval.claims.claim import Claim, load_claims
from eval.measuring.protocol import Protocol, load_protocol
from eval.results.extended import read_extended
from eval.results.identity import OTHER, network_of, read_saw
from eval.results.sheet import SheetRow, read_runs
from sida import networks
from sida.assets.registry import find_asset, is_address, is_counted, load_registry
from sida.config.datasets import dataset_entry, dataset_spec, remedy
from sida.config.families import EDM2_LATENTS, NULL_LABEL, Latents
from sida.config.lookup import SUFFIXES, find_file, found_path
from sida.config.recipe import Recipe
from sida.config.samplers import SAMPLER_KINDS, read_sampler
from sida.config.settings import from_mapping, load_yaml, names_object
from sida.errors import UserError, suggestion
from sida.methods.method import Method, Saw
from sida.methods.registry import METHODS, find_method
from workflow.preset.files import PresetSettings, TeacherEntry
from workflow.preset.outside_code import check_code, outside_claims, outside_code, texts

#: Folders of networks below the results, by the kinds of :class:`Network`.
FOLDERS = {"teachers": "teachers", "students": "students", "imports": "checkpoints"}


class Network(NamedTuple):
    """A network by kind and name.

    Kinds are ``teachers`` and ``students``, which are trained here, ``imports``, published files, and ``files``, which
    are used in place.
    """

    kind: str
    name: str


class Rows:
    """Settings and sample sheet of a preset; see :class:`workflow.preset.Preset`."""

    def __init__(self, config: Mapping[str, Any], source: str, own: Sequence[Path]) -> None:
        self.source, self.own = source, list(own)
        self._datasets: dict[str, dict[str, Any]] = {}
        settings = from_mapping(PresetSettings, config, f"{source}:")
        self.stored = settings.stored or {}
        if self.stored:
            self.own.append(Path(self.stored["beside"]))
        named = {kind: self._layouts(kind, getattr(settings, kind)) for kind in ("tables", "figures")}
        self.settings = self._with_paths(settings, named)
        self.name: str = self.settings.preset
        #: Folder of all products of this preset, relative to the root.
        self.results = f"results/{self.name}"
        self.sheet: str = self.settings.runs
        self.own.append(Path(self.sheet).parent)
        #: Layouts of tables and figures by the names of their products.
        self.layouts = {
            kind: {name: find_file(kind, layout, self.own, f"{source}: {kind}") for name, layout in layouts.items()}
            for kind, layouts in named.items()
        }
        self.runs: dict[str, SheetRow] = {row.run: self._row_with_paths(row) for row in read_runs(self.sheet)}
        self._find_recipes()
        #: Code from outside the package that the files name, with the places.
        self.code = outside_code(self._documents()) | outside_claims(self.settings.claims, source)
        check_code(self.code, source)
        self._add_seen()
        self._add_second_measurements()

    # Files that the preset and its sheet name.

    def _documents(self) -> dict[str, Any]:
        """Files that may name code, by place: settings and recipes, rows, protocols, shared data sets in use."""
        rows = self.runs.values()
        documents: dict[str, Any] = {self.source: dataclasses.asdict(self.settings)}
        documents[self.sheet] = {f"run '{row.run}'": row.cells for row in rows}
        named = [self.settings.protocol, *self._second_protocols.values()]
        named += [path for row in rows for path in (row.protocol, row.second_protocol) if path]
        documents |= {path: read_extended(Path(path), beside=True) for path in dict.fromkeys(named)}
        used = {text for place in documents for key, text, _ in texts(documents[place], place) if key == "dataset"}
        shared = load_yaml(path := find_file("", "datasets"))
        return documents | {f"{path}: {name}": entry for name, entry in shared.items() if name in used}

    def layout(self, kind: str, name: str) -> Path:
        """Layout of a table or figure (kind ``tables`` or ``figures``), by the name of its product."""
        if name in self.layouts[kind]:
            return self.layouts[kind][name]
        return find_file(kind, name, self.own, f"{self.source}: {kind}")

    def _layouts(self, kind: str, layouts: Iterable[str]) -> dict[str, str]:
        """Names of layouts by those of their products."""
        named: dict[str, str] = {}
        for layout in layouts:
            path = Path(layout)
            name = path.stem if path.suffix in SUFFIXES else path.name
            if not re.fullmatch(r"[\w.-]+", name):
                fault = f"'{name}' is no name of a product"
                raise UserError(f"{self.source}: {kind}", fault, "use letters, digits, '.', '_' and '-'")
            if name in named:
                fault = f"'{named[name]}' and '{layout}' would both make '{name}'"
                raise UserError(f"{self.source}: {kind}", fault, "rename or remove one")
            named[name] = layout
        return named

    def _with_paths(self, settings: PresetSettings, layouts: Mapping[str, Mapping[str, str]]) -> PresetSettings:
        """Settings with paths in the place of names of files, so that they do not depend on the preset's folder."""
        found: dict[str, Any] = {kind: tuple(named) for kind, named in layouts.items()}
        kinds = {"runs": "runs", "protocol": "protocols", "claims": "", "retraining": "retraining", "search": ""}
        for key, kind in kinds.items():
            if (name := getattr(settings, key)) is not None:
                found[key] = str(find_file(kind, name, self.own, f"{self.source}: {key}"))
        found["teachers"] = {
            name: self._one_way(teacher, settings.train_teachers) for name, teacher in settings.teachers.items()
        }
        for dataset in settings.datasets.values():
            if dataset.get("path"):
                dataset["path"] = found_path(dataset["path"], self.own)
            if source := (origin := dataset.get("made_from") or {}).get("source"):
                dataset["made_from"] = {**origin, "source": found_path(source, self.own)}
        return dataclasses.replace(settings, **found)

    def _one_way(self, teacher: TeacherEntry, train: bool) -> TeacherEntry:
        """A teacher that is either trained or downloaded; an entry may describe both ways."""
        if not teacher.checkpoint:
            return teacher
        if train and teacher.training:
            return dataclasses.replace(teacher, checkpoint=None)
        return dataclasses.replace(teacher, training=None, checkpoint=found_path(teacher.checkpoint, self.own))

    def _row_with_paths(self, run: SheetRow) -> SheetRow:
        """A row with its names of files replaced by paths."""
        keys = ["checkpoint"] if run.guide in (*self.settings.teachers, NULL_LABEL) else ["checkpoint", "guide"]
        found: dict[str, Any] = {key: found_path(path, self.own) for key in keys if (path := getattr(run, key))}
        for key in ("protocol", "second_protocol"):
            if name := getattr(run, key):
                found[key] = str(find_file("protocols", name, self.own, f"{self.sheet}: run '{run.run}'"))
        return dataclasses.replace(run, **found)

    def _find_recipes(self) -> None:
        """Adds the recipes of files in ``recipes/`` that the sheet names (``imagenet64/sida``) to the preset's own."""
        files: dict[str, dict[str, Any]] = {}
        for run in self.runs.values():
            recipe = run.recipe or ""
            file, slash, name = recipe.partition("/")
            if not slash or recipe in self.settings.recipes:
                continue
            where = f"{self.sheet}: run '{run.run}': recipe"
            path = find_file("recipes", file, self.own, where)
            recipes = files.setdefault(file, load_yaml(path))
            if name not in recipes:
                raise UserError(where, f"no '{name}' in {path}{suggestion(name, recipes)}")
            from_mapping(Recipe, recipes[name], f"{path}: {name}")
            self.settings.recipes[recipe] = recipes[name]

    def _add_seen(self) -> None:
        """Adds what a row's own method does not say: judges of its options, networks that its start met, its choice."""
        done = set[str]()
        for name in list(self.runs):
            for link in reversed([*itertools.takewhile(lambda link: link not in done, self.lineage(name))]):
                self.runs[link] = self._with_seen(self.runs[link])
                done.add(link)

    def _with_seen(self, run: SheetRow) -> SheetRow:
        more = Saw()
        if run.trained_here and run.method in METHODS and METHODS[run.method].has_judges:
            judges = [name for name in self.options(run).met(self.resolution(run)) if name != "pixels"]
            if None in (found := [network_of(name) for name in judges]):
                return dataclasses.replace(run, saw="unknown")  # a custom judge may be any network
            more = Saw(loss=tuple(filter(None, found)))
        if run.init in self.runs:
            start = self.runs[run.init].seen
            if start is None:
                return dataclasses.replace(run, saw="unknown")
            more |= Saw(start.loss, start.start)
        if run.trained_here and run.seen is not None:
            more |= Saw(choice=self._chosen_by(run))
        seen = run.seen or more
        if not more.loss and {*more.start} <= {*seen.loss, *seen.start} and {*more.choice} <= {*seen.choice}:
            return run  # its own words say it
        said = None if run.saw is None else read_saw(run.saw)
        return dataclasses.replace(run, saw=str(more | (said or Saw())))

    def _chosen_by(self, run: SheetRow) -> tuple[str, ...]:
        """Network of the metric by which a training's evaluations choose the kept file; none without evaluations."""
        protocol = self.protocol(run)
        if not self.recipe(run).get("evaluation") or protocol.selection_key is None:
            return ()
        extractor = protocol.metric(protocol.selection_key).extractor
        return () if extractor == "pixels" else (network_of(extractor) or OTHER,)

    def _add_second_measurements(self) -> None:
        """Adds a key (run, second protocol) for each row with one, its own or the preset's for its first protocol."""
        for run in list(self.runs.values()):
            default = None if run.without_network else self._second_protocols.get(self.protocol(run).name)
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

    @functools.cached_property
    def _second_protocols(self) -> dict[str, str]:
        """Paths of second protocols by the name of the first."""
        named, where = self.settings.second_protocols, f"{self.source}: second_protocols"
        return {own: str(find_file("protocols", name, self.own, f"{where}.{own}")) for own, name in named.items()}

    # Parts of a row.

    def recipe(self, run: SheetRow) -> dict[str, Any]:
        """Recipe of a row as the preset or its file gives it; empty for a row without one."""
        return self.settings.recipes.get(run.recipe or "", {})

    def alike(self, run: SheetRow) -> tuple[Any, ...]:
        """Key of rows whose trainings have equal settings but for names, α and seed; sheets have hundreds of rows."""
        empty = tuple(cell is None for cell in (run.init, run.guide, run.alpha))
        return (run.method, run.recipe, run.teacher, run.dataset, empty)

    def method_of(self, run: SheetRow) -> Method:
        """Method of a row."""
        return find_method(run.method, f"{self.sheet}: run '{run.run}': method")

    def options(self, run: SheetRow) -> Any:
        """Options of a row's method from its recipe; None if the method has none.

        Raises:
            UserError: The recipe has other options, or wrong values.
        """
        options = self.recipe(run).get("options") or {}
        return self.method_of(run).read_options(options, f"{self.source}: recipes.{run.recipe}.options")

    def seed_of(self, run: SheetRow) -> int:
        """Training seed of a row."""
        return self.settings.seed if run.seed is None else run.seed

    def sampler_of(self, run: SheetRow) -> dict[str, Any]:
        """Settings of a row's sampler; an external row without one is a Python callable or stored images."""
        if run.sampler is not None:
            return dict(self.settings.samplers[run.sampler])
        source = str(run.checkpoint)
        return {"kind": "python", "callable": source} if names_object(source) else {"kind": "images", "path": source}

    def nfe(self, run: SheetRow) -> int | None:
        """Network evaluations per image of a row; None if unknown."""
        sampler = self.sampler_of(run)
        return (read_sampler(sampler).nfe or None if sampler["kind"] in SAMPLER_KINDS else None) or run.nfe

    def architecture(self, teacher: str | None) -> dict[str, Any] | None:
        """Network ``{class, kwargs}`` of a teacher of the preset; None if the preset does not describe one."""
        entry = self.settings.teachers.get(teacher or "")
        return entry.network if entry else None

    def from_scratch(self, run: SheetRow) -> bool:
        """Whether a row is trained here without a teacher, from a network of its recipe."""
        return run.trained_here and self.method_of(run).start == "scratch"

    def architecture_of(self, run: SheetRow) -> dict[str, Any] | None:
        """Network ``{class, kwargs}`` of a row's recipe or teacher; None if the preset does not describe one."""
        return self.recipe(run).get("network") if self.from_scratch(run) else self.architecture(run.teacher)

    def latents(self, run: SheetRow) -> Latents:
        """Latents of a row's network; EDM2's if the preset does not describe it."""
        network = self.architecture_of(run)
        if network is None or network["class"] == "EDM2Precond":
            # The import of the others' module, with torch, takes seconds in every job.
            return EDM2_LATENTS
        family = networks.family_of(network, f"{self.sheet}: run '{run.run}'")
        return family.latents or EDM2_LATENTS

    def parents(self, run: SheetRow) -> list[str]:
        """Runs that a row's training needs: its initial generator."""
        return [run.init] if run.trained_here and run.init in self.runs else []

    def lineage(self, name: str) -> Iterator[str]:
        """Yields a row and all rows that it starts from, the nearest first; a circle ends where it closes."""
        before, names = set[str](), [name]
        while names and names[0] not in before:
            yield names[0]
            before.add(names[0])
            names = self.parents(self.runs[names[0]])

    def protocol_of(self, run: SheetRow) -> str:
        """Path of the protocol that a row is measured under."""
        return run.protocol or self.settings.protocol

    def protocol(self, run: SheetRow) -> Protocol:
        """The protocol that a row is measured under.

        Raises:
            UserError: It is not valid.
        """
        return self._protocol(self.protocol_of(run))

    @functools.cache  # noqa: B019 - a preset lives as long as its run
    def _protocol(self, path: str) -> Protocol:
        protocol = load_protocol(path)
        references = {
            key: {**protocol.references[key], "spec": self.dataset(source.dataset)}
            for key, source in protocol.sources.items()
            if source.fixed and source.dataset in self.settings.datasets
        }
        return dataclasses.replace(protocol, references=protocol.references | references) if references else protocol

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

    # Kinds of rows.

    def trained_teachers(self) -> list[str]:
        """Ids of the teachers that are trained and not downloaded."""
        return [name for name, teacher in self.settings.teachers.items() if teacher.training]

    def students(self) -> list[SheetRow]:
        """Rows that are distilled here."""
        return [run for run in self.runs.values() if run.trained_here]

    @functools.cached_property
    def starts(self) -> set[str]:
        """Rows that others start from."""
        return {parent for run in self.students() for parent in self.parents(run)}

    @functools.cached_property
    def left_out(self) -> dict[str, str]:
        """Rows whose checkpoint has no public address and is not in the cache: run to asset id.

        Tables list them as not measured; they return when the file is in the cache (``sida assets list``).
        """
        registry = load_registry() if any(run.checkpoint for run in self.runs.values()) else {}
        gone = {name for name, asset in registry.items() if not asset.urls and not asset.path.exists()}
        return {run.run: str(run.checkpoint) for run in self.runs.values() if run.checkpoint in gone}

    @functools.cached_property
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
        return str(self.stored.get("sheet") or self.sheet)

    @functools.cached_property
    def claims(self) -> list[Claim]:
        """Claims of the preset's file; empty without such a file.

        Raises:
            UserError: A faulty file.
        """
        return load_claims(self.settings.claims).claims if self.settings.claims else []

    @functools.cached_property
    def trials(self) -> int:
        """Number of evaluation trials of the preset's protocols.

        Raises:
            UserError: A protocol has no valid ``trials``, or protocols differ.
        """
        paths = {self.settings.protocol, *map(self.protocol_of, self.runs.values())}
        counts = {path: self._protocol(path).trials for path in sorted(paths)}
        if len(set(counts.values())) > 1:
            raise UserError(self.sheet, f"protocols differ in trials: {counts}", "use one number within a preset")
        return counts[self.settings.protocol]

    # Networks.

    def network(self, run: SheetRow) -> Network | None:
        """The network that a row samples from; None for rows without a network."""
        if run.without_network:
            return None
        if run.checkpoint is not None:
            return self.checkpoint(run.checkpoint)
        return self.teacher_network(str(run.teacher)) if run.method == "teacher" else Network("students", run.first)

    def teacher_network(self, name: str) -> Network:
        """A teacher's network: trained here, or imported from its checkpoint."""
        checkpoint = self.settings.teachers[name].checkpoint
        return self.checkpoint(checkpoint) if checkpoint else Network("teachers", name)

    def guide(self, run: SheetRow) -> Network | None:
        """A row's guiding network, a teacher of the preset, a checkpoint or the null label; None without one."""
        if run.guide is None:
            return None
        if run.guide == NULL_LABEL:
            return Network("files", NULL_LABEL)
        return self.teacher_network(run.guide) if run.guide in self.settings.teachers else self.checkpoint(run.guide)

    def sampler_guide(self, run: SheetRow) -> Network | None:
        """The guiding network of a row's sampler; rows distilled here use their guide in training only."""
        return None if self.runs[run.first].trained_here else self.guide(run)

    def checkpoint(self, name: str) -> Network:
        """A published checkpoint after its import; a .safetensors file is used in place."""
        return Network("files", name) if _used_in_place(name) else Network("imports", self._import_folders[name])

    def place(self, network: Network | None) -> str | None:
        """Path of a network."""
        if network is None or network.kind == "files":
            return network and network.name
        return f"{self.results}/{FOLDERS[network.kind]}/{network.name}/network.safetensors"

    def _checkpoints(self) -> list[str | None]:
        named = [run.checkpoint for run in self.runs.values() if not run.without_network]
        others = (*self.settings.teachers, NULL_LABEL)
        return named + [run.guide for run in self.runs.values() if run.guide not in others]

    @functools.cached_property
    def imports(self) -> dict[str, str]:
        """Published checkpoints that the preset imports: folder name to asset id, address or path."""
        used = {run.teacher for run in self.runs.values() if run.trained_here or run.method == "teacher"}
        used |= {run.guide for run in self.runs.values()}
        named = self._checkpoints()
        named += [teacher.checkpoint for name, teacher in self.settings.teachers.items() if name in used]
        return {self._import_folders[name]: name for name in named if name in self._import_folders}

    @functools.cached_property
    def _import_folders(self) -> dict[str, str]:
        return import_folders([*self._checkpoints(), *(t.checkpoint for t in self.settings.teachers.values())])

    # Data.

    def dataset(self, name: str | None, where: str = "") -> dict[str, Any]:
        """Spec of a data set of the preset or of ``config/datasets.yaml``; by default the preset's."""
        name = name or self.settings.dataset
        if name not in self._datasets:
            self._datasets[name] = dataset_spec(name, where or self.source, self.settings.datasets)
        return dict(self._datasets[name])

    def dataset_of(self, run: SheetRow) -> dict[str, Any]:
        """Spec of the data set that a row is trained on and compared with."""
        return self.dataset(run.dataset, f"{self.sheet}: run '{run.run}'")

    def resolution(self, run: SheetRow) -> int:
        """Resolution of a row's images, by which methods choose judges: of its data set, else of its network.

        Raises:
            UserError: Neither gives it.
        """
        network, dataset = self.architecture_of(run) or {}, self.dataset_of(run)
        found = dataset.get("resolution") or network.get("kwargs", {}).get("img_resolution")
        if found is None:
            where = f"{self.sheet}: run '{run.run}'"
            raise UserError(where, f"data set '{dataset['name']}' has no resolution", "add it")
        return int(found)

    def teacher_data(self, name: str) -> dict[str, Any]:
        """Spec of the data set of a teacher."""
        return self.dataset(self.settings.teachers[name].dataset, f"{self.source}: teachers.{name}")

    def training_data(self, run: SheetRow) -> dict[str, Any]:
        """Spec of a training's data: only classes if the data set has counts and the method sees no images."""
        where = f"{self.sheet}: run '{run.run}'"
        spec, protocol = self.dataset_of(run), self.protocol(run)
        counts = dataset_entry(run.dataset or self.settings.dataset, where, self.settings.datasets).get("counts")
        references = any(source.kind == "dataset" for source in protocol.sources.values())
        if counts is None or references or find_method(run.method, where).real_images:
            return spec
        kept = {key: spec[key] for key in ("name", "resolution", "channels", "label_dim", "num_images") if key in spec}
        # Latents are stored with mean and standard deviation: two stored channels are one channel of networks.
        kept["channels"] //= 2 if protocol.decodes else 1
        return kept | {"kind": "counts", "counts": counts}


def import_folders(checkpoints: Iterable[str | None]) -> dict[str, str]:
    """Names of folders for imported checkpoints, by asset id, address or path.

    A folder has the asset's id, which may contain dots (``...-a1.2``), or the file's stem. Checkpoints of equal stems
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
