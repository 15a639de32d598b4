"""Generators to measure, and the sources of a network's images and of resampled real images."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from sida.config.families import NULL_LABEL
from sida.config.feature_networks import UNKNOWN
from sida.config.samplers import SAMPLER_KINDS, Sampler, read_sampler
from sida.config.settings import Count, Natural, Settings, from_mapping
from sida.data.dataset import read_sketch
from sida.data.load import check_labels
from sida.errors import SettingError, UserError, suggestion
from sida.eval.measuring.protocol import Protocol, load_protocol
from sida.eval.measuring.references import data_digest
from sida.eval.measuring.source import ImageBatch, Source
from sida.eval.measuring.stores import Groups
from sida.files.atomic import sha256_file
from sida.methods.method import Exposure
from sida.methods.registry import exposure_of_training
from sida.networks.file import load_network, read_metadata
from sida.sampling import Drawer
from sida.sampling.job import decoder_digest, guide_digest, is_registered_decoder, open_guide, trained_sampler

if TYPE_CHECKING:
    from sida.config.labels import LabelCounts
    from sida.data import Dataset


NETWORK_SAMPLERS = [kind for kind, facts in SAMPLER_KINDS.items() if facts.network]


@dataclass(frozen=True, kw_only=True)
class FileImages(Settings):
    """The sampler ``images``: images in files.

    Attributes:
        kind: ``images``.
        path: Folder or file.
        groups: Meaning of folders, see :meth:`~sida.eval.measuring.stores.ImageStore.arrange`.
        labels: ``none`` leaves classes out; ``auto``, like null, reads them where they are.
        allow_duplicates: Whether equal images are accepted.
    """

    kind: Literal["images"]
    path: str
    groups: Groups | None = None
    labels: Literal["auto", "none"] | None = None
    allow_duplicates: bool = False


@dataclass(frozen=True, kw_only=True)
class FunctionImages(Settings):
    """The sampler ``python``: images that a function draws.

    Attributes:
        kind: ``python``.
        callable: ``module:object``.
        kwargs: Further arguments of each call.
        allow_duplicates: Whether equal images of different seeds are accepted.
    """

    kind: Literal["python"]
    callable: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    allow_duplicates: bool = False


_WITHOUT_NETWORK: dict[str, type[FileImages | FunctionImages]] = {"python": FunctionImages, "images": FileImages}
SAMPLERS = (*SAMPLER_KINDS, *_WITHOUT_NETWORK)


@dataclass(frozen=True, kw_only=True)
class MeasureSpec(Settings):
    """A generator with its sampler and protocol.

    Attributes:
        run: Id of the row.
        method: ``teacher``, ``sid``, ``sida``, ``sid2a``, ``data`` or the name of another method.
        sampler: Mapping of :class:`~sida.config.samplers.Sampler`, :class:`FunctionImages` or :class:`FileImages`.
        protocol: Name, path or content of the protocol; the object has the loaded protocol.
        dataset: Data set for labels, image size, and references that are computed here.
        network: File of the network; None for other sources.
        guide: File of a guiding network, for samplers with guidance; ``null``: the network itself without a class.
        vae: Folder of the decoder of latent networks; None takes the registered one.
        label: Name for people.
        family: Group of rows in tables.
        nfe: Network evaluations per image.
        references: File by reference key.
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
        kind = str(self.sampler.get("kind"))
        if kind not in SAMPLERS:
            raise SettingError("sampler.kind", f"no such sampler '{kind}'{suggestion(kind, SAMPLERS)}")
        _ = self.read_sampler
        if (kind in NETWORK_SAMPLERS) != (self.network is not None):
            needs = "a file" if kind in NETWORK_SAMPLERS else "null"
            raise SettingError("network", f"must be {needs} for sampler '{kind}'")
        if self.dataset is None and kind == "data":
            raise SettingError("dataset", "is missing", "sampler 'data' resamples it")
        object.__setattr__(self, "protocol", load_protocol(self.protocol))

    @property
    def read_sampler(self) -> Sampler | FileImages | FunctionImages:
        """The sampler as settings.

        Raises:
            UserError: A key is unknown or missing, or a value is wrong.
        """
        settings = _WITHOUT_NETWORK.get(str(self.sampler["kind"]))
        return read_sampler(self.sampler) if settings is None else from_mapping(settings, self.sampler, "sampler")


def exposure_of_decoder(drawer: Drawer) -> str:
    """``unknown`` for a decoder from elsewhere, which may be trained on the networks that measure; else empty.

    The word makes the exposure of the whole row unknown, whatever its generator was exposed to.
    """
    return "" if drawer.latents is None or is_registered_decoder(drawer.vae) else UNKNOWN


def exposure_of_parts(header: Mapping[str, Any], guide: str | None, drawer: Drawer) -> str:
    """Exposure by a network's parts beside its own method, in words; empty if they add nothing.

    Args:
        header: Header of the network's file, which states an unknown teacher or start.
        guide: File of the guiding network; ``null`` is the network itself.
        drawer: Draws the images, with a decoder if they are latents.

    Returns:
        ``unknown`` if nothing states what trained one of them; else the networks that trained the guiding network.
    """
    guided = Exposure() if guide in (None, NULL_LABEL) else exposure_of_training(read_metadata(str(guide)))
    if guided is None or header.get("saw") == UNKNOWN or exposure_of_decoder(drawer):
        return UNKNOWN
    if guided == Exposure():
        return ""
    # Words of a guiding network do not make its unknown generator known.
    return UNKNOWN if exposure_of_training(header) is None else str(guided)


@dataclass
class DataSource(Source):
    """Resampled real images; their distance is the noise floor, the distance of a perfect generator at this n.

    Args:
        dataset: Data set of pixels or latents.
        vae: Folder of the decoder of latents; None takes the registered one.
        device: Torch device of the decoder.
        rounded: Whether bytes of decoded latents are rounded, see :class:`~sida.data.LatentDecoder`.
    """

    dataset: Dataset
    vae: str | None = None
    device: str = "cpu"
    rounded: bool = False

    def __post_init__(self) -> None:
        sampler, dataset = Sampler(kind="data"), lambda: self.dataset
        self.sketch = self.dataset.sketch
        self.drawer = Drawer(sampler, dataset=dataset, vae=self.vae, device=self.device, rounded=self.rounded)

    @property
    def saw(self) -> str:
        """``unknown`` for latents of an encoder from elsewhere, else see :func:`exposure_of_decoder`."""
        return UNKNOWN if self.dataset.foreign_encoder else exposure_of_decoder(self.drawer)

    def identity(self) -> dict[str, Any]:
        """Digest of the data, and of the decoder of latents."""
        data = {"data": data_digest(self.dataset)}
        return data if self.dataset.is_pixels else {**data, "vae": decoder_digest(self.vae)}

    def stream(self, first: int, count: int, batch_size: int) -> Iterator[ImageBatch]:
        """Real images drawn with replacement; their classes are the true ones."""
        samples = self.drawer.draw(range(first, first + count), batch_size)
        return (ImageBatch.of(batch.images, batch.classes) for batch in samples)


class NetworkSource(Source):
    """A network with a sampler (:class:`sida.sampling.Drawer`).

    Args:
        spec: Spec of the measurement, whose protocol determines the distribution of classes and the quantisation.
        dataset: Opens the data set; called only for class frequencies that the protocol does not contain.
    """

    def __init__(self, spec: MeasureSpec, dataset: Callable[[], Dataset]) -> None:
        self._spec, self._dataset, self.path = spec, dataset, str(spec.network)
        self._protocol: Protocol = spec.protocol
        net, self.metadata = load_network(self.path, spec.device)
        # Of the images that the network and its parents have seen, by the header.
        self.sketch = read_sketch(self.metadata.get("images"))
        guide = open_guide(spec.guide, net, spec.device)
        sampler = read_sampler(spec.sampler)
        decodes, rounds = self._protocol.decodes, self._protocol.rounds
        self.drawer = Drawer(sampler, net, guide, lambda: self._label_data, spec.vae, spec.device, rounds)
        if decodes != (self.drawer.latents is not None):
            measures = f"protocol '{self._protocol.name}' measures {'decoded latents' if decodes else 'pixels'}"
            fault = f"has {getattr(net, 'img_channels', 0)} channels, {measures}"
            raise UserError(self.path, fault, "choose another protocol")

    @property
    def trained(self) -> str:
        """Steps of the generator's training where the sampler takes others, such as ``num_steps=4``."""
        training_sampler = trained_sampler(self.metadata, self.path)
        return "" if training_sampler is None else self.drawer.sampler.unlike(training_sampler)

    @property
    def trained_on(self) -> str:
        """Device of the generator's training, by the header; empty if unknown."""
        return str(self.metadata.get("device", ""))

    @property
    def saw(self) -> str:
        """See :func:`exposure_of_parts`."""
        return exposure_of_parts(self.metadata, self._spec.guide, self.drawer)

    @functools.cached_property
    def sha256(self) -> str:
        """Digest of the network file."""
        return sha256_file(self.path)

    @functools.cached_property
    def _counts(self) -> LabelCounts | None:
        """Class counts of the protocol, if it has any and classes are drawn."""
        if not self.drawer.label_dim:
            return None
        counts = self._protocol.label_counts
        if counts is not None and self._spec.dataset is not None:
            check_labels(counts, self._spec.dataset, f"protocol '{self._protocol.name}': labels")
        return counts

    @functools.cached_property
    def _label_data(self) -> Dataset | None:
        needs_data = (
            self.drawer.label_dim and self._protocol.label_dist == "empirical" and self._protocol.labels is None
        )
        return self._dataset() if needs_data else None

    @property
    def _labels_digest(self) -> str | None:
        if self._counts is not None and self._protocol.labels_asset:
            return self._counts.sha256
        return data_digest(self._label_data) if self._label_data is not None else None

    def identity(self) -> dict[str, Any]:
        """Digests of the network files and of the data for class frequencies, and the sampler with its defaults.

        Class counts are part of the protocol's digest, unless it names an asset.
        """
        sampler = self.drawer.sampler
        return {
            "network": self.sha256,
            "guide": guide_digest(self._spec.guide),
            "vae": decoder_digest(self._spec.vae),
            "sampler": {**sampler.facts(), "num_steps": sampler.steps},
            "labels_of": self._labels_digest,
        }

    def stream(
        self, first: int, count: int, batch_size: int, class_labels: str | Sequence[int] | None = None
    ) -> Iterator[ImageBatch]:
        """Samples and quantises; ``class_labels`` (see :meth:`sida.sampling.Drawer.draw`) overrides the protocol."""
        rule = class_labels if class_labels is not None else self._counts or self._protocol.label_dist
        samples = self.drawer.draw(range(first, first + count), batch_size, rule, self._spec.device)
        return (ImageBatch.of(batch.images, batch.classes) for batch in samples)
