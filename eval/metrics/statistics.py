"""Streaming count, mean and covariance of features in float64; shards merge in any order to identical bits.

Features are collected into blocks of a fixed number of rows, 1024, or 4096 from 1024 features on; each block adds Σx
and Σxxᵀ to order-independent sums (:class:`ExactSum`). So the result depends neither on batch sizes nor on the
order of shards, and, if shard boundaries are multiples of the block, not on the number of shards. Memory does not grow
with the number of images.

Floating-point addition is not associative, so sums of shards merged in another order differ in the last bits. Here
every term becomes a fixed-point number first, x ≈ hi·2⁻¹² + lo·2⁻⁶⁴ with 64-bit integers hi and lo; integer addition
is associative, hence any grouping and any order of the same terms gives the same bits. Terms above 2⁻¹² in magnitude
keep all 53 bits of their float64; smaller ones are rounded to 2⁻⁶⁴ ≈ 5·10⁻²⁰.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy.linalg.blas import dsyrk
from scipy.linalg.lapack import dtpttr, dtrttp

from sida.errors import UserError
from sida.files.tensors import explained, read_tensors, write_tensors

_HIGH = 2.0**12  # one unit of hi is 2^-12
_LOW = 2.0**64  # one unit of lo is 2^-64
_SHIFT = 52  # units of lo in one unit of hi, as a power of two
_LIMIT = 2.0**50  # largest magnitude of a term or a sum; hi then stays below 2^62
_PIECE = 1 << 16  # terms at a time
_ROWS = 1000  # lo of this many terms still fits: 1000 · 2^52 < 2^62


class ExactSum:
    """Array of order-independent sums.

    Args:
        shape: Shape of the array.
        device: Torch device of the sums.
    """

    def __init__(self, shape: tuple[int, ...], device: str | torch.device = "cpu") -> None:
        self.high = torch.zeros(shape, dtype=torch.int64, device=device)
        self.low = torch.zeros(shape, dtype=torch.int64, device=device)

    def add(self, terms: torch.Tensor) -> None:
        """Adds one float array of the sum's shape.

        Raises:
            UserError: A term or the sum is not finite or exceeds 2^50.
        """
        terms, high, low = terms.to(self.high.device, torch.float64).flatten(), self.high.view(-1), self.low.view(-1)
        # In pieces that stay in the processor's cache: each of these operations would else read memory.
        for first in range(0, len(high), _PIECE):
            piece = slice(first, first + _PIECE)
            _accumulate(high[piece], low[piece], *_split(terms[piece]))

    def add_rows(self, terms: torch.Tensor) -> None:
        """Adds many float arrays ``(N, *shape)``, each as a separate term; errors are those of :meth:`add`."""
        rows = max(1, min(_ROWS, _PIECE // max(1, self.high.numel())))
        for chunk in terms.to(self.high.device, torch.float64).split(rows):
            high, low = _split(chunk)
            _accumulate(self.high, self.low, high.sum(0), low.sum(0))

    def merge(self, other: ExactSum) -> None:
        """Adds another sum."""
        _accumulate(self.high, self.low, other.high.to(self.high.device), other.low.to(self.low.device))

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        """State as integer tensors on the CPU, ``<name>_high`` and ``<name>_low``."""
        return {f"{name}_high": self.high.cpu(), f"{name}_low": self.low.cpu()}

    def value(self) -> torch.Tensor:
        """The sums as float64."""
        return self.high.double().div_(_HIGH).add_(self.low.double(), alpha=1 / _LOW)


def _split(terms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Fixed-point parts (hi, lo) of new float64 terms, int64; checked for finiteness and size."""
    least, most = terms.aminmax()
    if not bool((least > -_LIMIT) & (most < _LIMIT)):
        raise UserError("features", "not finite or above 1e15", "check the images and the feature network")
    high = (terms * _HIGH).floor_()
    # Exact: the remainder consists of low bits of the term itself.
    low = torch.sub(terms, high, alpha=1 / _HIGH).mul_(_LOW).round_()
    return high.to(torch.int64), low.to(torch.int64)


def _accumulate(sum_high: torch.Tensor, sum_low: torch.Tensor, high: torch.Tensor, low: torch.Tensor) -> None:
    sum_low += low
    # Carry: equal sums have only one representation (0 <= low < 2^52).
    sum_high += high
    sum_high += sum_low >> _SHIFT
    sum_low &= (1 << _SHIFT) - 1
    least, most = sum_high.aminmax()
    if max(-int(least), int(most)) >= int(_LIMIT * _HIGH):
        raise UserError("features", "their sum exceeds 1e15", "check the images and the feature network")


BLOCK = 1024
# From this number of features on, sums of 4 blocks are one term: exact sums would cost more than the products.
_WIDE, _BLOCKS = 1024, 4
_PANEL = 64
_FORMAT = "sida-feature-statistics/1"


class FeatureStatistics:
    """Streaming sums over feature vectors.

    >>> statistics = FeatureStatistics()
    >>> statistics.update(extractor(images))
    >>> statistics.merge(FeatureStatistics.load("shard-2.safetensors"))
    >>> frechet_distance(statistics.mean, statistics.cov, reference_mean, reference_cov)

    Args:
        num_features: Width of the features; None takes it from the first batch.
        ddof: Divisor N − ddof of :attr:`cov`: 1 as in EDM's tools and the published references, 0 as in SiD's metric
            code for generated images (difference 64).
        device: Torch device of the sums; features are moved to it.
    """

    def __init__(self, num_features: int | None = None, ddof: int = 1, device: str | torch.device = "cpu") -> None:
        self.num_features = num_features
        self.ddof = ddof
        self.device = torch.device(device)
        self._closed_count = 0
        self._open_count = 0  # rows of the open block
        self._rows: torch.Tensor | None = None  # the open block
        self._wide_count = 0  # rows in the sums of wide features
        self._wide: tuple[torch.Tensor, torch.Tensor] | None = None  # Σx and Σxxᵀ of wide features, upper half
        self._sums: tuple[ExactSum, ExactSum] | None = None  # Σx, upper triangle of Σxxᵀ

    @property
    def count(self) -> int:
        """Number of feature vectors."""
        return self._closed_count + self._wide_count + self._open_count

    @property
    def mean(self) -> np.ndarray:
        """Mean, float64 (C,)."""
        if not self.count:
            raise UserError("feature statistics", "no features yet", "update with some first")
        self._close()
        return self._ensure_sums()[0].value().cpu().numpy() / self.count

    @property
    def cov(self) -> np.ndarray:
        """Covariance, float64 (C, C), symmetric, divided by ``count - ddof``."""
        return self.covariance(self.ddof)

    def covariance(self, ddof: int) -> np.ndarray:
        """Covariance divided by ``count - ddof``.

        Raises:
            UserError: Fewer than ``ddof + 1`` vectors.
        """
        if self.count <= ddof:
            raise UserError("feature statistics", f"{self.count} images are too few for a covariance (ddof {ddof})")
        mean, triangle = self.mean, self._ensure_sums()[1].value().cpu().numpy()
        self._rows = self._wide = None  # a further update makes these buffers again
        result = dtpttr(len(mean), triangle, "L")[0].T  # row by row: LAPACK sees the transpose
        del triangle
        for first in range(0, len(mean), _PANEL):
            last = first + _PANEL
            rows = result[first:last, first:]
            rows -= self.count * (mean[first:last, None] * mean[first:])
            rows /= self.count - ddof
            square = result[first:last, first:last]
            square[:] = np.triu(square) + np.triu(square, 1).T
            result[last:, first:last] = result[first:last, last:].T
        return result

    def update(self, features: torch.Tensor | np.ndarray) -> FeatureStatistics:
        """Adds feature vectors (N, C) of any float type; returns itself.

        Raises:
            UserError: A width that differs from earlier features, or values that are not finite.
        """
        rows = torch.as_tensor(features)
        if rows.ndim != 2:
            raise UserError("feature statistics", f"features must have shape (N, C), got {tuple(rows.shape)}")
        self._check_width(rows.shape[1])
        if self._rows is None:
            self._rows = torch.empty(BLOCK, rows.shape[1], dtype=torch.float64, device=self.device)
        rows = rows.detach()
        while len(rows):
            take = rows[: BLOCK - self._open_count]
            rows = rows[len(take) :]
            self._rows[self._open_count :][: len(take)] = take
            self._open_count += len(take)
            if self._open_count == BLOCK:
                self._multiply()
            if self._wide_count == _BLOCKS * BLOCK:
                self._close()
        return self

    def merge(self, other: FeatureStatistics) -> FeatureStatistics:
        """Adds the statistics of another shard (both open blocks are closed); returns itself."""
        if other.num_features is not None:
            self._check_width(other.num_features)
        self._close()
        other._close()
        if other._sums is not None:
            for mine, theirs in zip(self._ensure_sums(), other._sums):
                mine.merge(theirs)
        self._closed_count += other._closed_count
        return self

    def tensors(self) -> dict[str, torch.Tensor]:
        """The whole state as named integer tensors on the CPU (closes the open block)."""
        self._close()
        vector, triangle = self._ensure_sums()
        return {"count": torch.tensor([self.count]), **vector.tensors("sum"), **triangle.tensors("outer")}

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, torch.Tensor], ddof: int = 1, device: str | torch.device = "cpu"
    ) -> FeatureStatistics:
        """The inverse of :meth:`tensors`.

        Raises:
            KeyError, ValueError: The tensors are no feature statistics.
        """
        result = cls(tensors["sum_high"].numel(), ddof, device)
        for sums, key in zip(result._ensure_sums(), ("sum", "outer")):
            for part in ("high", "low"):
                tensor = tensors[f"{key}_{part}"]
                if tensor.shape != getattr(sums, part).shape or tensor.dtype != torch.int64:
                    raise ValueError(f"{key}_{part}: shape {tuple(tensor.shape)}, {tensor.dtype}")
                setattr(sums, part, tensor.to(device).clone())
        result._closed_count = int(tensors["count"])
        return result

    def save(self, path: str | os.PathLike[str], metadata: Mapping[str, Any] | None = None) -> None:
        """Writes the statistics atomically as safetensors with metadata (JSON) in the header."""
        write_tensors(path, self.tensors(), {"format": _FORMAT, "ddof": self.ddof, **(metadata or {})})

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: str | torch.device = "cpu") -> FeatureStatistics:
        """Reads a file of :meth:`save`.

        Raises:
            UserError: The file is missing, cut off or of another kind.
        """
        with explained(path, "no feature statistics", "make the file again"):
            tensors, header = read_tensors(path)
            return cls.from_tensors(tensors, header.get("ddof", 1), device)

    def _check_width(self, width: int) -> None:
        if self.num_features is None:
            self.num_features = width
        if width != self.num_features:
            raise UserError(
                "feature statistics",
                f"features have width {width}, earlier ones {self.num_features}",
                "use one feature network for all",
            )

    def _ensure_sums(self) -> tuple[ExactSum, ExactSum]:
        if self.num_features is None:
            raise UserError("feature statistics", "no features yet", "update with some first")
        if self._sums is None:
            width = self.num_features
            self._sums = ExactSum((width,), self.device), ExactSum((width * (width + 1) // 2,), self.device)
        return self._sums

    def _close(self) -> None:
        """Moves the open block into the sums."""
        self._multiply()
        if self._wide is not None and self._wide_count:
            total, products = self._wide
            self._add(total[None], products)
            self._closed_count += self._wide_count
            self._wide_count = 0

    def _multiply(self) -> None:
        """Multiplies the rows of the open block; adds products of wide features in float64, of others exactly."""
        if self._rows is None or not self._open_count:
            return
        rows, width = self._rows[: self._open_count], self._rows.shape[1]
        if width < _WIDE:
            self._add(rows, rows.T @ rows)
            self._closed_count += len(rows)
        else:
            if self._wide is None:
                self._wide = (rows.new_zeros(width), rows.new_zeros(width, width))
            total, products = self._wide
            kept = float(self._wide_count > 0)  # 0 replaces the sums of the term before
            total.addmv_(rows.T, rows.new_ones(len(rows)), beta=kept)
            if rows.is_cuda:
                products.addmm_(rows.T, rows, beta=kept)
            else:  # half of the products: BLAS sees the transpose, in which the upper half is the lower one
                dsyrk(1.0, rows.numpy().T, beta=kept, c=products.numpy().T, lower=1, overwrite_c=1)
            self._wide_count += len(rows)
        self._open_count = 0

    def _add(self, terms: torch.Tensor, products: torch.Tensor) -> None:
        vector, triangle = self._ensure_sums()
        vector.add_rows(terms)
        if products.is_cuda:
            rows, columns = torch.triu_indices(*products.shape, device=self.device)
            triangle.add(products[rows, columns])
        else:
            triangle.add(torch.from_numpy(dtrttp(products.numpy().T, "L")[0]))
