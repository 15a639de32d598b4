"""A player: a learner of a method, and what a step of it makes smaller."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import torch

from sida.data.augment import AugmentPipe
from sida.losses import FakeScoreTerms, GeneratorTerms, Round, Terms
from sida.training.learner import Learner

#: ``(images (N, C, H, W), class_labels (N, label_dim) or None)``.
Batch = tuple[torch.Tensor, torch.Tensor | None]
#: ``batches(stream, with_images)``: the accumulation rounds of one step; without images only their shape counts.
Batches = Callable[[str, bool], Sequence[Batch]]


@dataclasses.dataclass(frozen=True)
class Player:
    """A learner, and what a step of it makes smaller.

    A player may share its learner with another one (a penalty with a step of its own), then under the same name. What
    must survive a resume beside parameters and optimizer is a buffer of the learner's network.

    Attributes:
        name: Of the learner, in states and logs.
        learner: Takes the step.
        loss: Terms of a round.
        weights: Factor of each term by its name, given C·H·W.
        stream: Name of its own order of images and draws.
        level: Draw that decides σ: ``sigma_normal`` (normal) or ``t`` (uniform).
        real_images: Whether its loss sees real images.
        augment: Augmentation that its loss gets; None is off.
        steps: Steps in an iteration, each on images and draws of its own.
        every: It takes part in each iteration of this number only.
    """

    name: str
    learner: Learner
    loss: Callable[[Round], GeneratorTerms | FakeScoreTerms | Terms]
    weights: Callable[[int], Mapping[str, float]]
    stream: str
    level: str = "t"
    real_images: bool = False
    augment: AugmentPipe | None = None
    steps: int = 1
    every: int = 1

    def streams(self) -> list[str]:
        """Names of the streams of an iteration's steps."""
        return [self.stream, *(f"{self.stream}-{step}" for step in range(2, self.steps + 1))]
