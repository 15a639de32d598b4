"""Protocols: metrics with everything that decides their values.

A protocol is data (``config/protocols/*.yaml``). Each of its metrics has an identity
(:class:`sida.eval.results.identity.Identity`) with every field that can change its value, and no other field (other
metrics, title, labels, notes). Two values are comparable if their identities are equal.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from sida.assets.cache import cache_dir, registered
from sida.assets.registry import is_counted, load_registry
from sida.config.labels import LabelCounts, find_labels, load_labels
from sida.config.named_files import file_names, find_file
from sida.config.settings import CheckedAs, Count, Natural, Range, Settings, from_mapping, load_yaml
from sida.errors import SettingError, UserError, suggestion
from sida.eval.features import extractor_entry
from sida.eval.features.registry import registered_digest
from sida.eval.metrics.kinds import AnyMetric, Mean
from sida.eval.metrics.metric import Metric
from sida.eval.results.extended import read_extended
from sida.eval.results.identity import Identity, identity_of, joined

#: Key of a reference with images that no generator may have seen.
HELD_OUT = "heldout"
#: Divisor N − ddof of a variance.
Ddof = Annotated[int, Range(least=0, most=1)]
# Labels enter by content; `cov_ddof` and `references` enter the metrics that use them; `selection` and `watch` concern
# trainings; `if_cached` is resolved when a protocol is loaded.
_NOT_IN_FACTS = {
    *("name", "title", "notes", "labels", "cov_ddof", "references", "metrics", "selection", "watch", "if_cached"),
}
#: Fields about all trials together, the number of trials and the meaning of ±; they change no single trial.
OF_ALL_TRIALS = {"trials", "ddof", "is_spread"}


@dataclass(frozen=True, kw_only=True)
class ReferenceSource(Settings):
    """Source of a reference: the images that a metric compares generated images with, or their statistics.

    Attributes:
        kind: ``dataset`` (all images of the generator's data set), ``statistics`` (a file with mean and covariance:
            published ``.npz``, EDM2 ``.pkl`` or ``.safetensors`` of this suite), ``images`` (reference images as
            ``.npz`` with ``arr_0``, or features of this suite), or ``given`` (all images that ``score --against``
            names; values are comparable with such values alone).
        dataset: Key of ``config/datasets.yaml``, used if the caller names no data set (kind ``dataset``).
        fixed: Use ``dataset`` for every generator, e.g. for held-out images (a reference with the key ``heldout``).
        spec: Settings of a fixed ``dataset`` that a preset brings; the workflow adds them for its jobs.
        asset: Id in ``config/assets.tsv``; the file is fetched into the cache unless the command line names one.
        file: Name of a file that is not a registered asset; an option of the command line names it.
        entry: Entry of an EDM2 ``.pkl``: ``fid`` or ``fd_dinov2``. ``adm``: the statistics in a guided-diffusion batch
            of reference images, which its FID uses.
        num_images: Number of images behind the reference; null if unknown.
        sha256: Required digest of the file; null accepts any file and records its digest.
        cov_ddof: Divisor N - ddof of a covariance that is computed here.
    """

    kind: Literal["dataset", "statistics", "images", "given"]
    dataset: str | None = None
    fixed: bool = False
    spec: dict[str, Any] | None = None
    asset: str | None = None
    file: str | None = None
    entry: str | None = None
    num_images: Count | None = None
    sha256: str | None = None
    cov_ddof: Ddof = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind in ("statistics", "images") and (self.asset is None) == (self.file is None):
            raise SettingError("asset", f"a reference of kind '{self.kind}' needs either an asset or a file")
        if self.fixed and (self.kind != "dataset" or self.dataset is None):
            raise SettingError("fixed", "is for a reference of kind 'dataset' that names one", "give the key 'dataset'")

    def facts(self) -> dict[str, Any]:
        """The fields that can change a number of two real moments; the digest of the real side covers the others."""
        if self.kind == "given":
            return {"given": True, "cov_ddof": self.cov_ddof}
        return {"cov_ddof": self.cov_ddof} if self.kind == "dataset" else {"entry": self.entry}


@dataclass(frozen=True, kw_only=True)
class Protocol(Settings):
    """Settings of a measurement.

    Attributes:
        name: Short name, for people.
        resolution: Height and width of images; null takes any.
        channels: 1 or 3; null takes either.
        num_samples: Number of images of one trial, n.
        trials: Number of trials; trial t uses the seeds ``seed0 + t·n … seed0 + (t + 1)·n − 1``.
        seed0: First seed of trial 0.
        label_dist: Distribution of the classes of generated images: ``empirical`` (frequencies of the data, as in the
            published FID code), ``uniform`` (as in the generation scripts; difference 63) or ``balanced`` (each equally
            often).
        labels: Frequencies for ``empirical``: a data set of ``config/labels``, a ``.json`` file or its content, or an
            asset that lists the class of each image; null reads the classes of the data set itself. The counts, or the
            name of the asset, are part of identities.
        quantisation: ``truncate``: x·127.5 + 128 clamped and truncated (pixels); ``truncate_unit``: decoder output
            u clamped to 0..1, 255 u truncated (latents of EDM2 and REPA; difference 68); ``round_unit``: 255 u + 0.5
            truncated, which is 127.5 x + 128 for x in -1..1 (latents of SiT and DiT).
        cov_ddof: Divisor N − ddof of the generated covariance: 0 in the published numbers (difference 64).
        allow_tf32: Whether convolutions and products may use TF32 on GPUs (difference 70).
        is_spread: Meaning of the ± of the inception score: ``runs`` (over trials) or ``splits`` (difference 71).
        ddof: Divisor of the standard deviation over trials (difference 61).
        references: References by key.
        metrics: Metrics to compute.
        if_cached: Further metrics, each computed if the downloads of its extractor are in the cache; otherwise a loaded
            protocol leaves it out.
        selection: Key of the Fréchet distance whose lowest value determines the kept network of a training; null takes
            the first one. It changes no measured number.
        watch: Keys of the metrics that evaluations during training log; null takes the one of ``selection`` alone. It
            changes no measured number.
        rehearsal: Whether networks and references are random stand-ins (`sida run --rehearse`); such a number is
            comparable with no measurement.
        title: Title for people.
        notes: Sources and remarks for people.
    """

    name: str
    num_samples: Annotated[int, Range(least=2)]
    trials: Count
    metrics: tuple[AnyMetric, ...]
    if_cached: tuple[AnyMetric, ...] = ()
    references: dict[str, Annotated[dict[str, Any], CheckedAs(ReferenceSource)]] = field(default_factory=dict)
    resolution: Count | None = None
    channels: Count | None = None
    seed0: Natural = 0
    label_dist: Literal["empirical", "uniform", "balanced"] = "empirical"
    labels: str | Annotated[dict[str, Any], CheckedAs(LabelCounts)] | None = None
    quantisation: Literal["truncate", "truncate_unit", "round_unit"] = "truncate"
    cov_ddof: Ddof = 0
    allow_tf32: bool = False
    is_spread: Literal["runs", "splits"] = "runs"
    ddof: Ddof = 1
    selection: str | None = None
    watch: tuple[str, ...] | None = None
    rehearsal: bool = False
    title: str = ""
    notes: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.metrics:
            raise SettingError("metrics", "must list at least one metric")
        # Metrics of ``if_cached`` are checked also where their files are not in the cache.
        possible = [*self.metrics, *self.if_cached]
        names = [metric.key for metric in possible]
        if twice := [key for key in names if names.count(key) > 1]:
            raise SettingError("metrics", f"key '{twice[0]}' appears twice")
        if self.labels is not None and self.label_dist != "empirical":
            raise SettingError("labels", f"must be left out where label_dist is {self.label_dist}")
        keys = [metric.key for metric in self.metrics]
        for metric in self.metrics:
            if isinstance(metric, Mean):
                self._check_mean(metric, keys)
        for key, name in [(metric.key, name) for metric in possible for name in metric.references]:
            if name not in self.references:
                hint = suggestion(name, self.references)
                raise SettingError("metrics", f"'{key}' names no reference '{name}'{hint}")
        for key in self.watch or ():
            if key not in keys:
                raise SettingError("watch", f"no metric '{key}'{suggestion(key, keys)}")
        choices = [metric.key for metric in self.metrics if metric.selects]
        if self.selection is not None and self.selection not in choices:
            raise SettingError("selection", f"must be a metric of kind 'frechet'{suggestion(self.selection, choices)}")
        if self.watch is not None and self.selection_key is not None and self.selection_key not in self.watch:
            raise SettingError("watch", f"must have '{self.selection_key}', by which a training chooses its network")

    def _check_mean(self, mean: Mean, keys: Sequence[str]) -> None:
        """Gives a mean the first network of its metrics, which must be metrics of the protocol, and no means."""
        for key in mean.of:
            if key not in keys or isinstance(self.metric(key), Mean):
                raise SettingError("metrics", f"'{mean.key}' is of no metric '{key}'{suggestion(key, keys)}")
        if not mean.of:
            raise SettingError("metrics", f"'{mean.key}' is of no metric", "name some in `of`")
        mean.extractor = self.metric(mean.of[0]).extractor

    @property
    def decodes(self) -> bool:
        """Whether networks draw latents, which are decoded."""
        return self.quantisation != "truncate"

    @property
    def rounds(self) -> bool:
        """Whether bytes of decoded latents are rounded (:class:`sida.data.LatentDecoder`)."""
        return self.quantisation == "round_unit"

    @property
    def selection_key(self) -> str | None:
        """``selection`` with its default; None if no metric can choose a network."""
        return self.selection or next((metric.key for metric in self.metrics if metric.selects), None)

    @property
    def watched(self) -> tuple[Metric, ...]:
        """Metrics that evaluations during training log: ``watch``, else the one that determines the kept network.

        They are part of a training's digest, so that a metric that joins the protocol must not join them by itself.
        """
        keys = (self.selection_key,) if self.watch is None else self.watch
        return tuple(metric for metric in self.metrics if metric.key in keys)

    @property
    def watched_part(self) -> Protocol:
        """The part that evaluations during training use; changes of the rest start no new training."""
        keys = tuple(metric.key for metric in self.watched)
        return self.part(keys, keys) if keys else self

    @functools.cached_property
    def sources(self) -> dict[str, ReferenceSource]:
        """References by key, as objects; the field keeps them as written, which is part of stored digests."""
        where = f"protocol '{self.name}': references"
        return {key: from_mapping(ReferenceSource, value, f"{where}.{key}") for key, value in self.references.items()}

    @property
    def used_sources(self) -> dict[str, ReferenceSource]:
        """The references that metrics use, by key."""
        names = {key for metric in self.metrics for key in metric.references}
        return {key: source for key, source in self.sources.items() if key in names}

    @functools.cached_property
    def label_counts(self) -> LabelCounts | None:
        """Images per class; None if the classes of the data set are drawn.

        Raises:
            UserError: The file of counts is missing or broken.
        """
        if isinstance(self.labels, dict):
            return from_mapping(LabelCounts, self.labels, f"protocol '{self.name}': labels")
        if self.labels is None:
            return None
        if not is_counted(self.labels):
            # A file needs no torch, which sida.data imports and every start of a workflow would wait for.
            return load_labels(self.labels)
        from sida.data.load import counts_of

        return counts_of(self.labels)

    @property
    def labels_asset(self) -> str | None:
        """Asset that lists classes, if ``labels`` names one."""
        return str(self.labels) if is_counted(self.labels) else None

    @property
    def _labels_here(self) -> bool:
        return isinstance(self.labels, dict) or (self.labels is not None and find_labels(self.labels) is not None)

    def facts(self) -> dict[str, Any]:
        """Plain values that can change a number: of the images, and by metric (``metrics``)."""
        facts = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in _NOT_IN_FACTS}
        if not self.rehearsal:
            # Digests of measurements are older than this setting.
            del facts["rehearsal"]
        if self.labels is not None:
            # Image files are measured without counts, so a missing file is reported only when classes are drawn.
            counts = self.label_counts if self._labels_here else None
            facts["labels"] = counts.sha256 if counts else self.labels_asset
        return facts | {"metrics": {metric.key: self._metric_facts(metric) for metric in self.metrics}}

    def image_facts(self) -> dict[str, Any]:
        """The facts that decide the images of a trial."""
        return {key: value for key, value in self.facts().items() if key not in {*OF_ALL_TRIALS, "metrics"}}

    def recorded_facts(self) -> dict[str, Any]:
        """Facts in the form of the first trainings' digests: references and ``cov_ddof`` beside the metrics."""
        facts = {key: value for key, value in self.facts().items() if key != "metrics"}
        references = {}
        for key, source in self.used_sources.items():
            file = {"file": source.asset or source.file, "entry": source.entry, "sha256": source.sha256}
            made = {"cov_ddof": source.cov_ddof, **({"dataset": source.dataset} if source.fixed else {})}
            references[key] = {"kind": source.kind, **(made if source.kind == "dataset" else file)}
        metrics = {}
        for metric in self.metrics:
            reference = {"reference": metric.reference} if metric.real is not None else {}
            metrics[metric.key] = {**metric.facts(), **reference}
        return facts | {"cov_ddof": self.cov_ddof, "references": references, "metrics": metrics}

    def _metric_facts(self, metric: Metric) -> dict[str, Any]:
        if isinstance(metric, Mean):
            return {"kind": metric.kind, "of": {key: self._metric_facts(self.metric(key)) for key in metric.of}}
        facts = metric.facts()
        if "moments" in (metric.generated, metric.real):
            facts["cov_ddof"] = self.cov_ddof
        if metric.real == "moments" or (metric.real and self.sources[str(metric.reference)].kind == "given"):
            facts["reference"] = self.sources[str(metric.reference)].facts()
        if metric.real == "moments" and (further := metric.references[1:]):
            facts["references"] = {key: self.sources[key].facts() for key in further}
        return facts

    def identity(self, key: str, reference: str | None = None, extractor: str | None = None) -> Identity:
        """Identity of a metric's values.

        Args:
            key: Key of the metric.
            reference: Digest of the real side; None takes the registered digest of the asset, if there is one.
            extractor: Digest of the feature network; None takes the registered one, if there is one.
        """
        metric = self.metric(key)
        if isinstance(metric, Mean) and reference is None:
            parts = [self.identity(part) for part in metric.of]
            reference, extractor = (joined([getattr(p, f) for p in parts]) for f in ("reference", "extractor"))
        if reference is None:
            source = self.sources.get(str(metric.reference))
            reference = (source.sha256 or registered(source.asset)) if source and source.asset else ""
        if extractor is None:
            extractor = registered_digest(metric.extractor)
        return identity_of(self.record(), key, reference, extractor)

    def content(self) -> dict[str, Any]:
        """The protocol as a mapping for :func:`load_protocol`: counts instead of a file, no title and notes."""
        content = _non_defaults(self, "title", "notes")
        content["metrics"] = [_non_defaults(metric, "label", "better", "decimals") for metric in self.metrics]
        if self.watch is not None:
            content["watch"] = list(self.watch)
        if self._labels_here and (counts := self.label_counts):
            content["labels"] = _non_defaults(counts, "source")
        return content

    def record(self) -> dict[str, Any]:
        """Description of the protocol in a measurement."""
        return {"name": self.name, "fields": self.facts()}

    def seeds(self, trial: int) -> tuple[int, int]:
        """First and last image seed of a trial."""
        first = self.seed0 + trial * self.num_samples
        return first, first + self.num_samples - 1

    def extractors(self) -> list[str]:
        """Names of the feature networks, in order of first use."""
        return list(dict.fromkeys(metric.extractor for metric in self.metrics))

    def assets(self, decoder: Collection[str] | None = None) -> list[str]:
        """Registered downloads of a measurement: of the feature networks, and of the references.

        Args:
            decoder: For images that a network draws: files of its latents' decoder, which count where the protocol
                decodes, as the classes do; None for ready images.
        """
        networks = [asset for name in self.extractors() for asset in extractor_entry(name).assets]
        references = [source.asset for source in self.used_sources.values() if source.asset]
        drawing = [self.labels_asset] if self.labels_asset and decoder is not None else []
        drawing += decoder or () if self.decodes else ()
        return list(dict.fromkeys([*networks, *references, *drawing]))

    def fixed_datasets(self) -> dict[str, str]:
        """Data sets that are references for every generator, by the setting that names them."""
        setting = f"protocol '{self.name}': references"
        return {f"{setting}.{key}": str(source.dataset) for key, source in self.sources.items() if source.fixed}

    def held_out(self, metric: Metric) -> list[str]:
        """Keys of a metric's references with held-out images: ``heldout``, and those that its kind names."""
        parts = [self.metric(key) for key in metric.of] if isinstance(metric, Mean) else [metric]
        return [key for part in parts for key in part.references if key in (HELD_OUT, getattr(part, "held_out", None))]

    def part(self, keys: Collection[str], watch: tuple[str, ...] | None = None) -> Protocol:
        """The protocol with only some of its metrics, their references, and another ``watch``."""
        keys = {*keys, *(part for m in self.metrics if m.key in keys and isinstance(m, Mean) for part in m.of)}
        metrics = tuple(metric for metric in self.metrics if metric.key in keys)
        names = {reference for metric in metrics for reference in metric.references}
        references = {key: source for key, source in self.references.items() if key in names}
        selection = self.selection if self.selection in keys else None
        return dataclasses.replace(self, metrics=metrics, references=references, selection=selection, watch=watch)

    def against(self, num_samples: int) -> Protocol:
        """The protocol of two sets of images: the second set is the reference of every metric that has one.

        Raises:
            UserError: No metric compares two sets.
        """
        metrics = [metric for metric in self.metrics if metric.real is not None and len(metric.references) == 1]
        if not metrics:
            raise UserError(f"protocol '{self.name}'", "no metric compares two sets", "name another one, such as pair")
        metrics = [dataclasses.replace(metric.for_samples(num_samples), reference="against") for metric in metrics]
        of_two = all(source.kind == "given" for source in self.used_sources.values())
        return dataclasses.replace(
            self,
            name=self.name if of_two else f"{self.name}-pair",
            num_samples=num_samples,
            trials=1,
            metrics=tuple(metrics),
            references={"against": {"kind": "given", "cov_ddof": self.cov_ddof}},
            selection=None,
            watch=None,
        )

    def metric(self, key: str) -> Metric:
        """A metric by its key."""
        metrics = {metric.key: metric for metric in self.metrics}
        if key not in metrics:
            raise UserError(f"protocol '{self.name}'", f"no metric '{key}'{suggestion(key, metrics)}")
        return metrics[key]


def read_protocol(path: Path) -> dict[str, Any]:
    """Keys of a protocol's file and of those that it extends, with the path of its class counts.

    Raises:
        UserError: A missing or faulty file.
    """
    mapping, own = read_extended(path, by_name=True), load_yaml(path)
    if "metrics" in own and "watch" not in own:
        mapping.pop("watch", None)  # of the other file's metrics
    if isinstance(labels := mapping.get("labels"), str):
        mapping["labels"] = str(find_labels(labels, [path.parent.parent, path.parent]) or labels)
    return mapping


def load_protocol(source: str | Path | Mapping[str, Any] | Protocol) -> Protocol:
    """Loads a protocol by name (``digits``), path of a YAML file, or mapping.

    A file may extend another one beside it, or in a folder ``protocols`` one of ``config`` or of a study.

    Raises:
        UserError: Unknown name, missing file, or a bad field (file and key are named).
    """
    if isinstance(source, Protocol):
        return source
    if isinstance(source, Mapping):
        where, mapping = f"protocol '{source.get('name', '?')}'", source
    elif not isinstance(source, (str, Path)):
        raise UserError("protocol", f"must be a name, a file or a mapping, got {source!r:.40}")
    else:
        path = find_file("protocols", source)
        where, mapping = f"{path}:", read_protocol(path)
    protocol = from_mapping(Protocol, mapping, where)
    cached_metrics = tuple(metric for metric in protocol.if_cached if _is_cached(metric.extractor))
    return dataclasses.replace(protocol, metrics=protocol.metrics + cached_metrics, if_cached=())


def protocol_named(name: str) -> Protocol:
    """Loads a protocol of the suite by its name alone; a stranger's measurement may have a path in the name's place.

    Raises:
        UserError: The suite has no protocol of this name.
    """
    known = file_names("protocols")
    if name not in known:
        raise UserError("", f"no protocol '{name}'{suggestion(name, known)}")
    return load_protocol(name)


def _is_cached(extractor: str) -> bool:
    """Whether all downloads of a feature network are in the cache."""
    registry = load_registry()
    assets = extractor_entry(extractor).assets
    return all(asset in registry and (cache_dir() / registry[asset].target).exists() for asset in assets)


def _non_defaults(settings: Any, *without: str) -> dict[str, Any]:
    """Fields whose values differ from the defaults."""
    fields = {f.name: f.default for f in dataclasses.fields(settings) if f.name not in without}
    return {name: value for name, default in fields.items() if (value := getattr(settings, name)) not in (default, {})}
