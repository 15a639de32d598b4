"""Generation of images for seeds, in batches.

Image s is a function of seed s, the network, the sampler and the class rule, not of its batch or of earlier draws. On
one machine the bytes are equal at equal ``batch_size``; the last batch is filled up to this size. With other sizes,
linear algebra libraries may choose other kernels, which changes the last float bits and, rarely, a uint8 level by 1.
"""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import torch

from sida.config.label_counts import LabelCounts
from sida.config.samplers import Sampler, read_sampler
from sida.data.dataset import Dataset
from sida.errors import UserError
from sida.networks.fused import fused_kernels
from sida.networks.guidance import check_guide_fits
from sida.runtime.devices import to_device
from sida.sampling.heun import sigma_range
from sida.sampling.networks import evaluation_copy
from sida.sampling.one_step import to_uint8
from sida.sampling.replay import Evaluations
from sida.sampling.sampler import draw_batch
from sida.sampling.seeds import NO_CLASS, ClassRule, SeedStreams, class_rule_of

#: Number of batches in the queue of a GPU while the next batch is prepared.
_FLYING = 2


class Samples(NamedTuple):
    """A batch of generated images.

    Attributes:
        seeds: Seeds of the images.
        images: uint8 ``(N, C, H, W)``.
        classes: Requested classes int64 ``(N,)`` on the CPU; -1 from networks without classes.
    """

    seeds: tuple[int, ...]
    images: torch.Tensor
    classes: torch.Tensor


def generate(
    net: torch.nn.Module | None,
    seeds: Sequence[int],
    sampler: Sampler | Mapping[str, Any] | str = "one_step",
    batch_size: int = 128,
    class_labels: str | int | Sequence[int] | LabelCounts = "uniform",
    dataset: Dataset | None = None,
    gnet: torch.nn.Module | None = None,
    decode: Callable[[torch.Tensor], torch.Tensor] | None = None,
    output_device: str | torch.device = "cpu",
    evaluations: Evaluations | None = None,
) -> Iterator[Samples]:
    """Yields images for ``seeds``, in order, without gradients.

    Args:
        net: Generator or teacher, on its device; in evaluation mode during the draw. Its weights never change. None for
            the sampler ``data``.
        seeds: Image seeds (modulo 2^32). Each seeds a CPU generator, which draws latents, the class, and fresh noise.
        sampler: See :func:`sida.sampling.read_sampler`.
        batch_size: Images per network call; influences the bytes (see above).
        class_labels: ``uniform`` over the classes, ``balanced`` (the seed modulo their number), ``empirical`` (a random
            item of ``dataset``), counts of a data set (a random item of a data set sorted by class), a class, or one
            class per seed. Networks without classes accept any rule, but no class.
        dataset: Source of ``empirical`` labels and of the ``data`` sampler.
        gnet: Guiding network.
        decode: Decoder of latents ``(N, C, H, W)`` to uint8 images; pixels are quantised directly.
        output_device: Device of ``images``; the network's device avoids a copy.
        evaluations: Evaluations shared by several draws; None makes new evaluations for this draw.

    Raises:
        UserError: Arguments contradict each other, for example a class that the network does not have or a guide for
            other images; or fused kernels are requested without a GPU.
    """
    sampler = read_sampler(sampler)
    if batch_size < 1:
        raise UserError(f"batch size: must be at least 1, got {batch_size}")
    if sampler.guidance != 1 and gnet is None:
        raise UserError(f"sampler: guidance {sampler.guidance} needs a guiding network; give one or leave guidance out")
    if sampler.kind == "data":
        if dataset is None:
            raise UserError("sampler: 'data' resamples a data set; give one")
        return _resample(dataset, seeds, batch_size, decode, torch.device(output_device))
    if net is None:
        raise UserError(f"sampler: '{sampler.kind}' needs a network; give one")
    if sampler.kind == "heun":
        sigma_range(net, sampler.sigma_min, sampler.sigma_max)  # refuses before anything is drawn
    if gnet is not None:
        check_guide_fits(net, gnet, "guiding network")
    device = next(iter(net.parameters())).device
    if sampler.kernels == "fused" and device.type != "cuda":
        raise UserError("sampler.kernels: 'fused' computes on a GPU, the network is on the CPU; choose 'torch'")
    classes = class_rule_of(int(getattr(net, "label_dim", 0)), class_labels, dataset, len(seeds))
    evaluations = evaluations or Evaluations.on(device)
    return _run(net, seeds, sampler, batch_size, classes, gnet, decode, torch.device(output_device), evaluations)


def _run(
    net: torch.nn.Module,
    seeds: Sequence[int],
    sampler: Sampler,
    batch_size: int,
    class_rule: ClassRule,
    gnet: torch.nn.Module | None,
    decode: Callable[[torch.Tensor], torch.Tensor] | None,
    output: torch.device,
    evaluations: Evaluations,
) -> Iterator[Samples]:
    """Yields batches; draws the next latents while the GPU works, so that the GPU never waits for the CPU."""
    device = next(iter(net.parameters())).device
    net, gnet = evaluation_copy(net), None if gnet is None else evaluation_copy(gnet)
    networks = [network for network in (net, gnet) if network is not None]
    modes = [network.training for network in networks]
    shape = (int(net.img_channels), int(net.img_resolution), int(net.img_resolution))  # type: ignore[arg-type]

    def draw(start: int) -> _Drawn:
        chosen = tuple(int(seed) for seed in seeds[start : start + batch_size])
        streams = SeedStreams(chosen + chosen[-1:] * (batch_size - len(chosen)))
        latents = streams.randn(shape)
        # This thread pins the memory; the computing thread copies it to the GPU, on its own stream.
        latents = latents.pin_memory() if device.type == "cuda" else latents
        return _Drawn(chosen, streams, latents, class_rule(streams, start))

    starts = range(0, len(seeds), batch_size)
    flying: collections.deque[_Flight] = collections.deque()
    with contextlib.ExitStack() as stack:
        for network, mode in zip(networks, modes):
            stack.callback(network.train, mode)
            network.eval()
            if sampler.kernels == "fused":
                stack.enter_context(fused_kernels(network, "sampler.kernels"))
        coming = len(starts) * sampler.nfe
        guide = None if gnet is None else evaluations.of(gnet, "guide", coming, sampler.kernels)
        called = (evaluations.of(net, "network", coming, sampler.kernels), guide)
        for drawn in _prefetched(draw, starts) if device.type == "cuda" else map(draw, starts):
            images, finite = _launch(net, sampler, drawn, gnet, decode, called)
            count = len(drawn.seeds)
            flying.append(_Flight(drawn.seeds, images[:count], drawn.classes[:count], finite[:count], output))
            if len(flying) > (_FLYING if device.type == "cuda" else 0):
                yield flying.popleft().land()
        while flying:
            yield flying.popleft().land()


class _Drawn(NamedTuple):
    """Draws of the CPU's generators for a batch, filled up to the batch size.

    Attributes:
        seeds: Requested seeds.
        streams: Random streams of all images, for fresh noise.
        latents: Unit normal latents, on the CPU.
        classes: int64 ``(N,)``.
    """

    seeds: tuple[int, ...]
    streams: SeedStreams
    latents: torch.Tensor
    classes: torch.Tensor


def _prefetched(draw: Callable[[int], _Drawn], starts: Sequence[int]) -> Iterator[_Drawn]:
    """``map(draw, starts)``, with a thread that prefetches the next batch."""
    with ThreadPoolExecutor(1, "latents") as thread:
        waiting: collections.deque[Future[_Drawn]] = collections.deque()
        for start in starts:
            waiting.append(thread.submit(draw, start))
            if len(waiting) > 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@torch.no_grad()
def _launch(
    net: torch.nn.Module,
    sampler: Sampler,
    drawn: _Drawn,
    gnet: torch.nn.Module | None,
    decode: Callable[[torch.Tensor], torch.Tensor] | None,
    called: tuple[Any, Any],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns images and a mask of the finite ones, without waiting for a GPU."""
    device, labels = next(iter(net.parameters())).device, None
    if int(getattr(net, "label_dim", 0)):
        rows = torch.nn.functional.one_hot(drawn.classes, int(net.label_dim))  # type: ignore[arg-type]
        labels = to_device(rows.to(torch.float32), device)
    latents = drawn.latents.to(device, non_blocking=True)
    values = draw_batch(sampler, net, latents, labels, drawn.streams, gnet, called)
    finite = values.flatten(1).isfinite().all(1)
    return (to_uint8(values) if decode is None else decode(values)), finite


class _Flight:
    """A batch whose copies to the CPU may be unfinished."""

    def __init__(
        self,
        seeds: tuple[int, ...],
        images: torch.Tensor,
        classes: torch.Tensor,
        finite: torch.Tensor,
        output: torch.device,
    ) -> None:
        self._seeds, self._classes, self._event = seeds, classes, None
        self._images, self._finite = images, finite
        if finite.device.type == "cuda":
            # The copies are queued before the next batch's work; an event marks their end.
            self._finite = _to_pinned(finite)
            self._images = _to_pinned(images) if output.type == "cpu" and images.is_cuda else images.to(output)
            self._event = torch.cuda.current_stream(finite.device).record_event()
        else:
            self._images = images.to(output)

    def land(self) -> Samples:
        """Waits for the copies and checks the values.

        Raises:
            UserError: The network returned NaN or infinity.
        """
        if self._event is not None:
            self._event.synchronize()
        if not bool(self._finite.all()):
            seed = self._seeds[int(self._finite.logical_not().nonzero()[0])]
            raise UserError(f"the network gives NaN or infinity for seed {seed}; its file or its training is broken")
        return Samples(self._seeds, self._images, self._classes)


def _to_pinned(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)


def _resample(
    dataset: Dataset,
    seeds: Sequence[int],
    batch_size: int,
    decode: Callable[[torch.Tensor], torch.Tensor] | None,
    output: torch.device,
) -> Iterator[Samples]:
    """Real images drawn with replacement: the result of a perfect generator with equally many images."""
    for start in range(0, len(seeds), batch_size):
        chosen = tuple(int(seed) for seed in seeds[start : start + batch_size])
        streams = SeedStreams(chosen)
        indices = streams.randint(len(dataset))
        images = real_images(dataset, indices, streams, decode)
        classes = dataset.class_indices[indices] if dataset.label_dim else torch.full((len(chosen),), NO_CLASS)
        yield Samples(chosen, images.to(output), classes)


def real_images(
    dataset: Dataset,
    indices: Sequence[int] | torch.Tensor,
    streams: SeedStreams,
    decode: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> torch.Tensor:
    """Returns visible images of a data set, uint8 ``(N, C, H, W)``: stored pixels, or decoded latents.

    Args:
        dataset: Pixels or latents.
        indices: Indices in the data set.
        streams: Source of the noise that draws latents from their moments, one stream per image.
        decode: Decoder of latents to uint8 images; only latent data sets need it.

    Raises:
        UserError: The data set holds latents and there is no decoder.
    """
    images: torch.Tensor = dataset.images(indices)
    if dataset.is_pixels:
        return images
    if decode is None:
        raise UserError(f"data set {dataset.name}: holds latents; give the decoder that belongs to them")
    return decode(dataset.network_input(images, noise=streams.randn_like))
