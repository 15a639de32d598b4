"""Base classes and results of losses, and the mask that leaves out samples with NaN."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch

from sida.losses.noise import Draws

#: A network, or a function that calls one.
Net = Callable[..., Any]
#: ``images -> (images, augment_labels)``, with its own random draws.
Augment = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


class MicroBatch(NamedTuple):
    """Images and draws of one micro-batch.

    Attributes:
        images: The generator's images ``(N, C, H, W)``; with a gradient in the generator's step.
        class_labels: ``(N, label_dim)`` or None.
        real_images: Images of the data ``(N, C, H, W)``, or None.
        augment: Augmentation, or None.
        draws: Raw tensors that replace the random ones, by name.
    """

    images: torch.Tensor
    class_labels: torch.Tensor | None
    real_images: torch.Tensor | None = None
    augment: Augment | None = None
    draws: Draws | None = None


class Terms:
    """Result of a loss: its terms, per element and unscaled, and the number of samples left out.

        sid, adversarial = loss.generator_loss(phi, psi, images, labels)

    A term is an attribute under its name, None if the loss has no such term in this call; iteration yields the terms
    in their order. The loop sums each term's elements, multiplies by the term's weight
    (:meth:`sida.losses.SiDLoss.weights`) and divides by the number of images of the step.

    Args:
        terms: Tensor by name, or None.
        nan_count: Number of samples left out because of a NaN.
    """

    def __init__(self, terms: Mapping[str, torch.Tensor | None], nan_count: torch.Tensor | int = 0) -> None:
        self._terms, self.nan_count = dict(terms), nan_count

    def __getattr__(self, name: str) -> Any:
        if name == "_terms" or name not in self._terms:
            raise AttributeError(f"these terms are {', '.join(self.__dict__.get('_terms', ()))}; there is no '{name}'")
        return self._terms[name]

    def __iter__(self) -> Iterator[torch.Tensor | None]:
        return iter(self._terms.values())

    def items(self) -> list[tuple[str, torch.Tensor]]:
        """Names and tensors of the terms that are not None."""
        return [(name, term) for name, term in self._terms.items() if term is not None]


class FakeScoreLoss(abc.ABC):
    """A loss of a network that evaluates generated images: a fake score, a discriminator, or both in one."""

    @abc.abstractmethod
    def fake_score_loss(
        self,
        fake_score: Net,
        images: torch.Tensor,
        class_labels: torch.Tensor | None,
        real_images: torch.Tensor | None = None,
        augment: Augment | None = None,
        draws: Draws | None = None,
    ) -> Terms:
        """Terms ``denoising`` ``(N', C, H, W)`` and ``discriminator`` ``(N', 1, 1, 1)``, float32; N' ≤ N.

        N' leaves out the samples with NaN; on a GPU they stay, as zeros.

        Args:
            fake_score: ψ in training mode.
            images: The generator's images ``(N, C, H, W)``, without gradient.
            class_labels: ``(N, label_dim)`` or None.
            real_images: ``(N, C, H, W)``; None leaves the discriminator term out. Not used by losses without one.
            augment: ``images -> (images, augment_labels)``, with its own random draws.
            draws: ``sigma_normal`` ``(N, 1, 1, 1)`` and ``noise`` ``(N, C, H, W)``, both unit normal, replace the
                random ones.
        """


class Loss(FakeScoreLoss):
    """Losses of the two sides of a distillation."""

    #: Whether the fake score is also a discriminator, so that its step needs real images.
    uses_real_images = False

    @abc.abstractmethod
    def generator_loss(
        self,
        true_score: Any,
        fake_score: Net,
        images: torch.Tensor,
        class_labels: torch.Tensor | None,
        draws: Draws | None = None,
    ) -> Terms:
        """Terms ``sid`` ``(N', C, H, W)`` and ``adversarial`` ``(N', 1, 1, 1)``, before the factor C·H·W, float32.

        Gradients flow through both networks into ``images``. N' is as in :meth:`fake_score_loss`.

        Args:
            true_score: The teacher φ, frozen; not used by losses without a score term.
            fake_score: ψ, frozen for this step.
            images: The generator's images ``(N, C, H, W)``, with gradient.
            class_labels: ``(N, label_dim)`` or None.
            draws: ``t`` uniform in [0, 1) (before ``t_max``) and ``noise`` unit normal replace the random ones.
        """


#: Devices on which synchronising is costly: samples with NaN are zeroed instead of removed.
ASYNC_DEVICES = {"cuda"}


def finite_mask(*tensors: torch.Tensor) -> torch.Tensor | None:
    """Mask of the samples without NaN in any of the tensors, bool ``(N,)``; None if there is no NaN (the usual case).

    Args:
        *tensors: ``(N, ...)`` each.
    """
    flat = [tensor.detach().flatten(1) for tensor in tensors]
    if flat[0].device.type in ASYNC_DEVICES:
        return ~torch.stack([values.isnan().any(1) for values in flat]).any(0)
    # A sum is cheaper than a test of every element; infinities of both signs give a NaN sum, too.
    if not bool(torch.stack([values.sum(1) for values in flat]).isnan().any()):
        return None
    return ~torch.stack([values.isnan().any(1) for values in flat]).any(0)


def keep(mask: torch.Tensor | None, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Selects the samples of ``mask`` (None: all); on :data:`ASYNC_DEVICES` zeroes the others instead."""
    if mask is None:
        return tensors
    if mask.device.type in ASYNC_DEVICES:
        return tuple(_filled(mask, tensor, 0.0) for tensor in tensors)
    return tuple(tensor[mask] for tensor in tensors)


def keep_divisor(mask: torch.Tensor | None, divisor: torch.Tensor) -> torch.Tensor:
    """As :func:`keep` for a divisor: on :data:`ASYNC_DEVICES` dropped samples become ones."""
    if mask is not None and mask.device.type in ASYNC_DEVICES:
        return _filled(mask, divisor, 1.0)
    return keep(mask, divisor)[0]


def zero_dropped(mask: torch.Tensor | None, term: torch.Tensor) -> torch.Tensor:
    """Zeroes the dropped samples of a term ``(N', ...)`` on :data:`ASYNC_DEVICES`; elsewhere returns the term."""
    return _filled(mask, term, 0.0) if mask is not None and mask.device.type in ASYNC_DEVICES else term


def mean_of_kept(mask: torch.Tensor | None, values: torch.Tensor) -> torch.Tensor:
    """Mean over all elements of the samples that :func:`keep` kept of a tensor ``(N, ...)``; 0-dim."""
    if mask is None or mask.device.type not in ASYNC_DEVICES:
        return values.mean()
    count = mask.sum() * (values.numel() // len(values))
    return _filled(mask, values, 0.0).sum() / count.clamp_min(1)


def dropped_count(mask: torch.Tensor | None) -> torch.Tensor | int:
    """Number of samples that ``mask`` leaves out; a 0-dim tensor on :data:`ASYNC_DEVICES` devices."""
    if mask is None:
        return 0
    count = (~mask).sum()
    return count if mask.device.type in ASYNC_DEVICES else int(count)


def _filled(mask: torch.Tensor, tensor: torch.Tensor, value: float) -> torch.Tensor:
    return torch.where(mask.view(-1, *[1] * (tensor.ndim - 1)), tensor, value)
