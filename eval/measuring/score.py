"""Scores image files and generators under a protocol, with the code and checks of the workflow's measurements."""

import contextlib
import dataclasses
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from eval.features.registry import ON_PROCESSOR
from eval.measuring.functions import CallableSource, callable_name
from eval.measuring.measure import Measurer, TrialRecords
from eval.measuring.order import Groups, Trials
from eval.measuring.protocol import Protocol, load_protocol
from eval.measuring.sources import ImageFiles
from eval.measuring.stores import ImageStore, open_images
from eval.measuring.trial import cpu_threads, sized
from eval.measuring.unfinished import forget_trials, trials_folder
from eval.metrics.metric import Metric
from eval.results.identity import Identity, read_saw
from eval.results.measurements import read_measurement, record_identity, trial_path
from eval.results.sheet import official_saw
from eval.results.summary import Estimate
from sida import machine
from sida.assets.registry import NETWORK_ENDS, is_address, load_registry
from sida.config.datasets import dataset_spec
from sida.config.samplers import Sampler
from sida.config.settings import names_object
from sida.data.dataset import Sketch
from sida.errors import UserError, say
from sida.files.atomic import sha256_json
from sida.sampling.job import LoadedGenerator


@dataclass(frozen=True)
class Score:
    """Result of a score: the values of all trials by metric.

    Attributes:
        name: Label of the images.
        protocol: Protocol of the measurement.
        records: One measurement per trial, in the form of ``sida measure``.
        remarks: Remarks on the images for the report.
        family: Group of the row in tables.
        nfe: Network evaluations per image.
        against: Images that the score compares with, in the place of a protocol's references.
        unfinished: Folder of the trials' records, of which an interrupted call measures none again; None without one.
    """

    name: str
    protocol: Protocol
    records: Sequence[Mapping[str, Any]]
    remarks: tuple[str, ...] = ()
    family: str = ""
    nfe: int | None = None
    against: str | None = None
    unfinished: Path | None = None

    def forget_trials(self) -> None:
        """Removes the records of the trials, when the caller has the result where it should be."""
        if self.unfinished is not None:
            forget_trials(self.unfinished)

    def values(self, key: str) -> list[float]:
        """Values of a metric over trials; empty if it could not be measured."""
        return [record["metrics"][key] for record in self.records if key in record["metrics"]]

    def identity(self, key: str) -> Identity | None:
        """Identity of a metric's values, and what the generator met; None if it could not be measured."""
        if not self.values(key):
            return None
        record = self.records[0]
        seen, held_out = read_saw(record.get("saw", "")), record.get("held_out", {}).get(key, "")
        return dataclasses.replace(record_identity(record, key), saw=seen, held_out=held_out)

    def spread(self, metric: Metric) -> float | None:
        """Number after ±: spread over trials (the protocol's ddof), or over the splits of an inception score."""
        splits = [record["details"].get(metric.key, {}).get("split_std") for record in self.records]
        if self.protocol.is_spread == "splits" and None not in splits:
            return statistics.fmean(splits)
        values = self.values(metric.key)
        if len(values) < 2:
            return None
        return statistics.stdev(values) if self.protocol.ddof else statistics.pstdev(values)

    def summary(self) -> dict[str, dict[str, Any]]:
        """Mean, sample standard deviation, standard error, extremes and all values, by metric."""
        result = {}
        for metric in self.protocol.metrics:
            if values := self.values(metric.key):
                estimate = Estimate.of(values)
                found = {key: getattr(estimate, key) for key in ("mean", "std", "standard_error")}
                result[metric.key] = {**found, "min": min(values), "max": max(values), "values": values}
        return result

    def record(self) -> dict[str, Any]:
        """The result as JSON values."""
        return {
            "name": self.name,
            "protocol": self.protocol.record(),
            "trials": len(self.records),
            "summary": self.summary(),
            "warnings": self.warnings(),
            "measurements": list(self.records),
        } | ({"against": self.against} if self.against else {})

    def lines(self) -> list[str]:
        """The result as lines for people."""
        n, count = self.protocol.num_samples, len(self.records)
        trials = "1 trial" if count == 1 else f"{count} trials"
        lines = [f"{self.name}: protocol '{self.protocol.name}', {trials} of {n:,} images"]
        if self.against:
            lines = [f"{self.name} against {self.against}: protocol '{self.protocol.name}', {n:,} images"]
        for metric in self.protocol.metrics:
            values = self.values(metric.key)
            arrow = "↓" if metric.better == "lower" else "↑"
            label = f"  {metric.label or metric.key} {arrow}"
            if not values:
                detail = self.records[0]["details"].get(metric.key, {})
                lines.append(f"{label:<18} {detail.get('note', 'not measured')}")
                continue
            decimals, spread = metric.decimals, self.spread(metric)
            text = f"{label:<18} {sum(values) / len(values):.{decimals}f}"
            if spread is not None:
                text += f" ± {spread:.{decimals}f}"
            if len(values) > 1:
                text += f"   (min {min(values):.{decimals}f}, max {max(values):.{decimals}f})"
            identity = self.identity(metric.key)
            if self.against and identity:
                text += f"   identity {identity.sha256[:12]}: reference {identity.reference[:12]}"
                text += f", feature network {metric.extractor} {identity.extractor[:12]}"
            lines.append(text)
        return lines + [f"  note: {warning}" for warning in self.warnings()]

    def warnings(self) -> list[str]:
        """Warnings about the numbers, each sentence once."""
        found = [
            f"{metric.label or metric.key}: {warning}"
            for metric in self.protocol.metrics
            for record in self.records
            for warning in record["details"].get(metric.key, {}).get("warnings", [])
        ]
        fewer = len(self.records) < self.protocol.trials
        short = [f"{len(self.records)} of the protocol's {self.protocol.trials} trials were measured"] if fewer else []
        return [*short, *self.remarks, *dict.fromkeys(found)]


class NetworkFile(NamedTuple):
    """A network to score: its file and how images are drawn from it."""

    path: str
    sampler: Sampler = Sampler(kind="one_step")
    guide: str | None = None
    vae: str | None = None


def names_network(source: str) -> bool:
    """Whether a text names a network: a file, the folder of a run or of ``sida export``, an id or an address."""
    path = Path(source)
    if path.is_dir():
        return (path / "network.safetensors").is_file() or (path / "generator" / "network.safetensors").is_file()
    return (
        is_address(source)
        or path.suffix in (*NETWORK_ENDS, ".pt2")
        or (not path.exists() and source in load_registry())
    )


#: Images to score: files, a function (or its name, ``module:function``), a network file, a loaded generator.
Scored = str | Path | Callable[..., Any] | NetworkFile | LoadedGenerator


def score_images(
    images: Scored,
    protocol: str | Path | Mapping[str, Any] | Protocol,
    trials: int | None = None,
    num_samples: int | None = None,
    name: str | None = None,
    allow_duplicates: bool = False,
    fast: bool | None = None,
    against: str | Path | None = None,
    groups: Groups | None = None,
    saw: str | None = None,
    fits: Callable[[Mapping[str, Identity]], object] | None = None,
    **settings: Any,
) -> Score:
    """Measures images in files, or those that a function or network draws.

    Args:
        images: Folder, zip, tar, npz or npy: trial t takes the images t·n … (t + 1)·n − 1 in the order of names, or the
            first n of run t (:mod:`eval.measuring.order`). Or a function ``function(seeds)``, its name
            ``module:function``, or a network: trial t takes the protocol's seeds.
        protocol: Name, path or content.
        trials: Number of disjoint trials; by default as many as the images allow, at most the protocol's number.
        num_samples: Images per trial, if not the protocol's n; the result is then not comparable.
        name: Label; by default the name of the path or function.
        allow_duplicates: Accept equal images.
        fast: Measure with ``inception_cpu`` where the protocol names ``inception``: by default on a processor, unless
            a reference or the network's file is given. The record names the variant; values of both are comparable.
        against: Folder, zip, tar, npz or npy of images in the place of the protocol's references: all images of both
            sets are compared, and the values are comparable with those of the same second set alone.
        groups: ``trials`` or ``classes``: what folders or parts of names are, where both readings fit.
        saw: Networks that the generator met (``docs/score.md``); by default those of the method in the header of a
            network file, if it is one of this suite, else unknown.
        fits: Called with the identities of the values before the first image is drawn; raises an error where a table
            does not take them.
        **settings: Other fields of :class:`~eval.measuring.sources.MeasureSpec` (dataset, references, device, ...).

    Raises:
        UserError: Images that cannot be measured under this protocol; the message names the file and the remedy.
    """
    if fast is None:
        bound = settings.get("references") or ON_PROCESSOR.keys() & (settings.get("extractors") or {}).keys()
        drawn_on = settings.get("device") or getattr(images, "device", "cpu")
        fast = drawn_on == "cpu" and not bound
    if trials is not None and trials < 1:
        raise UserError("--trials", f"must be at least 1, got {trials}")
    label, fields = _origin(images, allow_duplicates)
    are_files = fields["sampler"]["kind"] == "images"
    if groups is not None:
        if not are_files or against is not None:
            raise UserError("--groups", "is for the trials of images in files", "leave it out")
        fields["sampler"]["groups"] = groups
    second = None if against is None else open_images(against)
    if second is not None:
        store = open_images(str(images)) if are_files else None
        if settings.get("references"):
            raise UserError("--reference", "the second set is the reference of a comparison", "leave the option out")
        protocol = _pair(store, second, load_protocol(protocol), trials, num_samples)
        num_samples, settings["references"] = None, {"against": str(against)}
    chosen = chosen_protocol(protocol, num_samples, fast)
    if second is None:
        taken = Trials(chosen.num_samples, chosen.trials, trials, groups)
        store = open_images(str(images), taken) if are_files else None
    if fast:
        given = settings.get("extractors") or {}
        settings["extractors"] = {_on_processor(name): options for name, options in given.items()}
    if saw is not None:
        read_saw(saw)
    files = ImageFiles(store, chosen, allow_duplicates) if store else None
    count = _trials(files, trials) if files else trials or chosen.trials
    if count > chosen.trials:
        chosen = dataclasses.replace(chosen, trials=count)
    label = name or label
    nfe = fields.get("nfe")
    if settings.get("nfe") is not None and nfe not in (None, settings["nfe"]):
        fault = f"the sampler evaluates the network {nfe} times an image"
        raise UserError(f"--nfe {settings['nfe']}", fault, "leave it out")
    settings = fields | {key: value for key, value in settings.items() if value is not None}
    if "network" in settings and "dataset" not in settings:
        named = [source.dataset for source in chosen.sources.values() if source.dataset]
        settings |= {"dataset": dataset_spec(named[0], "score")} if named else {}
    measurer = Measurer({"run": label, "protocol": chosen, "label": label, **settings}, "score", second)
    spec = measurer.spec
    if callable(images):
        measurer.source = CallableSource(spec.sampler["callable"], {}, allow_duplicates, images)
    elif files:
        measurer.source = files
    # Python objects may change between two calls in a way that no digest shows; one trial has nothing to resume.
    once = callable(images) or count == 1
    resumed = contextlib.nullcontext() if once else trials_folder(_digest(measurer))
    with cpu_threads(spec.threads), tempfile.TemporaryDirectory() as scratch, resumed as cached:
        folder = cached or Path(scratch) / "trials"
        kept = TrialRecords(measurer, range(count), folder)
        finished = [trial for trial in range(count) if trial not in kept.missing]
        records = {trial: read_measurement(trial_path(folder, trial)) for trial in finished}
        if finished:
            say(f"score: {len(finished)} of {count} trials are finished")
        if kept.missing:
            # Faults of files, networks and references end the command before the first image is drawn or read.
            if files:
                _check_size(files)
            _ = measurer.extractors, measurer.references
        if fits is not None:
            fits(measurer.identities)
        records |= kept.measure(f"score {label}", interval=2)
    remarks = files.store.remarks if files else ()
    if second is not None:
        remarks = (*remarks, *_second_remarks(measurer, files, second))
    if files and (rest := files.store.count - count * chosen.num_samples):
        remarks = (*remarks, f"{rest:,} images more than {count} × {chosen.num_samples:,} were not measured")
    if saw is None:
        official = official_saw(str(getattr(measurer.source, "metadata", {}).get("method")))
        saw = str(official) if official else None
    measured = [{**records[trial], **({"saw": saw} if saw else {})} for trial in range(count)]
    other = Path(against).name if against else None
    return Score(label, chosen, measured, remarks, spec.family, spec.nfe, other, cached)


def _pair(
    first: ImageStore | None, second: ImageStore, protocol: Protocol, trials: int | None, num_samples: int | None
) -> Protocol:
    """Protocol of a comparison of two sets of images; all images of both are measured.

    Raises:
        UserError: Several trials, too few images, or a second set of another size than the protocol's.
    """
    if trials not in (None, 1):
        raise UserError(f"--trials {trials}", "two sets are compared as a whole, in one trial", "leave the option out")
    if num_samples is None and first is not None:
        num_samples = first.count
    where = str(first.path) if first else "--num-samples"
    if num_samples is not None and num_samples < 2:
        raise UserError(where, f"a comparison takes two images or more, got {num_samples}")
    chosen = protocol.against(num_samples or protocol.num_samples)
    _check_size(ImageFiles(second, chosen))
    for count, place in ((chosen.num_samples, where), (second.count, str(second.path))):
        _check_count(chosen, count, place)
    return chosen


def _check_count(protocol: Protocol, count: int, where: str) -> None:
    """Refuses so few images that a metric cannot be computed."""
    faults = [f"{metric.key}: {fault}" for metric in protocol.metrics if (fault := metric.fault(count))]
    if faults:
        raise UserError(where, f"has too few images ({faults[0]})", "give more images")


def _second_remarks(measurer: Measurer, first: ImageFiles | None, second: ImageStore) -> Iterator[str]:
    """Remarks on the second of two sets, which is judged as the first is."""
    for reference in measurer.references.values():
        yield from (f"second set: {remark}" for remark in reference.remarks)
        share = (getattr(measurer.source, "seen", None) or Sketch()).shared(reference.sketch or Sketch())
        if share and share[0]:
            yield f"the generator has seen {share[0]} of {share[1]} images of the second set that were looked for"
    if second.count < measurer.protocol.num_samples:
        fewer = f"{second.count:,} images, fewer than the first set's {measurer.protocol.num_samples:,}"
        yield f"second set: {fewer}"
    if first is not None and second.digest == first.store.digest:
        yield "both sets are the same images"
    theirs = second.read(0, 1).shape[1:]
    ours = getattr(measurer.source, "shape", None) if first is None else first.store.read(0, 1).shape[1:]
    if ours is not None and tuple(ours) != tuple(theirs):
        sides = [f"{shape[1]}×{shape[2]} in {shape[0]} channels" for shape in (ours, theirs)]
        yield f"the sets differ in size or channels: {sides[0]}, {sides[1]}"


def chosen_protocol(
    protocol: str | Path | Mapping[str, Any] | Protocol, num_samples: int | None = None, fast: bool = False
) -> Protocol:
    """The protocol of a score: under another name if it has another n; with feature networks for processors if fast.

    Raises:
        UserError: An unknown or faulty protocol, or fewer than two images.
    """
    chosen = load_protocol(protocol)
    if num_samples is not None and num_samples != chosen.num_samples:
        if num_samples < 2:
            raise UserError("--num-samples", f"must be at least 2, got {num_samples}")
        fitting = tuple(metric.for_samples(num_samples) for metric in chosen.metrics)
        name = f"{chosen.name}-n{num_samples}"
        chosen = dataclasses.replace(chosen, name=name, num_samples=num_samples, metrics=fitting)
        _check_count(chosen, num_samples, f"--num-samples {num_samples}")
    if fast:
        replaced = tuple(dataclasses.replace(m, extractor=_on_processor(m.extractor)) for m in chosen.metrics)
        chosen = dataclasses.replace(chosen, metrics=replaced)
    return chosen


def _on_processor(extractor: str) -> str:
    return ON_PROCESSOR.get(extractor, (extractor,))[0]


def _digest(measurer: Measurer) -> str:
    """Digest of everything that decides the records of a score, the code included."""
    facts = {"names": measurer.names(), "source": measurer.identity, "protocol": measurer.protocol.content()}
    return sha256_json({**facts, "code": machine.source_digest()})[:32]


def _origin(images: Scored, allow_duplicates: bool) -> tuple[str, dict[str, Any]]:
    """Label of the images, and the fields of a :class:`MeasureSpec` that say how they are drawn or read."""
    if isinstance(images, LoadedGenerator):
        guide = None if images.guide is None else str(images.guide)
        label, fields = _origin(NetworkFile(str(images.path), images.sampler, guide, images.vae), allow_duplicates)
        return label, fields | {"device": images.device}
    if isinstance(images, NetworkFile):
        path, sampler = Path(images.path), images.sampler
        folder = path.parent.parent if path.parent.name == "generator" else path.parent  # that of `sida export`
        label = folder.name if path.stem == "network" and folder.name else path.stem
        fields = {"method": "external", "sampler": sampler.given(), "nfe": sampler.nfe}
        return label, fields | {"network": str(path), "guide": images.guide, "vae": images.vae}
    repeats = {"allow_duplicates": allow_duplicates}
    name = callable_name(images) if callable(images) else str(images)
    if callable(images) or (names_object(name) and not Path(name).exists()):
        drawn = {"kind": "python", "callable": name, **repeats}
        return name.rpartition(":")[2], {"method": "external", "sampler": drawn}
    return Path(name).name, {"method": "images", "sampler": {"kind": "images", "path": name, **repeats}}


class TooFewError(UserError):
    """Fewer images than the trials of a protocol take.

    Attributes:
        more: Words for the images that are missing.
        fits: Images of a trial for which the images suffice.
    """

    def __init__(self, place: object, fault: object, remedy: object, more: str, fits: int) -> None:
        super().__init__(place, fault, remedy)
        self.more, self.fits = more, fits


def _trials(images: ImageFiles, wanted: int | None) -> int:
    """Number of trials.

    Raises:
        UserError: Too few images, or images of a wrong size, which more of them would not mend.
    """
    n, present = images.protocol.num_samples, images.store.count
    if images.trials < (wanted or 1):
        _check_size(images)
        count = wanted or 1
        takes = f"{n:,} for each of {count} trials" if count > 1 else f"{n:,}"
        fits = present // count
        other = f", or give --num-samples {fits} (a number of its own, not comparable with the protocol's)"
        fault = f"holds {present:,} images, protocol '{images.protocol.name}' takes {takes}"
        more = f"generate {n * count - present:,} more"
        raise TooFewError(images.store.path, fault, f"{more}{other if fits >= 2 else ''}", more, fits)
    return wanted if wanted is not None else min(images.trials, images.protocol.trials)


def _check_size(images: ImageFiles) -> None:
    """Refuses images of another size than the protocol's, by the first one."""
    seed0 = images.protocol.seed0
    next(sized(images.batches(range(seed0, seed0 + 1), 1), images.protocol, str(images.store.path)))
