"""Where the images of a measurement come from: a network, the data themselves, a Python function, or files.

A source maps image seeds to images. Seed s always gives the same image, whatever the batch, shard or trial:
images drawn by a network or resampled from the data come from a random stream per seed; files are taken by position.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from typing import Protocol as Interface

import numpy as np
import torch

from eval.pipeline import Batch
from sida.errors import UserError, suggestion
from sida.io import sha256_file

if TYPE_CHECKING:
    from eval.protocol import Protocol
    from sida.data import Dataset
    from sida.sampling import SeedStreams


class Source(Interface):
    """Images by seed."""

    def identity(self) -> dict[str, Any]:
        """Plain values that change whenever an image could change (digests of networks, data, files)."""

    def images(self, seeds: Sequence[int]) -> Batch:
        """The images of some seeds, in their order."""


def batches(source: Source, first: int, last: int, batch_size: int) -> Iterator[Batch]:
    """Images of the seeds ``first … last`` (inclusive) in batches."""
    for begin in range(first, last + 1, batch_size):
        yield source.images(range(begin, min(begin + batch_size, last + 1)))


@dataclass
class DataSource:
    """Resampled real images: the distance that even a perfect generator keeps at this n (the noise floor).

    Seed s shows image ``randint(len(data))`` of the stream of s; its class is the true one.
    """

    dataset: Dataset

    def identity(self) -> dict[str, Any]:
        """Digest of the data."""
        from eval.references import data_digest

        return {"data": data_digest(self.dataset)}

    def images(self, seeds: Sequence[int]) -> Batch:
        """Real images drawn with replacement."""
        from sida.sampling import SeedStreams

        indices = SeedStreams(seeds).randint(len(self.dataset))
        classes = self.dataset.class_indices[indices] if self.dataset.label_dim else None
        return Batch(self.dataset.images(indices), classes)


@dataclass
class CallableSource:
    """Anyone's generator: a Python callable ``function(seeds, **kwargs)``.

    It returns uint8 images (N, C, H, W), or ``(images, classes)`` when classes were asked for.
    """

    name: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._function = import_callable(self.name, "sampler.callable")

    def identity(self) -> dict[str, Any]:
        """Name, arguments and source file of the callable."""
        import inspect

        source = inspect.getsourcefile(inspect.unwrap(self._function))
        return {
            "callable": self.name,
            "kwargs": dict(self.kwargs),
            "source_sha256": sha256_file(source) if source else None,
        }

    def images(self, seeds: Sequence[int]) -> Batch:
        """Calls the function and checks what it returns."""
        result = self._function(list(seeds), **self.kwargs)
        images, classes = result if isinstance(result, tuple) else (result, None)
        images = torch.as_tensor(images)
        if images.dtype != torch.uint8 or images.ndim != 4 or len(images) != len(seeds):
            raise UserError(
                f"{self.name}: must return uint8 images of shape ({len(seeds)}, C, H, W), "
                f"got {images.dtype} {tuple(images.shape)}"
            )
        return Batch(images, None if classes is None else torch.as_tensor(np.asarray(classes), dtype=torch.int64))


def import_callable(name: str, where: str) -> Callable[..., Any]:
    """Imports ``"module:function"``.

    Raises:
        UserError: Not of that form, no such module, or no such function.
    """
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name:
        raise UserError(f"{where}: must be 'module:function', got '{name}'")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UserError(f"{where}: cannot import '{module_name}' ({error}); is it on PYTHONPATH?") from None
    function = getattr(module, function_name, None)
    if not callable(function):
        raise UserError(
            f"{where}: module '{module_name}' has no function '{function_name}'{suggestion(function_name, dir(module))}"
        )
    return function


@dataclass
class NetworkSource:
    """A network with a sampler.

    The stream of a seed gives the latents first, then the class (as the official tools do), then the sampler's noise.
    """

    path: str
    sampler: Mapping[str, Any]
    dataset: Dataset
    protocol: Protocol
    device: str = "cpu"

    def __post_init__(self) -> None:
        from sida.checkpoint import load_network

        self._net, self.metadata = load_network(self.path, self.device)

    def identity(self) -> dict[str, Any]:
        """Digest of the network file, the sampler, and how classes are drawn."""
        from eval.references import data_digest

        identity: dict[str, Any] = {"network": self.sha256, "sampler": dict(self.sampler)}
        if self.protocol.label_dist == "empirical" and self.label_dim:
            identity["labels_of"] = data_digest(self.dataset)
        return identity

    @functools.cached_property
    def sha256(self) -> str:
        """Digest of the network file."""
        return sha256_file(self.path)

    @property
    def label_dim(self) -> int:
        """Number of classes of the network, 0 when unconditional."""
        return int(getattr(self._net, "label_dim", 0))

    @torch.inference_mode()
    def images(self, seeds: Sequence[int]) -> Batch:
        """Samples and quantises."""
        from sida.sampling import SeedStreams, to_uint8

        streams = SeedStreams(seeds)
        latents = streams.randn(self.dataset.network_shape)
        classes = self._classes(streams)
        labels = None
        if classes is not None:
            labels = torch.nn.functional.one_hot(classes, self.label_dim).to(torch.float32).to(self.device)
        images = self._sample(latents.to(self.device), labels, streams)
        if not bool(torch.isfinite(images).all()):
            raise UserError(f"{self.path}: gives images that are not finite (seeds {seeds[0]}-{seeds[-1]})")
        return Batch(to_uint8(images), classes)

    def _classes(self, streams: SeedStreams) -> torch.Tensor | None:
        if not self.label_dim:
            return None
        if self.protocol.label_dist == "uniform":
            return streams.randint(self.label_dim)
        return self.dataset.class_indices[streams.randint(len(self.dataset))]

    def _sample(self, latents: torch.Tensor, labels: torch.Tensor | None, streams: SeedStreams) -> torch.Tensor:
        from sida.sampling import heun, one_step

        settings = {key: value for key, value in self.sampler.items() if key != "kind"}
        if self.sampler["kind"] == "one_step":
            return one_step(self._net, latents, labels, **settings)
        return heun(self._net, latents, labels, noise=streams.randn_like, **settings)
