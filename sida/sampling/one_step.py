"""The generator of the papers: the preconditioned denoiser evaluated once."""

from __future__ import annotations

import torch


def one_step(
    net: torch.nn.Module, z: torch.Tensor, class_labels: torch.Tensor | None, init_sigma: float = 2.5
) -> torch.Tensor:
    """Images ``D(σ z, σ, labels)`` with σ = ``init_sigma``, float32 ``(N, C, H, W)``, about [-1, 1].

    Gradients flow; callers that only sample wrap the call in ``torch.no_grad``. Augment labels are left out, which
    equals zeros because their layer has no bias.

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
