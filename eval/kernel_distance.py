"""Kernel distance (KID) by clean-fid's definition: squared MMD with the cubic kernel (xᵀy/C + 1)³ over subsets.

Each subset takes m features of either set without replacement; the estimate is averaged over subsets and is
unbiased, so it may be slightly negative.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from sida.errors import UserError


def kernel_distance(
    real: torch.Tensor | np.ndarray,
    generated: torch.Tensor | np.ndarray,
    num_subsets: int = 100,
    max_subset_size: int = 1000,
    seed: int = 0,
    indices: Sequence[tuple[np.ndarray, np.ndarray]] | None = None,
) -> float:
    """Kernel distance of two feature sets.

    Args:
        real: Features (N, C).
        generated: Features (M, C).
        num_subsets: Subsets to average over.
        max_subset_size: Size of each, at most N and M.
        seed: Seed of the subsets (clean-fid draws from numpy's global state).
        indices: Pairs (of generated, of real) rows to use in place of draws.

    Raises:
        UserError: Different widths or fewer than two samples.
    """
    reals = torch.as_tensor(real).to(torch.float64)
    fakes = torch.as_tensor(generated).to(torch.float64)
    if reals.ndim != 2 or fakes.ndim != 2 or reals.shape[1] != fakes.shape[1]:
        raise UserError(f"kernel distance: features have shapes {tuple(reals.shape)} and {tuple(fakes.shape)}")
    if indices is None:
        indices = _draw(len(fakes), len(reals), num_subsets, max_subset_size, seed)
    values = [_squared_mmd(fakes[torch.as_tensor(i)], reals[torch.as_tensor(j)]) for i, j in indices]
    return float(np.mean(values))


def _draw(
    num_generated: int, num_real: int, num_subsets: int, max_size: int, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    size = min(num_generated, num_real, max_size)
    if size < 2:
        raise UserError(f"kernel distance: needs two samples of each set, got {num_generated} and {num_real}")
    rng = np.random.Generator(np.random.PCG64(seed))
    return [
        (rng.choice(num_generated, size, replace=False), rng.choice(num_real, size, replace=False))
        for _ in range(num_subsets)
    ]


def _squared_mmd(x: torch.Tensor, y: torch.Tensor) -> float:
    """Σ_{i≠j} [k(xᵢ, xⱼ) + k(yᵢ, yⱼ)] / (m(m − 1)) − 2 Σ k(xᵢ, yⱼ) / m²."""
    size, width = x.shape
    within = (x @ x.T / width + 1) ** 3 + (y @ y.T / width + 1) ** 3
    across = (x @ y.T / width + 1) ** 3
    own = (within.sum() - within.diagonal().sum()) / (size - 1)
    return float((own - 2 * across.sum() / size) / size)
