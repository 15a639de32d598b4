"""Sources of images for a measurement: a network, real images, a Python function, or files.

A source maps image seeds to images. Seed s gives the same image in any batch, shard or trial: networks and resampled
data use one random stream per seed; files are chosen by position.

Checks of images from outside: type, shape, and no duplicates.

Files of images as the source of a measurement: seed s of the protocol is image s − seed0, ordered by name.
"""

from __future__ import annotations

import functools
import hashlib
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from typing import Protocol as Interface

import numpy as np
import torch

from eval.measuring.pipeline import ImageBatch
from eval.measuring.protocol import Protocol
from eval.measuring.references import data_digest
from eval.measuring.stores import open_images
from sida.config.plugins import check_code_path, code_sha256, load_object
from sida.config.samplers import Sampler, read_sampler
from sida.errors import UserError
from sida.files.atomic import by_content, sha256_file
from sida.networks.checkpoint import load_network
from sida.sampling import NO_CLASS, Drawer, Samples
from sida.sampling.networks import decoder_digest
from sida.sampling.samplers import to_uint8
from sida.sampling.seeds import latents_for_seeds

if TYPE_CHECKING:
    from sida.config.datasets import LabelCounts
    from sida.data import Dataset


class Duplicates:
    """Refuses equal images, since copies would count as samples.

    Args:
        name: Gives the name of the image at a position, for the error.
        remedy: Remedy in the error.
    """

    def __init__(self, name: Callable[[int], str], remedy: str) -> None:
        self._name, self._remedy = name, remedy
        self._seen: dict[bytes, int] = {}

    def check(self, images: Iterable[np.ndarray], first: int) -> None:
        """Checks the images from position ``first`` on.

        Raises:
            UserError: An image equals an image at another position.
        """
        for position, image in enumerate(images, start=first):
            digest = hashlib.blake2b(image.tobytes(), digest_size=16).digest()
            twin = self._seen.setdefault(digest, position)
            if twin != position:
                raise UserError(self._name(position), f"is the same image as {self._name(twin)}", self._remedy)


def as_batch(returned: Any, count: int, name: str) -> ImageBatch:
    """Checks and converts the images that a function returned for seeds.

    Args:
        returned: Images uint8 ``(N, C, H, W)``, or ``(images, classes)`` with whole numbers ``(N,)``.
        count: Number of seeds.
        name: Name of the function, for errors.

    Raises:
        UserError: The returned value is anything else.
    """
    images, classes = returned if isinstance(returned, tuple) and len(returned) == 2 else (returned, None)
    wanted = f"{name}: must return uint8 images of shape ({count}, C, H, W)"
    try:
        pixels = torch.as_tensor(images)
    except (TypeError, ValueError, RuntimeError):
        raise UserError("", f"{wanted}, or (images, classes), got {type(images).__name__}") from None
    if pixels.dtype != torch.uint8 or pixels.ndim != 4 or len(pixels) != count:
        raise UserError("", f"{wanted}, got {pixels.dtype} {tuple(pixels.shape)}")
    if classes is None:
        return ImageBatch(pixels, None)
    try:
        labels = torch.as_tensor(classes)
    except (TypeError, ValueError, RuntimeError):
        raise UserError(name, f"must return classes as whole numbers, got {type(classes).__name__}") from None
    if labels.shape != (count,) or labels.is_floating_point():
        raise UserError(
            name, f"must return classes as whole numbers of shape ({count},), got {labels.dtype} {tuple(labels.shape)}"
        )
    return ImageBatch(pixels, labels.to(torch.int64))


#: Largest mean difference, in grey levels, of images that are drawn twice with the same seeds.
_ROUNDING = 0.5


class Source(Interface):
    """Images by seed."""

    def identity(self) -> dict[str, Any]:
        """Plain values that change if an image could change, such as digests of networks, data and files."""

    def batches(self, seeds: range, batch_size: int) -> Iterator[ImageBatch]:
        """The images of consecutive seeds, in their order, ``batch_size`` at a time."""


@dataclass
class DataSource:
    """Resampled real images, whose distance is the noise floor: that of a perfect generator at this n.

    Args:
        dataset: Data set of pixels or latents.
        vae: Folder of the decoder of latents; None takes the registered one.
        device: Torch device of the decoder.
    """

    dataset: Dataset
    vae: str | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        self.drawer = Drawer(Sampler(kind="data"), dataset=lambda: self.dataset, vae=self.vae, device=self.device)

    def identity(self) -> dict[str, Any]:
        """Digest of the data, and of the decoder of latents."""
        data = {"data": data_digest(self.dataset)}
        return data if self.dataset.is_pixels else {**data, "vae": decoder_digest(self.vae)}

    def batches(self, seeds: range, batch_size: int) -> Iterator[ImageBatch]:
        """Real images drawn with replacement; their classes are the true ones."""
        return _plain(self.drawer.draw(seeds, batch_size))


@dataclass
class CallableSource:
    """A generator from outside: a Python callable ``function(seeds, **kwargs)``.

    The function returns uint8 images (N, C, H, W), or ``(images, classes)`` for a conditional generator.

    Args:
        name: ``module:object``.
        kwargs: Further arguments of each call.
        allow_duplicates: False refuses a generator that gives equal images for different seeds.
        function: The callable itself, where Python code has it at hand; else it is imported by its name.
    """

    name: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    allow_duplicates: bool = False
    function: Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        if self.function is None:
            self._module, self._function = load_object(self.name, "sampler.callable", "function")
        else:
            self._module, self._function = sys.modules[self.function.__module__], self.function
        if not callable(self._function):
            raise UserError(
                "sampler.callable", f"'{self.name}' is of type {type(self._function).__name__}, no function"
            )
        allowing = "or say allow_duplicates: true in the spec's sampler if it really repeats itself"
        remedy = f"give each seed an image of its own, {allowing}"
        self._duplicates = Duplicates(lambda seed: f"seed {seed} of {self.name}", remedy)
        self._drawn_again = False

    def identity(self) -> dict[str, Any]:
        """Name, arguments (files among them by their bytes) and source file of the callable."""
        source = code_sha256(self._module, self._function)
        facts = getattr(self._function, "facts", {}) if isinstance(self._function, ScriptedGenerator) else {}
        return {"callable": self.name, "kwargs": by_content(self.kwargs), "source_sha256": source, **facts}

    def batches(self, seeds: range, batch_size: int) -> Iterator[ImageBatch]:
        """Calls the function and checks what it returns; the first batch is drawn twice.

        Raises:
            UserError: The function returns something else, other images for the same seeds, or equal images for two
                seeds.
        """
        for start in range(0, len(seeds), batch_size):
            chosen = seeds[start : start + batch_size]
            batch = self._draw(chosen)
            if not self._drawn_again:
                self._drawn_again, first = True, batch.images.clone()
                # Kernels of a GPU may round a few values differently; different noise changes all values.
                again = self._draw(chosen).images
                if again.shape != first.shape or (again.short() - first.short()).abs().float().mean() > _ROUNDING:
                    raise UserError(
                        self.name,
                        f"gave other images when asked for seeds {chosen[0]} to {chosen[-1]} again",
                        "the same seed must always give the same image: let a random stream start from each seed",
                    )
                batch = batch._replace(images=first)
            if not self.allow_duplicates:
                self._duplicates.check(batch.images.cpu().numpy(), chosen[0])
            yield batch

    def _draw(self, seeds: range) -> ImageBatch:
        return as_batch(self._function(list(seeds), **self.kwargs), len(seeds), self.name)


class ScriptedGenerator:
    """A TorchScript file as a function of seeds: ``file(z)`` gives images in [-1, 1], or uint8, for normal latents z.

    Args:
        path: The file, a program: it needs the user's permission.
        latent: Shape of the latents of one image; seed s draws its own.
        device: Torch device.

    Raises:
        UserError: No permission, or a damaged file.
    """

    def __init__(self, path: str | Path, latent: Sequence[int], device: str = "cpu") -> None:
        from eval.features.inception import load_torchscript

        check_code_path(path, "a TorchScript file, a program")
        self.path, self._latent, self._device = Path(path), tuple(latent), device
        self._net = load_torchscript(self.path, torch.device(device))
        #: Part of the identity of the images.
        self.facts = {"script_sha256": sha256_file(self.path), "latent": list(self._latent)}

    def __call__(self, seeds: Sequence[int]) -> torch.Tensor:
        """Images of the seeds."""
        try:
            with torch.inference_mode():
                images = self._net(latents_for_seeds(seeds, self._latent).to(self._device))
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1][:200]
            raise UserError(
                self.path, f"fails on latents {self._latent} ({reason})", "give others by --latent"
            ) from None
        if not isinstance(images, torch.Tensor):
            raise UserError(self.path, f"must return a tensor of images, got {type(images).__name__}")
        return images if images.dtype == torch.uint8 else to_uint8(images)


def is_torchscript(path: str | Path) -> bool:
    """Whether a file is a TorchScript archive, told from one of ``torch.save`` by its code."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


@dataclass
class NetworkSource:
    """A network with a sampler (:func:`sida.sampling.generate`).

    Args:
        path: Network file.
        sampler: Mapping of :class:`sida.config.samplers.Sampler`.
        protocol: Protocol, which determines the distribution of classes and the quantisation.
        dataset: Opens the data set; called only for class frequencies that the protocol does not contain.
        data: Spec of the data set, compared with the protocol's class counts if the data set is available.
        guide: File of a guiding network, for samplers with guidance.
        vae: Folder of the decoder of latent networks; None takes the registered one.
        device: Torch device of the network.
    """

    path: str
    sampler: Mapping[str, Any]
    protocol: Protocol
    dataset: Callable[[], Dataset]
    guide: str | None = None
    vae: str | None = None
    device: str = "cpu"
    data: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:

        net, self.metadata = load_network(self.path, self.device)
        guide = load_network(self.guide, self.device)[0] if self.guide else None
        sampler = read_sampler(self.sampler)
        self.drawer = Drawer(sampler, net, guide, lambda: self._label_data, self.vae, self.device)
        decodes = self.protocol.quantisation == "truncate_unit"
        if decodes != self.drawer.draws_latents:
            raise UserError(
                self.path,
                f"has {getattr(net, 'img_channels', 0)} channels, protocol '{self.protocol.name}' "
                f"measures {'decoded latents' if decodes else 'pixels'}",
                "choose another protocol",
            )

    @functools.cached_property
    def sha256(self) -> str:
        """Digest of the network file."""
        return sha256_file(self.path)

    @functools.cached_property
    def _counts(self) -> LabelCounts | None:
        """Class counts of the protocol, if it has any and classes are drawn."""
        if not self.drawer.label_dim:
            return None
        counts = self.protocol.label_counts
        if counts is not None and self.data is not None:
            from sida.data.count_labels import check_labels

            check_labels(counts, self.data, f"protocol '{self.protocol.name}': labels")
        return counts

    @functools.cached_property
    def _label_data(self) -> Dataset | None:
        drawn = self.drawer.label_dim and self.protocol.label_dist == "empirical" and self.protocol.labels is None
        return self.dataset() if drawn else None

    @property
    def _labels_digest(self) -> str | None:
        if self._counts is not None and self.protocol.labels_asset:
            return self._counts.sha256
        return data_digest(self._label_data) if self._label_data is not None else None

    def identity(self) -> dict[str, Any]:
        """Digests of the network files and of the data for class frequencies, and the sampler with its defaults.

        Class counts are part of the protocol's digest, unless it names an asset.
        """
        sampler = self.drawer.sampler
        return {
            "network": self.sha256,
            "guide": sha256_file(self.guide) if self.guide else None,
            "vae": decoder_digest(self.vae),
            "sampler": {**sampler.facts(), "num_steps": sampler.steps},
            "labels_of": self._labels_digest,
        }

    def batches(
        self, seeds: range, batch_size: int, class_labels: str | Sequence[int] | None = None
    ) -> Iterator[ImageBatch]:
        """Samples and quantises; ``class_labels`` (see :func:`sida.sampling.generate`) overrides the protocol."""
        rule = class_labels if class_labels is not None else self._counts or self.protocol.label_dist
        return _plain(self.drawer.draw(seeds, batch_size, rule, self.device))


def _plain(samples: Iterator[Samples]) -> Iterator[ImageBatch]:
    """Batches of samples; networks without classes give None for classes."""
    for batch in samples:
        has_classes = len(batch.classes) > 0 and int(batch.classes[0]) != NO_CLASS
        yield ImageBatch(batch.images, batch.classes if has_classes else None)


@dataclass
class ImageFiles:
    """Source of images in files.

    Args:
        path: Folder, zip, tar, npz or npy.
        protocol: Protocol, which determines the number of images of a trial.
        allow_duplicates: False refuses equal images, since copied files would count as samples.
    """

    path: str
    protocol: Protocol
    allow_duplicates: bool = False

    def __post_init__(self) -> None:
        self.store = open_images(self.path)
        self.store.side = self.protocol.resolution
        allowing = "or allow them (--allow-duplicates) if the generator really repeats itself"
        self._duplicates = Duplicates(self.store.name, f"remove copies, {allowing}")

    @property
    def trials(self) -> int:
        """Number of complete trials that the images allow."""
        return self.store.count // self.protocol.num_samples

    def identity(self) -> dict[str, Any]:
        """Digest of the files."""
        return {"images": self.store.digest()}

    def batches(self, seeds: range, batch_size: int) -> Iterator[ImageBatch]:
        """Decodes the images of these positions.

        Raises:
            UserError: Too few images, or one that is broken, of another size or mode, or a duplicate.
        """
        begin, end = seeds.start - self.protocol.seed0, seeds.stop - self.protocol.seed0
        if end > self.store.count:
            raise UserError(
                self.path,
                f"holds {self.store.count} images, this trial needs {end}",
                f"generate more (protocol '{self.protocol.name}' takes {self.protocol.num_samples} for each trial)",
            )
        for first in range(begin, end, batch_size):
            images = self.store.read(first, min(first + batch_size, end))
            if not self.allow_duplicates:
                self._duplicates.check(images, first)
            classes = None
            if self.store.classes is not None:
                classes = torch.from_numpy(self.store.classes[first : first + len(images)])
            yield ImageBatch(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), classes)
