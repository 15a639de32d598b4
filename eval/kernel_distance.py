"""Kernel distance (KID) as clean-fid computes it: squared MMD with the cubic kernel (xᵀy/C + 1)³ over subsets.

Each subset takes m features of either set without replacement; the estimate is averaged over subsets and is
unbiased, so it may be slightly negative (GaParmar/clean-fid:cleanfid/fid.py).
"""

from __future__ import annotations

import numpy as np
import torch

from sida.errors import UserError


def kernel_distance(
    real: torch.Tensor | np.ndarray,
    generated: torch.Tensor | np.ndarray,
    num_subsets: int = 100,
    max_subset_size: int = 1000,
    seed: int = 0,
) -> float:
    """Kernel distance of two feature sets, computed in float64.

    Args:
        real: Features (N, C).
        generated: Features (M, C).
        num_subsets: Subsets to average over.
        max_subset_size: Size of each subset, at most N and M.
        seed: Seed of the subsets.

    Raises:
        UserError: Different widths or fewer than two samples.
    """
    # Imported here: the import takes as long as that of torch, and few protocols have this metric.
    from cleanfid.fid import kernel_distance as clean_fid

    reals, fakes = (torch.as_tensor(rows).to("cpu", torch.float64).numpy() for rows in (real, generated))
    if reals.ndim != 2 or fakes.ndim != 2 or reals.shape[1] != fakes.shape[1]:
        raise UserError(f"kernel distance: features have shapes {reals.shape} and {fakes.shape}")
    if min(len(reals), len(fakes), max_subset_size) < 2:
        raise UserError(f"kernel distance: needs two samples of each set, got {len(fakes)} and {len(reals)}")
    # clean-fid draws from numpy's global stream, whose state is restored afterwards.
    state = np.random.get_state()
    np.random.seed(seed % (1 << 32))
    try:
        return float(clean_fid(reals, fakes, num_subsets, max_subset_size))
    finally:
        np.random.set_state(state)
