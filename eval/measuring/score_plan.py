"""Plan of a score: its images, protocol and trials, decided and checked before a network is loaded."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from sida.config.datasets import dataset_spec
from sida.config.samplers import Sampler
from sida.config.settings import from_mapping
from sida.errors import UserError
from sida.eval.features.registry import ON_PROCESSOR
from sida.eval.measuring.functions import CallableSource, callable_name
from sida.eval.measuring.generators import MeasureSpec
from sida.eval.measuring.measure import Measurer, check_second, check_size
from sida.eval.measuring.protocol import Protocol, load_protocol
from sida.eval.measuring.source import names_function
from sida.eval.measuring.stores import Groups, ImageStore, open_images
from sida.eval.results.identity import read_exposure
from sida.sampling.job import LoadedGenerator


class NetworkFile(NamedTuple):
    """A network to score: its file and how images are drawn from it."""

    path: str
    sampler: Sampler = Sampler(kind="one_step")
    guide: str | None = None
    vae: str | None = None


#: Images to score: files, a function (or its name, ``module:function``), a network file, a loaded generator.
Scored = str | Path | ImageStore | Callable[..., Any] | NetworkFile | LoadedGenerator


@dataclass(frozen=True)
class ScorePlan:
    """The plan of a score.

    Attributes:
        spec: Spec of the measurement; its protocol has the images per trial and the feature networks of this score.
        trials: Number of trials.
        files: Opened images in files; None if images are drawn.
        second: Opened second set of a comparison; None takes the protocol's references.
        function: Source of a Python object that draws the images; None for others.
        saw: Networks of the generator's exposure by the caller; None takes them from a network's method.
    """

    spec: MeasureSpec
    trials: int
    files: ImageStore | None = None
    second: ImageStore | None = None
    function: CallableSource | None = None
    saw: str | None = None

    @property
    def protocol(self) -> Protocol:
        """Protocol of the measurement."""
        protocol: Protocol = self.spec.protocol
        return protocol

    @property
    def resumes(self) -> bool:
        """Whether an interrupted score resumes.

        Python objects may change between two calls in a way that no digest shows.
        """
        return self.function is None

    def measurer(self) -> Measurer:
        """The measurement, with the images that are open already."""
        return Measurer(self.spec, "score", self.second, self.function or self.files)


def plan_score(
    images: Scored,
    protocol: str | Path | Mapping[str, Any] | Protocol,
    *,
    trials: int | None = None,
    num_samples: int | None = None,
    name: str | None = None,
    allow_duplicates: bool = False,
    against: str | Path | ImageStore | None = None,
    groups: Groups | None = None,
    labels: str | None = None,
    saw: str | None = None,
    **settings: Any,
) -> ScorePlan:
    """Plans a score: opens its images, and decides protocol and trials, before a network is loaded.

    Args:
        images: Folder, zip, tar, npz or npy: trial t takes the images t·n … (t + 1)·n − 1 in the order of names, unless
            ``groups`` says otherwise (:meth:`~sida.eval.measuring.stores.ImageStore.arrange`). Or a function
            ``function(seeds)``, its name ``module:function``, or a network: trial t takes the protocol's seeds.
        protocol: Name, path or content.
        trials: Number of disjoint trials; by default as many as the images allow, at most the protocol's number.
        num_samples: Images per trial, if not the protocol's n; the result is then not comparable. In a comparison the
            default is the number of images in files, of the second set if a function or network draws the first.
        name: Label; by default the name of the path or function.
        allow_duplicates: Accept equal images.
        against: Folder, zip, tar, npz or npy of images that replace the protocol's references: all images of both sets
            are compared, and the values are comparable only with values of the same second set.
        groups: ``trials`` or ``classes``: meaning of folders.
        labels: ``none`` leaves classes of images in files out; ``auto``, the default, reads them where they are.
        saw: Networks of the generator's exposure (``docs/score.md``); by default from the method in the header of a
            network file, if it is a method of this suite, else unknown.
        **settings: Other fields of :class:`~sida.eval.measuring.generators.MeasureSpec` (dataset, device, ...).

    On a processor ``inception_cpu`` measures where the protocol names ``inception``, unless a reference or the
    network's file is an option. The record names the variant; values of both are comparable.

    Raises:
        UserError: Images that cannot be measured under this protocol; the message names the file and the remedy.
    """
    if trials is not None and trials < 1:
        raise UserError("--trials", f"must be at least 1, got {trials}")
    if saw is not None:
        read_exposure(saw)
    if against is not None and settings.get("references"):
        raise UserError("--reference", "the second set is the reference of a comparison", "leave the option out")
    fast = _uses_fast_networks(images, settings)
    label, fields = origin_of(images, allow_duplicates)
    in_files = fields["sampler"]["kind"] == "images"
    fields["sampler"] |= _options_of_files(groups, labels, in_files, against is not None)
    score_protocol, second = load_protocol(protocol), None
    if against is None:
        score_protocol = chosen_protocol(score_protocol, num_samples)
        # Before the number of images is: a second set is measured with all images of both.
        check_second(score_protocol, settings.get("references") or {}, "score")
    store = _open(images, labels) if in_files else None
    if against is not None:
        second = _open(against, labels)
        score_protocol = _pair_protocol(store, second, score_protocol, trials, num_samples)
        settings = {**settings, "references": {"against": str(second.path)}}
    for images_of_files in filter(None, (store, second)):
        check_size(images_of_files.read(0, 1).shape[1:], score_protocol, str(images_of_files.path))
    if second is not None:
        _check_count(score_protocol, score_protocol.num_samples, store.path if store is not None else "--num-samples")
        _check_count(score_protocol, second.count, second.path)
    score_protocol = chosen_protocol(score_protocol, fast=fast)
    count = trials or score_protocol.trials
    if store is not None:
        store.allow_duplicates = allow_duplicates
        if second is None:
            store.arrange(groups, score_protocol.num_samples, score_protocol.trials, trials)
        count = _count_trials(store, score_protocol, trials)
    if count > score_protocol.trials:
        score_protocol = dataclasses.replace(score_protocol, trials=count)
    spec = _spec(name or label, score_protocol, fields, settings)
    source = CallableSource(spec.sampler["callable"], {}, allow_duplicates, images) if callable(images) else None
    return ScorePlan(spec, count, store, second, source, saw)


def _open(images: Any, labels: str | None) -> ImageStore:
    """Images of files, or those that are open already."""
    return images if isinstance(images, ImageStore) else open_images(images, labels != "none")


def origin_of(images: Scored, allow_duplicates: bool) -> tuple[str, dict[str, Any]]:
    """Label of the images, and the fields of a :class:`MeasureSpec` for drawing or reading them."""
    if isinstance(images, LoadedGenerator):
        guide = None if images.guide is None else str(images.guide)
        label, fields = origin_of(NetworkFile(str(images.path), images.sampler, guide, images.vae), allow_duplicates)
        return label, fields | {"device": images.device}
    if isinstance(images, NetworkFile):
        path, sampler = Path(images.path), images.sampler
        # `sida export` writes the network into a folder `generator`.
        folder = path.parent.parent if path.parent.name == "generator" else path.parent
        label = folder.name if path.stem == "network" and folder.name else path.stem
        fields = {"method": "external", "sampler": sampler.explicit_settings(), "nfe": sampler.nfe}
        return label, fields | {"network": str(path), "guide": images.guide, "vae": images.vae}
    repeats = {"allow_duplicates": allow_duplicates}
    name = callable_name(images) if callable(images) else str(getattr(images, "path", images))
    if callable(images) or names_function(name):
        sampler_spec = {"kind": "python", "callable": name, **repeats}
        return name.rpartition(":")[2], {"method": "external", "sampler": sampler_spec}
    return Path(name).name, {"method": "images", "sampler": {"kind": "images", "path": name, **repeats}}


def _options_of_files(groups: Groups | None, labels: str | None, in_files: bool, compared: bool) -> dict[str, str]:
    """Settings of images in files for their sampler.

    Raises:
        UserError: The images are not in files, or groups of two compared sets.
    """
    if groups is not None and (compared or not in_files):
        raise UserError("--groups", "is for the trials of images in files", "leave it out")
    if labels is not None and not (compared or in_files):
        raise UserError("--labels", "is for classes of images in files", "leave it out")
    options = {"groups": groups, "labels": labels if in_files else None}
    return {key: value for key, value in options.items() if value is not None}


def _uses_fast_networks(images: Scored, settings: Mapping[str, Any]) -> bool:
    """Whether a score uses feature networks for processors: on a processor, without files of the caller's own."""
    own = settings.get("references") or ON_PROCESSOR.keys() & (settings.get("extractors") or {}).keys()
    device = settings.get("device") or getattr(images, "device", "cpu")
    return device == "cpu" and not own


def _spec(label: str, protocol: Protocol, fields: Mapping[str, Any], settings: Mapping[str, Any]) -> MeasureSpec:
    """Spec of the measurement from the fields of the images' origin and the caller's settings."""
    nfe = fields.get("nfe")
    if settings.get("nfe") is not None and nfe not in (None, settings["nfe"]):
        fault = f"the sampler evaluates the network {nfe} times an image"
        raise UserError(f"--nfe {settings['nfe']}", fault, "leave it out")
    stated = {key: value for key, value in settings.items() if value is not None}
    values = {**fields, **stated, "extractors": settings.get("extractors") or {}}
    if "network" in values and "dataset" not in values:
        names = [source.dataset for source in protocol.sources.values() if source.dataset]
        values |= {"dataset": dataset_spec(names[0], "score")} if names else {}
    return from_mapping(MeasureSpec, {"run": label, "protocol": protocol, "label": label, **values}, "score")


def chosen_protocol(
    protocol: str | Path | Mapping[str, Any] | Protocol, num_samples: int | None = None, fast: bool = False
) -> Protocol:
    """The protocol of a score: under another name if it has another n; with feature networks for processors if fast.

    Raises:
        UserError: An unknown or faulty protocol, or fewer than two images.
    """
    new_protocol = load_protocol(protocol)
    if num_samples is not None and num_samples != new_protocol.num_samples:
        if num_samples < 2:
            raise UserError("--num-samples", f"must be at least 2, got {num_samples}")
        fitting = tuple(metric.for_samples(num_samples) for metric in new_protocol.metrics)
        name = f"{new_protocol.name}-n{num_samples}"
        new_protocol = dataclasses.replace(new_protocol, name=name, num_samples=num_samples, metrics=fitting)
        _check_count(new_protocol, num_samples, f"--num-samples {num_samples}")
    if fast:
        replaced = tuple(dataclasses.replace(m, extractor=on_processor(m.extractor)) for m in new_protocol.metrics)
        new_protocol = dataclasses.replace(new_protocol, metrics=replaced)
    return new_protocol


def on_processor(extractor: str) -> str:
    """The variant of a feature network for processors; the network itself if it has none."""
    return ON_PROCESSOR.get(extractor, (extractor,))[0]


class TooFewError(UserError):
    """Fewer images than the trials of a protocol take.

    Attributes:
        more: Words for the images that are missing.
        fits: Images of a trial for which the images suffice.
    """

    def __init__(self, where: object, fault: object, remedy: object, more: str, fits: int) -> None:
        super().__init__(where, fault, remedy)
        self.more, self.fits = more, fits


def _count_trials(images: ImageStore, protocol: Protocol, trials: int | None) -> int:
    """Number of trials that images in files allow, at most the protocol's or those asked for.

    Raises:
        TooFewError: Too few images.
    """
    n, present, count = protocol.num_samples, images.count, trials or 1
    complete = images.trials or present // n
    if complete < count:
        takes = f"{n:,} for each of {count} trials" if count > 1 else f"{n:,}"
        fits = present // count
        other = f", or give --num-samples {fits} (a number of its own, not comparable with the protocol's)"
        fault = f"holds {present:,} images, protocol '{protocol.name}' takes {takes}"
        more = f"generate {n * count - present:,} more"
        raise TooFewError(images.path, fault, f"{more}{other if fits >= 2 else ''}", more, fits)
    return trials if trials is not None else min(complete, protocol.trials)


def _check_count(protocol: Protocol, count: int, where: object) -> None:
    """Refuses so few images that a metric cannot be computed."""
    for metric in protocol.metrics:
        if fault := metric.fault(count):
            raise UserError(where, f"has too few images ({metric.key}: {fault.partition(';')[0]})", "give more images")


def _pair_protocol(
    first: ImageStore | None, second: ImageStore, protocol: Protocol, trials: int | None, num_samples: int | None
) -> Protocol:
    """Protocol of a comparison of two sets of images; all images of both are measured.

    Raises:
        UserError: Several trials, statistics beside the second set, or fewer than two images.
    """
    if trials not in (None, 1):
        raise UserError(f"--trials {trials}", "two sets are compared as a whole, in one trial", "leave the option out")
    if second.has_statistics:
        fault = "has mu and sigma of other images beside its own, which a comparison of two sets cannot use"
        remedy = (
            "for an FID against them: --reference KEY=FILE, where the protocol's reference KEY has `entry: adm` "
            "(imagenet256); against its images alone: save arr_0 in a file of its own"
        )
        raise UserError(f"--against {second.path}", fault, remedy)
    if num_samples is None:
        # A function or network draws as many images as the second set has.
        num_samples = first.count if first is not None else min(second.count, protocol.num_samples)
    if num_samples < 2:
        where = first.path if first is not None else "--num-samples"
        raise UserError(where, f"a comparison takes two images or more, got {num_samples}")
    return protocol.against(num_samples)
