"""Streaming count, mean and covariance of features: sums in float64, by BLAS on all cores.

Features are collected into blocks of 1024 rows; each block adds Σx and Σxxᵀ. So the result does not depend on batch
sizes, and memory does not grow with the number of images. Sums of shards are added in the order in which they are
merged; another sharding gives other last digits.

Σxxᵀ has C² numbers, 196,608² for pixels of 256×256. Up to C rows the rows themselves are fewer: they are kept, and the
Fréchet distance of two such sets needs no covariance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from scipy.linalg.blas import dsyrk

from sida.errors import UserError
from sida.eval.metrics.frechet import Moments
from sida.machine import available_memory

_BLOCK, _PANEL = 1024, 64
#: Matrices of the size of a covariance that the Fréchet distance holds at a time.
_MATRICES = 3


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
        expected: Number of vectors that will come, for :meth:`update` to refuse what memory cannot hold; None: unknown.
    """

    def __init__(
        self,
        num_features: int | None = None,
        ddof: int = 1,
        device: str | torch.device = "cpu",
        expected: int | None = None,
    ) -> None:
        self.num_features = num_features
        self.ddof = ddof
        self.device = torch.device(device)
        self._expected = expected
        self._closed = self._open = 0  # rows in the sums, and in the open block
        self._block: list[torch.Tensor] = []  # the open block in parts
        self._kept: list[torch.Tensor] = []  # closed blocks that are not in the products yet
        self._sum = self._products = torch.empty(0)  # of the products only the upper half counts

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
        """Mean, covariance and count, and the features while they are fewer than C."""
        self._check_count(self.ddof)
        mean, rows, ddof = self.mean, [block.cpu().numpy() for block in self._kept], self.ddof
        return Moments(mean, self.count, lambda: self.covariance(ddof), rows, self.count - ddof)

    def covariance(self, ddof: int) -> np.ndarray:
        """Covariance divided by ``count - ddof``.

        Raises:
            UserError: Fewer than ``ddof + 1`` vectors.
        """
        self._check_count(ddof)
        mean, products = self.mean, self._summed().cpu().numpy()
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

    def _check_count(self, ddof: int) -> None:
        if self.count <= ddof:
            raise UserError("feature statistics", f"{self.count} images are too few for a covariance (ddof {ddof})")

    def update(self, features: torch.Tensor | np.ndarray) -> FeatureStatistics:
        """Adds feature vectors (N, C) of any float type; returns itself.

        Raises:
            UserError: A width that differs from earlier features, or values that are not finite.
        """
        rows = torch.as_tensor(features).detach()
        if rows.ndim != 2:
            raise UserError("feature statistics", f"features must have shape (N, C), got {tuple(rows.shape)}")
        self._prepare(rows.shape[1])
        while len(rows):
            take, rows = rows[: _BLOCK - self._open], rows[_BLOCK - self._open :]
            # A copy, since a caller may use the memory again; in its precision, which takes half of float64's memory.
            take = (take.float() if take.dtype.itemsize < 4 else take).to(self.device)
            # On a processor by NumPy: threads of torch that wait would take cores from BLAS.
            self._block.append(take.clone() if take.is_cuda else torch.from_numpy(take.numpy().copy()))
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
            self._closed += other._closed
            if other._kept:
                self._keep([block.to(self.device) for block in other._kept])
            elif len(other._products):
                self._products = self._summed()
                self._products += other._products.to(self.device)
                self._kept = []
        return self

    def tensors(self) -> dict[str, torch.Tensor]:
        """The whole state as named tensors on the CPU (closes the open block)."""
        self._prepare(self.num_features)
        self._close()
        shared = {"count": torch.tensor([self.count]), "sum": self._sum.cpu()}
        if self._kept:
            return {**shared, "rows": _joined(self._kept).cpu()}
        upper = torch.cat([row[number:] for number, row in enumerate(self._summed().cpu())])
        return {**shared, "products": upper}

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, torch.Tensor], ddof: int, device: str | torch.device = "cpu"
    ) -> FeatureStatistics:
        """The inverse of :meth:`tensors`.

        Raises:
            KeyError, ValueError: The tensors are not feature statistics.
        """
        total = tensors["sum"]
        width = total.numel()
        if (kept := tensors.get("rows")) is not None:
            if kept.shape != (int(tensors["count"]), width) or not 0 < len(kept) < width:
                raise ValueError(f"rows of shape {tuple(kept.shape)} for {width} features")
            result = cls(width, ddof, device).update(kept)
            result._close()
            result._sum.copy_(total)
            return result
        products = tensors["products"]
        if total.dtype != torch.float64 or products.shape != (width * (width + 1) // 2,):
            raise ValueError(f"sums of shape {tuple(total.shape)} and {tuple(products.shape)}, {total.dtype}")
        result = cls(width, ddof, device)
        result._prepare(width)
        result._sum.copy_(total)
        result._products = result._summed()
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
            self._sum = torch.from_numpy(np.zeros(width)).to(self.device)
            if self._expected is not None:
                self._check_memory(width, self._expected)

    def _check_memory(self, width: int, count: int) -> None:
        """Refuses features that memory cannot hold, before most images are read."""
        needed = 4 * width * count if count < width else 8 * _MATRICES * width**2
        if needed > (available := available_memory(self.device)):
            fault = (
                f"{width:,} features of {count:,} images need {needed / 1e9:,.0f} GB, of {available / 1e9:,.0f} here"
            )
            remedy = "give smaller or fewer images, or another feature network (--protocol pair-quick)"
            raise UserError("feature statistics", fault, remedy)

    def _close(self) -> None:
        """Adds the open block to the sums."""
        if not self._open:
            return
        block, self._block, self._open = _joined(self._block), [], 0
        total = block.double().sum(0) if block.is_cuda else torch.from_numpy(_float64(block).sum(0))
        if not bool(total.isfinite().all()):
            raise UserError("features", "not finite", "check the images and the feature network")
        self._sum += total
        self._closed += len(block)
        self._keep([block])

    def _keep(self, blocks: Sequence[torch.Tensor]) -> None:
        """Keeps closed blocks while all rows are fewer than C, else adds all to the products."""
        self._kept += blocks
        if len(self._products) or self._closed >= len(self._sum):
            self._products, self._kept = self._summed(), []

    def _summed(self) -> torch.Tensor:
        """Σxxᵀ of all closed blocks, of which only the upper half counts."""
        width, products = len(self._sum), self._products
        if not len(products):
            products = torch.from_numpy(np.zeros((width, width))).to(self.device)
        for block in self._kept:
            if block.is_cuda:
                products.addmm_(block.double().T, block.double())
            else:  # half of the products: BLAS sees the transpose, in which the upper half is the lower one
                dsyrk(1.0, _float64(block).T, beta=1.0, c=products.numpy().T, lower=1, overwrite_c=1)
        return products


def _joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat([*parts]) if parts[0].is_cuda else torch.from_numpy(np.concatenate([p.numpy() for p in parts]))


def _float64(block: torch.Tensor) -> np.ndarray:
    return block.numpy().astype(np.float64, copy=False)
