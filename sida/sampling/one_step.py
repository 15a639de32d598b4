"""One-step and multi-step generators: the preconditioned denoiser evaluated once or a few times."""

from __future__ import annotations

from collections.abc import Callable

import torch


def one_step(
    net: torch.nn.Module, z: torch.Tensor, class_labels: torch.Tensor | None, init_sigma: float = 2.5
) -> torch.Tensor:
    """Images ``D(σ z, σ, labels)`` with σ = ``init_sigma``, float32 ``(N, C, H, W)``, about [-1, 1].

    The result has gradients; wrap the call in ``torch.no_grad`` for sampling alone. Augment labels are left out, which
    equals zero labels, because their layer has no bias.

    Args:
        net: Preconditioned network.
        z: Unit normal latents ``(N, C, H, W)``.
        class_labels: One-hot rows ``(N, label_dim)`` or None.
        init_sigma: σ_init; 2.5 in all published generators.

    Source: SiD (arXiv:2404.04057), generator of section 4.
    """
    sigma = torch.full((), float(init_sigma), dtype=torch.float32, device=z.device)
    images: torch.Tensor = net(init_sigma * z.to(torch.float32), sigma, class_labels)
    return images


def multi_step(
    net: torch.nn.Module,
    z: torch.Tensor,
    class_labels: torch.Tensor | None,
    num_steps: int,
    noise: Callable[[torch.Tensor], torch.Tensor],
    init_sigma: float = 2.5,
) -> torch.Tensor:
    """Returns images after one step and further steps that add and remove noise of levels σ_init (1 − i / num_steps).

    Args:
        net: Preconditioned network.
        z: Unit normal latents ``(N, C, H, W)``.
        class_labels: One-hot rows ``(N, label_dim)`` or None.
        num_steps: Network evaluations, at least 1; 1 equals :func:`one_step`.
        noise: ``noise(x)`` returns unit normal draws like ``x``; called once per step after the first.
        init_sigma: σ_init.

    Source: mingyuanzhou/SiD, branch sida (EDM2 generation), golden losses_edm2/generate_multistep.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps: must be at least 1, got {num_steps}")
    images = one_step(net, z, class_labels, init_sigma)
    for step in range(1, num_steps):
        sigma = init_sigma * (1 - step / num_steps)
        level = torch.full((), sigma, dtype=torch.float32, device=z.device)
        images = net(images + sigma * noise(images), level, class_labels)
    return images


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """Converts network output (about [-1, 1]) to uint8: ``x * 127.5 + 128``, clamped to 0..255, **truncated**.

    The conversion computes in the dtype of the input; the result has the same shape. NaN becomes 0.
    """
    return torch.nan_to_num(images * 127.5 + 128, nan=0.0).clamp(0, 255).to(torch.uint8)
