"""Jobs of a preset: what each makes, what it reads, and a digest that holds those of the jobs above it.

A job's spec is a file, ``results/<preset>/specs/<stage>/<name>.json``, with everything that decides its result; its
command names the file. The job's digest is a parameter of its rule: it holds the spec, the digests of the jobs that
make what the job reads, and the content of files that people give. So a changed setting reaches every product below
it, whatever was interrupted in between, and a setting that is changed back asks for nothing.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import os
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.features import extractor_entry
from eval.figures.layout import load_figure_layout
from eval.measuring.protocol import OF_ALL_TRIALS, load_protocol
from eval.results.conditions import Needs
from eval.results.extended import read_extended
from eval.results.retraining import load_retraining
from eval.results.sheet import SheetRow
from eval.results.stored import read_stored, unchanged_rows
from eval.tables.layout import load_table_layout
from sida.assets.registry import is_address, is_counted
from sida.config.families import NULL_LABEL
from sida.config.lookup import MONITOR, ROOT
from sida.config.recipe import EXCLUDED_FROM_DIGEST, EvaluationPoints
from sida.config.samplers import SAMPLER_KINDS
from sida.errors import UserError
from sida.files.atomic import sha256_file, sha256_json, write_text
from sida.files.ordinary import open_ordinary
from workflow.preset.archives import Archives
from workflow.preset.checks import check_references
from workflow.preset.files import read_preset
from workflow.preset.rows import FOLDERS, Network

#: Kinds of things that jobs read; rules put their names into paths.
KINDS = (*FOLDERS, "downloads", "files")
#: Settings of an evaluation about its times; the other settings are those of the monitor.
_POINTS = {field.name for field in dataclasses.fields(EvaluationPoints)}


@dataclass(frozen=True)
class Job:
    """A job of the workflow.

    Attributes:
        spec: Everything that its command reads.
        needs: Names of what it reads, by kind.
        own: SHA-256 of the part of the spec that can change the result.
        digest: SHA-256 of that part, of the jobs above, and of the content of files that people give.
    """

    spec: Mapping[str, Any]
    needs: Mapping[str, list[str]]
    own: str
    digest: str


class Preset(Archives):
    """A validated preset: its rows, and the jobs behind its products.

    Args:
        config: Settings as :func:`~workflow.preset.files.read_preset` reads them (Snakemake's overrides included).
        source: File named in errors.
        own: Folders of the preset, which are searched first for files, data sets, checkpoints, protocols and layouts
            that the preset or its sheet names (:mod:`sida.config.lookup`).

    Raises:
        UserError: Any fault in the configuration, the sheet or between them.
    """

    def __init__(self, config: Mapping[str, Any], source: str = "config", own: Sequence[Path] = ()) -> None:
        super().__init__(config, source, own)
        self._trainings: dict[str, Job] = {}
        self.common = {"threads": self.settings.threads, "device": self.settings.device}
        check_references(self)

    @classmethod
    def load(cls, *paths: str | Path, changed: Mapping[str, Any] | None = None) -> Preset:
        """Loads a preset file; keys of further files win, as with Snakemake's ``--configfile``."""
        return cls(*read_preset(paths, changed))

    def job(self, stage: str, name: str) -> Job:
        """A job by the folder of its spec and its name there."""
        if stage in ("tables", "figures"):
            return self.shown(stage, name)
        if stage == "preset":
            return self.everything
        found: Job = getattr(self, _MAKERS[stage])(name)
        return found

    def _job(
        self,
        stage: str,
        spec: Mapping[str, Any],
        needs: Mapping[str, list[str]],
        above: Iterable[Job] = (),
        raw: Iterable[str | Path] = (),
    ) -> Job:
        """A job with its digest.

        Args:
            stage: Folder of its spec.
            spec: Its spec.
            needs: Names of what it reads; networks are made by jobs above it.
            above: Further jobs above it.
            raw: Further files that people give.
        """
        jobs = [*map(self.teacher_training, needs.get("teachers", [])), *map(self.training, needs.get("students", []))]
        jobs += above
        given = [path for path in needs.get("files", []) if path not in self.archives]
        given += [source for name in needs.get("imports", []) if not is_address(source := self.imports[name])]
        files = {str(path): content_digest(path) for path in (*given, *raw) if os.path.exists(path)}
        own = _own_digest(stage, spec)
        return Job(spec, needs, own, sha256_json([own, sorted({job.digest for job in jobs}), files]))

    # Trainings.

    @functools.cache  # noqa: B019 - a preset lives as long as its run
    def teacher_training(self, name: str) -> Job:
        """Training of a teacher, by ``sida train-teacher``."""
        teacher, dataset = self.settings.teachers[name], self.teacher_data(name)
        assert teacher.network is not None
        assert teacher.training is not None
        spec = {"name": name, "dataset": dataset, "network": teacher.network, **teacher.training}
        spec |= {"seed": self.settings.seed if teacher.seed is None else teacher.seed, **self.common}
        files = [*self._archive(dataset), *_code([teacher.network["class"]])]
        return self._job("teachers", spec, _needs(files=files))

    def training(self, name: str) -> Job:
        """Training of a row, by ``sida distill``."""
        # Parents come first: Python's stack is shorter than a long chain of rows.
        new = itertools.takewhile(lambda row: row not in self._trainings, self.lineage(name))
        for row in reversed([*new]):
            self._trainings[row] = self._training(row)
        return self._trainings[name]

    def _training(self, name: str) -> Job:
        run, dataset = self.runs[name], self.training_data(self.runs[name])
        recipe = dict(self.recipe(run))
        evaluation = recipe.pop("evaluation", None)
        if evaluation is not None:
            kwargs: dict[str, Any] = {"dataset": dataset, "protocol": self._watched(self.protocol_of(run))}
            kwargs |= {"device": self.settings.device}
            kwargs |= {key: value for key, value in evaluation.items() if key not in _POINTS}
            points = {key: value for key, value in evaluation.items() if key in _POINTS}
            evaluation = {**points, "monitor": MONITOR, "kwargs": kwargs}
        init = self.network(self.runs[run.init]) if run.init else None
        teacher = None if self.from_scratch(run) else self.teacher_network(str(run.teacher))
        guide = self.guide(run)
        spec: dict[str, Any] = {"name": name, "method": run.method, "dataset": dataset}
        spec |= {"teacher": self.place(teacher), "init": self.place(init), **recipe, "evaluation": evaluation}
        spec |= {"seed": self.seed_of(run), **self.common}
        given = {"alpha": run.alpha, "guide": self.place(guide)}
        spec |= {key: value for key, value in given.items() if value is not None}
        files = [*self._archive(dataset), *_code([run.method])]
        needs = _needs([teacher, guide, init], files=files)
        needs["downloads"] += self._training_downloads(run, dataset)
        return self._job("students", spec, self._measuring(run, needs) if evaluation is not None else needs)

    @functools.cache  # noqa: B019
    def _watched(self, path: str) -> dict[str, Any]:
        """The part of a protocol that evaluations during training use; other changes are no reason to train again."""
        protocol = self._protocol(path)
        keys = tuple(metric.key for metric in protocol.watched)
        return (protocol.part(keys, keys) if keys else protocol).content()

    def missing_data(self, job: str, made: Container[str]) -> str | None:
        """Path of a data set that a training or measurement opens and that is neither there nor ``made``; None without.

        A measurement opens its references after the trainings that it waits for.
        """
        stage, _, name = job.partition("/")
        datasets = [self.job(stage, name).spec["dataset"]]
        if stage == "measurements":
            run = self.runs[name]
            used = [source for source in self.protocol(run).used_sources.values() if source.kind == "dataset"]
            datasets = datasets if self._drawn_from_data(run) or not all(source.fixed for source in used) else []
            datasets += [self.dataset(source.dataset) for source in used if source.fixed]
        # A kind from outside may mean something else by its path.
        paths = (dataset.get("path") for dataset in datasets if ":" not in dataset.get("kind", ""))
        return next((path for path in paths if path and path not in made and not os.path.exists(path)), None)

    def _training_downloads(self, run: SheetRow, dataset: Mapping[str, Any]) -> list[str]:
        """Registered downloads that a row's method needs for its training."""
        options = self.options(run)
        counted = [str(dataset["counts"])] if is_counted(dataset.get("counts")) else []
        return counted + list(options.assets(self.resolution(run)) if hasattr(options, "assets") else [])

    def gpus(self, job: Job) -> int:
        """GPUs of a training: those of the preset, or fewer if micro-batches cannot be divided evenly."""
        return most_gpus(self.settings.gpus, job.spec["batch_size"], job.spec.get("batch_gpu"))

    # Measurements.

    @functools.cache  # noqa: B019
    def measurement(self, name: str) -> Job:
        """Measurement of a row, by ``sida measure``: the generator, its sampler, and the protocol."""
        run, protocol = self.runs[name], self.protocol(self.runs[name])
        network, guide, dataset = self.network(run), self.sampler_guide(run), self.dataset_of(run)
        spec: dict[str, Any] = {"run": name, "method": run.method}
        spec |= {"network": self.place(network), "guide": self.place(guide)}
        spec |= {"sampler": self.sampler_of(run), "nfe": self.nfe(run), "dataset": dataset}
        spec |= {"protocol": protocol.content(), **self.common}
        opened = self._drawn_from_data(run) or any(source.kind == "dataset" for source in protocol.sources.values())
        needs = _needs([network, guide], files=self._archive(dataset) if opened else [])
        if run.method == "external" and run.without_network and (source := source_of(str(run.checkpoint))):
            needs["files"].append(source)
        return self._job("measurements", spec, self._measuring(run, needs))

    def _drawn_from_data(self, run: SheetRow) -> bool:
        """Whether a row's images, or their classes, are drawn from its data set."""
        protocol, classes = self.protocol(run), bool(self.dataset_of(run).get("label_dim"))
        counted = protocol.label_dist != "empirical" or protocol.labels is not None
        return run.method == "data" or (classes and not run.without_network and not counted)

    def sample(self, name: str) -> Job:
        """Images of a row's trial, ``<row>/trial-<t>``, by ``sida sample``."""
        row, trial = name.rsplit("/trial-", 1)
        run, dataset, above = self.runs[row], self.dataset_of(self.runs[row]), self.measurement(row)
        protocol, (first, last) = self.protocol(run), self.protocol(run).seeds(int(trial))
        # The data set is not needed without classes, or if its classes are counted.
        classes = protocol.label_dist if dataset.get("label_dim") else "uniform"
        with_data = run.method == "data" or (classes == "empirical" and protocol.labels is None)
        spec = {"network": above.spec["network"], "gnet": above.spec["guide"], "sampler": self.sampler_of(run)}
        spec |= {"seeds": f"{first}-{last}", "class_labels": self.class_counts(run) or classes}
        spec |= {"dataset": dataset if with_data else None, **self.common}
        return self._job("samples", spec, above.needs)

    @property
    def sampled(self) -> list[str]:
        """Rows whose images ``sida sample`` can write: rows with a sampler of this package and without a decoder."""
        return [
            name
            for name, run in self.runs.items()
            if not self.protocol(run).decodes and self.sampler_of(run)["kind"] in SAMPLER_KINDS
        ]

    def parts(self) -> list[tuple[int, int, list[str]]]:
        """Jobs of measuring: first trial, last trial, rows; samplers of many steps have several."""
        size, slow = self.settings.trials_per_job or self.trials, list[str]()
        if size < self.trials:
            slow = [name for name, run in self.runs.items() if (self.nfe(run) or 1) > 1]
        quick = list(self.runs) if not slow else [name for name in self.runs if name not in {*slow}]
        parts = [(0, self.trials - 1, quick)] if quick else []
        return parts + [(at, min(at + size, self.trials) - 1, slow) for at in range(0, self.trials, size) if slow]

    def _archive(self, dataset: Mapping[str, Any]) -> list[str]:
        """The archive of a data set, if the workflow makes it."""
        return [path] if (path := dataset.get("path")) in self.archives else []

    def _measuring(self, run: SheetRow, needs: dict[str, list[str]]) -> dict[str, list[str]]:
        """Adds what a row's protocol reads: downloads, archives, and files of its custom kinds and extractors."""
        protocol = self.protocol(run)
        named = [name for metric in protocol.metrics for name in (metric.kind, metric.extractor)]
        fixed = [self.dataset(name, at) for at, name in protocol.fixed_datasets().items()]
        needs["downloads"] += self.downloads(run.run)
        needs["files"] += [*_code(named), *(path for dataset in fixed for path in self._archive(dataset))]
        return needs

    def downloads(self, name: str) -> list[str]:
        """Registered downloads for measuring a row, besides its network: references, extractors, a decoder."""
        run, protocol = self.runs[name], self.protocol(self.runs[name])
        needed = [source.asset for source in protocol.sources.values()]
        needed += [asset for extractor in protocol.extractors() for asset in extractor_entry(extractor).assets]
        if protocol.decodes and not run.without_network:
            needed += self.latents(run).assets(self.sampler_of(run).get("decoder"))
        if isinstance(counts := self.class_counts(run), str):
            needed.append(counts)
        return sorted({asset for asset in needed if asset})

    # Tables, figures and the rest.

    @functools.cache  # noqa: B019
    def needs(self, kind: str, name: str, *, every: bool = False) -> Needs:
        """Needs of a table or figure (kind ``tables`` or ``figures``), of its measurable or of all rows."""
        return find_needs(kind, self.layout(kind, name), self.runs if every else self.measurable)

    @functools.cache  # noqa: B019
    def shown(self, kind: str, name: str) -> Job:
        """A table or figure: only its own rows, so that it can be made alone."""
        path, every, needs = self.layout(kind, name), self.needs(kind, name, every=True), self.needs(kind, name)
        named = {*every.measured, *every.networks}
        spec: dict[str, Any] = {"runs": [run.cells for name, run in self.runs.items() if name in named]}
        if kind == "figures":
            spec["generators"] = [self.measurement(run).spec for run in (every.networks if every.sampled else [])]
        elif not load_table_layout(path).shows_settings:
            if self.settings.retraining:
                spec["retraining"] = dataclasses.asdict(load_retraining(self.settings.retraining))
        else:
            trained = [self.runs[run] for run in every.networks if self.runs[run].trained_here]
            spec["gpus"] = self.settings.gpus
            spec["students"] = {
                run.run: {"settings": self.training(run.run).spec, "network": self.architecture_of(run)}
                for run in trained
            }
        # A table of measurements needs the file even if none of its rows can be measured.
        collected = needs.measured or (kind == "tables" and self.settings.table_mode == "measured")
        read = {"collected": [name] if collected else [], **self._collected(needs.measured)}
        read |= self.networks(needs.networks)
        rows = dict.fromkeys([*needs.measured, *needs.networks])
        return self._job(kind, spec, read, map(self.measurement, rows), [path])

    def _collected(self, runs: Iterable[str]) -> dict[str, list[str]]:
        """Rows whose trials are measured here, and those that are taken from stored results."""
        here, rows = [run for run in runs if run not in self.taken], list(runs)
        return {"measured": here, "stored": [run for run in rows if run in self.taken], "rows": rows}

    def networks(self, runs: Iterable[str]) -> dict[str, list[str]]:
        """Networks and guides that rows are sampled from; training logs are beside the networks of students.

        Rows that are taken from stored results have no job.
        """
        rows = [self.runs[run] for run in runs if run not in self.taken]
        return _needs(network for row in rows for network in (self.network(row), self.sampler_guide(row)))

    @functools.cached_property
    def collection(self) -> Job:
        """The file of all measurements."""
        return self._job("collected", {}, self._collected(self.measurable), map(self.measurement, self.measurable))

    @functools.cached_property
    def verdicts(self) -> Job:
        """The claims: measurements of all rows, and logs beside their networks."""
        files = filter(None, [self.settings.claims, self.settings.retraining, self.judged_sheet])
        return self._job("claims", {}, self.networks(self.measurable), [self.collection], files)

    @functools.cached_property
    def everything(self) -> Job:
        """The whole preset."""
        shown = [self.shown(kind, name) for kind in ("tables", "figures") for name in getattr(self.settings, kind)]
        return self._job("preset", dataclasses.asdict(self.settings), {}, [*shown, self.collection, self.verdicts])

    @functools.cached_property
    def taken(self) -> frozenset[str]:
        """Rows that are taken from stored results: those whose settings have the stored digest."""
        if not self.stored:
            return frozenset()
        known = read_stored(self.stored["folder"])["rows"]
        asked = {run: row_digest(self, run, f"results/{self.stored['preset']}") for run in known if run in self.runs}
        return frozenset(unchanged_rows(self.stored["folder"], asked))

    def write(self, jobs: Iterable[str]) -> None:
        """Writes specs, ``<stage>/<name>``, whose content changed; other files keep their times.

        Raises:
            UserError: A file cannot be read or written.
        """
        for job in jobs:
            path, (stage, _, name) = f"{self.results}/specs/{job}.json", job.partition("/")
            text = json.dumps(self.job(stage, name).spec, sort_keys=True, indent=1) + "\n"
            try:
                if not Path(path).is_file() or Path(path).read_bytes() != text.encode():
                    write_text(path, text)
            except OSError as error:
                raise UserError(path, f"cannot be written ({error.strerror})", "fix that, then start again") from None


#: Methods of :class:`Preset` that make jobs, by the folder of their specs.
_MAKERS = {
    "teachers": "teacher_training",
    "students": "training",
    "measurements": "measurement",
    "samples": "sample",
}


def most_gpus(wished: int, batch_size: int, batch_gpu: int | None) -> int:
    """Largest number of GPUs up to ``wished`` with equal numbers of whole micro-batches; 0 for 0."""
    rounds = batch_size if batch_gpu is None else batch_size // batch_gpu
    return max((number for number in range(1, wished + 1) if rounds % number == 0), default=0)


def find_needs(kind: str, path: Path, runs: Mapping[str, SheetRow]) -> Needs:
    """Needs of a layout; rows that are not in the sheet are left out.

    A layout that cannot be resolved needs every row; its builder reports the fault.

    Args:
        kind: ``tables`` or ``figures``.
        path: The layout.
        runs: The sample sheet.
    """
    try:
        found = (load_table_layout if kind == "tables" else load_figure_layout)(path).needs(runs)
    except UserError:
        return Needs(list(runs), list(runs))
    # Measured rows and networks are separate: a figure may draw measured levels beside curves of training logs.
    measured, networks = ([run for run in runs if run in names] for names in ({*found.measured}, {*found.networks}))
    return dataclasses.replace(found, measured=measured, networks=networks)


def row_digest(preset: Preset, run: str, results: str = "") -> str:
    """SHA-256 of everything that decides a row's images: sampler, training, teacher, guide and parent rows.

    Metrics are no part of it, since each value has an identity.

    Args:
        preset: The preset.
        run: A row of its sheet.
        results: Folder of results whose networks the digest names; by default the preset's.
    """
    results = results or preset.results
    row, spec = preset.runs[run], preset.measurement(run).spec
    images = load_protocol(spec["protocol"]).image_facts()
    asked: dict[str, Any] = {"measure": {**spec, "protocol": images}}
    if (first := preset.runs[row.first]).trained_here:
        asked["student"] = _deciding("students", preset.training(first.run).spec)
        asked["parents"] = {parent: row_digest(preset, parent, results) for parent in preset.parents(first)}
    trained = {key: name for key in ("teacher", "guide") if (name := getattr(row, key)) in preset.trained_teachers()}
    asked |= {key: preset.teacher_training(name).spec for key, name in trained.items()}
    ours, named = (json.dumps(f"{folder}/")[:-1] for folder in (preset.results, results))
    # A path in the checkout is relative to it, from whatever folder the command starts.
    checkout = json.dumps(f"{ROOT}/")[:-1]
    return sha256_json(json.loads(json.dumps(asked).replace(checkout, '"').replace(ours, named)))


def any_of(names: Iterable[str]) -> str:
    """Pattern for a wildcard with one of these names; without names a pattern that never matches."""
    return "|".join(map(re.escape, sorted(names))) or "none"


def source_of(name: str) -> str | None:
    """File behind a name: stored images, or the source of a ``module:object``."""
    module = name.partition(":")[0].replace(".", "/")
    return next((path for path in (name, f"{module}.py", f"{module}/__init__.py") if os.path.exists(path)), None)


@functools.cache
def content_digest(path: str | Path) -> str:
    """SHA-256 of a file that people give: of its bytes; of a YAML file's content with the files that it extends.

    For a folder: SHA-256 of names, sizes and times of its files, except hidden ones; fast for 50,000 files.
    """
    if os.path.isdir(path):
        return _folder_digest(path)
    if Path(path).suffix in (".yaml", ".yml"):
        return hashlib.sha256(json.dumps(read_extended(Path(path)), sort_keys=True, default=str).encode()).hexdigest()
    open_ordinary(path).close()
    return sha256_file(path)


def _folder_digest(folder: str | Path) -> str:
    digest = hashlib.sha256()
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders.sort()
        digest.update(f"{os.path.relpath(parent, folder)}/\n".encode(errors="surrogateescape"))
        for name in sorted(files):
            if not name.startswith("."):
                digest.update(f"{name} {_file_state(os.path.join(parent, name))}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _file_state(path: str) -> str:
    try:
        status = os.stat(path)
    except OSError:
        # The measuring job reports the fault.
        return "unreadable"
    return f"{status.st_size} {status.st_mtime_ns}"


def _needs(networks: Iterable[Network | None] = (), files: Iterable[str] = ()) -> dict[str, list[str]]:
    """Names by kind; a network is named once."""
    found: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for kind, name in dict.fromkeys(filter(None, networks)):
        # The null label is a guide without a file.
        if name != NULL_LABEL:
            found[kind].append(name)
    found["files"] += files
    return found


def _code(names: Iterable[str]) -> list[str]:
    """Source files of custom objects among names."""
    return [path for name in dict.fromkeys(names) if ":" in name and (path := source_of(name))]


def _own_digest(stage: str, spec: Mapping[str, Any]) -> str:
    text = json.dumps(_deciding(stage, spec), sort_keys=True, indent=1) + "\n"
    return hashlib.sha256(text.encode()).hexdigest()


def _deciding(stage: str, spec: Mapping[str, Any]) -> Mapping[str, Any]:
    """A spec without settings that cannot change the result."""
    if stage in ("teachers", "students"):
        spec = {key: value for key, value in spec.items() if key not in EXCLUDED_FROM_DIGEST}
    if stage == "students" and (evaluation := spec.get("evaluation")):
        kwargs = _without_cache(evaluation["kwargs"])
        kwargs["protocol"] = {key: value for key, value in kwargs["protocol"].items() if key not in OF_ALL_TRIALS}
        spec = {**spec, "evaluation": {**evaluation, "kwargs": kwargs}}
    return _without_cache(spec) if stage in _MAKERS else spec


def _without_cache(spec: Mapping[str, Any]) -> dict[str, Any]:
    dataset = spec.get("dataset")
    kept = {key: value for key, value in dataset.items() if key != "cache"} if dataset else dataset
    return {**spec, "dataset": kept} if dataset else dict(spec)
