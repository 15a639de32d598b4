"""Measures trials of a generator under a protocol in one process: one record per trial; resumes by trial."""

import functools
import itertools
import os
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sida import machine
from sida.assets.cache import fetch_many
from sida.assets.registry import find_asset, load_registry
from sida.config.settings import from_mapping
from sida.data import Dataset, load_dataset
from sida.errors import Progress, UserError, suggestion
from sida.eval.features.base import Extractor
from sida.eval.features.pixels import PixelExtractor
from sida.eval.features.registry import make_extractors
from sida.eval.measuring.functions import CallableSource
from sida.eval.measuring.generators import DataSource, FileImages, FunctionImages, MeasureSpec, NetworkSource
from sida.eval.measuring.protocol import Protocol
from sida.eval.measuring.references import (
    Reference,
    held_out_shares,
    load_references,
    open_references,
    records_of,
)
from sida.eval.measuring.source import ImageBatch, Source
from sida.eval.measuring.stores import ImageStore, open_images
from sida.eval.measuring.trial import KeptBatches, TrialSums, compute_metrics, cpu_threads, run_pass
from sida.eval.metrics.kinds import Mean
from sida.eval.results.identity import Identity, joined
from sida.eval.results.trial_files import is_kept, read_measurement, trial_path, write_measurement
from sida.files.atomic import sha256_json
from sida.files.ordinary import UnreadableError
from sida.files.parts import PartFolder
from sida.machine import keep_freed_memory, num_cores, take_device, tf32


class Measurer:
    """A generator to measure, with source, extractors and references, each loaded when first needed.

    Args:
        spec: Spec of the measurement.
        where: Place named in errors.
        second: Opened images of a reference of kind ``given``; None opens its path.
        source: Opened source of the images; None opens the spec's.
    """

    def __init__(
        self,
        spec: Mapping[str, Any] | MeasureSpec,
        where: str = "--spec",
        second: ImageStore | None = None,
        source: Source | None = None,
    ) -> None:
        self._second, self._opened = second, source
        self._begun: dict[int, Iterator[ImageBatch]] = {}
        self.spec = spec if isinstance(spec, MeasureSpec) else from_mapping(MeasureSpec, spec, where)
        self.protocol: Protocol = self.spec.protocol
        take_device(self.spec.device, where)
        # Networks that draw need the same activations again and again; ready images need their batches once.
        keep_freed_memory(self.spec.sampler["kind"] not in ("data", "images"))
        # With a misspelt key the published file would be fetched instead of the given one.
        names_of = {
            "references": [*self.protocol.references],
            "extractors": self.protocol.extractors(),
        }
        for field_, names in names_of.items():
            for key in getattr(self.spec, field_):
                if key not in names:
                    fault = f"protocol '{self.protocol.name}' has no '{key}'{suggestion(key, names)}"
                    raise UserError(f"{where}.{field_}", fault, "name one of these")
        check_second(self.protocol, self.spec.references, where)

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
            UserError: A download is missing.
        """
        replaced = self.spec.references.keys() - {"against"} or self.spec.extractors
        registry = load_registry()
        assets = [] if replaced else [find_asset(registry, name) for name in self.protocol.assets()]
        fetch_many([asset.id for asset in assets if not asset.path.exists()])

    @functools.cached_property
    def references(self) -> dict[str, Reference]:
        """References of the protocol, by key."""
        dataset = (lambda: self.dataset) if self.spec.dataset is not None else None
        given = self.spec.references
        return load_references(self.protocol, self.extractors, given, dataset, self._second, self._reference_files)

    @functools.cached_property
    def _reference_files(self) -> dict[str, Reference]:
        """Content of the reference files that the spec gives."""
        return open_references(self.protocol, self.spec.references)

    @functools.cached_property
    def source(self) -> Source:
        """Source of the images."""
        if self._opened is not None:
            return self._opened
        sampler = self.spec.read_sampler
        if isinstance(sampler, FunctionImages):
            return CallableSource(sampler.callable, sampler.kwargs, sampler.allow_duplicates)
        if isinstance(sampler, FileImages):
            store = open_images(sampler.path, sampler.labels != "none")
            store.allow_duplicates = sampler.allow_duplicates
            store.arrange(sampler.groups, self.protocol.num_samples, self.protocol.trials)
            return store
        if not sampler.needs_network:
            return DataSource(self.dataset, self.spec.vae, self.spec.device, self.protocol.rounds)
        return NetworkSource(self.spec, lambda: self.dataset)

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """Identity of the images (:meth:`~sida.eval.measuring.source.Source.identity`)."""
        return self.source.identity()

    @functools.cached_property
    def digest(self) -> str:
        """Digest of everything that decides the images of a trial."""
        return sha256_json({"run": self.spec.run, "source": self.identity, "images": self.protocol.image_facts()})

    @functools.cached_property
    def identities(self) -> dict[str, Identity]:
        """Identity of each metric's values, which with :attr:`digest` decide a trial."""
        references = records_of(self.protocol.metrics, self.references)
        identities = {}
        for metric in self.protocol.metrics:
            reference = references.get(metric.key, {}).get("sha256", "")
            parts = [self.protocol.metric(key) for key in metric.of] if isinstance(metric, Mean) else [metric]
            extractor = joined([self.extractors[part.extractor].sha256 for part in parts])
            identities[metric.key] = self.protocol.identity(metric.key, reference, extractor)
        return identities

    @property
    def _origin(self) -> str:
        """Name of the images in errors, which name files by path, and generators by the id of the row."""
        sampler = self.spec.sampler
        return str(sampler["path"]) if sampler["kind"] == "images" else f"run '{self.spec.run}'"

    def unlike(self, shape: Sequence[int]) -> str:
        """Words for a second set whose images have another shape than (C, H, W); empty without such a set."""
        theirs = shape if self._second is None else self._second.read(0, 1).shape[1:]
        sides = [f"{height}×{width} in {channels} channels" for channels, height, width in (shape, theirs)]
        return f"the sets differ in size or channels: {sides[0]}, {sides[1]}" if tuple(shape) != tuple(theirs) else ""

    def check_alike(self, shape: Sequence[int]) -> None:
        """Refuses images (C, H, W) whose pixels cannot be compared with those of the second set.

        Raises:
            UserError: The shapes differ, and pixels are features.
        """
        if PixelExtractor.name in self.protocol.extractors() and (fault := self.unlike(shape)):
            in_files = self.spec.sampler["kind"] == "images"
            remedy = "make them alike (sida data prepare)" if in_files else "let it draw images like the second set's"
            where = f"{self._origin} and {self.spec.references['against']}"
            raise UserError(where, fault, f"{remedy}, or say --protocol pair-quick")

    @property
    def batch_size(self) -> int:
        """Images per batch."""
        return self.spec.batch_size or default_batch_size(self.protocol, small=250)

    def begin(self, trial: int, done: int = 0) -> None:
        """Draws or reads the first batch of a trial after ``done`` images, which :meth:`sums` then takes.

        A wrong size or type must not wait for a download, nor for the features of another set; nor a bad file of a
        reference for the first image.

        Raises:
            UserError: A bad file of a reference, images that the protocol does not measure, or a generator that fails.
        """
        _ = self._reference_files
        images = self._stream(trial, done)
        with tf32(self.protocol.allow_tf32):
            batch = next(images)
        check_size(batch.images.shape[1:], self.protocol, self._origin)
        self.check_alike(batch.images.shape[1:])
        self._begun[trial] = itertools.chain([batch], images)

    def _stream(self, trial: int, done: int = 0) -> Iterator[ImageBatch]:
        """The images of a trial after ``done`` of them: those at its positions in files, or of its seeds."""
        size = self.protocol.num_samples
        first = trial * size if self.source.in_files else self.protocol.seeds(trial)[0]
        return self.source.stream(first + done, size - done, self.batch_size)

    def read_again(self, trials: Iterable[int]) -> None:
        """Reads images of finished trials in files again, so that later copies of them are refused as in one call."""
        if self.source.in_files and not getattr(self.source, "allow_duplicates", False):
            for trial in trials:
                for _ in self._stream(trial):
                    pass

    def sums(self, trial: int, progress: Progress, done: int, kept: KeptBatches | None = None) -> TrialSums:
        """Sums over the images of a trial.

        Args:
            trial: Its number.
            progress: Counts from ``done`` images on.
            done: Finished images before the trial.
            kept: Batches of an interrupted attempt, and place of those to come.
        """
        protocol, sums = self.protocol, TrialSums(self.protocol, self.spec.device)
        with tf32(protocol.allow_tf32):
            for outputs, classes in kept or ():
                sums.update(outputs, classes, sums.count)
        if (first := sums.count) == protocol.num_samples:
            return sums
        if first or trial not in self._begun:
            self.begin(trial, first)
        images = self._begun.pop(trial)
        ahead = 3 if self.spec.device.startswith("cuda") else 0
        count = lambda images: progress.update(done + first + images)
        return run_pass(images, self.extractors, sums, first, ahead, count, 0, None if kept is None else kept.add)

    def kept_batches(self, trial: int, folder: Path) -> KeptBatches | None:
        """Kept batches of a trial in a folder; None for images of files, which are quickly read again."""
        if self.source.in_files:
            return None
        identities = {key: str(identity) for key, identity in self.identities.items()}
        facts = {"images": self.digest, "trial": trial, "metrics": identities, "batch": self.batch_size}
        job = sha256_json({**facts, "code": machine.source_digest()})
        return KeptBatches(PartFolder(folder, job), self.batch_size, self.spec.device)

    def names(self) -> dict[str, Any]:
        """Names of run and protocol in a trial's record; fields that change a number are also in the digest."""
        names = {key: getattr(self.spec, key) for key in ("run", "method", "label", "family", "nfe")}
        nimg = getattr(self.source, "metadata", {}).get("nimg")
        return {**names, "kept_at": nimg if isinstance(nimg, int) else None, "protocol": self.protocol.record()}

    def record(self, trial: int, sums: TrialSums) -> dict[str, Any]:
        """The measurement of a whole trial, with the metrics of its sums."""
        values, details = compute_metrics(sums, self.references)
        reference_records = records_of(sums.protocol.metrics, self.references)
        held_out = held_out_shares(sums.protocol, self.references, self.source.sketch)
        return {
            **self.names(),
            "trial": trial,
            "n": self.protocol.num_samples,
            # Images in files have positions, not seeds.
            **({} if self.source.in_files else {"seeds": list(self.protocol.seeds(trial))}),
            "sampler": self.spec.sampler,
            "source": self.identity,
            "metrics": values,
            "details": details,
            "reference": next(iter(reference_records.values()), {}),
            "metric_references": reference_records,
            **({"held_out": held_out} if held_out else {}),
            **{name: text for name in ("trained", "trained_on", "saw") if (text := getattr(self.source, name, ""))},
            "extractors": {name: self.extractors[name].sha256 for name in sums.protocol.extractors()},
            "network_sha256": getattr(self.source, "sha256", None),
            "spec_sha256": self.digest,
            "environment": {**machine.environment(self.spec.device), "code": machine.source_digest()},
        }


class TrialRecords:
    """Records of the trials of one job, a file for each: which of them are missing, and their measuring.

    A workflow manager removes the declared outputs of a job before it starts and when it fails; undeclared files, such
    as the copies, stay. So trials that are still valid are not measured again.

    Args:
        measurer: The measurement.
        trials: Trial numbers of the job.
        out: Folder of ``trial-<t>.json``.
        copies: Folder of copies, and of an interrupted trial's parts, that stay after the job; None has none.
    """

    def __init__(self, measurer: Measurer, trials: Sequence[int], out: Path, copies: Path | None = None) -> None:
        self._measurer, self._trials, self._out, self._copies = measurer, trials, out, copies

    @functools.cached_property
    def missing(self) -> list[int]:
        """Trials to measure; files of an earlier attempt are restored from copies."""
        measurer = self._measurer
        if not any(folder is not None and folder.is_dir() for folder in (self._out, self._copies)):
            # Identities need the feature networks; a wrong image is refused before they are loaded.
            return [*self._trials]
        criteria = measurer.digest, measurer.identities, measurer.names()
        for trial in self._trials:
            self._copy_back(trial)
        return [trial for trial in self._trials if not is_kept(trial_path(self._out, trial), *criteria)]

    def _copy_back(self, trial: int) -> None:
        """Writes a file that is missing from its copy, if the same code measured it."""
        path, copy = trial_path(self._out, trial), trial_path(self._copies or self._out, trial)
        if not path.exists() and copy.is_file():
            try:
                record = read_measurement(copy)
            except UnreadableError:
                raise
            except UserError:  # a damaged copy: the trial is measured again
                return
            if record["environment"].get("code") == machine.source_digest():
                write_measurement(path, record)

    def measure(self, title: str, interval: float = 10) -> dict[int, dict[str, Any]]:
        """Measures the missing trials and writes their records; returns these by trial.

        Args:
            title: Stage in lines of progress.
            interval: Seconds between two lines of progress.

        Raises:
            UserError: Broken images, a metric that is not finite, or a full disk.
        """
        measurer, protocol = self._measurer, self._measurer.protocol
        size, total = protocol.num_samples, len(self._trials) * protocol.num_samples
        done = total - len(self.missing) * size
        progress = Progress(title, total, "img", done=done, interval=interval)
        records: dict[int, dict[str, Any]] = {}
        if self.missing:
            measurer.read_again(trial for trial in self._trials if trial not in self.missing)

        def record(trial: int, sums: TrialSums, kept: KeptBatches | None, seconds: float, last: bool) -> None:
            measurement = {**measurer.record(trial, sums), "seconds": round(seconds, 3)}
            for folder in filter(None, (self._copies, self._out)):
                write_measurement(trial_path(folder, trial), measurement)
            if kept is not None:
                kept.remove()
            records[trial] = measurement
            # The images of the next trial are counted already.
            progress.update(None, _headline(protocol, measurement), force=last)

        # Metrics are computed while the next trial is drawn, and the setting is one of the whole process.
        with tf32(protocol.allow_tf32), _overlapped(measurer.spec) as submit:
            for trial in self.missing:
                start, kept = time.monotonic(), None
                if self._copies is not None:
                    kept = measurer.kept_batches(trial, self._copies / f"parts-{trial}")
                sums = measurer.sums(trial, progress, done, kept)
                done += size
                submit(functools.partial(record, trial, sums, kept, time.monotonic() - start, done == total))
        return records


def measure(
    spec: Mapping[str, Any] | MeasureSpec, out: str | os.PathLike[str], trials: Sequence[int]
) -> list[dict[str, Any]]:
    """Measures the trials of a generator and writes ``<out>/trial-<t>.json``.

    Trials whose files have the same images and settings are kept.

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
    with cpu_threads(measurer.spec.threads):
        _ = measurer.references  # faulty ones end the job before the first image is drawn
        records = TrialRecords(measurer, trials, Path(out), Path(out) / "state")
        return [*records.measure(f"measure {measurer.spec.run}").values()]


def check_second(protocol: Protocol, references: Container[str], where: str) -> None:
    """Refuses a protocol of two sets without the second one among the keys of the given references."""
    second_sets = [key for key, source in protocol.sources.items() if source.kind == "given"]
    if second_sets and not any(key in references for key in second_sets):
        raise UserError(where, f"protocol '{protocol.name}' compares two sets", "add --against FOLDER|ZIP|NPZ")


def check_size(shape: Sequence[int], protocol: Protocol, origin: str) -> None:
    """Checks that images (C, H, W) have the size that a protocol measures.

    Raises:
        UserError: The size differs; ``origin`` names the images.
    """
    channels, height, width = shape
    size = protocol.resolution
    # Feature networks repeat grey images to three channels, as the official tools do.
    fits = protocol.channels in (None, channels) or (channels, protocol.channels) == (1, 3)
    if not fits or (size is not None and (height, width) != (size, size)):
        plural = "" if protocol.channels == 1 else "s"
        expected = f"{protocol.channels or 'any'} channel{plural} of {size or 'any'}×{size or 'any'}"
        seen = f"images have {channels} channel{'s' * (channels > 1)} of {height}×{width}"
        remedy = "generate images of that size, or choose the protocol of this data set"
        why = "nothing is resized here, since that changes the numbers"
        raise UserError(origin, f"{seen}, protocol '{protocol.name}' measures {expected}", f"{remedy} ({why})")


@contextmanager
def _overlapped(spec: MeasureSpec) -> Iterator[Callable[[Callable[[], None]], None]]:
    """Runs functions one after the other, in a thread unless the measurement has one core.

    So a GPU does not wait for metrics, and the cores of a processor that a metric leaves idle measure the next trial.
    An exception is raised when the next function is submitted, or at the end.
    """
    if spec.device == "cpu" and (spec.threads or num_cores()) == 1:
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
    """Images per batch: ``small`` for small images, fewer for large images and for protocols of any size."""
    if protocol.rehearsal:
        # Networks of true size run on a processor there, beside other jobs.
        return 10
    return small if protocol.resolution is not None and protocol.resolution <= 64 else 32


def _headline(protocol: Protocol, record: Mapping[str, Any]) -> dict[str, float]:
    return {m.label or m.key: record["metrics"][m.key] for m in protocol.metrics[:3] if m.key in record["metrics"]}
