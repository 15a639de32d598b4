"""Improved precision and recall (Kynkäänniemi et al. 2019): k-nearest-neighbour manifolds in feature space.

A sample lies inside a set's manifold if its distance to some member of the set is at most that member's distance to
its own k-th nearest neighbour. Precision is the share of generated samples inside the real manifold, recall the
share of real samples inside the generated one.

Density and coverage (Naeem et al. 2020, clovaai/generative-evaluation-prdc) come from the same distances; a distance
equal to the limit counts as inside for precision and recall, and not for density and coverage.

Distances are computed block by block in float32, so memory stays bounded (256 MB besides the features).
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
import torch

from sida.errors import UserError

_BLOCK_ELEMENTS = 1 << 26  # distances held at a time: 256 MB in float32


class NeighbourShares(NamedTuple):
    """Results of one search for neighbours.

    Attributes:
        precision: Share of generated samples inside the real manifold, 0..1.
        recall: Share of real samples inside the generated manifold, 0..1.
        density: Mean number of real samples nearer to a generated one than to their own k-th neighbour, over k; its
            mean over real samples as generated ones is about 1.
        coverage: Share of real samples that are nearer to a generated one than to their own k-th neighbour, 0..1.
        nearest_distance: Mean distance of a real sample to the nearest other real one.
    """

    precision: float
    recall: float
    density: float
    coverage: float
    nearest_distance: float


def neighbour_shares(
    real: torch.Tensor | np.ndarray,
    generated: torch.Tensor | np.ndarray,
    k: int,
    dtype: Literal["float32", "float16"],
) -> NeighbourShares:
    """Precision, recall, density and coverage of generated against real features.

    Args:
        real: Features (N, C).
        generated: Features (M, C), same device.
        k: Neighbours, 3 in the published tables.
        dtype: ``float16`` rounds features, distances and radii to half precision as the official code does
            (difference 65); sums are kept in float32, as on a GPU.

    Raises:
        UserError: Different widths, k or fewer samples in a set, or values that are not finite.
    """
    reals, fakes = torch.as_tensor(real), torch.as_tensor(generated)
    _check(reals, fakes, k)
    if dtype == "float16":
        reals, fakes = reals.to(torch.float16), fakes.to(torch.float16)
    centre = _mean(reals)
    reals, fakes = reals.to(torch.float32) - centre, fakes.to(torch.float32) - centre
    with torch.inference_mode():
        return _shares(reals, fakes, k, half=dtype == "float16")


def radii(features: torch.Tensor | np.ndarray, k: int) -> torch.Tensor:
    """Distance of every sample (N, C) to its k-th nearest neighbour in the same set, float32 (N,)."""
    rows = torch.as_tensor(features)
    _check(rows, rows, k)
    return _nearest(rows.to(torch.float32) - _mean(rows), k, half=False)[:, -1].sqrt()


def _mean(rows: torch.Tensor) -> torch.Tensor:
    """Mean (C,), float32: distances do not change under a shift, and small norms lose fewer digits in ‖a − b‖²."""
    total = sum(part.to(torch.float64).sum(0) for part in rows.split(4096))
    return (torch.as_tensor(total) / len(rows)).to(torch.float32)


def _check(real: torch.Tensor, generated: torch.Tensor, k: int) -> None:
    if real.ndim != 2 or generated.ndim != 2 or real.shape[1] != generated.shape[1]:
        raise UserError(
            "precision/recall",
            f"features have shapes {tuple(real.shape)} and {tuple(generated.shape)}",
            "both must be (N, C) of one extractor",
        )
    if k < 1:
        raise UserError("precision/recall", f"k must be at least 1, got {k}")
    if min(len(real), len(generated)) <= k:
        raise UserError(
            "precision/recall",
            f"k = {k} neighbours need more than {k} samples in each set, "
            f"got {len(real)} real and {len(generated)} generated",
        )


def distance_blocks(rows: torch.Tensor, columns: torch.Tensor, half: bool) -> Iterator[tuple[int, torch.Tensor]]:
    """Yields (first row, distances of a block of rows to all columns): squared, or Euclidean in half precision.

    Args:
        rows: float32 (N, C), best after subtracting a common mean.
        columns: float32 (M, C).
        half: Euclidean distances in float16 instead of squared ones in float32.

    Raises:
        UserError: Values that are not finite.
    """
    block = max(1, _BLOCK_ELEMENTS // max(1, len(columns)))
    norms = _norms(columns)
    for first in range(0, len(rows), block):
        part = rows[first : first + block]
        squares = (part @ columns.T).mul_(-2).add_(norms).add_(_norms(part)[:, None]).clamp_(min=0)
        yield first, squares.sqrt_().to(torch.float16) if half else squares


def _norms(rows: torch.Tensor) -> torch.Tensor:
    """Squared norms (N,) of features; a norm that is not finite is an error, since comparisons would hide it."""
    norms = rows.square().sum(1)
    if not norms.isfinite().all():
        raise UserError("nearest neighbours", "features have values that are not finite", "make them again")
    return norms


def _nearest(features: torch.Tensor, k: int, half: bool) -> torch.Tensor:
    """Distances (N, k) of each sample to its neighbours, ascending, in the form of :func:`distance_blocks`."""
    parts = []
    for first, distances in distance_blocks(features, features, half):
        # A sample is its own nearest neighbour, despite rounding; the others follow.
        index = torch.arange(len(distances), device=distances.device)
        distances[index, first + index] = 0
        parts.append(distances.to(torch.float32).topk(k + 1, dim=1, largest=False).values[:, 1:].to(distances.dtype))
    nearest = torch.cat(parts)
    assert nearest.shape == (len(features), k)
    return nearest


def _shares(real: torch.Tensor, generated: torch.Tensor, k: int, half: bool) -> NeighbourShares:
    nearest = _nearest(real, k, half)
    real_limits, generated_limits = nearest[:, -1], _nearest(generated, k, half)[:, -1]
    assert (len(real_limits), len(generated_limits)) == (len(real), len(generated))
    inside_real = nearer = 0
    inside_generated = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    covered = torch.zeros_like(inside_generated)
    # Each distance between the sets is computed once and serves both shares.
    for first, distances in distance_blocks(generated, real, half):
        inside_real += int((distances <= real_limits).any(1).sum())
        inside_generated |= (distances <= generated_limits[first : first + len(distances), None]).any(0)
        near = distances < real_limits
        nearer += int(near.sum())
        covered |= near.any(0)
    shares = inside_real / len(generated), int(inside_generated.sum()) / len(real)
    first_distances = nearest[:, 0].double()
    return NeighbourShares(
        *shares,
        density=nearer / (k * len(generated)),
        coverage=int(covered.sum()) / len(real),
        nearest_distance=float((first_distances if half else first_distances.sqrt()).mean()),
    )
