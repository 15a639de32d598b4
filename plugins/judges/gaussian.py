"""Squared MMD with a Gaussian kernel over all pairs (CMMD)."""

import numpy as np
import torch

from sida.errors import UserError

_BLOCK = 500  # rows of products at a time


def gaussian_distance(real: torch.Tensor | np.ndarray, generated: torch.Tensor | np.ndarray, sigma: float) -> float:
    """Squared MMD with the Gaussian kernel exp(−‖a − b‖² / 2σ²), means over all pairs, as in CMMD (biased).

    The kernel is nearly linear on vectors of unit length, so that the terms cancel: products and sums are float64.

    Args:
        real: Features (N, C).
        generated: Features (M, C), same device.
        sigma: Width of the kernel.

    Raises:
        UserError: Different widths, or an empty set.
    """
    reals, fakes = (torch.as_tensor(rows).to(torch.float64) for rows in (real, generated))
    if reals.ndim != 2 or fakes.ndim != 2 or reals.shape[1:] != fakes.shape[1:] or not len(reals) * len(fakes):
        raise UserError("kernel distance", f"features have shapes {tuple(reals.shape)} and {tuple(fakes.shape)}")

    def mean(rows: torch.Tensor, columns: torch.Tensor) -> float:
        norms, total = columns.square().sum(1), 0.0
        for part in rows.split(_BLOCK):
            squares = (part @ columns.T).mul_(-2).add_(norms).add_(part.square().sum(1)[:, None])
            total += float(squares.mul_(-0.5 / sigma**2).exp_().sum())
        return total / (len(rows) * len(columns))

    return mean(fakes, fakes) + mean(reals, reals) - 2 * mean(fakes, reals)
