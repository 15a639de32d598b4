"""The suite's own loss of the generator, made ready for exact expectations and many α at once."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from sida.losses import SiDLoss
from sida.losses.terms import FakeScoreTerms, GeneratorTerms, Terms


@dataclasses.dataclass(eq=False)
class ExactLoss(SiDLoss):
    """:class:`SiDLoss` with a divisor that is given, and an α of each sample.

    The loss is affine in α, so its terms at α = 0 and 1, as the suite computes them, give it for every α.

    Attributes:
        alphas: α by sample, broadcastable to ``(N, 1, 1, 1)``; a number for all.
        divisor: Stands for mean |x − f_φ|, broadcastable likewise. In a few dimensions that mean depends on the
            sample's own noise, and the identities do not hold with it; in many it is a constant of the noise level.
    """

    alphas: Tensor | float = 1.0
    divisor: Tensor | float = 1.0

    def _sid(self, images: Tensor, true: Tensor, fake: Tensor) -> Tensor:
        at_zero, at_one = (SiDLoss(alpha=alpha)._sid(images, true, fake) for alpha in (0.0, 1.0))
        return at_zero + self.alphas * (at_one - at_zero)

    def _mean_error(self, images: Tensor, true: Tensor) -> Tensor:  # type: ignore[override]
        return torch.as_tensor(self.divisor, dtype=images.dtype).broadcast_to(len(images), 1, 1, 1)


def as_images(points: Tensor) -> Tensor:
    """Points ``(..., 2)`` as images of two channels and one pixel, ``(N, 2, 1, 1)``."""
    return points.reshape(-1, 2, 1, 1)


def term(terms: GeneratorTerms | FakeScoreTerms | Terms, name: str) -> Tensor:
    """A term of a loss by its name."""
    return dict(terms.items())[name]
