"""What a loss is given and returns, and how samples with NaN are left out of it."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import torch

from sida.losses.noise import Draws

#: A network, or what calls one.
Net = Callable[..., Any]
#: ``images -> (images, augment_labels)``; draws for itself.
Augment = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


class Round(NamedTuple):
    """Images and draws of one accumulation round.

    Attributes:
        images: The generator's ``(N, C, H, W)``; with a gradient where the generator learns.
        class_labels: ``(N, label_dim)`` or None.
        real_images: ``(N, C, H, W)`` of the data; None where there are none.
        augment: None is off.
        draws: Raw tensors that replace the random ones, by name.
    """

    images: torch.Tensor
    class_labels: torch.Tensor | None
    real_images: torch.Tensor | None = None
    augment: Augment | None = None
    draws: Draws | None = None


class Terms(dict[str, torch.Tensor]):
    """Terms of a loss by name: what a loss of one's own returns. A term that it does not have is not there.

    Each is a tensor of which the loop takes the sum, times its weight (:meth:`sida.losses.SiDLoss.weights`), over the
    number of images of the step.

    Args:
        terms: Tensor by name.
        nan_count: Samples dropped because a NaN came up in them.
    """

    def __init__(self, terms: Mapping[str, torch.Tensor], nan_count: torch.Tensor | int = 0) -> None:
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
        sid: Score identity distillation, float32 ``(N', C, H, W)``, N' ≤ N without the dropped samples (on a GPU
            they stay, as zeros); None if the
            method has no such term.
        adversarial: Adversarial term, float32 ``(N', 1, 1, 1)``, **before** the factor C·H·W; None if the method
            has none.
        nan_count: Samples dropped because a NaN came up in them.
    """

    nan_count: torch.Tensor | int = 0

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

    nan_count: torch.Tensor | int = 0

    def items(self) -> list[tuple[str, torch.Tensor]]:
        """Names and tensors of the terms that are there."""
        return _items(self)


def _items(pair: _GeneratorPair | _FakeScorePair) -> list[tuple[str, torch.Tensor]]:
    return [(name, term) for name, term in pair._asdict().items() if term is not None]


class FakeScoreLoss(abc.ABC):
    """A loss of a network that judges generated images: a fake score, a discriminator, or both in one."""

    def fake_score_loss(
        self,
        fake_score: Net,
        images: torch.Tensor,
        class_labels: torch.Tensor | None,
        real_images: torch.Tensor | None = None,
        augment: Augment | None = None,
        draws: Draws | None = None,
    ) -> FakeScoreTerms | Terms:
        """Its terms, per element and unscaled.

        Args:
            fake_score: ψ in training mode.
            images: The generator's images ``(N, C, H, W)``, without gradient.
            class_labels: ``(N, label_dim)`` or None.
            real_images: ``(N, C, H, W)``; None leaves the discriminator term out. Not used by losses without one.
            augment: ``images -> (images, augment_labels)``; draws for itself.
            draws: ``sigma_normal`` ``(N, 1, 1, 1)`` and ``noise`` ``(N, C, H, W)``, both unit normal, replace the
                random ones.
        """
        return self.fake_score_terms(fake_score, Round(images, class_labels, real_images, augment, draws))

    @abc.abstractmethod
    def fake_score_terms(self, fake_score: Net, given: Round) -> FakeScoreTerms | Terms:
        """What :meth:`fake_score_loss` returns."""


class Loss(FakeScoreLoss):
    """Losses of the two sides of a distillation."""

    #: Whether the fake score is also a discriminator, so that its step wants real images.
    uses_real_images = False

    def generator_loss(
        self,
        true_score: Net | None,
        fake_score: Net,
        images: torch.Tensor,
        class_labels: torch.Tensor | None,
        draws: Draws | None = None,
    ) -> GeneratorTerms | Terms:
        """The generator's terms, per element and unscaled; gradients flow through both networks into ``images``.

        Args:
            true_score: The teacher φ, frozen; not used by losses without a score term.
            fake_score: ψ, frozen for this step.
            images: The generator's images ``(N, C, H, W)``, with gradient.
            class_labels: ``(N, label_dim)`` or None.
            draws: ``t`` uniform in [0, 1) (before ``t_max``) and ``noise`` unit normal replace the random ones.
        """
        return self.generator_terms(true_score, fake_score, Round(images, class_labels, draws=draws))

    @abc.abstractmethod
    def generator_terms(self, true_score: Any, fake_score: Net, given: Round) -> GeneratorTerms | Terms:
        """What :meth:`generator_loss` returns."""


Pair = TypeVar("Pair", GeneratorTerms, FakeScoreTerms)


def counted(terms: Pair, nan_count: torch.Tensor | int) -> Pair:
    """The same terms with the number of dropped samples."""
    terms.nan_count = nan_count
    return terms


#: Devices that are never asked for a value in a step: they would be waited for. There dropped samples stay, as zeros.
UNASKED = {"cuda"}


def intact(*tensors: torch.Tensor) -> torch.Tensor | None:
    """Which samples hold no NaN in any of the tensors: bool ``(N,)``, or None when all are free of it (as usual).

    Args:
        *tensors: ``(N, ...)`` each; what is computed from other tensors passes their NaNs on.
    """
    flat = [tensor.detach().flatten(1) for tensor in tensors]
    if flat[0].device.type in UNASKED:
        return ~torch.stack([values.isnan().any(1) for values in flat]).any(0)
    # A sum is cheaper than a look at every element; infinities of both signs make it NaN too.
    if not bool(torch.stack([values.sum(1) for values in flat]).isnan().any()):
        return None
    return ~torch.stack([values.isnan().any(1) for values in flat]).any(0)


def keep(mask: torch.Tensor | None, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The samples of ``mask`` (all of them when it is None); on :data:`UNASKED` devices the others become zeros."""
    if mask is None:
        return tensors
    if mask.device.type in UNASKED:
        return tuple(_filled(mask, tensor, 0.0) for tensor in tensors)
    return tuple(tensor[mask] for tensor in tensors)


def keep_divisor(mask: torch.Tensor | None, divisor: torch.Tensor) -> torch.Tensor:
    """:func:`keep` of what a term is divided by: where samples stay, those dropped become ones."""
    if mask is not None and mask.device.type in UNASKED:
        return _filled(mask, divisor, 1.0)
    return keep(mask, divisor)[0]


def blank(mask: torch.Tensor | None, term: torch.Tensor) -> torch.Tensor:
    """A term made of kept parts, ``(N', ...)``: where samples stay, zero for those dropped."""
    return _filled(mask, term, 0.0) if mask is not None and mask.device.type in UNASKED else term


def mean_of_kept(mask: torch.Tensor | None, values: torch.Tensor) -> torch.Tensor:
    """Mean over all elements of what :func:`keep` left of a tensor ``(N, ...)``; 0-dim."""
    if mask is None or mask.device.type not in UNASKED:
        return values.mean()
    count = mask.sum() * (values.numel() // len(values))
    return _filled(mask, values, 0.0).sum() / count.clamp_min(1)


def dropped(mask: torch.Tensor | None) -> torch.Tensor | int:
    """Number of samples left out by ``mask``; a 0-dim tensor on :data:`UNASKED` devices."""
    if mask is None:
        return 0
    count = (~mask).sum()
    return count if mask.device.type in UNASKED else int(count)


def _filled(mask: torch.Tensor, tensor: torch.Tensor, value: float) -> torch.Tensor:
    return torch.where(mask.view(-1, *[1] * (tensor.ndim - 1)), tensor, value)
