"""Noise levels and weights of the losses (EDM, arXiv:2206.00364, Table 1 and section 5; SiD, arXiv:2404.04057)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import torch

Draws = Mapping[str, torch.Tensor]

#: Weights γ of the fake score's and discriminator's losses over noise levels, see :func:`score_weight`.
Gamma = Literal["edm", "snr", "constant", "min-snr"]
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
