"""Kernel distance (KID) as clean-fid defines it: squared MMD with the cubic kernel (xᵀy/C + 1)³ over subsets.

Each subset takes m features of either set without replacement; the estimate is averaged over subsets and is
unbiased, so it may be slightly negative (GaParmar/clean-fid:cleanfid/fid.py).

Products are float32 and their sums float64. The kernel of a set with itself is symmetric, so half of it is computed.
"""

import numpy as np
import torch
from scipy.linalg.blas import ssyrk

from sida.errors import UserError

_ROWS = 100  # of a kernel at a time, which stay in the processor's cache
_BLOCK = 500  # rows of shared products at a time


def kernel_distance(
    real: torch.Tensor | np.ndarray,
    generated: torch.Tensor | np.ndarray,
    num_subsets: int,
    max_subset_size: int,
    seed: int,
) -> float:
    """Kernel distance of two feature sets.

    Args:
        real: Features (N, C).
        generated: Features (M, C).
        num_subsets: Subsets to average over.
        max_subset_size: Size of each subset, at most N and M.
        seed: Seed of the subsets; clean-fid draws the same ones after ``numpy.random.seed(seed)``.

    Raises:
        UserError: Different widths or fewer than two samples.
    """
    reals, fakes = (torch.as_tensor(rows).to("cpu", torch.float32).numpy() for rows in (real, generated))
    if reals.ndim != 2 or fakes.ndim != 2 or reals.shape[1] != fakes.shape[1]:
        raise UserError("kernel distance", f"features have shapes {reals.shape} and {fakes.shape}")
    size = min(len(reals), len(fakes), max_subset_size)
    if size < 2:
        raise UserError("kernel distance", f"needs two samples of each set, got {len(fakes)} and {len(reals)}")
    # The old generator takes 32 bits of seed.
    random = np.random.RandomState(seed % (1 << 32))
    subsets = [[random.choice(len(rows), size, replace=False) for rows in (fakes, reals)] for _ in range(num_subsets)]
    # Large subsets of small sets share most rows, so all products once cost less than the products of every subset.
    if (len(fakes) + len(reals)) ** 2 < num_subsets * (2 * size) ** 2:
        x, y = (_members(rows, [pair[side] for pair in subsets]) for side, rows in enumerate((fakes, reals)))
        within, across = _shared(fakes, fakes, x, x) + _shared(reals, reals, y, y), _shared(fakes, reals, x, y)
        return float((within / (size - 1) - 2 * across / size).mean() / size)
    total = 0.0
    for of_fakes, of_reals in subsets:
        x, y = fakes[of_fakes], reals[of_reals]
        assert x.shape == y.shape == (size, reals.shape[1])
        total += (_within(x) + _within(y)) / (size - 1) - 2 * _sum(x @ y.T, x.shape[1]) / size
    return total / num_subsets / size


def _members(rows: np.ndarray, subsets: list[np.ndarray]) -> np.ndarray:
    """Which rows (N, S) each subset has, as 0 and 1."""
    members = np.zeros((len(rows), len(subsets)))
    for column, subset in enumerate(subsets):
        members[subset, column] = 1
    return members


def _shared(rows: np.ndarray, columns: np.ndarray, of_rows: np.ndarray, of_columns: np.ndarray) -> np.ndarray:
    """Sums of the kernel by subset, where subsets have so many rows in common that all products cost less.

    The kernel of a set with itself is computed above the diagonal, which does not count, and doubled.
    """
    assert (len(of_rows), len(of_columns)) == (len(rows), len(columns))
    assert of_rows.shape[1] == of_columns.shape[1]  # one column for each subset
    total, same = np.zeros(of_rows.shape[1]), rows is columns
    for first in range(0, len(rows), _BLOCK):
        part, begin = rows[first : first + _BLOCK], first if same else 0
        kernel = torch.from_numpy(part @ columns[begin:].T).mul_(1 / part.shape[1]).add_(1)
        kernel = kernel.square().mul_(kernel)
        if same:
            kernel[:, : len(part)] = kernel[:, : len(part)].triu(1)
        sums = kernel.double().numpy() @ of_columns[begin:]
        total += (sums * of_rows[first : first + _BLOCK]).sum(0) * (2 if same else 1)
    return total


def _within(rows: np.ndarray) -> float:
    """Sum of the kernel over pairs of different rows."""
    count, width = rows.shape
    products = ssyrk(1.0, rows.T, trans=1)  # one half of the symmetric matrix, 0 in the other
    diagonal = products.diagonal().astype(np.float64) / width + 1
    return 2 * (_sum(products, width) - count * (count - 1) / 2 - float((diagonal**3).sum()))


def _sum(products: np.ndarray, width: int) -> float:
    """Sum of the kernel over products of rows, which are overwritten."""
    total = 0.0
    for part in torch.from_numpy(products.T if products.flags.f_contiguous else products).split(_ROWS):
        kernel = part.mul_(1 / width).add_(1)
        total += float(kernel.square().mul_(kernel).sum(dtype=torch.float64))
    return total
