"""What a loss returns, and how samples with NaN are left out of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeVar

import torch


class Terms(dict[str, torch.Tensor]):
    """Terms of a loss by name: what a loss of one's own returns. A term that it does not have is not there.

    Each is a tensor of which the loop takes the sum, times its weight (:meth:`sida.losses.SiDLoss.weights`), over the
    number of images of the step.

    Args:
        terms: Tensor by name.
        nan_count: Samples dropped because a NaN came up in them.
    """

    def __init__(self, terms: Mapping[str, torch.Tensor], nan_count: int = 0) -> None:
        super().__init__(terms)
        self.nan_count = nan_count


class _GeneratorPair(NamedTuple):
    sid: torch.Tensor | None
    adversarial: torch.Tensor | None


class _FakeScorePair(NamedTuple):
    denoising: torch.Tensor | None
    discriminator: torch.Tensor | None


class GeneratorTerms(_GeneratorPair):
    """Terms of a generator's loss, per element and unscaled; a pair that also counts dropped samples.

    Attributes:
        sid: Score identity distillation, float32 ``(N', C, H, W)``, N' ≤ N without the dropped samples; None if the
            method has no such term.
        adversarial: Adversarial term, float32 ``(N', 1, 1, 1)``, **before** the factor C·H·W; None if the method
            has none.
        nan_count: Samples dropped because a NaN came up in them.
    """

    nan_count: int = 0

    def items(self) -> list[tuple[str, torch.Tensor]]:
        """Names and tensors of the terms that are there."""
        return _items(self)


class FakeScoreTerms(_FakeScorePair):
    """Terms of a fake score's (and discriminator's) loss, per element and unscaled; a pair that also counts.

    Attributes:
        denoising: Weighted denoising error, float32 ``(N', C, H, W)``; None if the method has no such term.
        discriminator: Real-against-fake term, float32 ``(N', 1, 1, 1)``; None without real images.
        nan_count: Samples dropped because a NaN came up in them or in the real image of their position.
    """

    nan_count: int = 0

    def items(self) -> list[tuple[str, torch.Tensor]]:
        """Names and tensors of the terms that are there."""
        return _items(self)


def _items(pair: _GeneratorPair | _FakeScorePair) -> list[tuple[str, torch.Tensor]]:
    return [(name, term) for name, term in pair._asdict().items() if term is not None]


Pair = TypeVar("Pair", GeneratorTerms, FakeScoreTerms)


def counted(terms: Pair, nan_count: int) -> Pair:
    """The same terms with the number of dropped samples."""
    terms.nan_count = nan_count
    return terms


def intact(*tensors: torch.Tensor) -> torch.Tensor | None:
    """Which samples hold no NaN in any of the tensors: bool ``(N,)``, or None when all are free of it (as usual).

    Args:
        *tensors: ``(N, ...)`` each; what is computed from other tensors passes their NaNs on.
    """
    flat = [tensor.detach().flatten(1) for tensor in tensors]
    # A sum is cheaper than a look at every element; infinities of both signs make it NaN too.
    if not bool(torch.stack([values.sum(1) for values in flat]).isnan().any()):
        return None
    return ~torch.stack([values.isnan().any(1) for values in flat]).any(0)


def keep(mask: torch.Tensor | None, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The samples of ``mask`` (all of them when it is None)."""
    return tensors if mask is None else tuple(tensor[mask] for tensor in tensors)


def dropped(mask: torch.Tensor | None) -> int:
    """Number of samples left out by ``mask``."""
    return 0 if mask is None else int((~mask).sum())
