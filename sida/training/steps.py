"""Optimizer steps of trainings, and the losses and gradients of their micro-batches.

A GPU runs a small network's kernels faster than a CPU can launch them. :class:`GraphRunner` records the kernels of a
micro-batch once for each step, phase and shape as a CUDA graph, and then launches all of them at once. The kernels are
the same, so are the numbers.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from sida.config.samplers import GeneratorSteps
from sida.data.augment import AugmentPipe
from sida.errors import UserError, say
from sida.machine import Recording, RecordingError, Tensors
from sida.noise import Draw, Draws, unit_noise
from sida.sampling.samplers import multi_step
from sida.training.batches import Augment, MicroBatch, augmented
from sida.training.optimizer import OptimizedNetwork

#: By term of a loss: the factor of its sum, which logs show, and the schedule's weight in the gradient. The key ``""``
#: is for terms that are not listed, e.g. ``{"": (1 / 64, 1.0)}``.
Scales = Mapping[str, tuple[float, float]]
#: Losses of a micro-batch by term, times their factors, 0-dim; ``nan_count``, the number of dropped samples; and for a
#: measured micro-batch the norms of the terms' gradients with the prefix :data:`NORM`.
Outputs = dict[str, Any]
NORM = "norm of "
Z: Mapping[str, Draw] = {"z": unit_noise}


@dataclasses.dataclass(frozen=True)
class OptimizerStep:
    """One kind of optimizer step of an iteration: the network that it changes, and the loss that it reduces.

    Two steps may share a network under one name (GDD's penalty is a separate step). State that a resumed run needs, in
    addition to parameters and optimizer, is a buffer of the module.

    Attributes:
        name: Of the network, in states and logs.
        network: Takes the step.
        loss: Terms of a micro-batch per element, unscaled.
        stream: Name of its own order of images and draws.
        weights: Factor of each term by its name, given C·H·W; None weighs all terms 1.
        draws: Kind of each draw by name, in the order of drawing; the generator's images are those of ``z``.
        labels: Labels of the generator's images and of the loss, ``(N, label_dim)``, from the data's and the draws;
            None: the data's.
        real_images: Whether its loss sees real images.
        augment: Augmentation that its loss gets; None is off.
        repeats: Steps in an iteration, each on images and draws of its own.
        every: Iterations from one step to the next.
        generates: Whether its loss sees the generator's images; else it sees real images instead, augmented once.
    """

    name: str
    network: OptimizedNetwork
    loss: Callable[[MicroBatch], Mapping[str, torch.Tensor]]
    stream: str
    weights: Callable[[int], Mapping[str, float]] | None = None
    draws: Mapping[str, Draw] = dataclasses.field(default_factory=lambda: Z)
    labels: Callable[[torch.Tensor, Draws], torch.Tensor] | None = None
    real_images: bool = False
    augment: AugmentPipe | None = None
    repeats: int = 1
    every: int = 1
    generates: bool = True

    def draws_for(self, steps_taken: int, noise: str) -> dict[str, Draw]:
        """Kind of each draw by name; noise of the generator's second and later steps comes last."""
        further = range(2, steps_taken + 1) if self.generates and noise == "fresh" else ()
        return {**self.draws, **{f"noise of step {number}": unit_noise for number in further}}

    def streams(self) -> list[str]:
        """Names of the streams of an iteration's steps."""
        return [self.stream, *(f"{self.stream}-{step}" for step in range(2, self.repeats + 1))]


class EagerRunner:
    """Runs micro-batches kernel by kernel.

    Args:
        generator: Gives the images; in training mode for its own micro-batches.
        generator_steps: Its steps; unused if no optimizer step sees its images.
        through_all: Whether it learns through all steps, or through the last one taken.
    """

    def __init__(self, generator: OptimizedNetwork, generator_steps: GeneratorSteps, through_all: bool) -> None:
        self.generator, self.generator_steps, self.through_all = generator, generator_steps, through_all

    def __call__(
        self,
        step: OptimizerStep,
        scales: Scales,
        tensors: Tensors,
        augment: Augment | None,
        steps_taken: int,
        norms: bool = False,
    ) -> Outputs:
        """Computes the losses of a micro-batch, whose gradient is added to the network's.

        Args:
            step: The step.
            scales: Factors of its terms.
            tensors: Tensors by name: draws, ``labels`` and ``real`` images if the step has them.
            augment: Augmentation with the draws of this micro-batch.
            steps_taken: Steps that the generator takes of all, from the first on.
            norms: Whether the gradient's norm is returned for each of several terms; the network has no gradient yet.
        """
        self.steps_taken, self.norms = steps_taken, norms
        if augment is not None:
            images = self._run(self._images, step, scales, tensors)["images"]
            real_images = tensors.get("real") if step.generates else None
            tensors = {**tensors, "images": images, **augmented(augment, images, real_images)}
        return self._run(self._losses, step, scales, tensors)

    def _run(self, function: Callable[..., Outputs], step: OptimizerStep, scales: Scales, tensors: Tensors) -> Outputs:
        return function(step, scales, tensors)

    def _images(self, step: OptimizerStep, scales: Scales, tensors: Tensors) -> Outputs:
        """The generator's images, with a gradient in its own step; real images for a step that sees those alone."""
        if not step.generates:
            return {"images": tensors["real"]}
        fresh = (tensors[f"noise of step {number}"] for number in range(2, self.steps_taken + 1))
        inputs = tensors["z"], tensors.get("labels"), self.generator_steps, lambda _: next(fresh)
        taken: dict[str, Any] = {"steps_taken": self.steps_taken, "through_all": self.through_all}
        with torch.set_grad_enabled(step.network is self.generator):
            return {"images": multi_step(self.generator.net, *inputs, **taken)}

    def _losses(self, step: OptimizerStep, scales: Scales, tensors: Tensors) -> Outputs:
        """Computes the losses and adds their gradient; a term with the weight 0 has no backward pass."""
        images = tensors["images"] if "images" in tensors else self._images(step, scales, tensors)["images"]
        micro_batch = MicroBatch(images, tensors.get("labels"), tensors.get("real"), tensors)
        losses, terms = {}, {}
        for name, per_element in micro_batch.finalize(_named_terms(step, micro_batch, scales)).items():
            factor, weight = scales[name] if name in scales else scales[""]
            # A sum, because dropped samples (zeros) and divided batches must not change the divisor.
            value = per_element.sum() * factor
            losses[name] = value.detach()
            if weight:
                terms[name] = weight * value
        # A method may log a term without a gradient, which has no share of the loss's.
        norms, learned = {}, {name: value for name, value in terms.items() if value.requires_grad}
        if terms and not learned:
            fault = f"no term depends on the parameters of '{step.name}': {', '.join(losses)}"
            raise UserError("loss", fault, "compute them with gradients")
        if learned:
            first, *others = learned.values()
            total = sum(others, first)
            if not (self.norms and others):
                total.backward()
            else:
                # The first term's gradient is that of all terms without the others', which saves its own backward pass.
                flat = step.network.flat
                gradients = [flat.gradient_of(term) for term in others]
                total.backward()
                gradients.insert(0, flat.gradient() - torch.stack(gradients).sum(0))
                norms = {f"{NORM}{name}": gradient.norm() for name, gradient in zip(learned, gradients)}
        return {**losses, **norms, "nan_count": micro_batch.dropped}


def _named_terms(step: OptimizerStep, batch: MicroBatch, scales: Scales) -> Mapping[str, torch.Tensor]:
    """Terms of a step's loss, each of which has a weight.

    Raises:
        UserError: The loss of a custom method returns something else.
    """
    terms = step.loss(batch)
    if not isinstance(terms, Mapping):
        fault = f"the step of '{step.name}' returns {type(terms).__name__}, not terms by name"
        raise UserError("loss", fault, "return {name: tensor}")
    if unweighted := [name for name in terms if name not in scales and "" not in scales]:
        fault = f"the step of '{step.name}' returns '{unweighted[0]}', which weights() does not name"
        raise UserError("loss", fault, f"weights() names {', '.join(scales)}: use equal names")
    return terms


class GraphRunner(EagerRunner):
    """Records micro-batches as CUDA graphs, which share one pool of memory, and replays them.

    Augmentation draws on the CPU and cannot be recorded: with it the images are one graph and the rest is another. If
    kernels cannot be recorded (a custom loss that reads values, say), this micro-batch and all after it run kernel by
    kernel; one line reports the reason.

    Args:
        networks: All networks: recording must not change them.
        generator: See :class:`EagerRunner`, as for the further arguments.
    """

    def __init__(self, networks: Sequence[OptimizedNetwork], generator: OptimizedNetwork, *steps: Any) -> None:
        super().__init__(generator, *steps)
        self.networks = networks
        # By step, steps of the generator, norms and shapes: recordings, each with the scales of its terms.
        self._recordings: dict[object, list[tuple[Scales, Recording]]] = {}
        # By length: a micro-batch's gradient is gathered before the next one writes its own.
        self._gradients: dict[int, torch.Tensor] = {}
        self._pool: object = torch.cuda.graph_pool_handle()
        self._given_up = False

    def __call__(self, step: OptimizerStep, *inputs: Any) -> Outputs:
        """See :meth:`EagerRunner.__call__`."""
        try:
            outputs = super().__call__(step, *inputs)
        except RecordingError as reason:
            self._given_up = True
            self._recordings.clear()
            self._gradients.clear()
            step.network.flat.zero_grad()
            say(f"cuda_graphs: {reason}; the run continues kernel by kernel")
            outputs = super().__call__(step, *inputs)
        if "gradient" not in outputs:
            return outputs
        step.network.add_gradient(outputs.pop("gradient"))
        # A replay writes into the same memory again.
        return {name: value.clone() for name, value in outputs.items()}

    def _run(
        self, function: Callable[..., Outputs], step: OptimizerStep, scales: Scales, batch_tensors: Tensors
    ) -> Outputs:
        """Outputs of a function of a micro-batch's tensors, by a recording that is made at the first call."""
        if self._given_up:
            return function(step, scales, batch_tensors)
        shapes = tuple((name, tuple(tensor.shape)) for name, tensor in batch_tensors.items())
        recordings = self._recordings.setdefault((id(step), self.steps_taken, self.norms, shapes), [])
        for recorded_scales, recording in recordings:
            if all(scales[name] == scale for name, scale in recorded_scales.items()):
                return dict(recording(batch_tensors))
        # A call of a network may change these: weights that it normalises, and buffers.
        changing = [value for network in self.networks for value in (network.flat.vector, *network.net.buffers())]
        with_gradient = lambda tensors: self._with_gradient(step, function(step, scales, tensors))
        recording = Recording(with_gradient, batch_tensors, self._pool, changing)
        # The recording is the first to know the loss's terms; only changes of their scales need another recording.
        recordings.append(({name: scale for name, scale in scales.items() if name in recording.outputs}, recording))
        return dict(recording(batch_tensors))

    def _with_gradient(self, step: OptimizerStep, outputs: Outputs) -> Outputs:
        """Adds the gradient of losses to their outputs, and takes it from the parameters."""
        if "images" in outputs:
            return outputs
        flat = step.network.flat
        size = len(flat.vector)
        if size not in self._gradients:
            self._gradients[size] = torch.empty_like(flat.vector)
        gradient = flat.gradient(out=self._gradients[size])
        flat.zero_grad()
        count = torch.as_tensor(outputs["nan_count"], device=flat.vector.device)
        return {**outputs, "gradient": gradient, "nan_count": count}
