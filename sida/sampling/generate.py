"""Generation of images for seeds, in batches.

Image s is a function of seed s, the network, the sampler and the class rule, not of its batch or of earlier draws. On
one machine the bytes are equal at equal ``batch_size``; the last batch is filled up to this size. With other sizes,
linear algebra libraries may choose other kernels, which changes the last float bits and, rarely, a uint8 level by 1.

The kernels of a small network run faster than a processor can launch them one by one. A CUDA graph, one for each
network and shape of batch, launches the same kernels together, with the same numbers.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import torch

from sida.config.datasets import LabelCounts
from sida.config.samplers import Sampler, read_sampler
from sida.data.dataset import Dataset
from sida.errors import UserError, say
from sida.kernels import require_fused
from sida.machine import Recording, RecordingError, Tensors, to_device
from sida.sampling.networks import evaluation_copy
from sida.sampling.samplers import check_guide_fits, draw_batch, sigma_range, to_uint8
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
        raise UserError("batch size", f"must be at least 1, got {batch_size}")
    if sampler.guidance != 1 and gnet is None:
        raise UserError(
            "sampler", f"guidance {sampler.guidance} needs a guiding network", "give one or leave guidance out"
        )
    if not sampler.needs_network:
        if dataset is None:
            raise UserError("sampler", f"'{sampler.kind}' resamples a data set", "give one")
        return _resample(dataset, seeds, batch_size, decode, torch.device(output_device))
    if net is None:
        raise UserError("sampler", f"'{sampler.kind}' needs a network", "give one")
    if "sigma_max" in sampler.definition.reads:
        sigma_range(net, sampler.sigma_min, sampler.sigma_max)  # refuses before anything is drawn
    if gnet is not None:
        check_guide_fits(net, gnet, "guiding network")
    device = next(iter(net.parameters())).device
    if sampler.kernels == "fused" and device.type != "cuda":
        raise UserError("sampler.kernels", "'fused' computes on a GPU, the network is on the CPU", "choose 'torch'")
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
                stack.enter_context(require_fused("sampler.kernels").fused_kernels(network))
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
            raise UserError(
                "", f"the network gives NaN or infinity for seed {seed}", "its file or its training is broken"
            )
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
        raise UserError(f"data set {dataset.name}", "holds latents", "give the decoder that belongs to them")
    return decode(dataset.network_input(images, noise=streams.randn_like))


#: ``record(function, inputs)`` returns a replayable form of a function of tensors by name.
RecordFunction = Callable[[Callable[[Tensors], Tensors], Tensors], Callable[[Tensors], Tensors]]
#: Smallest number of evaluations worth a recording, which takes as long as about three.
_WORTH = 8


class Evaluations:
    """Evaluates networks for samplers, kernel by kernel or by replayed graphs.

    Draws share recordings as long as the networks and the addresses of their weights stay the same; the values of the
    weights may change.

    Args:
        record: Function that records; None evaluates kernel by kernel.
    """

    def __init__(self, record: RecordFunction | None = None) -> None:
        self._record = record
        self._kept: dict[str, _Kept] = {}

    @classmethod
    def on(cls, device: torch.device) -> Evaluations:
        """Returns evaluations by replayed graphs on a GPU, else kernel by kernel."""
        return cls(Recording if device.type == "cuda" else None)

    def of(self, net: torch.nn.Module, role: str, coming: int, kernels: str = "torch") -> Any:
        """Returns a substitute for ``net`` with the same attributes, for a sampler to call.

        Args:
            net: Network in evaluation mode. Two threads must not call the substitute at the same time.
            role: Role of the network in the draw; a role's new network replaces the network before.
            coming: Number of evaluations in the draw.
            kernels: Kernels of the network, see :class:`sida.config.samplers.Sampler`.
        """
        if self._record is None:
            return net
        identity = _identity(net, kernels)
        kept = self._kept.get(role)
        if kept is None or kept.identity != identity:
            kept = self._kept[role] = _Kept(identity)
        kept.evaluations += coming
        return _Replayed(net, self, kept) if kept.evaluations >= _WORTH else net

    def call(self, net: torch.nn.Module, kept: _Kept, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Evaluates the network once; the next evaluation does not overwrite the result."""
        shapes = tuple((name, tuple(tensor.shape), tensor.dtype) for name, tensor in inputs.items())
        try:
            if self._record is not None and shapes not in kept.recordings:
                kept.recordings[shapes] = self._record(lambda given: {"images": _evaluate(net, given)}, inputs)
        except RecordingError as reason:
            self._record = None
            say(f"CUDA graphs: {reason}; sampling continues kernel by kernel")
        if self._record is None:
            return _evaluate(net, inputs)
        # Evaluations write the memory of a recording one after the other, on any streams.
        device = inputs["x"].device
        if kept.done is not None:
            torch.cuda.current_stream(device).wait_event(kept.done)
        images = kept.recordings[shapes](inputs)["images"].clone()
        kept.done = torch.cuda.current_stream(device).record_event() if device.type == "cuda" else None
        return images


@dataclasses.dataclass
class _Kept:
    """State of a role: the network's identity, its recordings by shape, and the end of the last evaluation."""

    identity: tuple[Any, ...]
    evaluations: int = 0
    recordings: dict[Any, Callable[[Tensors], Tensors]] = dataclasses.field(default_factory=dict)
    done: torch.cuda.Event | None = None


class _Replayed:
    """Substitute for a network: the same attributes, with replayed calls."""

    def __init__(self, net: torch.nn.Module, evaluations: Evaluations, kept: _Kept) -> None:
        self._net, self._evaluations, self._kept = net, evaluations, kept

    def __getattr__(self, name: str) -> Any:
        return getattr(self._net, name)

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        inputs = {"x": x, "sigma": sigma} | ({} if labels is None else {"labels": labels})
        return self._evaluations.call(self._net, self._kept, inputs)


def _identity(net: torch.nn.Module, kernels: str) -> tuple[Any, ...]:
    """Key that is equal for networks that run the same kernels on the same memory."""
    settings = [getattr(net, name, None) for name in ("init_config", "use_fp16", "half_dtype")]
    places = [tensor.data_ptr() for tensor in (*net.parameters(), *net.buffers())]
    return (kernels, type(net), repr(settings), *places)


def _evaluate(net: torch.nn.Module, given: Mapping[str, torch.Tensor]) -> torch.Tensor:
    images: torch.Tensor = net(given["x"], given["sigma"], given.get("labels"))
    return images
