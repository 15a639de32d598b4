"""Base classes and results of losses, noise levels and weights, and the mask that leaves out samples with NaN.

Source: EDM (arXiv:2206.00364), Table 1 and section 5; SiD (arXiv:2404.04057).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Self, get_args

import torch

from sida.config.recipe import Gamma, Recipe, ResolvedConfig

Draws = Mapping[str, torch.Tensor]

#: Bound of ``min-snr`` (Hang et al. 2023, arXiv:2303.09556: γ = 5).
MIN_SNR = 5.0
SIGMA_MIN, SIGMA_MAX, RHO = 0.002, 80.0, 7.0
#: Levels that :func:`indexed_sigma` draws from.
KARRAS_LEVELS = 1000


def sigma_of_t(
    t: torch.Tensor, sigma_min: float = SIGMA_MIN, sigma_max: float = SIGMA_MAX, rho: float = RHO
) -> torch.Tensor:
    """Noise level of a time in [0, 1]: ``(σmax^{1/ρ} + (1 − t)(σmin^{1/ρ} − σmax^{1/ρ}))^ρ``, the dtype of ``t``.

    The level **grows** with t: σ(0) = ``sigma_min``, σ(1) = ``sigma_max``. The official code counts t in
    thousandths.
    """
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return (high + (1 - t) * (low - high)) ** rho


def indexed_sigma(uniform: torch.Tensor, low: int, high: int) -> torch.Tensor:
    """Noise level of an index drawn uniformly from ``low``, …, ``high`` of 1000 ascending Karras levels.

    Args:
        uniform: Uniform in [0, 1), any shape; the result has its shape and dtype.
        low: Least index, 0 or more; index 0 is ``SIGMA_MIN``.
        high: Largest index, at most 999, which is ``SIGMA_MAX``.

    Source: DMD2 (arXiv:2405.14867); tianweiy/DMD2:main/edm/edm_guidance.py.
    """
    return sigma_of_t((low + (uniform * (high - low + 1)).floor()).clamp(max=high) / (KARRAS_LEVELS - 1))


def lognormal_sigma(normal: torch.Tensor, P_mean: float, P_std: float) -> torch.Tensor:
    """Noise level ``exp(P_mean + P_std · normal)``."""
    return (normal * P_std + P_mean).exp()


def edm_weight(sigma: torch.Tensor, sigma_data: float) -> torch.Tensor:
    """EDM's weight ``(σ² + σ_data²) / (σ σ_data)²``, under which an untrained network has loss 1 at every level."""
    return (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2


def score_weight(sigma: torch.Tensor, sigma_data: float, gamma: Gamma = "edm") -> torch.Tensor:
    """Weight γ(σ) of a denoising loss on clean images; the paper leaves γ open, the official code takes EDM's.

    With SNR = σ_data²/σ², in units of 1/σ_data²: ``edm`` SNR + 1, ``snr`` SNR, ``constant`` 1, ``min-snr``
    min(SNR, 5). So ``edm`` is ``snr`` + ``constant``, and ``min-snr`` bounds the heavy tail of ``snr``.

    Args:
        sigma: Noise levels, any shape.
        sigma_data: Standard deviation of the data.
        gamma: Name of the weight.

    Raises:
        ValueError: Unknown name.
    """
    if gamma == "edm":
        return edm_weight(sigma, sigma_data)
    if gamma not in get_args(Gamma):
        raise ValueError(f"gamma: must be one of {', '.join(get_args(Gamma))}, got {gamma!r}")
    snr = (sigma_data / sigma).square()
    weight = {"snr": snr, "constant": torch.ones_like(sigma), "min-snr": snr.clamp_max(MIN_SNR)}[gamma]
    return weight / sigma_data**2


def uniform(draws: Draws | None, images: torch.Tensor, name: str = "t") -> torch.Tensor:
    """The draw ``name``, uniform in [0, 1), float32 ``(N, 1, 1, 1)``: given in ``draws``, or from torch's generator."""
    return _draw(name, torch.rand, draws, images)


def sigma_normal(draws: Draws | None, images: torch.Tensor) -> torch.Tensor:
    """The draw ``sigma_normal``, unit normal, float32 ``(N, 1, 1, 1)``: from ``draws``, or from torch's generator."""
    return _draw("sigma_normal", torch.randn, draws, images)


def unit_noise(draws: Draws | None, images: torch.Tensor, name: str = "noise") -> torch.Tensor:
    """The draw ``name``, unit normal with the shape of ``images``: given in ``draws``, or from torch's generator."""
    if draws is not None and name in draws:
        return draws[name].to(images)
    return torch.randn_like(images)


def _draw(name: str, draw: object, draws: Draws | None, images: torch.Tensor) -> torch.Tensor:
    shape = (len(images), 1, 1, 1)
    if draws is not None and name in draws:
        return draws[name].to(device=images.device, dtype=torch.float32).reshape(shape)
    fresh: torch.Tensor = draw(shape, device=images.device)  # type: ignore[operator]
    return fresh


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
    (:meth:`ScoreLoss.weights`) and divides by the number of images of the step.

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


class FakeScoreLoss:
    """A loss of a network that evaluates generated images: a fake score, a discriminator, or both in one."""

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
        return self.fake_score_terms(fake_score, MicroBatch(images, class_labels, real_images, augment, draws))

    def fake_score_terms(self, fake_score: Net, given: MicroBatch) -> Terms:
        """Terms of :meth:`fake_score_loss`; each loss defines them."""
        raise NotImplementedError


class Loss(FakeScoreLoss):
    """Losses of the two sides of a distillation."""

    #: Whether the fake score is also a discriminator, so that its step needs real images.
    uses_real_images = False

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
        return self.generator_terms(true_score, fake_score, MicroBatch(images, class_labels, draws=draws))

    def generator_terms(self, true_score: Any, fake_score: Net, given: MicroBatch) -> Terms:
        """Terms of :meth:`generator_loss`; each loss defines them."""
        raise NotImplementedError


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


@dataclasses.dataclass(eq=False, kw_only=True)
class ScoreLoss(Loss):
    """Losses with a fake score, which learns to denoise the generator's images x, with noise n of level σ:

        denoising = w(σ) (f_ψ(x + n; σ) − x)²

    Attributes:
        sigma_data: Standard deviation of the data, for the weight.
        gamma: The weight w(σ), see :func:`score_weight`; the official code's is ``edm``.
    """

    sigma_data: float = Recipe.sigma_data
    gamma: Gamma = Recipe.gamma

    def __post_init__(self) -> None:
        # Rejects an unknown gamma here, not in the first step.
        self.weight(torch.ones(1))

    @classmethod
    def of(cls, recipe: ResolvedConfig, options: Any = None, /, **own: Any) -> Self:
        """Returns the loss of a recipe.

        Args:
            recipe: Gives the values of the settings that the loss shares with recipes.
            options: Options of the method, for losses that have such.
            **own: Values of other fields.
        """
        return cls(**{"sigma_data": recipe.sigma_data, "gamma": recipe.gamma, **own})

    def weights(self, settings: Mapping[str, float], pixels: int) -> dict[str, float]:
        """Factor of each term before it is averaged over the images, by the term's name.

        Args:
            settings: Weights λ by the names of the recipe's keys.
            pixels: C·H·W.
        """
        raise NotImplementedError

    def generator_draws(self) -> tuple[str, ...]:
        """Names of the raw draws of the generator's step apart from ``z`` and ``noise``, the level's draw first.

        The last word of a name gives the distribution (:func:`sida.training.batches.step_draws`).
        """
        return ("t",)

    def fake_score_draws(self) -> tuple[str, ...]:
        """Names of the raw draws of the fake score's step, see :meth:`generator_draws`."""
        return ("sigma_normal",)

    def generator_sigma(self, images: torch.Tensor, draws: Draws | None = None) -> torch.Tensor:
        """Noise levels of the generator's step, float32 ``(N, 1, 1, 1)``."""
        raise NotImplementedError

    def fake_score_sigma(self, images: torch.Tensor, draws: Draws | None = None) -> torch.Tensor:
        """Noise levels of the fake score's step, float32 ``(N, 1, 1, 1)``."""
        raise NotImplementedError

    def weight(self, sigma: torch.Tensor) -> torch.Tensor:
        """w(σ) of the fake score's (and discriminator's) terms, the shape of ``sigma``."""
        return score_weight(sigma, self.sigma_data, self.gamma)

    def fake_score_terms(self, fake_score: Net, given: MicroBatch) -> Terms:
        """Term ``denoising``; see :meth:`fake_score_loss`."""
        images, class_labels, _, augment, draws = given
        sigma = self.fake_score_sigma(images, draws)
        clean, augment_labels = (images, None) if augment is None else augment(images)
        noisy = torch.addcmul(clean, sigma, unit_noise(draws, images))
        denoised = fake_score(noisy, sigma, class_labels, augment_labels=augment_labels)
        error, weight = denoised - clean, self.weight(sigma)
        mask = finite_mask(error)
        error, weight = keep(mask, error, weight)
        return Terms({"denoising": weight * error.square(), "discriminator": None}, dropped_count(mask))
