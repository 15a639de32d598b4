"""Trainer of students of all methods: its networks, state and processes, and CUDA graphs of its micro-batches.

A GPU runs a small network's kernels faster than a CPU can launch them. :class:`GraphRunner` records the kernels of a
micro-batch once for each step, phase and shape as a CUDA graph, and then launches all of them at once. The kernels are
the same, so are the numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from sida.config.recipe import ResolvedConfig
from sida.errors import say
from sida.losses import Draws, MicroBatch
from sida.losses.terms import Augment
from sida.machine import Recording, RecordingError, Tensors, restored
from sida.training.averages import Average
from sida.training.batches import Batch
from sida.training.iteration import (
    EagerRunner,
    Iterations,
    MicroBatchResult,
    MicroBatchRunner,
    MicroBatchSpec,
    OptimizerStep,
)
from sida.training.optimizer import OptimizedNetwork, Resumable, joint_state, load_joint_state
from sida.training.processes import Ranks
from sida.training.schedule import Schedule


class StudentTrainer(Iterations):
    """Networks, average and state of a student's training; :class:`~sida.training.iteration.Iterations` trains them.

    Args:
        steps: Optimizer steps in the order of an iteration; the generator's comes last.
        schedule: Phases by images seen.
        recipe: Seed, noise level, average and CUDA graphs.
        graphs: Whether a step can be recorded and replayed as a CUDA graph.

    Attributes:
        networks: Optimized networks by name, in the steps' order.
        generator: The last of the networks.
        ema: Average of the generator, the product of the run.
        batches: Source of images and labels, set before the first iteration; all streams have equally many images.
    """

    def __init__(
        self, steps: Sequence[OptimizerStep], schedule: Schedule, recipe: ResolvedConfig, graphs: bool = True
    ) -> None:
        self.steps, self.schedule, self.recipe = list(steps), schedule, recipe
        self.rank, self.world_size = 0, 1
        self.networks = {step.name: step.network for step in steps}
        self.generator = steps[-1].network
        self.ema = Average(self.generator)
        self._parts: dict[str, Resumable] = {**self.networks, "ema": self.ema}
        self.device = self.generator.flat.vector.device
        plain = EagerRunner(self.generator, recipe.init_sigma)
        replayed = graphs and recipe.cuda_graphs and self.device.type == "cuda"
        self._run: MicroBatchRunner = GraphRunner(plain, list(self.networks.values())) if replayed else plain

    @property
    def snapshots(self) -> dict[str, tuple[torch.nn.Module, dict[str, Any]]]:
        """See :class:`sida.training.loop.Trainer`."""
        return {"": (self.ema.net, {})}

    def begun(self, pixels: int) -> float:
        """Images after which all phases of the steps' terms have begun, given C·H·W."""
        return self.schedule.begun(name for step in self.steps for name in step.weights(pixels))

    def join(self, ranks: Ranks) -> None:
        """Joins several processes that train together; call it before the first iteration.

        Args:
            ranks: Processes that train together.
        """
        self.rank, self.world_size = ranks.rank, ranks.world_size
        for network in dict.fromkeys(self.networks.values()):
            network.ranks = ranks

    def weight_rms(self) -> dict[str, float | None]:
        """See :class:`sida.training.loop.Trainer`."""
        return {name: network.weight_rms() for name, network in self.networks.items()}

    def state(self) -> dict[str, torch.Tensor]:
        """Returns everything that a resumed run needs as named tensors (references), without frozen networks."""
        return joint_state(self._parts)

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Restores a :meth:`state`."""
        load_joint_state(self._parts, state)


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
        # By step: terms of its loss, and for each time that it augments whether real images are.
        self._terms: dict[str, list[str]] = {}
        self._calls: dict[str, list[bool]] = {}
        self._pool: object = None
        self._given_up = False

    def __call__(self, spec: MicroBatchSpec, batch: Batch, draws: Draws, augment: Augment | None) -> MicroBatchResult:
        """See :class:`MicroBatchRunner`."""
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
        inputs = {name: draws[name] for name in ("z", "noise", spec.step.level, *spec.step.draws)}
        if labels is not None:
            inputs["labels"] = labels
        if spec.step.real_images:
            inputs["real"] = real
        if augment is None:
            return self._run(spec, lambda given: self._whole(spec, given), inputs)
        images = self._run(spec, lambda given: {"images": self._images(spec, given)}, inputs, "images")["images"]
        inputs["images"] = images
        for number, is_real in enumerate(self._augment_calls(spec, inputs)):
            pictures, rows = augment(real if is_real else images)
            inputs |= {f"augmented{number}": pictures, f"augment_labels{number}": rows}
        return self._run(spec, lambda given: self._whole(spec, given), inputs)

    def _run(
        self, spec: MicroBatchSpec, function: Callable[[Tensors], Tensors], inputs: Tensors, part: str = "loss"
    ) -> dict[str, torch.Tensor]:
        shapes = tuple((name, tuple(tensor.shape)) for name, tensor in inputs.items())
        terms = lambda: self._terms.get(spec.step.stream, ()) if part == "loss" else ()
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
        return self.plain.images(spec.step, (given["z"], given.get("labels")), given)

    def _whole(self, spec: MicroBatchSpec, given: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        batch = (given.get("real", given["z"]), given.get("labels"))
        images = given["images"] if "images" in given else self._images(spec, given)
        augment = _Prepared(given) if "augmented0" in given else None
        outcome = self.plain.loss_and_gradient(spec, images, batch, given, augment)
        self._terms[spec.step.stream] = [*outcome.losses]
        flat = spec.step.network.flat
        size = len(flat.vector)
        if size not in self._gradients:
            self._gradients[size] = torch.empty_like(flat.vector)
        outputs = {**outcome.losses, "gradient": flat.gradient(out=self._gradients[size])}
        flat.zero_grad()
        outputs["nan_count"] = torch.as_tensor(outcome.nan_count, device=images.device)
        return outputs

    def _augment_calls(self, spec: MicroBatchSpec, inputs: Tensors) -> list[bool]:
        """For each time that the step's loss augments: whether real images are."""
        stream = spec.step.stream
        if stream not in self._calls:
            watch = _Watch(inputs["images"], inputs.get("real"))
            batch = (inputs.get("real", inputs["z"]), inputs.get("labels"))
            devices = [inputs["z"].device] if inputs["z"].is_cuda else []
            with torch.random.fork_rng(devices), torch.no_grad(), restored(self._changing()):
                spec.step.loss(
                    MicroBatch(inputs["images"], batch[1], batch[0] if "real" in inputs else None, watch, dict(inputs))
                )
            self._calls[stream] = watch.calls
        return self._calls[stream]


class _Watch:
    """An augmentation that returns its images unchanged and records which they are."""

    def __init__(self, images: torch.Tensor, real: torch.Tensor | None) -> None:
        self.images, self.real, self.calls = images, real, list[bool]()

    def __call__(self, images: torch.Tensor) -> Any:
        if images is not self.images and images is not self.real:
            raise RecordingError("the loss augments neither the micro-batch's images nor its real ones")
        self.calls.append(images is self.real)
        return images, None


class _Prepared:
    """Augmented images and labels, handed out in the order in which the loss asks."""

    def __init__(self, given: Mapping[str, torch.Tensor]) -> None:
        self.given, self.number = given, 0

    def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        number, self.number = self.number, self.number + 1
        return self.given[f"augmented{number}"], self.given[f"augment_labels{number}"]
