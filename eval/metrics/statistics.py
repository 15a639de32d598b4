"""Streaming count, mean and covariance of features: sums in float64, by BLAS on all cores.

Features are collected into blocks of 1024 rows; each block adds Σx and Σxxᵀ. So the result does not depend on batch
sizes, and memory does not grow with the number of images. Sums of shards are added in the order in which they are
merged; another sharding gives other last digits.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from scipy.linalg.blas import dsyrk

from sida.errors import UserError

_BLOCK, _PANEL = 1024, 64
#: Mean, covariance and number of images, where it is known.
Moments = tuple[np.ndarray, np.ndarray, int | None]


class FeatureStatistics:
    """Streaming sums over feature vectors.

    >>> statistics = FeatureStatistics()
    >>> statistics.update(extractor(images))
    >>> statistics.merge(statistics_of_another_shard)
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
        self._closed = self._open = 0  # rows in the sums, and in the open block
        self._block = self._sum = self._products = torch.empty(0)  # of the products only the upper half counts

    @property
    def count(self) -> int:
        """Number of feature vectors."""
        return self._closed + self._open

    @property
    def mean(self) -> np.ndarray:
        """Mean, float64 (C,)."""
        if not self.count:
            raise UserError("feature statistics", "no features yet", "update with some first")
        self._close()
        return self._sum.cpu().numpy() / self.count

    @property
    def cov(self) -> np.ndarray:
        """Covariance, float64 (C, C), symmetric, divided by ``count - ddof``."""
        return self.covariance(self.ddof)

    @property
    def moments(self) -> Moments:
        """Mean, covariance and count."""
        return self.mean, self.cov, self.count

    def covariance(self, ddof: int) -> np.ndarray:
        """Covariance divided by ``count - ddof``.

        Raises:
            UserError: Fewer than ``ddof + 1`` vectors.
        """
        if self.count <= ddof:
            raise UserError("feature statistics", f"{self.count} images are too few for a covariance (ddof {ddof})")
        mean, products = self.mean, self._products.cpu().numpy()
        result = np.empty_like(products)
        for first in range(0, len(mean), _PANEL):  # in pieces that the processor's cache holds
            last = first + _PANEL
            upper = products[first:last, first:] - np.outer(self.count * mean[first:last], mean[first:])
            upper /= self.count - ddof
            square = upper[:, :_PANEL]
            square[:] = np.triu(square) + np.triu(square, 1).T
            result[first:last, first:] = upper
            result[last:, first:last] = upper[:, _PANEL:].T
        return result

    def update(self, features: torch.Tensor | np.ndarray) -> FeatureStatistics:
        """Adds feature vectors (N, C) of any float type; returns itself.

        Raises:
            UserError: A width that differs from earlier features, or values that are not finite.
        """
        rows = torch.as_tensor(features).detach()
        if rows.ndim != 2:
            raise UserError("feature statistics", f"features must have shape (N, C), got {tuple(rows.shape)}")
        self._prepare(rows.shape[1])
        if len(rows) and not len(self._block):
            self._block = torch.empty(_BLOCK, rows.shape[1], dtype=torch.float64, device=self.device)
        while len(rows):
            take, rows = rows[: _BLOCK - self._open], rows[_BLOCK - self._open :]
            block = self._block[self._open :][: len(take)]
            assert block.shape == take.shape
            if block.is_cuda:
                block.copy_(take)
            else:  # by NumPy: threads of torch that wait would take cores from BLAS
                block.numpy()[:] = take.cpu().float().numpy() if take.dtype.itemsize < 4 else take.cpu().numpy()
            self._open += len(take)
            if self._open == _BLOCK:
                self._close()
        return self

    def merge(self, other: FeatureStatistics) -> FeatureStatistics:
        """Adds the statistics of another shard (both open blocks are closed); returns itself."""
        other._close()
        if other.num_features is not None:
            self._prepare(other.num_features)
            self._close()
            self._sum += other._sum.to(self.device)
            self._products += other._products.to(self.device)
            self._closed += other._closed
        return self

    def tensors(self) -> dict[str, torch.Tensor]:
        """The whole state as named tensors on the CPU (closes the open block)."""
        self._prepare(self.num_features)
        self._close()
        upper = torch.cat([row[number:] for number, row in enumerate(self._products.cpu())])
        return {"count": torch.tensor([self.count]), "sum": self._sum.cpu(), "products": upper}

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, torch.Tensor], ddof: int = 1, device: str | torch.device = "cpu"
    ) -> FeatureStatistics:
        """The inverse of :meth:`tensors`.

        Raises:
            KeyError, ValueError: The tensors are not feature statistics.
        """
        total, products = tensors["sum"], tensors["products"]
        width = total.numel()
        if total.dtype != torch.float64 or products.shape != (width * (width + 1) // 2,):
            raise ValueError(f"sums of shape {tuple(total.shape)} and {tuple(products.shape)}, {total.dtype}")
        result = cls(width, ddof, device)
        result._prepare(width)
        result._sum.copy_(total)
        # Row i of the upper half has width − i numbers.
        rows = products.split([*range(width, 0, -1)])
        for number, row in enumerate(rows):
            result._products[number, number:] = row
        result._closed = int(tensors["count"])
        return result

    def _prepare(self, width: int | None) -> None:
        """Makes the sums for a width, or requires that they have it."""
        if width is None:
            raise UserError("feature statistics", "no features yet", "update with some first")
        if self.num_features not in (None, width):
            fault = f"features have width {width}, earlier ones {self.num_features}"
            raise UserError("feature statistics", fault, "use one feature network for all")
        if not len(self._sum):
            self.num_features = width
            sums = (torch.from_numpy(np.zeros(shape)).to(self.device) for shape in ((width,), (width, width)))
            self._sum, self._products = sums
        assert self._products.shape == (width, width)

    def _close(self) -> None:
        """Adds the open block to the sums."""
        if not self._open:
            return
        rows, self._open = self._block[: self._open], 0
        total = rows.sum(0) if rows.is_cuda else torch.from_numpy(rows.numpy().sum(0))
        if not bool(total.isfinite().all()):
            raise UserError("features", "not finite", "check the images and the feature network")
        self._sum += total
        if rows.is_cuda:
            self._products.addmm_(rows.T, rows)
        else:  # half of the products: BLAS sees the transpose, in which the upper half is the lower one
            dsyrk(1.0, rows.numpy().T, beta=1.0, c=self._products.numpy().T, lower=1, overwrite_c=1)
        self._closed += len(rows)
        if len(rows) < _BLOCK:  # the end, in most cases
            self._block = torch.empty(0)
