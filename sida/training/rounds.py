"""One accumulation round of a player: images, its loss on them, and the gradient; run kernel by kernel or replayed.

A GPU runs a small network's kernels faster than a processor can ask for them. :class:`ReplayedRounds` records the
kernels of a round once for each player, phase and shape as a CUDA graph, and then asks for all of them at once. The
kernels are the same, so are the numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch

from sida.losses import Draws, Round
from sida.losses.terms import Augment
from sida.progress import say
from sida.runtime.graphs import Recording, RecordingError, Tensors, put_back
from sida.sampling.one_step import one_step
from sida.training.learner import Learner
from sida.training.player import Batch, Player


@dataclasses.dataclass(frozen=True)
class RoundSpec:
    """What a round computes, apart from its tensors.

    Attributes:
        player: Whose round it is.
        factors: What each term's sum is multiplied by before it is logged, by its name.
        shares: The schedule's weights of the terms; one of 0 costs no backward pass.
    """

    player: Player
    factors: Mapping[str, float]
    shares: Mapping[str, float]

    def key(self, terms: Sequence[str]) -> tuple[object, ...]:
        """Equal for rounds that run the same kernels, if the player's loss has these terms."""
        return (self.player.stream, *((name, self.factors[name], self.shares[name]) for name in terms))


@dataclasses.dataclass
class Outcome:
    """What a round gave; its gradient is with the learner.

    Attributes:
        losses: Terms by name, times their factors; 0-dim.
        nan_count: Samples that were dropped.
    """

    losses: dict[str, torch.Tensor]
    nan_count: torch.Tensor | int


class Rounds(Protocol):
    """Computes rounds."""

    def __call__(self, spec: RoundSpec, batch: Batch, draws: Draws, augment: Augment | None) -> Outcome:
        """One round; adds its gradient to the learner's."""


class PlainRounds:
    """Rounds kernel by kernel.

    Args:
        generator: Gives the images; in training mode where its own round is computed.
        init_sigma: Its σ_init.
    """

    def __init__(self, generator: Learner, init_sigma: float) -> None:
        self.generator, self.init_sigma = generator, init_sigma

    def __call__(self, spec: RoundSpec, batch: Batch, draws: Draws, augment: Augment | None) -> Outcome:
        """See :class:`Rounds`."""
        return self.judge(spec, self.images(spec.player, batch, draws), batch, draws, augment)

    def images(self, player: Player, batch: Batch, draws: Draws) -> torch.Tensor:
        """The generator's images, with a gradient in its own round."""
        with torch.set_grad_enabled(player.learner is self.generator):
            return one_step(self.generator.call, draws["z"], batch[1], self.init_sigma)

    def judge(
        self, spec: RoundSpec, images: torch.Tensor, batch: Batch, draws: Draws, augment: Augment | None
    ) -> Outcome:
        """The player's loss on images, and its gradient."""
        real, labels = batch
        terms = spec.player.loss(Round(images, labels, real if spec.player.real_images else None, augment, draws))
        losses, weighted = {}, []
        for name, per_element in terms.items():
            value = per_element.sum() * spec.factors[name]
            losses[name] = value.detach()
            if share := spec.shares[name]:
                weighted.append(value if share == 1 else share * value)
        if weighted:
            sum(weighted[1:], weighted[0]).backward()
        return Outcome(losses, terms.nan_count)


class ReplayedRounds:
    """Rounds as CUDA graphs, which share one pool of memory.

    Augmentation draws on the processor and so cannot be recorded: then the images are one graph, what follows another.
    A round whose kernels cannot be recorded (a loss of one's own that looks at values, say) is run kernel by kernel,
    and so are all after it; one line says why.

    Args:
        plain: Computes a round kernel by kernel.
        learners: All learners: recording must not change them.
    """

    def __init__(self, plain: PlainRounds, learners: Sequence[Learner]) -> None:
        self.plain, self.learners = plain, learners
        self._recordings: dict[tuple[object, ...], Recording] = {}
        # By length: a round's gradient is gathered before another round writes its own.
        self._gradients: dict[int, torch.Tensor] = {}
        # By player: terms of its loss, and for each time that it augments whether real images are.
        self._terms: dict[str, list[str]] = {}
        self._calls: dict[str, list[bool]] = {}
        self._pool: object = None
        self._given_up = False

    def __call__(self, spec: RoundSpec, batch: Batch, draws: Draws, augment: Augment | None) -> Outcome:
        """See :class:`Rounds`."""
        if self._given_up:
            return self.plain(spec, batch, draws, augment)
        try:
            outputs = self._replay(spec, batch, draws, augment)
        except RecordingError as reason:
            self._given_up = True
            self._recordings.clear()
            self._gradients.clear()
            spec.player.learner.flat.zero_grad()
            say(f"cuda_graphs: {reason}; going on kernel by kernel")
            return self.plain(spec, batch, draws, augment)
        spec.player.learner.add_gradient(outputs.pop("gradient"))
        # A replay writes into the same memory again.
        outputs = {name: value.clone() for name, value in outputs.items()}
        return Outcome(outputs, outputs.pop("nan_count"))

    def _replay(self, spec: RoundSpec, batch: Batch, draws: Draws, augment: Augment | None) -> dict[str, torch.Tensor]:
        real, labels = batch
        inputs = {name: draws[name] for name in ("z", "noise", spec.player.level)}
        if labels is not None:
            inputs["labels"] = labels
        if spec.player.real_images:
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
        self, spec: RoundSpec, function: Callable[[Tensors], Tensors], inputs: Tensors, part: str = "loss"
    ) -> dict[str, torch.Tensor]:
        shapes = tuple((name, tuple(tensor.shape)) for name, tensor in inputs.items())
        terms = lambda: self._terms.get(spec.player.stream, ()) if part == "loss" else ()
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
        """What a network's call may change: weights that it normalises, and buffers, which count, say."""
        return [tensor for learner in self.learners for tensor in (learner.flat.vector, *learner.net.buffers())]

    def _images(self, spec: RoundSpec, given: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return self.plain.images(spec.player, (given["z"], given.get("labels")), given)

    def _whole(self, spec: RoundSpec, given: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        batch = (given.get("real", given["z"]), given.get("labels"))
        images = given["images"] if "images" in given else self._images(spec, given)
        augment = _Prepared(given) if "augmented0" in given else None
        outcome = self.plain.judge(spec, images, batch, given, augment)
        self._terms[spec.player.stream] = [*outcome.losses]
        flat = spec.player.learner.flat
        size = len(flat.padded)
        if size not in self._gradients:
            self._gradients[size] = torch.empty_like(flat.padded)
        outputs = {**outcome.losses, "gradient": flat.gradient(out=self._gradients[size])}
        flat.zero_grad()
        outputs["nan_count"] = torch.as_tensor(outcome.nan_count, device=images.device)
        return outputs

    def _augment_calls(self, spec: RoundSpec, inputs: Tensors) -> list[bool]:
        """For each time that the player's loss augments: whether real images are."""
        stream = spec.player.stream
        if stream not in self._calls:
            watch = _Watch(inputs["images"], inputs.get("real"))
            batch = (inputs.get("real", inputs["z"]), inputs.get("labels"))
            devices = [inputs["z"].device] if inputs["z"].is_cuda else []
            with torch.random.fork_rng(devices), torch.no_grad(), put_back(self._changing()):
                spec.player.loss(
                    Round(inputs["images"], batch[1], batch[0] if "real" in inputs else None, watch, dict(inputs))
                )
            self._calls[stream] = watch.calls
        return self._calls[stream]


class _Watch:
    """An augmentation that does nothing but note what it is given."""

    def __init__(self, images: torch.Tensor, real: torch.Tensor | None) -> None:
        self.images, self.real, self.calls = images, real, list[bool]()

    def __call__(self, images: torch.Tensor) -> Any:
        if images is not self.images and images is not self.real:
            raise RecordingError("the loss augments neither the round's images nor its real ones")
        self.calls.append(images is self.real)
        return images, None


class _Prepared:
    """Augmented images and labels, handed out in the order in which the loss asks."""

    def __init__(self, given: Mapping[str, torch.Tensor]) -> None:
        self.given, self.number = given, 0

    def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        number, self.number = self.number, self.number + 1
        return self.given[f"augmented{number}"], self.given[f"augment_labels{number}"]
