"""A micro-batch of an optimizer step: images, draws, loss and gradient, kernel by kernel or as a CUDA graph.

A GPU runs a small network's kernels faster than a CPU can launch them. :class:`GraphRunner` records the kernels of a
micro-batch once for each step, phase and shape as a CUDA graph, and then launches all of them at once. The kernels are
the same, so are the numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import torch

from sida.data.augment import AugmentPipe
from sida.errors import UserError, say
from sida.machine import Recording, RecordingError, Tensors
from sida.networks.unet import blocks_of, checkpoint_blocks
from sida.noise import Draw, Draws
from sida.sampling.samplers import one_step
from sida.training.batches import Batch
from sida.training.optimizer import OptimizedNetwork

#: ``images -> (images, augment_labels)``, with its own random draws.
Augment = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
#: Devices on which synchronising is costly: samples with NaN are neutralised instead of removed.
ASYNC_DEVICES = {"cuda"}


@dataclasses.dataclass
class MicroBatch:
    """Images and draws of one micro-batch, and which of its samples are free of NaN.

    Attributes:
        images: The generator's images ``(N, C, H, W)``; with a gradient in the generator's step.
        class_labels: ``(N, label_dim)`` or None.
        real_images: Images of the data ``(N, C, H, W)``, or None.
        draws: Raw tensors by name.
        mask: Samples to keep, bool ``(N,)``; None is all.
        augmented: Augmented images and their labels, by ``images`` and ``real_images``; empty without augmentation.
    """

    images: torch.Tensor
    class_labels: torch.Tensor | None
    real_images: torch.Tensor | None = None
    draws: Draws = dataclasses.field(default_factory=dict)
    mask: torch.Tensor | None = None
    augmented: Mapping[str, tuple[torch.Tensor, torch.Tensor]] = dataclasses.field(default_factory=dict)

    @property
    def clean(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Images that the fake score denoises, and their augmentation labels; without augmentation the images."""
        return self.augmented.get("images", (self.images, None))

    @property
    def real(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """As :attr:`clean`, of the data."""
        assert self.real_images is not None
        return self.augmented.get("real_images", (self.real_images, None))

    def whole(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Drops the samples for which one of the tensors ``(N, ...)`` has a NaN; returns the tensors without them."""
        self.mask = finite_mask(*tensors)
        return self.kept(*tensors)

    def kept(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Selects the samples that :meth:`whole` kept; on :data:`ASYNC_DEVICES` the others become ones instead."""
        if self.mask is None:
            return tensors
        if self.mask.device.type in ASYNC_DEVICES:
            return tuple(_filled(self.mask, tensor, 1.0) for tensor in tensors)
        return tuple(tensor[self.mask] for tensor in tensors)

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Mean over the kept samples of what :meth:`kept` returned; 0-dim."""
        if self.mask is None or self.mask.device.type not in ASYNC_DEVICES:
            return values.mean()
        count = self.mask.sum() * (values.numel() // len(values))
        return self.zeroed(values).sum() / count.clamp_min(1)

    def zeroed(self, values: torch.Tensor) -> torch.Tensor:
        """Values of the kept samples, ``(N', ...)``; on :data:`ASYNC_DEVICES` dropped samples become zeros."""
        if self.mask is None or self.mask.device.type not in ASYNC_DEVICES:
            return values
        return _filled(self.mask, values, 0.0)

    def finished(self, terms: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Terms of a loss without the dropped samples."""
        return {name: term if term.ndim == 0 else self.zeroed(term) for name, term in terms.items()}

    @property
    def dropped(self) -> torch.Tensor | int:
        """Number of samples left out; a 0-dim tensor on :data:`ASYNC_DEVICES`."""
        if self.mask is None:
            return 0
        count = (~self.mask).sum()
        return count if count.device.type in ASYNC_DEVICES else int(count)


def augmented(
    augment: Augment | None, images: torch.Tensor, real_images: torch.Tensor | None
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Augments the images of a micro-batch, and then its real ones; see :attr:`MicroBatch.augmented`."""
    both = {"images": images} | ({} if real_images is None else {"real_images": real_images})
    return {} if augment is None else {name: augment(pictures) for name, pictures in both.items()}


def finite_mask(*tensors: torch.Tensor) -> torch.Tensor | None:
    """Mask of the samples without NaN in any of the tensors, bool ``(N,)``; None if there is no NaN (the usual case).

    Args:
        *tensors: ``(N, ...)`` each.
    """
    flat = [tensor.detach().flatten(1) for tensor in tensors]
    # A sum is cheaper than a test of every element; infinities of both signs give a NaN sum, too.
    if flat[0].device.type not in ASYNC_DEVICES and not any(bool(values.sum().isnan()) for values in flat):
        return None
    return ~torch.stack([values.isnan().any(1) for values in flat]).any(0)


def _filled(mask: torch.Tensor, tensor: torch.Tensor, value: float) -> torch.Tensor:
    return torch.where(mask.view(-1, *[1] * (tensor.ndim - 1)), tensor, value)


@dataclasses.dataclass(frozen=True)
class OptimizerStep:
    """One kind of optimizer step of an iteration: the network that it changes, and the loss that it reduces.

    Two steps may share a network (a penalty with a step of its own), under one name. State that a resumed run needs
    beside parameters and optimizer is a buffer of the module.

    Attributes:
        name: Of the network, in states and logs.
        network: Takes the step.
        loss: Terms of a micro-batch per element, unscaled.
        weights: Factor of each term by its name, given C·H·W.
        stream: Name of its own order of images and draws.
        draws: Kind of each draw of its loss, by name and in the order of drawing; ``z`` is always drawn first.
        real_images: Whether its loss sees real images.
        augment: Augmentation that its loss gets; None is off.
        repeats: Steps in an iteration, each on images and draws of its own.
        every: Iterations from one step to the next.
        generates: Whether its loss sees the generator's images; else real images are in their place, too.
        pooled: Whether its loss has a mean over the micro-batch, so that it is no sum over images.
        uniform_labels: Whether classes are uniform, by the draw ``label``, and not those of the data's order.
    """

    name: str
    network: OptimizedNetwork
    loss: Callable[[MicroBatch], Mapping[str, torch.Tensor]]
    weights: Callable[[int], Mapping[str, float]]
    stream: str
    draws: Mapping[str, Draw] = dataclasses.field(default_factory=dict)
    real_images: bool = False
    augment: AugmentPipe | None = None
    repeats: int = 1
    every: int = 1
    generates: bool = True
    pooled: bool = False
    uniform_labels: bool = False

    def streams(self) -> list[str]:
        """Names of the streams of an iteration's steps."""
        return [self.stream, *(f"{self.stream}-{step}" for step in range(2, self.repeats + 1))]


@dataclasses.dataclass(frozen=True)
class MicroBatchSpec:
    """Facts of a micro-batch's computation, apart from its tensors.

    Attributes:
        step: Optimizer step that the micro-batch belongs to.
        factors: Factor of each term's sum before it is logged, by the term's name.
        shares: The schedule's weights of the terms; one of 0 costs no backward pass.
    """

    step: OptimizerStep
    factors: Mapping[str, float]
    shares: Mapping[str, float]

    def key(self, terms: Sequence[str]) -> tuple[object, ...]:
        """Equal for micro-batches that run the same kernels, if the step's loss has these terms."""
        return (id(self.step), *((name, self.factors[name], self.shares[name]) for name in terms))


@dataclasses.dataclass
class MicroBatchResult:
    """Losses of a micro-batch; the network holds its gradient.

    Attributes:
        losses: Terms by name, times their factors; 0-dim.
        nan_count: Samples that were dropped.
    """

    losses: dict[str, torch.Tensor]
    nan_count: torch.Tensor | int


#: Computes losses of one micro-batch and adds its gradient to the network's.
MicroBatchRunner = Callable[[MicroBatchSpec, Batch, Draws, Augment | None], MicroBatchResult]


class EagerRunner:
    """Runs micro-batches kernel by kernel.

    Args:
        generator: Gives the images; in training mode for its own micro-batches.
        init_sigma: Its σ_init.
    """

    def __init__(self, generator: OptimizedNetwork, init_sigma: float) -> None:
        self.generator, self.init_sigma = generator, init_sigma

    def __call__(self, spec: MicroBatchSpec, batch: Batch, draws: Draws, augment: Augment | None) -> MicroBatchResult:
        """See :data:`MicroBatchRunner`."""
        images, real = self.images(spec.step, batch, draws), batch[0] if spec.step.real_images else None
        given = MicroBatch(images, batch[1], real, draws, augmented=augmented(augment, images, real))
        return self.loss_and_gradient(spec, given)

    def images(self, step: OptimizerStep, batch: Batch, draws: Draws) -> torch.Tensor:
        """The generator's images, with a gradient in its own step; real images for a step that sees those alone."""
        if not step.generates:
            return batch[0]
        with torch.set_grad_enabled(step.network is self.generator):
            return one_step(self.generator.net, draws["z"], batch[1], self.init_sigma)

    def loss_and_gradient(self, spec: MicroBatchSpec, given: MicroBatch) -> MicroBatchResult:
        """The step's loss on a micro-batch, and its gradient."""
        terms = given.finished(spec.step.loss(given))
        losses, weighted = {}, []
        for name, per_element in terms.items():
            value = per_element.sum() * spec.factors[name]
            losses[name] = value.detach()
            if share := spec.shares[name]:
                weighted.append(value if share == 1 else share * value)
        if weighted:
            sum(weighted[1:], weighted[0]).backward()
        return MicroBatchResult(losses, given.dropped)


class GraphRunner:
    """Records micro-batches as CUDA graphs, which share one pool of memory, and replays them.

    Augmentation draws on the CPU and cannot be recorded: with it the images are one graph and the rest is another. If
    kernels cannot be recorded (a custom loss that reads values, say), this micro-batch and all after it run kernel by
    kernel; one line reports the reason.

    Args:
        plain: Runs micro-batches kernel by kernel.
        networks: All networks: recording must not change them.
    """

    def __init__(self, plain: EagerRunner, networks: Sequence[OptimizedNetwork]) -> None:
        self.plain, self.networks = plain, networks
        self._recordings: dict[tuple[object, ...], Recording] = {}
        # By length: a micro-batch's gradient is gathered before the next one writes its own.
        self._gradients: dict[int, torch.Tensor] = {}
        self._terms: dict[int, list[str]] = {}  # of each step's loss
        self._pool: object = None
        self._given_up = False

    def __call__(self, spec: MicroBatchSpec, batch: Batch, draws: Draws, augment: Augment | None) -> MicroBatchResult:
        """See :data:`MicroBatchRunner`."""
        if self._given_up:
            return self.plain(spec, batch, draws, augment)
        try:
            outputs = self._replay(spec, batch, draws, augment)
        except RecordingError as reason:
            self._given_up = True
            self._recordings.clear()
            self._gradients.clear()
            spec.step.network.flat.zero_grad()
            say(f"cuda_graphs: {reason}; the run continues kernel by kernel")
            return self.plain(spec, batch, draws, augment)
        spec.step.network.add_gradient(outputs.pop("gradient"))
        # A replay writes into the same memory again.
        outputs = {name: value.clone() for name, value in outputs.items()}
        return MicroBatchResult(outputs, outputs.pop("nan_count"))

    def _replay(
        self, spec: MicroBatchSpec, batch: Batch, draws: Draws, augment: Augment | None
    ) -> dict[str, torch.Tensor]:
        real, labels = batch
        inputs = {name: draws[name] for name in ("z", *spec.step.draws)}
        if labels is not None:
            inputs["labels"] = labels
        if spec.step.real_images:
            inputs["real"] = real
        if augment is None:
            return self._run(spec, lambda given: self._whole(spec, given), inputs)
        images = self._run(spec, lambda given: {"images": self._images(spec, given)}, inputs, "images")["images"]
        inputs["images"] = images
        for name, (pictures, rows) in augmented(augment, images, inputs.get("real")).items():
            inputs |= {f"augmented {name}": pictures, f"labels of {name}": rows}
        return self._run(spec, lambda given: self._whole(spec, given), inputs)

    def _run(
        self, spec: MicroBatchSpec, function: Callable[[Tensors], Tensors], inputs: Tensors, part: str = "loss"
    ) -> dict[str, torch.Tensor]:
        shapes = tuple((name, tuple(tensor.shape)) for name, tensor in inputs.items())
        terms = lambda: self._terms.get(id(spec.step), ()) if part == "loss" else ()
        key = lambda: (part, shapes, spec.key(terms()))
        recording = self._recordings.get(key())
        if recording is None:
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            recording = Recording(function, inputs, self._pool, self._changing())
            # Only now it is known which terms the loss has.
            self._recordings[key()] = recording
        return dict(recording(inputs))

    def _changing(self) -> list[torch.Tensor]:
        """Tensors that a call of a network may change: weights that it normalises, and buffers."""
        return [tensor for network in self.networks for tensor in (network.flat.vector, *network.net.buffers())]

    def _images(self, spec: MicroBatchSpec, given: Mapping[str, torch.Tensor]) -> torch.Tensor:
        # Only a step without generated images takes those of the batch.
        return self.plain.images(spec.step, (given.get("real", given["z"]), given.get("labels")), given)

    def _whole(self, spec: MicroBatchSpec, given: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        images = given["images"] if "images" in given else self._images(spec, given)
        names = [name for name in ("images", "real_images") if f"augmented {name}" in given]
        pairs = {name: (given[f"augmented {name}"], given[f"labels of {name}"]) for name in names}
        micro_batch = MicroBatch(images, given.get("labels"), given.get("real"), given, augmented=pairs)
        outcome = self.plain.loss_and_gradient(spec, micro_batch)
        self._terms[id(spec.step)] = [*outcome.losses]
        flat = spec.step.network.flat
        size = len(flat.vector)
        if size not in self._gradients:
            self._gradients[size] = torch.empty_like(flat.vector)
        outputs = {**outcome.losses, "gradient": flat.gradient(out=self._gradients[size])}
        flat.zero_grad()
        outputs["nan_count"] = torch.as_tensor(outcome.nan_count, device=images.device)
        return outputs


class MemoryRelief:
    """Less memory for the micro-batches of a training that ran out of it, once.

    Micro-batches are halved if the gradient is then the same sum, up to rounding. A pooled loss, dropout and
    augmentation depend on the micro-batch; then the networks keep only the inputs of their blocks, and the backward
    pass computes the rest again, to the same bits.

    Args:
        name: Name of the training.
    """

    def __init__(self, name: str) -> None:
        self.name, self.used, self.halved = name, False, False

    def parts(self, batch: Batch, draws: Draws) -> list[tuple[Batch, Draws]]:
        """The micro-batch with its draws, as one part or as two halves."""
        images, labels = batch
        if not self.halved or len(images) == 1:
            return [(batch, draws)]
        size = -(-len(images) // 2)
        split = {name: tensor.split(size) for name, tensor in draws.items()}
        halves = zip(images.split(size), (None, None) if labels is None else labels.split(size))
        return [(half, {name: parts[n] for name, parts in split.items()}) for n, half in enumerate(halves)]

    def relieve(
        self, networks: Sequence[OptimizedNetwork], images: int, divisible: bool, nimg: int, together: bool = False
    ) -> None:
        """Prepares the second attempt of a step: drops its gradients, and saves memory from here on.

        Args:
            networks: Networks that the training optimizes.
            images: Images of a micro-batch.
            divisible: Whether halves of a micro-batch give the same sum.
            nimg: Images seen before the step.
            together: Whether losses are added up over processes, of which one alone cannot repeat its step.

        Raises:
            UserError: It is the second time, the networks have no blocks, or processes compute losses together.
        """
        remedy = "give a smaller batch_gpu (docs/differences.md, 20), a smaller network or a larger card"
        fault = f"out of memory at image {nimg:,} with micro-batches of {images // (1 + self.halved):,} images"
        with_blocks = [network.net for network in networks if blocks_of(network.net)]
        if self.used or together or (images == 1 if divisible else not with_blocks):
            raise UserError(self.name, fault, remedy)
        for network in networks:
            network.drop_gradient()
        self.used, self.halved = True, divisible
        if divisible:
            change = "the micro-batch is halved from here on; the numbers stay the same up to rounding"
        else:
            for net in with_blocks:
                checkpoint_blocks(net, self.name)
            change = "networks compute their blocks again in the backward pass from here on; the numbers stay the same"
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        say(f"[{self.name}] {fault}: {change}")


def has_dropout(net: torch.nn.Module) -> bool:
    """Whether a network in training mode draws random numbers."""
    return any(getattr(module, name, 0.0) for module in net.modules() for name in ("dropout", "label_dropout"))
