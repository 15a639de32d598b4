"""A micro-batch of an optimizer step: images, draws, loss and gradient, kernel by kernel or as a CUDA graph.

A GPU runs a small network's kernels faster than a CPU can launch them. :class:`GraphRunner` records the kernels of a
micro-batch once for each step, phase and shape as a CUDA graph, and then launches all of them at once. The kernels are
the same, so are the numbers.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import torch

from sida.data.augment import AugmentPipe
from sida.errors import say
from sida.machine import Recording, RecordingError, Tensors, generator
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


def seeded(pipe: AugmentPipe | None, seed: int, purpose: str, nimg: int, position: int) -> Augment | None:
    """Returns an augmentation with draws of its own for one micro-batch; None without a pipe.

    Args:
        pipe: Augmentation.
        seed: Run seed.
        purpose: Name of the draws.
        nimg: Images seen before the iteration.
        position: Position of the micro-batch's first image in the batch of all devices.
    """
    if pipe is None:
        return None
    source = generator(seed, purpose, nimg, position)
    return lambda images: pipe(images, generator=source)


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
    uniform_labels: bool = False

    def streams(self) -> list[str]:
        """Names of the streams of an iteration's steps."""
        return [self.stream, *(f"{self.stream}-{step}" for step in range(2, self.repeats + 1))]


#: For each term of a loss by name: the factor of its sum, which logs show, and the schedule's weight in the gradient.
Scales = Mapping[str, tuple[float, float]]
#: Losses of a micro-batch by term, times their factors, 0-dim; and the number of samples that were dropped.
Outcome = tuple[dict[str, torch.Tensor], torch.Tensor | int]


def tensors_of(step: OptimizerStep, batch: Batch, draws: Draws) -> dict[str, torch.Tensor]:
    """Tensors of a micro-batch by name: ``z`` and the loss's draws; ``labels`` and ``real`` images if it has them."""
    images, labels = batch
    given = {name: draws[name] for name in ("z", *step.draws)}
    given |= {} if labels is None else {"labels": labels}
    return given | ({"real": images} if step.real_images else {})


def loss_and_gradient(step: OptimizerStep, scales: Scales, given: MicroBatch) -> Outcome:
    """Computes a step's loss on a micro-batch and adds its gradient; a term with the weight 0 has no backward pass."""
    losses, weighted = {}, []
    for name, per_element in given.finished(step.loss(given)).items():
        factor, weight = scales[name]
        value = per_element.sum() * factor
        losses[name] = value.detach()
        if weight:
            weighted.append(value if weight == 1 else weight * value)
    if weighted:
        sum(weighted[1:], weighted[0]).backward()
    return losses, given.dropped


class EagerRunner:
    """Runs micro-batches kernel by kernel.

    Args:
        generator: Gives the images; in training mode for its own micro-batches.
        init_sigma: Its σ_init.
    """

    def __init__(self, generator: OptimizedNetwork, init_sigma: float) -> None:
        self.generator, self.init_sigma = generator, init_sigma

    def __call__(
        self, step: OptimizerStep, scales: Scales, batch: Batch, draws: Draws, augment: Augment | None
    ) -> Outcome:
        """Computes the losses of a micro-batch, whose gradient is added to the network's."""
        given = tensors_of(step, batch, draws)
        images, real = self.images(step, given), given.get("real")
        pairs = augmented(augment, images, real)
        return loss_and_gradient(step, scales, MicroBatch(images, batch[1], real, given, augmented=pairs))

    def images(self, step: OptimizerStep, given: Tensors) -> torch.Tensor:
        """The generator's images, with a gradient in its own step; real images for a step that sees those alone."""
        if not step.generates:
            return given["real"]
        with torch.set_grad_enabled(step.network is self.generator):
            return one_step(self.generator.net, given["z"], given.get("labels"), self.init_sigma)


class GraphRunner(EagerRunner):
    """Records micro-batches as CUDA graphs, which share one pool of memory, and replays them.

    Augmentation draws on the CPU and cannot be recorded: with it the images are one graph and the rest is another. If
    kernels cannot be recorded (a custom loss that reads values, say), this micro-batch and all after it run kernel by
    kernel; one line reports the reason.

    Args:
        generator: See :class:`EagerRunner`.
        init_sigma: See :class:`EagerRunner`.
        networks: All networks: recording must not change them.
    """

    def __init__(self, generator: OptimizedNetwork, init_sigma: float, networks: Sequence[OptimizedNetwork]) -> None:
        super().__init__(generator, init_sigma)
        self.networks = networks
        # By step and shapes: recordings, each with the scales of the terms that it computes.
        self._recordings: dict[object, list[tuple[Scales, Recording]]] = {}
        # By length: a micro-batch's gradient is gathered before the next one writes its own.
        self._gradients: dict[int, torch.Tensor] = {}
        self._pool: object = torch.cuda.graph_pool_handle()
        self._given_up = False

    def __call__(
        self, step: OptimizerStep, scales: Scales, batch: Batch, draws: Draws, augment: Augment | None
    ) -> Outcome:
        """See :meth:`EagerRunner.__call__`."""
        if not self._given_up:
            try:
                return self._replay(step, scales, batch, draws, augment)
            except RecordingError as reason:
                self._given_up = True
                self._recordings.clear()
                self._gradients.clear()
                step.network.flat.zero_grad()
                say(f"cuda_graphs: {reason}; the run continues kernel by kernel")
        return super().__call__(step, scales, batch, draws, augment)

    def _replay(
        self, step: OptimizerStep, scales: Scales, batch: Batch, draws: Draws, augment: Augment | None
    ) -> Outcome:
        inputs = tensors_of(step, batch, draws)
        if augment is not None:
            images = lambda given: {"images": self.images(step, given)}
            inputs["images"] = self._outputs(step, scales, images, inputs)["images"]
            for name, (pictures, rows) in augmented(augment, inputs["images"], inputs.get("real")).items():
                inputs |= {f"augmented {name}": pictures, f"labels of {name}": rows}
        outputs = self._outputs(step, scales, lambda given: self._losses(step, scales, given), inputs)
        step.network.add_gradient(outputs.pop("gradient"))
        # A replay writes into the same memory again.
        losses = {name: value.clone() for name, value in outputs.items()}
        return losses, losses.pop("nan_count")

    def _outputs(
        self, step: OptimizerStep, scales: Scales, function: Callable[[Tensors], Tensors], inputs: Tensors
    ) -> dict[str, torch.Tensor]:
        """Outputs of a function of a micro-batch's tensors, by a recording that is made at the first call."""
        shapes = tuple((name, tuple(tensor.shape)) for name, tensor in inputs.items())
        recordings = self._recordings.setdefault((id(step), shapes), [])
        for used, recording in recordings:
            if all(scales[name] == scale for name, scale in used.items()):
                return dict(recording(inputs))
        # A call of a network may change these: weights that it normalises, and buffers.
        changing = [value for network in self.networks for value in (network.flat.vector, *network.net.buffers())]
        recording = Recording(function, inputs, self._pool, changing)
        # Only now it is known which terms the loss has.
        recordings.append(({name: scale for name, scale in scales.items() if name in recording.outputs}, recording))
        return dict(recording(inputs))

    def _losses(self, step: OptimizerStep, scales: Scales, given: Tensors) -> dict[str, torch.Tensor]:
        """Losses, gradient and number of dropped samples of a micro-batch."""
        images = given["images"] if "images" in given else self.images(step, given)
        names = [name for name in ("images", "real_images") if f"augmented {name}" in given]
        pairs = {name: (given[f"augmented {name}"], given[f"labels of {name}"]) for name in names}
        micro_batch = MicroBatch(images, given.get("labels"), given.get("real"), given, augmented=pairs)
        losses, dropped = loss_and_gradient(step, scales, micro_batch)
        flat = step.network.flat
        size = len(flat.vector)
        if size not in self._gradients:
            self._gradients[size] = torch.empty_like(flat.vector)
        gradient = flat.gradient(out=self._gradients[size])
        flat.zero_grad()
        return {**losses, "gradient": gradient, "nan_count": torch.as_tensor(dropped, device=images.device)}
