"""Data sets in memory and in archives, of pictures or latents, and sketches of their images."""

from __future__ import annotations

import abc
import functools
import hashlib
import math
import re
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from sida.config.families import EDM2_LATENTS, LATENTS, Spread
from sida.data.archive import LATENTS_FILE, Files
from sida.errors import UserError, exact, one_line, say, suggestion
from sida.late import torch
from sida.machine import num_cores

#: Images that a sketch reads at a time.
_AT_ONCE = 512
#: Bytes of images that are read at a time, and largest foreign data set that is converted.
_READ_BYTES, _MOST_CONVERTED = 256 << 20, 8 << 30
#: Scatter of an autoencoder's latents of photographs is 4 to 5.5; those of a network, which are scaled, have up to 1.
_LEAST_SCATTER, _SAMPLED = 2.0, 64
#: Logarithms of variances at which diffusers cuts them (``DiagonalGaussianDistribution``).
_LOGVAR_RANGE = (-30.0, 20.0)
if TYPE_CHECKING:
    Indices = Sequence[int] | np.ndarray | torch.Tensor | range


#: Digests that a sketch keeps, hexadecimal digits of one, and a bound above all digests.
_LEAST, _DIGITS, ALL = 1024, 16, "g"


class Sketch:
    """Sketch of a set of images: its smallest digests, from which the images common to two sets are estimated.

    A sketch keeps the least digests of its images. Below the smaller bound of two sketches both are complete, so that
    the images there are a random sample of both sets (bottom-k sketch: Cohen and Kaplan, 2007). This detects a set
    within another, a part of one, and an archive of several, whatever their names, files and orders are.

    Attributes:
        shape: ``(C, H, W)``; empty without images.
        least: The digests, in hexadecimal digits.
        bound: Digest up to which no digest is left out; :data:`ALL` if none is left out at all.
    """

    def __init__(self, shape: Iterable[int] = (), least: Iterable[str] = (), bound: str = ALL) -> None:
        self.shape, self.bound = tuple(shape), bound
        self.least = {digest for digest in least if digest <= bound}
        if len(self.least) > _LEAST:
            self.least = set(sorted(self.least)[:_LEAST])
            self.bound = max(self.least)

    def with_images(self, images: np.ndarray) -> Sketch:
        """The sketch with further images uint8 ``(N, C, H, W)``."""
        digests = {hashlib.blake2b(image.tobytes(), digest_size=_DIGITS // 2).hexdigest() for image in images}
        return Sketch(images.shape[1:], self.least | digests, self.bound)

    def shared(self, other: Sketch) -> tuple[int, int] | None:
        """Counts images of another set in this one: ``(common, sampled)``; None if that is unknown.

        Images of another shape may show the same pictures, so that their digests say nothing.
        """
        bound = min(self.bound, other.bound)
        sample = {digest for digest in other.least if digest <= bound}
        return (len(sample & self.least), len(sample)) if sample and self.shape in ((), other.shape) else None

    def record(self) -> dict[str, Any]:
        """The sketch as JSON values."""
        return {"shape": [*self.shape], "bound": self.bound, "least": "".join(sorted(self.least))}


def read_sketch(record: Any) -> Sketch | None:
    """The sketch of a record; None for anything else."""
    if not isinstance(record, Mapping) or not isinstance(record.get("shape"), list):
        return None
    text = str(record.get("least"))
    return Sketch(record["shape"], re.findall(f"[0-9a-f]{{{_DIGITS}}}", text), str(record.get("bound")))


def join_sketches(sketches: Iterable[Sketch | None]) -> Sketch | None:
    """Sketch of the images of several sets; None if one is unknown, or if their shapes differ."""
    all_sketches = [*sketches]
    known = [sketch for sketch in all_sketches if sketch is not None]
    shapes = {sketch.shape for sketch in known if sketch.shape}
    if len(known) < len(all_sketches) or len(shapes) > 1:
        return None
    least = set[str]().union(*(sketch.least for sketch in known))
    return Sketch(next(iter(shapes), ()), least, min((sketch.bound for sketch in known), default=ALL))


class Dataset(abc.ABC):
    """Images with optional labels, by index.

    A subclass provides the raw images and labels; this class adds three views of the official tools
    (NVlabs/edm:training/dataset.py): labels as one-hot rows, a seeded subset, and mirrored copies.

    Args:
        name: Short name for records, e.g. ``"cifar10"``.
        raw_shape: ``(N, C, H, W)`` of the underlying data.
        labels: Class indices int64 ``(N,)``, or None when unlabelled.
        max_size: Number of images to keep: the first ones of a shuffled order, in their original order.
        random_seed: Seed of the shuffle for ``max_size``.
        xflip: Whether mirrored copies of all kept images follow them.

    Attributes:
        name: Short name for records.
        raw_count: Number of images before ``max_size`` and ``xflip``.
        num_channels: Channels of ``images``.
        resolution: Height and width of ``images``.
        label_dim: Width of the label rows: ``max + 1`` over the labels of all data, not of the subset; 0 without
            labels.
    """

    #: Whether items are pixels (uint8); else they are VAE moments (float32).
    is_pixels: bool = True
    #: Kind of latents, a name of :data:`sida.config.families.LATENTS`.
    latents: str = EDM2_LATENTS.name
    #: Whether latents are by an encoder from elsewhere, which may be trained on the networks that measure.
    foreign_encoder: bool = False
    #: Whether all items are in memory, without reading or decoding.
    in_memory: bool = False

    def __init__(
        self,
        name: str,
        raw_shape: tuple[int, int, int, int],
        labels: np.ndarray | None,
        max_size: int | None = None,
        random_seed: int = 0,
        xflip: bool = False,
    ) -> None:
        self.name = name
        count, self.num_channels, self.resolution, _ = raw_shape
        if labels is not None and len(labels) != count:
            raise ValueError(f"{len(labels)} labels for {count} images")
        self._labels, self.raw_count = labels, count
        self.label_dim = 0 if labels is None else int(labels.max()) + 1
        self.raw_indices = np.arange(count, dtype=np.int64)
        if max_size is not None and max_size < count:
            # The legacy generator, whose stream is frozen, drew the published subsets.
            np.random.RandomState(random_seed % (1 << 31)).shuffle(self.raw_indices)
            self.raw_indices = np.sort(self.raw_indices[:max_size])
        self._flipped = np.zeros(len(self.raw_indices), dtype=bool)
        if xflip:
            self.raw_indices = np.tile(self.raw_indices, 2)
            self._flipped = np.concatenate([self._flipped, ~self._flipped])

    def __len__(self) -> int:
        return len(self.raw_indices)

    @abc.abstractmethod
    def raw_images(self, raw_indices: np.ndarray) -> np.ndarray:
        """Underlying images ``(N, C, H, W)`` at raw indices: a new array, uint8 or (for latents) float32."""

    @functools.cached_property
    @abc.abstractmethod
    def sha256(self) -> str:
        """SHA-256 of the underlying data, computed on first use, which may read every byte."""

    @functools.cached_property
    def sketch(self) -> Sketch | None:
        """Sketch of the images without mirrored copies, which reads all images once; None for latents."""
        if not self.is_pixels:
            return None
        joined, indices = Sketch(), np.unique(self.raw_indices)
        for start in range(0, len(indices), _AT_ONCE):
            joined = joined.with_images(self.raw_images(indices[start : start + _AT_ONCE]))
        return joined

    def images(self, indices: Indices) -> torch.Tensor:
        """Images ``(N, C, H, W)`` at ``indices``: uint8 pixels in 0..255, or float32 VAE moments."""
        positions = np.asarray(indices, dtype=np.int64)
        batch = self.raw_images(self.raw_indices[positions])
        assert batch.shape == (len(positions), self.num_channels, self.resolution, self.resolution)
        flipped = self._flipped[positions]
        if flipped.any():
            batch[flipped] = batch[flipped][..., ::-1]
        return torch.from_numpy(np.ascontiguousarray(batch))

    def labels(self, indices: Indices) -> torch.Tensor:
        """Label rows float32 ``(N, label_dim)``, one-hot; width 0 when unconditional."""
        positions = np.asarray(indices, dtype=np.int64)
        if self._labels is None:
            return torch.zeros(len(positions), 0)
        picked = torch.from_numpy(self._labels[self.raw_indices[positions]])
        return torch.nn.functional.one_hot(picked, self.label_dim).float()

    @functools.cached_property
    def class_indices(self) -> torch.Tensor:
        """Class of every item, int64 ``(len,)``; the empirical label distribution draws from it.

        Raises:
            UserError: The data set has no labels.
        """
        if self._labels is None:
            remedy = "use one with labels in dataset.json"
            raise UserError("", f"data set {self.name} has no class labels", remedy)
        return torch.from_numpy(self._labels[self.raw_indices])

    @property
    def network_shape(self) -> tuple[int, int, int]:
        """Shape ``(C, H, W)`` of network input: a latent has half the channels of its moments."""
        channels = self.num_channels if self.is_pixels else self.num_channels // 2
        return (channels, self.resolution, self.resolution)

    def network_input(
        self, batch: torch.Tensor, noise: Callable[[torch.Tensor], torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Converts a batch of :meth:`images` to network input, float32: ``x / 127.5 - 1`` for pixels.

        Latents are sampled from their moments with unit normal ``noise(x)`` (None: torch's generator).
        """
        if not self.is_pixels:
            from sida.data.latents import LatentScaling

            return LatentScaling(LATENTS[self.latents]).sample(batch, noise or torch.randn_like)
        return batch.to(torch.float32) / 127.5 - 1

    def describe(self) -> dict[str, Any]:
        """Facts for records: name, size, shape, classes."""
        sizes = {"channels": self.num_channels, "resolution": self.resolution, "label_dim": self.label_dim}
        return {"name": self.name, "images": len(self), **sizes}


class InMemory(Dataset):
    """Images in memory.

    Args:
        name: Name for records.
        pixels: Images uint8 ``(N, C, H, W)``.
        classes: Class of each image, int64 ``(N,)``, or None.
        views: See :class:`Dataset`.
    """

    in_memory = True

    def __init__(self, name: str, pixels: np.ndarray, classes: np.ndarray | None, **views: Any) -> None:
        self.pixels = pixels
        super().__init__(name, pixels.shape, classes, **views)

    def raw_images(self, raw_indices: np.ndarray) -> np.ndarray:
        """Images uint8 ``(N, C, H, W)``."""
        return self.pixels[raw_indices]

    @functools.cached_property
    def sha256(self) -> str:
        """SHA-256 of all pixels."""
        return hashlib.sha256(self.pixels.tobytes()).hexdigest()


class ImageArchive(Dataset):
    """Data set that reads images on demand from an archive or folder: pixels, or latents where they are float32 arrays.

    Latents are VAE moments: 4 means and 4 standard deviations, or logarithms of variances, which become deviations.

    Args:
        path: Archive or folder.
        name: Name for records.
        use_labels: False makes the data set unconditional.
        latents: Expected kind of latents; None takes the recorded one, else EDM2's.
        spread: Expected second half of latents; None takes the recorded one, else ``std``.
        cache: Whether to keep images in memory (of each process) once they are read; for data sets that fit. Images
            that this package did not write are all converted at the second read, into a temporary file or the memory.
        views: See :class:`Dataset`.

    Attributes:
        dtype: uint8, or float32 for latents.

    Raises:
        UserError: The archive is missing or broken, has no images, or unreadable or incomplete labels; its first image
            is neither a square grey or RGB picture nor latents; or latents are to be mirrored or are of another kind.
            Other images, and that deviations are positive, are checked when they are read.
    """

    def __init__(
        self,
        path: str,
        name: str | None = None,
        use_labels: bool = True,
        cache: bool = False,
        latents: str | None = None,
        spread: Spread | None = None,
        **views: Any,
    ) -> None:
        self.files = Files(path, num_cores())
        self.members = self.files.pictures(arrays=True)
        ((facts, _),) = self.files.images(self.members[:1])
        (channels, height, width), self.dtype = facts["shape"], np.dtype(facts["kind"])
        self.is_pixels = self.dtype == np.uint8
        if height != width:
            remedy = "images must be square (sida data prepare --transform center-crop makes them so)"
            raise UserError(self.files.where(int(self.members[0])), f"is {width}×{height}", remedy)
        if not self.is_pixels and views.get("xflip"):
            raise UserError(path, "xflip has no meaning for latents", "leave it out")
        if not self.is_pixels and channels != 8:
            fault = f"has {channels} channels, and is not an archive of 4 means and 4 standard deviations"
            raise UserError(path, fault, "encode the images again (sida data encode)")
        if not self.is_pixels:
            self.latents, self.spread = self._kind_of_latents(latents, spread)
        elif latents is not None or spread is not None:
            raise UserError(path, "has pixels, not latents", "encode it (sida data encode)")
        labels = self.files.labels(self.members) if use_labels else None
        self._raw_shape = (len(self.members), channels, height, width)
        super().__init__(name or PurePath(path).stem, self._raw_shape, labels, **views)
        self._cached: np.ndarray | None = np.empty(self._raw_shape, dtype=self.dtype) if cache else None
        self._is_cached, self._reads, self._lock = np.zeros(len(self.members), dtype=bool), 0, threading.Lock()
        if not self.is_pixels:
            self._tell_scale()

    def _kind_of_latents(self, expected: str | None, spread: str | None) -> tuple[str, str]:
        """Kind and spread: those recorded, else those expected, else EDM2's, whose own tool records neither."""
        facts = self.files.latents()
        kind, own = facts.get("kind"), facts.get("spread")
        if own not in (None, *get_args(Spread)) or (None not in (own, spread) and own != spread):
            fault = f"has the spread '{one_line(str(own), 40)}'{f', the spec says {spread!r}' if spread else ''}"
            raise UserError(self.files.path, fault, f"it is one of {', '.join(get_args(Spread))}")
        if kind is not None and kind not in LATENTS:
            fault = f"has latents of kind '{one_line(kind, 40)}'{suggestion(kind, LATENTS)}"
            raise UserError(self.files.path, fault, "encode its pixels again (sida data encode)")
        if None not in (kind, expected) and kind != expected:
            fault = f"has latents of kind '{kind}', the spec says '{expected}'"
            raise UserError(self.files.path, fault, f"encode its pixels again: sida data encode --latents {expected}")
        name = kind or expected or EDM2_LATENTS.name
        self.foreign_encoder = facts.get("encoder") not in (None, *LATENTS[name].decoders)
        return name, own or spread or "std"

    def _tell_scale(self) -> None:
        """Says that latents look as if they were scaled for a network already, which would scale them twice."""
        sample = np.linspace(0, len(self.members) - 1, min(_SAMPLED, len(self.members))).astype(np.int64)
        means = self._read(sample)[:, : self.num_channels // 2]
        scatter = float(means.std(axis=(0, 2, 3)).mean())
        if scatter < _LEAST_SCATTER:
            fault = f"its latents scatter by {scatter:.2g}, those of an autoencoder by 4 to 5.5 on photographs"
            say(f"{self.files.path}: {fault}: if they are scaled for a network already, store them without the scale")

    def raw_images(self, raw_indices: np.ndarray) -> np.ndarray:
        """Images ``(N, C, H, W)``.

        Raises:
            UserError: An image is damaged, or differs from the first one in size or channels; or there are too many to
                be converted.
        """
        with self._lock:
            self._reads += 1
            is_foreign = not self.files.is_own and self._reads > 1
            if self._cached is None and is_foreign:
                self._cached = self._temporary()
            if self._cached is not None:
                wanted = self.raw_indices if is_foreign else raw_indices
                missing = np.unique(wanted[~self._is_cached[wanted]])
                step = max(1, _READ_BYTES // (math.prod(self._raw_shape[1:]) * self.dtype.itemsize))
                for start in range(0, len(missing), step):
                    part = missing[start : start + step]
                    self._cached[part] = self._read(part)
                    self._is_cached[part] = True
        return self._read(raw_indices) if self._cached is None else self._cached[raw_indices]

    def _temporary(self) -> np.ndarray:
        """Room for all images in a nameless file."""
        nbytes = math.prod(self._raw_shape) * self.dtype.itemsize
        if nbytes > _MOST_CONVERTED:
            fault = f"has {nbytes / 1e9:.1f} GB of images in a form that is converted at each start"
            remedy = f"prepare them once: sida data prepare --source {self.files.path} --out ARCHIVE.zip"
            raise UserError(self.files.path, fault, remedy)
        with tempfile.TemporaryFile() as file:
            return np.memmap(file, self.dtype, "w+", shape=self._raw_shape).view(np.ndarray)

    @functools.cached_property
    def sha256(self) -> str:
        """SHA-256 of the archive's bytes (of names and contents for a folder)."""
        return self.files.digest()

    def _read(self, raw_indices: np.ndarray) -> np.ndarray:
        shape, count = self._raw_shape[1:], 0
        batch = np.empty((len(raw_indices), *shape), dtype=self.dtype)
        for facts, images in self.files.images(self.members[raw_indices], shape, self.dtype.str):
            if images is not None:
                batch[count : count + len(images)] = images
                count += len(images)
            # Shape and kind of the image after those in the answer, if it is unlike the first one.
            if facts["differing"] is not None:
                index, first = int(self.members[raw_indices[count]]), self.files.names[int(self.members[0])]
                layouts = (facts["differing"], (shape, self.dtype))
                differing, usual = (f"{'×'.join(map(str, sides))} {np.dtype(kind)}" for sides, kind in layouts)
                remedy = "all images must be alike (sida data prepare makes them so)"
                raise UserError(self.files.where(index), f"is {differing}, but {first} is {usual}", remedy)
        if not self.is_pixels:
            self._make_deviations(batch[:, shape[0] // 2 :], raw_indices)
        return batch

    def _make_deviations(self, spread: np.ndarray, raw_indices: np.ndarray) -> None:
        """Turns the second half of moments into standard deviations, in place.

        Raises:
            UserError: A deviation is not positive, or all logarithms of an item's variances are.
        """
        positive = (spread > 0).all(axis=(1, 2, 3))
        fitting = ~positive if self.spread == "logvar" else positive
        if not fitting.all():
            first = int(np.argmin(fitting))
            where, least = self.files.where(int(self.members[raw_indices[first]])), exact(spread[first].min())
            if self.spread == "logvar":
                fault, other = f"has no logarithm of a variance below {least}, as if they were deviations", "std"
            else:
                fault, other = f"has a standard deviation of {least}, and deviations are positive", "logvar"
            remedy = f"say spread: {other} in the data set (or in {LATENTS_FILE}), or encode the pictures again"
            raise UserError(where, fault, remedy)
        if self.spread == "logvar":
            spread[:] = np.exp(spread.clip(*_LOGVAR_RANGE) / 2)
