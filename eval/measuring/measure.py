"""Measures trials of a generator under a protocol in one process, with one file per trial; resumes by trial.

Keeps finished trials of a job while the job measures further trials.

Spec of ``sida-eval measure``: a generator, its sampler, and the protocol.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from eval.features import EXTRACTORS
from eval.features.base import Extractor
from eval.features.registry import make_extractors
from eval.measuring.pipeline import run_pass, sized
from eval.measuring.protocol import Protocol, load_protocol
from eval.measuring.references import Reference, load_references, records_of
from eval.measuring.sources import CallableSource, DataSource, NetworkSource, Source
from eval.measuring.trial import TrialSums, compute_metrics
from eval.results.identity import Identity
from eval.results.measurements import extended, missing_metrics, read_measurement, trial_path, write_measurement
from sida.assets import cache_dir, fetch_many, find_asset, load_registry
from sida.assets.hub import offline
from sida.config.samplers import SAMPLER_KINDS
from sida.config.settings import Count, Natural, Settings, from_mapping
from sida.data import Dataset, load_dataset
from sida.errors import SettingError, UserError, suggestion
from sida.files.atomic import sha256_json
from sida.progress import Progress
from sida.runtime import provenance
from sida.runtime.devices import take_device, tf32


class FinishedTrials:
    """Copies of finished trials of one job, kept until the job ends.

    If a job fails or is killed, a workflow manager removes all its declared outputs, including finished trials;
    undeclared files stay.

    Args:
        out: Folder of the run's measurements; None has copies only.
        trials: Trial numbers of the job; for a single trial nothing is kept, because the job ends with it.
        folder: Folder of the copies; None takes ``<out>/finished``.
    """

    def __init__(self, out: str | os.PathLike[str] | None, trials: Sequence[int], folder: Path | None = None) -> None:
        self._out, self._trials = out, trials if len(trials) > 1 else ()
        self._folder = folder or Path(out or "") / "finished"

    def __bool__(self) -> bool:
        """Whether there may be copies of an earlier attempt."""
        return bool(self._trials) and self._folder.is_dir()

    def write(self, trial: int, record: Mapping[str, Any]) -> None:
        """Writes a measurement to its declared path, and a copy for a later attempt of the job.

        Raises:
            UserError: A metric that is not finite, or a full disk.
        """
        for folder in (self._folder if trial in self._trials else None, self._out):
            if folder is not None:
                write_measurement(trial_path(folder, trial), record)

    def take_back(
        self, trial: int, spec_sha256: str, identities: Mapping[str, Identity], names: Mapping[str, Any]
    ) -> dict[str, Any] | None:
        """Restores a trial of an earlier attempt if the same code measured the same values; returns its record."""
        copy = trial_path(self._folder, trial)
        if trial not in self._trials or missing_metrics(copy, spec_sha256, identities, names):
            return None
        record = read_measurement(copy)
        latest = [record["environment"], *record.get("added", {}).values()][-1]
        if latest.get("code") != provenance.source_digest():
            return None
        if self._out is not None:
            write_measurement(trial_path(self._out, trial), record)
        return record

    def forget(self) -> None:
        """Removes the copies after the last trial of the job."""
        for trial in self._trials:
            trial_path(self._folder, trial).unlink(missing_ok=True)
        # Another job of the same run may have copies there.
        with contextlib.suppress(OSError):
            self._folder.rmdir()


NETWORK_SAMPLERS = [name for name, kind in SAMPLER_KINDS.items() if kind.made_by]
SAMPLERS = (*SAMPLER_KINDS, "python", "images")


@dataclass(frozen=True, kw_only=True)
class MeasureSpec(Settings):
    """A generator with its sampler and protocol (``docs/architecture.md``, "Generator to measure").

    Attributes:
        run: Id of the row.
        method: ``teacher``, ``sid``, ``sida``, ``sid2a``, ``data`` or the name of another method.
        sampler: ``{kind: one_step, init_sigma}``, ``{kind: heun, num_steps, ...}``, ``{kind: data}``,
            ``{kind: python, callable: "module:function", kwargs}`` or ``{kind: images, path}``.
        protocol: Name, path or content of the protocol.
        dataset: Data set for labels, image size, and references that are computed here.
        network: File of the network; None for other sources.
        guide: File of a guiding network, for samplers with guidance.
        vae: Folder of the decoder of latent networks; None takes the registered one.
        label: Name for people.
        family: Group of rows in tables.
        nfe: Network evaluations per image.
        references: File by reference key (``"*"``: a folder to search).
        extractors: Options by extractor name, e.g. ``{"inception": {"path": ...}}``.
        batch_size: Images per batch; None chooses by device.
        threads: CPU threads; 0 keeps torch's choice.
        device: Torch device.
    """

    run: str
    method: str
    sampler: dict[str, Any]
    protocol: Any
    dataset: dict[str, Any] | None = None
    network: str | None = None
    guide: str | None = None
    vae: str | None = None
    label: str = ""
    family: str = ""
    nfe: Count | None = None
    references: dict[str, Any] = field(default_factory=dict)
    extractors: dict[str, Any] = field(default_factory=dict)
    batch_size: Count | None = None
    threads: Natural = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        super().__post_init__()
        kind = self.sampler.get("kind")
        if kind not in SAMPLERS:
            raise SettingError("sampler.kind", f"no such sampler '{kind}'{suggestion(str(kind), SAMPLERS)}")
        if (kind in NETWORK_SAMPLERS) != (self.network is not None):
            raise SettingError(
                "network", f"must be {'a file' if kind in NETWORK_SAMPLERS else 'null'} for sampler '{kind}'"
            )
        needed = {"python": "callable", "images": "path", "heun": "num_steps"}.get(str(kind))
        if needed and needed not in self.sampler:
            raise SettingError(f"sampler.{needed}", "is missing", f"sampler '{kind}' needs it")
        if self.dataset is None and kind == "data":
            raise SettingError("dataset", "is missing", "sampler 'data' resamples it")


class Measurer:
    """A generator to measure, with source, extractors and references, each loaded when first needed.

    Args:
        spec: Spec of the measurement.
        where: Place named in errors.
    """

    def __init__(self, spec: Mapping[str, Any] | MeasureSpec, where: str = "--spec") -> None:
        self.spec = spec if isinstance(spec, MeasureSpec) else from_mapping(MeasureSpec, spec, where)
        self.protocol: Protocol = load_protocol(self.spec.protocol)
        take_device(self.spec.device, where)
        # With a misspelt key the published file would be fetched instead of the given one.
        self._known("references", self.spec.references, ["*", *self.protocol.references], where)
        self._known("extractors", self.spec.extractors, [*EXTRACTORS, *self.protocol.extractors()], where)
        given = [key for key, source in self.protocol.sources.items() if source.kind == "given"]
        if given and not self.spec.references.keys() & {*given}:
            raise UserError(where, f"protocol '{self.protocol.name}' compares two sets", "add --against FOLDER|ZIP|NPZ")

    def _known(self, field: str, given: Iterable[str], known: Sequence[str], where: str) -> None:
        for key in given:
            if key not in known:
                raise UserError(
                    f"{where}.{field}",
                    f"protocol '{self.protocol.name}' knows no '{key}'{suggestion(key, known)}",
                    "name one of these",
                )

    @functools.cached_property
    def dataset(self) -> Dataset:
        """The data set of the spec."""
        if self.spec.dataset is None:
            raise UserError(f"run '{self.spec.run}'", "dataset: is missing", "its classes or references are needed")
        return load_dataset(self.spec.dataset)

    @functools.cached_property
    def extractors(self) -> dict[str, Extractor]:
        """Feature networks of the protocol."""
        self._fetch()
        return make_extractors(self.protocol.extractors(), self.spec.device, self.spec.extractors)

    def _fetch(self) -> None:
        """Fetches all registered files that the spec does not replace, so that a fault names all of them at once.

        Raises:
            UserError: A download is missing; the message has the one command for all of them.
        """
        replaced = self.spec.references.keys() - {"against"} or self.spec.extractors
        registry = load_registry()
        assets = [] if replaced else [find_asset(registry, name) for name in self.protocol.assets()]
        missing = [asset.id for asset in assets if not (cache_dir() / asset.target).exists()]
        if not missing:
            return
        remedy = f"fetch them where there is a network: {self.protocol.fetching()}"
        if offline():
            fault = f"SIDA_OFFLINE forbids {len(missing)} downloads ({', '.join(missing)})"
            raise UserError(f"protocol '{self.protocol.name}'", fault, remedy)
        try:
            fetch_many(missing)
        except UserError as error:
            raise UserError(f"protocol '{self.protocol.name}'", error, remedy) from None

    @functools.cached_property
    def references(self) -> dict[str, Reference]:
        """References of the protocol, by key."""
        dataset = (lambda: self.dataset) if self.spec.dataset is not None else None
        return load_references(self.protocol, self.extractors, self.spec.references, dataset)

    @functools.cached_property
    def source(self) -> Source:
        """Source of the images."""
        kind, sampler = self.spec.sampler["kind"], self.spec.sampler
        repeats = bool(sampler.get("allow_duplicates", False))
        if kind == "data":
            return DataSource(self.dataset, self.spec.vae, self.spec.device)
        if kind == "python":
            return CallableSource(sampler["callable"], sampler.get("kwargs", {}), repeats)
        if kind == "images":
            from eval.measuring.sources import ImageFiles

            return ImageFiles(sampler["path"], self.protocol, repeats)
        return NetworkSource(
            str(self.spec.network),
            sampler,
            self.protocol,
            lambda: self.dataset,
            self.spec.guide,
            self.spec.vae,
            self.spec.device,
            self.spec.dataset,
        )

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """Identity of the images (:meth:`~eval.measuring.sources.Source.identity`)."""
        return self.source.identity()

    @functools.cached_property
    def digest(self) -> str:
        """Digest of everything that decides the images of a trial; values have identities besides."""
        return sha256_json({"run": self.spec.run, "source": self.identity, "images": self.protocol.image_facts()})

    @functools.cached_property
    def identities(self) -> dict[str, Identity]:
        """Identity of each metric's values; a trial's value with the same identity is not measured again."""
        references = records_of(self.protocol.metrics, self.references)
        return {
            metric.key: self.protocol.identity(
                metric.key,
                references.get(metric.key, {}).get("sha256", ""),
                self.extractors[metric.extractor].sha256,
            )
            for metric in self.protocol.metrics
        }

    @property
    def batch_size(self) -> int:
        """Images per batch."""
        if self.spec.batch_size is not None:
            return self.spec.batch_size
        return default_batch_size(self.protocol, small=250)

    def sums(
        self,
        trial: int,
        begin: int,
        end: int,
        progress: Progress | None = None,
        done: int = 0,
        metrics: Collection[str] | None = None,
        ready: Callable[[], None] | None = None,
    ) -> TrialSums:
        """Sums over the images ``begin … end − 1`` of a trial, for all metrics or some of them.

        ``ready`` is called when the first images have the protocol's size and the feature networks are loaded.
        """
        protocol = self.protocol if metrics is None else self.protocol.part(metrics)
        first = self.protocol.seeds(trial)[0]
        seeds = range(first + begin, first + end)
        # Messages name files by path, and generators by the id of the row.
        origin = self.spec.sampler["path"] if self.spec.sampler["kind"] == "images" else f"run '{self.spec.run}'"
        images = sized(self.source.batches(seeds, self.batch_size), self.protocol, origin)
        # The first batch is drawn before feature networks load: a wrong size must not wait for a download.
        with tf32(self.protocol.allow_tf32):
            images = itertools.chain([next(images)], images)
        extractors = {name: self.extractors[name] for name in protocol.extractors()}
        if ready is not None:
            ready()
        report = None if progress is None else lambda count: progress.update(done + count)
        return run_pass(
            images,
            extractors,
            TrialSums(protocol, self.spec.device),
            first=begin,
            prefetched=self._prefetched(),
            progress=report,
        )

    def _prefetched(self) -> int:
        """Number of batches that a thread prepares: for image files, and on a GPU without TF32 feature networks."""
        if self.spec.sampler["kind"] == "images":
            return 2
        alone = any(extractor.tf32 for extractor in self.extractors.values())
        return 2 if self.spec.device.startswith("cuda") and not alone else 0

    def names(self) -> dict[str, Any]:
        """Names of run and protocol in a trial's record; fields that change a number are also in the digest."""
        names = {key: getattr(self.spec, key) for key in ("run", "method", "label", "family", "nfe")}
        nimg = getattr(self.source, "metadata", {}).get("nimg")
        return {**names, "kept_at": nimg if isinstance(nimg, int) else None, "protocol": self.protocol.record()}

    def record(self, trial: int, sums: TrialSums, seconds: float | None = None) -> dict[str, Any]:
        """The measurement of a whole trial, with the metrics of its sums."""
        values, details = compute_metrics(sums, self.references, self.spec.device)
        used = records_of(sums.protocol.metrics, self.references)
        record = {
            **self.names(),
            "trial": trial,
            "n": self.protocol.num_samples,
            "seeds": list(self.protocol.seeds(trial)),
            "sampler": self.spec.sampler,
            "source": self.identity,
            "metrics": values,
            "details": details,
            "reference": next(iter(used.values()), {}),
            "metric_references": used,
            "extractors": {name: self.extractors[name].sha256 for name in sums.protocol.extractors()},
            "network_sha256": getattr(self.source, "sha256", None),
            "spec_sha256": self.digest,
            "environment": {**provenance.environment(self.spec.device), "code": provenance.source_digest()},
        }
        return record if seconds is None else {**record, "seconds": round(seconds, 3)}


def measure(spec: Mapping[str, Any], out: str | os.PathLike[str], trials: Sequence[int]) -> list[dict[str, Any]]:
    """Measures the trials of a generator and writes ``<out>/trial-<t>.json``.

    Existing values of the same images and settings are kept, so that a metric added to a protocol is measured alone; so
    are trials that an earlier attempt finished with the same code.

    Args:
        spec: See :class:`MeasureSpec`.
        out: Folder of this run's measurements.
        trials: Trial numbers.

    Returns:
        The records of the trials that this call measured.

    Raises:
        UserError: Bad spec, missing files, or broken images.
    """
    measurer = Measurer(spec)
    protocol = measurer.protocol
    for trial in trials:
        if trial >= protocol.trials:
            raise UserError(
                "--trials", f"protocol '{protocol.name}' has the trials 0-{protocol.trials - 1}, got {trial}"
            )
    finished, names = FinishedTrials(out, trials), measurer.names()
    with threads(measurer.spec.threads):
        asked = (measurer.digest, measurer.identities, names)
        missing = {trial: missing_metrics(trial_path(out, trial), *asked) for trial in trials}
        wanted = [trial for trial in trials if missing[trial] and not finished.take_back(trial, *asked)]
        done = (len(trials) - len(wanted)) * protocol.num_samples
        total = len(trials) * protocol.num_samples
        progress = Progress(f"measure {measurer.spec.run}", total, "img", done=done)
        records: list[dict[str, Any]] = []

        def record(trial: int, sums: TrialSums, seconds: float, done: int) -> None:
            found = measurer.record(trial, sums, seconds)
            whole = len(missing[trial]) == len(protocol.metrics)
            records.append(found if whole else extended(trial_path(out, trial), found))
            finished.write(trial, records[-1])
            progress.update(done, _headline(protocol, records[-1]), force=done == total)

        with overlapped(measurer.spec) as later:
            for trial in wanted:
                start = time.monotonic()
                sums = measurer.sums(trial, 0, protocol.num_samples, progress, done, missing[trial])
                done += protocol.num_samples
                later(functools.partial(record, trial, sums, time.monotonic() - start, done))
    finished.forget()
    return records


@contextmanager
def overlapped(spec: MeasureSpec) -> Iterator[Callable[[Callable[[], None]], None]]:
    """Runs functions one after the other, in a thread unless the measurement has one core.

    So a GPU does not wait for metrics, and the cores of a processor that a metric leaves idle measure the next trial.
    An exception is raised when the next function is submitted, or at the end.
    """
    if spec.device == "cpu" and (spec.threads or os.cpu_count()) == 1:
        yield lambda function: function()
        return
    with ThreadPoolExecutor(1, "metrics") as thread:
        waiting: list[Future[None]] = []

        def submit(function: Callable[[], None]) -> None:
            if waiting:
                waiting.pop().result()
            waiting.append(thread.submit(function))

        yield submit
        if waiting:
            waiting.pop().result()


def default_batch_size(protocol: Protocol, small: int) -> int:
    """Images per batch: ``small`` for small images, fewer for large images and those of any size."""
    return small if protocol.resolution is not None and protocol.resolution <= 64 else 32


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Sets torch's CPU threads within a context; 0 changes nothing."""
    before = torch.get_num_threads()
    if count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _headline(protocol: Protocol, record: Mapping[str, Any]) -> dict[str, float]:
    return {m.label or m.key: record["metrics"][m.key] for m in protocol.metrics[:3] if m.key in record["metrics"]}
