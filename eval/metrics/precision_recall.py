"""Improved precision and recall (Kynkäänniemi et al. 2019): k-nearest-neighbour manifolds in feature space.

A sample lies inside a set's manifold if its distance to some member of the set is at most that member's distance to
its own k-th nearest neighbour. Precision is the share of generated samples inside the real manifold, recall the
share of real samples inside the generated one.

Density and coverage (Naeem et al. 2020, clovaai/generative-evaluation-prdc) come from the same distances; a distance
equal to the limit counts as inside for precision and recall, and not for density and coverage.

Distances are computed block by block in float32, so memory stays bounded (256 MB besides the features). A product of
features rounds them, which would decide ties: distances within rounding of a limit are computed again from differences.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
import torch

from sida.errors import UserError

_BLOCK_ELEMENTS = 1 << 26  # distances held at a time: 256 MB in float32
_PAIR_ELEMENTS = 1 << 22  # differences held at a time: 32 MB in float64
_SPARE = 2  # neighbours beyond the k-th whose order rounding may change


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
    with torch.inference_mode():
        real_set, generated_set = (_Manifold(_Rows.of(rows, centre), k, dtype == "float16") for rows in (reals, fakes))
        return _shares(real_set, generated_set, k)


class _Rows(NamedTuple):
    """Features of a set, float32 (N, C): as they are, and minus a mean, whose products lose fewer digits."""

    original: torch.Tensor
    centred: torch.Tensor

    @classmethod
    def of(cls, rows: torch.Tensor, centre: torch.Tensor) -> "_Rows":
        """Features of any float type minus ``centre`` (C,)."""
        original = rows.to(torch.float32)
        return cls(original, original - centre)


def radii(features: torch.Tensor | np.ndarray, k: int) -> torch.Tensor:
    """Distance of every sample (N, C) to its k-th nearest neighbour in the same set, float32 (N,)."""
    rows = torch.as_tensor(features)
    _check(rows, rows, k)
    manifold = _Manifold(_Rows.of(rows, _mean(rows)), k, half=False)
    return manifold.exact_limits(torch.arange(len(rows), device=rows.device)).sqrt()


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


def _from_differences(
    rows: torch.Tensor, first: torch.Tensor, columns: torch.Tensor, second: torch.Tensor
) -> torch.Tensor:
    """Squared distances float32 (P,) of pairs of rows (N, C) and columns (M, C), given by their indices (P,)."""
    size = max(1, _PAIR_ELEMENTS // rows.shape[1])
    parts = [
        (rows[left].double() - columns[right].double()).square_().sum(1).float()
        for left, right in zip(first.split(size), second.split(size))
    ]
    return torch.cat(parts)


class _Manifold:
    """Neighbours within a set, and each sample's limit, the distance to its k-th neighbour.

    Limits of :func:`distance_blocks` are rounded; one that decides between nearly equal distances is computed again.

    Args:
        rows: The set.
        k: Number of neighbours.
        half: Form of the distances, see :func:`distance_blocks`.
    """

    def __init__(self, rows: _Rows, k: int, half: bool) -> None:
        self.rows, self._k, self.half = rows, k, half
        self.most_norm = float(_norms(rows.centred).max())
        nearest, candidates, most = [], [], min(k + 1 + _SPARE, len(rows.original))
        for first, distances in distance_blocks(rows.centred, rows.centred, half):
            # A sample is its own nearest neighbour, despite rounding; the others follow.
            index = torch.arange(len(distances), device=distances.device)
            distances[index, first + index] = 0
            values, columns = distances.to(torch.float32).topk(most, dim=1, largest=False)
            if not half:
                equal = (values <= _rounding(2 * self.most_norm, rows)) & (columns != (first + index)[:, None])
                row, place = equal.nonzero(as_tuple=True)
                values[row, place] = _from_differences(rows.original, first + row, rows.original, columns[row, place])
                values = values.sort(dim=1).values
            nearest.append(values[:, 1 : k + 1].to(distances.dtype))
            candidates.append(columns)
        #: Distances (N, k) to the neighbours, ascending, and indices of all that may be the k-th.
        self.nearest, self._candidates = torch.cat(nearest), torch.cat(candidates)
        assert self.nearest.shape == (len(rows.original), k)
        self.limits = self.nearest[:, -1].clone()

    def exact_limits(self, samples: torch.Tensor) -> torch.Tensor:
        """Limits float32 of some samples (S,), from differences."""
        candidates = self._candidates[samples]
        own = samples[:, None].expand_as(candidates).reshape(-1)
        squares = _from_differences(self.rows.original, own, self.rows.original, candidates.reshape(-1))
        return squares.reshape(candidates.shape).sort(dim=1).values[:, self._k]

    def settle(self, squares: torch.Tensor, others: torch.Tensor, first: int | None, close_to: float) -> None:
        """Computes squared distances within ``close_to`` of a limit again from differences, and that limit.

        Args:
            squares: Distances of a block, with these samples in its rows, from ``first`` on, or in its columns (None).
            others: Features of the block's other axis.
            first: See ``squares``.
            close_to: Rounding of the distances.
        """
        limits = self.limits if first is None else self.limits[first : first + len(squares), None]
        close = (squares <= limits + close_to) ^ (squares < limits - close_to)
        row, column = close.nonzero(as_tuple=True)
        samples, other = (column, row) if first is None else (first + row, column)
        squares[row, column] = _from_differences(self.rows.original, samples, others, other)
        decided = samples.unique()
        self.limits[decided] = self.exact_limits(decided)


def _rounding(norms: float, rows: _Rows) -> float:
    """Rounding of squared distances by products of features, whose squared norms are ``norms`` together at most."""
    return 2 * torch.finfo(torch.float32).eps * rows.centred.shape[1] ** 0.5 * norms


def _shares(real: _Manifold, generated: _Manifold, k: int) -> NeighbourShares:
    count, real_count, half = len(generated.limits), len(real.limits), real.half
    inside_real = nearer = 0
    inside_generated = torch.zeros(real_count, dtype=torch.bool, device=real.limits.device)
    covered = torch.zeros_like(inside_generated)
    close_to = _rounding(real.most_norm + generated.most_norm, real.rows)
    # Each distance between the sets is computed once and serves both shares.
    for first, distances in distance_blocks(generated.rows.centred, real.rows.centred, half):
        own = slice(first, first + len(distances))
        if not half:
            real.settle(distances, generated.rows.original[own], None, close_to)
            generated.settle(distances, real.rows.original, first, close_to)
        inside_real += int((distances <= real.limits).any(1).sum())
        inside_generated |= (distances <= generated.limits[own, None]).any(0)
        near = distances < real.limits
        nearer += int(near.sum())
        covered |= near.any(0)
    first_distances = real.nearest[:, 0].double()
    return NeighbourShares(
        inside_real / count,
        int(inside_generated.sum()) / real_count,
        density=nearer / (k * count),
        coverage=int(covered.sum()) / real_count,
        nearest_distance=float((first_distances if half else first_distances.sqrt()).mean()),
    )
