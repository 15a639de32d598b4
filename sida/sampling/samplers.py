"""Samplers: one step, several steps, and Heun's method for teachers.

Heun's method takes second-order steps along the probability-flow ODE:

    dx/dσ = (x − D(x; σ)) / σ,   σ_i = (σ_max^{1/ρ} + i/(n−1) (σ_min^{1/ρ} − σ_max^{1/ρ}))^ρ,   σ_n = 0

Source: Karras et al., "Elucidating the design space" (arXiv:2206.00364), eq. 5 and algorithm 2; details from
NVlabs/edm:generate.py and NVlabs/edm2:generate_images.py, fact 23 of tests/golden/README.md.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch

from sida.config.samplers import INFINITE, GeneratorSteps
from sida.errors import SettingError, UserError, exact
from sida.networks.precond import no_noise_level
from sida.sampling.guidance import Guide

NoiseSource = Callable[[torch.Tensor], torch.Tensor]


def sigma_steps(
    num_steps: int,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
    dtype: torch.dtype = torch.float64,
) -> torch.Tensor:
    """Noise levels ``(num_steps + 1,)`` from ``sigma_max`` down to ``sigma_min``, then 0.

    Raises:
        SettingError: There are fewer than two steps, or ``0 < sigma_min < sigma_max`` does not hold.
    """
    if num_steps < 2:
        raise SettingError("num_steps", f"must be at least 2, got {num_steps}")
    if not 0 < sigma_min < sigma_max:
        raise SettingError("sigma_min", f"must lie between 0 and sigma_max = {sigma_max}, got {sigma_min}")
    share = torch.arange(num_steps, dtype=dtype) / (num_steps - 1)
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    steps = (high + share * (low - high)) ** rho
    return torch.cat([steps, steps.new_zeros(1)])


def sigma_range(net: torch.nn.Module, sigma_min: float, sigma_max: float) -> tuple[float, float]:
    """Returns the part of ``[sigma_min, sigma_max]`` within the network's own ``sigma_min`` and ``sigma_max``.

    Source: NVlabs/edm:generate.py. EDM2's networks have no such limits.

    Raises:
        UserError: The range and the network's range do not overlap.
    """
    lowest, highest = float(getattr(net, "sigma_min", 0.0)), float(getattr(net, "sigma_max", math.inf))
    if sigma_min >= highest or sigma_max <= lowest:
        fault = (
            f"noise levels {exact(sigma_min)} to {exact(sigma_max)} lie outside the network's, "
            f"{exact(lowest)} to {exact(highest)}"
        )
        raise UserError("sampler", fault, "choose others")
    return max(sigma_min, lowest), min(sigma_max, highest)


def heun(
    net: torch.nn.Module,
    latents: torch.Tensor,
    class_labels: torch.Tensor | None,
    num_steps: int = 18,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
    S_churn: float = 0.0,
    S_min: float = 0.0,
    S_max: float = math.inf,
    S_noise: float = 1.0,
    dtype: torch.dtype = torch.float64,
    noise: NoiseSource | None = None,
    noise_every_step: bool = True,
    guide: Guide | None = None,
) -> torch.Tensor:
    """Returns images for unit normal latents, ``(N, C, H, W)`` in ``dtype``, about [-1, 1].

    The state and the sums are in ``dtype``. Networks always compute on float32 input, so float64 costs little.

    Args:
        net: Preconditioned denoiser ``D(x, σ, labels)``.
        latents: Unit normal ``(N, C, H, W)``.
        class_labels: One-hot rows ``(N, label_dim)`` or None.
        num_steps: Number of noise levels n, at least 2; 18, 40 or 256 in EDM, 32 in EDM2.
        sigma_min: Lowest level before 0; raised to the network's own ``sigma_min``.
        sigma_max: First level; lowered to the network's own ``sigma_max``.
        rho: Exponent of the spacing.
        S_churn: Amount of fresh noise over the whole run; 0 = deterministic.
        S_min: Lowest level that gets fresh noise.
        S_max: Highest level that gets fresh noise.
        S_noise: Standard deviation of fresh noise, slightly above 1 to counter lost detail.
        dtype: float64 in EDM, float32 in EDM2.
        noise: ``noise(x)`` returns unit normal draws like ``x``; required if ``S_churn`` > 0. For results that do not
            depend on the batch, pass ``SeedStreams(seeds).randn_like``.
        noise_every_step: Whether to draw noise at every step, used or not (EDM), or only if noise is added (EDM2).
        guide: Guidance, see :class:`sida.sampling.guidance.Guide`.

    Raises:
        SettingError: An argument is out of range or missing.
        UserError: No noise level lies within the network's range.
    """
    if S_churn > 0 and noise is None:
        raise SettingError("noise", "S_churn > 0 needs a source of noise")
    assert latents.ndim == 4

    def denoise(x: torch.Tensor, sigma: float) -> torch.Tensor:
        x32, level = x.to(torch.float32), torch.full((), sigma, dtype=torch.float32, device=x.device)
        output = lambda network, labels: network(x32, level, labels).to(dtype)
        denoised: torch.Tensor = output(net, class_labels)
        return guide(denoised, sigma, output) if guide else denoised

    levels = sigma_steps(num_steps, *sigma_range(net, sigma_min, sigma_max), rho, dtype).tolist()
    x = latents.to(dtype) * levels[0]
    for step, (current, following) in enumerate(itertools.pairwise(levels)):
        churned = S_churn > 0 and S_min <= current <= S_max
        start = current
        if S_churn > 0 and (churned or noise_every_step):
            assert noise is not None
            fresh = noise(x)
            if churned:
                start = current * (1 + min(S_churn / num_steps, math.sqrt(2) - 1))
                x = x + math.sqrt(start**2 - current**2) * S_noise * fresh
        first = (x - denoise(x, start)) / start
        stepped = x + (following - start) * first
        if step < num_steps - 1:
            second = (stepped - denoise(stepped, following)) / following
            stepped = x + (following - start) * (0.5 * first + 0.5 * second)
        x = stepped
    return x


def one_step(
    net: torch.nn.Module, z: torch.Tensor, class_labels: torch.Tensor | None, init_sigma: float | str = 2.5
) -> torch.Tensor:
    """Images ``D(σ z, σ, labels)`` with σ = ``init_sigma``, ``(N, C, H, W)`` in float32, about [-1, 1].

    The result has gradients; wrap the call in ``torch.no_grad`` for sampling alone. Augment labels are left out, which
    equals zero labels, because their layer has no bias.

    Args:
        net: Preconditioned network.
        z: Unit normal latents ``(N, C, H, W)``.
        class_labels: One-hot rows ``(N, label_dim)`` or None.
        init_sigma: σ_init; 2.5 in SiD and SiDA. ``infinite``: the network's image of pure noise.

    Source: SiD (arXiv:2404.04057), generator of section 4.
    """
    if isinstance(init_sigma, str):
        images: torch.Tensor = net.from_noise(z, class_labels)  # type: ignore[operator]
        return images
    images = net(init_sigma * z, torch.full((), float(init_sigma), dtype=z.dtype, device=z.device), class_labels)
    return images


def check_generator(net: Any, steps: GeneratorSteps, where: str = "sampler") -> None:
    """Checks that a network can take the steps of a generator.

    Raises:
        UserError: It has no level of pure noise, or its further steps would need velocities of another length.
    """
    if steps.init_sigma == INFINITE and getattr(net, "noise_limit", None) is None:
        raise no_noise_level(net, f"{where}.init_sigma")
    if steps.init_sigma == INFINITE and steps.count > 1 and hasattr(net, "mean_velocity"):
        fault = f"{type(net).__name__} draws from pure noise in one step, not {steps.count}"
        raise UserError(f"{where}.num_steps", fault, "set it to 1, or draw with kind flow")


def multi_step(
    net: torch.nn.Module,
    z: torch.Tensor,
    class_labels: torch.Tensor | None,
    steps: GeneratorSteps,
    noise: NoiseSource,
    *,
    steps_taken: int | None = None,
    through_all: bool = True,
) -> torch.Tensor:
    """Returns images after one step and further steps that add and remove noise of falling levels.

    Args:
        net: Preconditioned network.
        z: Unit normal latents ``(N, C, H, W)``.
        class_labels: One-hot rows ``(N, label_dim)`` or None.
        steps: The steps, each a network evaluation; one alone equals :func:`one_step`.
        noise: ``noise(x)`` returns unit normal draws like ``x``; called once per step after the first with fresh
            noise.
        steps_taken: Number of steps to take of them, from the first on; None takes all.
        through_all: Whether the result has the gradients of all steps, or of the last step taken alone.

    Source: mingyuanzhou/SiD, branch sida (EDM2 generation), golden losses_edm2/generate_multistep; ``time``, ``fixed``
    and ``steps_taken``: apple-aiml-research/ml-sid-dit:training/sid_dit_util.py (SiD-DiT, arXiv:2509.25127).
    """
    last = (steps.count if steps_taken is None else steps_taken) - 1
    assert 0 <= last < steps.count
    learns = torch.is_grad_enabled()
    with torch.set_grad_enabled(learns and (through_all or last == 0)):
        images = one_step(net, z, class_labels, steps.init_sigma)
    for step, sigma in enumerate(steps.sigmas[:last], start=1):
        level = torch.full((), sigma, dtype=z.dtype, device=z.device)
        with torch.set_grad_enabled(learns and (through_all or step == last)):
            images = net(images + sigma * (z if steps.noise == "fixed" else noise(images)), level, class_labels)
    return images


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """Converts network output (about [-1, 1]) to uint8: ``x * 127.5 + 128``, clamped to 0..255, **truncated**.

    The conversion computes in the dtype of the input; the result has the same shape. NaN becomes 0.
    """
    return torch.nan_to_num(images * 127.5 + 128, nan=0.0).clamp(0, 255).to(torch.uint8)
