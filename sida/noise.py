"""Noise levels, weights over noise levels, and the random draws of a loss.

Source: EDM (arXiv:2206.00364), Table 1 and section 5; SiD (arXiv:2404.04057).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sida.config.recipe import Gamma
from sida.late import torch

SIGMA_MIN, SIGMA_MAX, RHO = 0.002, 80.0, 7.0
#: Levels that :func:`indexed_sigma` draws from.
KARRAS_LEVELS = 1000
#: Bound of ``min-snr`` (Hang et al. 2023, arXiv:2303.09556: γ = 5).
MIN_SNR = 5.0

#: Raw tensors by name.
Draws = Mapping[str, "torch.Tensor"]
#: ``draw(shape, generator=, device=)`` for images of a shape ``(N, C, H, W)``.
Draw = Callable[..., "torch.Tensor"]


def uniform(shape: Sequence[int], **options: Any) -> torch.Tensor:
    """Draws uniform numbers in [0, 1), float32 ``(N, 1, 1, 1)``; options as of :func:`torch.rand`."""
    return torch.rand((shape[0], 1, 1, 1), **options)


def normal(shape: Sequence[int], **options: Any) -> torch.Tensor:
    """Draws unit normal numbers, float32 ``(N, 1, 1, 1)``."""
    return torch.randn((shape[0], 1, 1, 1), **options)


def unit_noise(shape: Sequence[int], **options: Any) -> torch.Tensor:
    """Draws unit normal noise, float32 ``(N, C, H, W)``."""
    return torch.randn(tuple(shape), **options)


def uniform_labels(number: torch.Tensor, classes: int) -> torch.Tensor:
    """One-hot labels ``(N, classes)`` of uniform draws in [0, 1) with N values, float32."""
    index = (number.flatten() * classes).long().clamp(max=classes - 1)
    return torch.nn.functional.one_hot(index, classes).to(torch.float32)


def complete_draws(
    kinds: Mapping[str, Draw], replacements: Draws | None, images: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Returns all draws that a loss declares, with the type and device of the images.

    Args:
        kinds: Kind of each draw by its name, in the order of drawing.
        replacements: Tensors that replace random ones; levels may have any shape of N numbers.
        images: ``(N, C, H, W)``.
    """
    draws = dict(replacements or {})
    for name, draw in kinds.items():
        value = draws[name] if name in draws else draw(images.shape, device=images.device)
        draws[name] = value.to(images).reshape(images.shape if draw is unit_noise else (len(images), 1, 1, 1))
    return draws


def sigma_of_t(
    t: torch.Tensor, sigma_min: float = SIGMA_MIN, sigma_max: float = SIGMA_MAX, rho: float = RHO
) -> torch.Tensor:
    """Noise level of a time in [0, 1]: ``(σmax^{1/ρ} + (1 − t)(σmin^{1/ρ} − σmax^{1/ρ}))^ρ``, the dtype of ``t``.

    The level **grows** with t: σ(0) = ``sigma_min``, σ(1) = ``sigma_max``. The official code counts t in
    thousandths.
    """
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return (high + (1 - t) * (low - high)) ** rho


def indexed_sigma(t: torch.Tensor, low: int, high: int) -> torch.Tensor:
    """Noise level of an index drawn uniformly from ``low``, …, ``high`` of 1000 ascending Karras levels.

    Args:
        t: Uniform in [0, 1), any shape; the result has its shape and dtype.
        low: Least index, 0 or more; index 0 is ``SIGMA_MIN``.
        high: Largest index, at most 999, which is ``SIGMA_MAX``.

    Source: DMD2 (arXiv:2405.14867); tianweiy/DMD2:main/edm/edm_guidance.py.
    """
    return sigma_of_t((low + (t * (high - low + 1)).floor()).clamp(max=high) / (KARRAS_LEVELS - 1))


def lognormal_sigma(number: torch.Tensor, P_mean: float, P_std: float) -> torch.Tensor:
    """Noise level ``exp(P_mean + P_std · number)`` of a unit normal number."""
    return (number * P_std + P_mean).exp()


#: Least distance of a flow's time from 0 and 1 in a loss, where its level or its weight would be infinite.
TIME_EDGE = 1e-4


def sigma_of_time(t: torch.Tensor) -> torch.Tensor:
    """Noise level t / (1 − t) of a flow's time, which is 0 for an image and 1 for noise; the dtype of ``t``."""
    t = t.clamp(TIME_EDGE, 1 - TIME_EDGE)
    return t / (1 - t)


def edm_weight(sigma: torch.Tensor, sigma_data: float) -> torch.Tensor:
    """EDM's weight ``(σ² + σ_data²) / (σ σ_data)²``, under which an untrained network has loss 1 at every level."""
    return (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2


def score_weight(sigma: torch.Tensor, sigma_data: float, gamma: Gamma = "edm") -> torch.Tensor:
    """Weight γ(σ) of a denoising loss on clean images; the paper leaves γ open, the official code takes EDM's.

    With SNR = σ_data²/σ², in units of 1/σ_data²: ``edm`` SNR + 1, ``snr`` SNR, ``constant`` 1, ``min-snr``
    min(SNR, 5). So ``edm`` is ``snr`` + ``constant``, and ``min-snr`` bounds the heavy tail of ``snr``. ``velocity`` is
    (1 + σ)²/σ², under which the loss is a square of a flow's velocities.

    Args:
        sigma: Noise levels, any shape.
        sigma_data: Standard deviation of the data.
        gamma: Name of the weight.
    """
    if gamma == "edm":
        return edm_weight(sigma, sigma_data)
    if gamma == "velocity":
        return (1 + 1 / sigma).square()
    snr = (sigma_data / sigma).square()
    weight = {"snr": snr, "constant": torch.ones_like(sigma), "min-snr": snr.clamp_max(MIN_SNR)}[gamma]
    return weight / sigma_data**2
