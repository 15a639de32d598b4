"""Fréchet distance between two Gaussians: ‖μ₁ − μ₂‖² + tr Σ₁ + tr Σ₂ − 2 tr (Σ₁Σ₂)^½.

With Σ₁ = F₁F₁ᵀ, Σ₂ = F₂F₂ᵀ and C = F₂ᵀF₁, the products Σ₁Σ₂ and CᵀC have the same eigenvalues except zeros, so
tr (Σ₁Σ₂)^½ = Σ √λ(CᵀC). The factors come from a Cholesky decomposition with pivots, which ends at the numerical rank:
null directions drop out instead of adding √(rounding noise). Only a covariance with negative eigenvalues needs its
eigenvectors. BLAS computes all of it on all cores.

Two sets of fewer images than features need no matrix of d × d: with F = Aᵀ for centred features A / √(n − ddof) the
distance follows from the products of rows, A₁A₁ᵀ, A₂A₂ᵀ and C = A₂A₁ᵀ, and Σ √λ(CᵀC) is the sum of C's singular values.

A covariance is a difference of sums, Σxxᵀ/n − μμᵀ, so its rounding error is relative to the size of the terms,
tr Σ + ‖μ‖²: for identical images the covariance is rounding error only.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg.lapack import dpstrf

from sida.errors import UserError

_EPS = float(np.finfo(np.float64).eps)
# Relative rounding of a sum of blocks of 1024 terms (sida.eval.metrics.statistics).
_SUM_EPS = 512 * _EPS
_PANEL = 64  # rows that the processor's cache holds
_COLUMNS = 4096  # features of a product of rows that are in float64 at a time


@dataclass(frozen=True)
class Moments:
    """Mean and covariance of features.

    Attributes:
        mean: Mean, float64 (C,).
        count: Number of images; None if unknown.
        covariance: Gives the covariance, float64 (C, C); called at most once.
        rows: The features, (N, C) in parts, if there are fewer than C; else empty.
        divisor: Divisor of the covariance, N − ddof, of rows.
        factor: Factor of the covariance, if it is computed already (:func:`factored`).
    """

    mean: np.ndarray
    count: int | None
    covariance: Callable[[], np.ndarray]
    rows: Sequence[np.ndarray] = ()
    divisor: int = 0
    factor: "Factor | None" = None

    @functools.cached_property
    def cov(self) -> np.ndarray:
        """Covariance, float64 (C, C)."""
        return self.covariance()

    @functools.cached_property
    def effective_rank(self) -> float:
        """Effective rank of the covariance, 1 to C: exp of the entropy of its eigenvalues as shares of their sum.

        Roy and Vetterli 2007; 0 where no feature varies.
        """
        # The products of centred rows have the covariance's eigenvalues besides zeros.
        products = products_of_rows([self]) if self.rows else self.cov
        eigenvalues = np.linalg.eigvalsh((products + products.T) / 2)
        shares = eigenvalues[eigenvalues > len(eigenvalues) * np.finfo(np.float64).eps * eigenvalues.max(initial=0)]
        shares = shares / shares.sum()
        return float(np.exp(-(shares * np.log(shares)).sum())) if len(shares) else 0.0


@dataclass(frozen=True)
class FrechetReport:
    """A Fréchet distance with its terms, ranks and rounding error.

    Attributes:
        value: The squared Fréchet distance, as FID is printed.
        mean_term: ‖μ₁ − μ₂‖².
        num_features: Dimension d.
        ranks: Numerical ranks of the two covariances.
        counts: Numbers of samples of the two sides; None if unknown.
        most_negative: Most negative eigenvalue that had to be clipped, relative to the largest (0 for a proper
            covariance; published float32 references may have a tiny one).
        numerical_error: Estimate of the rounding error of ``value``.
    """

    value: float
    mean_term: float
    num_features: int
    ranks: tuple[int, int]
    counts: tuple[int | None, int | None]
    most_negative: float
    numerical_error: float

    @property
    def warnings(self) -> list[str]:
        """Warnings as sentences; empty if the distance is sound."""
        faults, few = [], {}
        for name, rank, count in zip(("first", "second"), self.ranks, self.counts):
            if rank == 0:
                faults.append(f"{name} set: no feature varies; its images are all alike")
            elif count is not None and count <= self.num_features:
                few[name] = f"{count:,}"
            elif count is None and rank < self.num_features:
                # With enough samples a lower rank only means features without variance, e.g. constant pixels.
                faults.append(f"{name} set: covariance has rank {rank} of {self.num_features}")
        if few:
            sets = f"{' and '.join(few)} set: {' and '.join(few.values())} images for {self.num_features:,} features"
            bias = "the covariance is singular and the distance biased upwards: compare only with equal n"
            faults.append(f"{sets}; {bias}")
        if self.most_negative < -1e-8:
            faults.append(f"an eigenvalue of {self.most_negative:.1e} relative to the largest was set to 0")
        if self.numerical_error > 1e-4 * max(abs(self.value), 1e-4):
            faults.append(f"rounding error up to {self.numerical_error:.1e}")
        return faults


def frechet_distance(mu1: np.ndarray, cov1: np.ndarray, mu2: np.ndarray, cov2: np.ndarray) -> float:
    """Squared Fréchet distance of N(mu1, cov1) and N(mu2, cov2).

    Args:
        mu1: Mean (d,).
        cov1: Covariance (d, d), symmetric, positive semi-definite up to rounding.
        mu2: Mean (d,).
        cov2: Covariance (d, d).

    Raises:
        UserError: Shapes that do not fit, values that are not finite, or matrices that are not covariances.
    """
    return frechet_report(mu1, cov1, mu2, cov2).value


def frechet_report(
    mu1: np.ndarray,
    cov1: np.ndarray,
    mu2: np.ndarray,
    cov2: np.ndarray,
    counts: tuple[int | None, int | None] = (None, None),
) -> FrechetReport:
    """Squared Fréchet distance with ranks, clipped eigenvalues and an estimate of the rounding error.

    See :func:`frechet_distance` for the other arguments and errors; ``counts`` are the numbers of samples by side.
    """
    first, second = (
        Moments(np.asarray(mu, np.float64).reshape(-1), count, functools.partial(_matrix, cov))
        for mu, cov, count in ((mu1, cov1, counts[0]), (mu2, cov2, counts[1]))
    )
    return _report_of_covariances(first, second)


def _matrix(cov: np.ndarray) -> np.ndarray:
    return np.atleast_2d(np.asarray(cov, dtype=np.float64))


def factored(mean: np.ndarray, cov: np.ndarray) -> "Factor":
    """Factor of a covariance (d, d) of features with this mean (d,), which serves several distances.

    Raises:
        UserError: The matrix is not a covariance.
    """
    return _factor(cov, _rounding(mean, cov))


def _report_of_covariances(one: Moments, other: Moments) -> FrechetReport:
    """The distance of two sets by their covariances."""
    mu1, cov1, mu2, cov2 = one.mean, one.cov, other.mean, other.cov
    _check(mu1, cov1, mu2, cov2)
    first, second = (side.factor or factored(side.mean, side.cov) for side in (one, other))
    # tr (Σ₁Σ₂)^½ is the sum of the singular values of F₂ᵀF₁, which needs no root of a matrix that is not symmetric.
    cross = second.rows.T @ first.rows
    assert cross.shape == (second.rank, first.rank)
    ranks, negative = (first.rank, second.rank), min(first.negative, second.negative)
    left_out = [first.left_out, second.left_out]
    del first, second  # two matrices less at the peak of memory
    # Both products have the same eigenvalues besides zeros; the smaller one costs less.
    product = cross @ cross.T if len(cross) < cross.shape[1] else cross.T @ cross
    del cross
    eigenvalues = np.clip(np.linalg.eigvalsh(product), 0, None) if product.size else np.zeros(0)
    mean_term = float(np.square(mu1 - mu2).sum())
    traces = float(np.trace(cov1) + np.trace(cov2))
    covariance_term = traces - 2 * float(np.sqrt(eigenvalues).sum())
    # An eigenvalue is known to about eps times the largest; its root then to eps·max / (2√λ), at worst √(eps·max).
    delta = 8 * _EPS * float(eigenvalues.max(initial=0))
    slack = np.minimum(np.sqrt(delta), delta / (2 * np.sqrt(np.maximum(eigenvalues, 1e-300))))
    # The part E that was left out as rounding adds at most tr (E Σ)^½ ≤ √(tr E · tr Σ).
    sizes = [float(np.abs(np.diagonal(cov)).sum()) for cov in (cov1, cov2)]
    missing = math.sqrt(left_out[0] * sizes[1]) + math.sqrt(left_out[1] * sizes[0])
    return FrechetReport(
        # Rounding alone makes a distance of equal sets negative.
        value=max(mean_term + covariance_term, 0.0),
        mean_term=mean_term,
        num_features=len(mu1),
        ranks=ranks,
        counts=(one.count, other.count),
        most_negative=negative,
        numerical_error=2 * float(slack.sum()) + 2 * missing + 8 * _EPS * traces,
    )


def moments_report(first: Moments, second: Moments) -> FrechetReport:
    """Squared Fréchet distance of two sets of features; errors as of :func:`frechet_distance`."""
    if first.mean.shape == second.mean.shape and first.rows and second.rows:
        return _report_of_rows(first, second)
    return _report_of_covariances(first, second)


def products_of_rows(sides: Sequence[Moments]) -> np.ndarray:
    """Products (N, N) of all rows of some sets, each minus its set's mean; a few features at a time in float64."""
    products = np.zeros((sum(len(rows) for side in sides for rows in side.rows),) * 2)
    for start in range(0, len(sides[0].mean), _COLUMNS):
        columns = slice(start, start + _COLUMNS)
        panel = np.concatenate([rows[:, columns] - side.mean[columns] for side in sides for rows in side.rows])
        products += panel @ panel.T
    return products


def _report_of_rows(first: Moments, second: Moments) -> FrechetReport:
    """The distance of two sets with fewer images than features, in the space of the images."""
    sides, width = (first, second), len(first.mean)
    counts = [sum(map(len, side.rows)) for side in sides]
    products = products_of_rows(sides)
    scales = np.repeat([1 / math.sqrt(side.divisor) for side in sides], counts)
    products *= scales
    products *= scales[:, None]
    split = counts[0]
    own = products[:split, :split], products[split:, split:]
    singular = np.linalg.svd(products[split:, :split], compute_uv=False)
    mean_term, traces = float(np.square(first.mean - second.mean).sum()), sum(float(np.trace(part)) for part in own)
    return FrechetReport(
        value=max(mean_term + traces - 2 * float(singular.sum()), 0.0),
        mean_term=mean_term,
        num_features=width,
        ranks=(_rank(own[0], first.mean), _rank(own[1], second.mean)),
        counts=(first.count, second.count),
        most_negative=0.0,
        # Each singular value is known to about eps times the largest.
        numerical_error=8 * _EPS * (len(singular) * float(singular.max(initial=0)) + traces),
    )


def _rank(products: np.ndarray, mean: np.ndarray) -> int:
    """Numerical rank of a covariance by the products of its rows, which have the same eigenvalues besides zeros."""
    scale, rounding = float(np.diagonal(products).max()), _rounding(mean, products)
    if scale <= rounding:
        return 0
    _, _, rank, _ = dpstrf(products, tol=max(len(products) * _EPS * scale, rounding))
    return int(rank)


def _rounding(mu: np.ndarray, cov: np.ndarray) -> float:
    """Limit of the rounding error of a covariance's eigenvalues, and of its trace, from sums over rows."""
    return _SUM_EPS * float(np.abs(np.diagonal(cov)).sum() + np.square(mu).sum())


def _check(mu1: np.ndarray, cov1: np.ndarray, mu2: np.ndarray, cov2: np.ndarray) -> None:
    if mu1.shape != mu2.shape:
        raise UserError(
            "Fréchet distance", f"means have {len(mu1)} and {len(mu2)} features", "both sides need the same extractor"
        )
    for side, cov in (("first", cov1), ("second", cov2)):
        if cov.shape != (len(mu1), len(mu1)):
            raise UserError("Fréchet distance", f"{side} covariance has shape {cov.shape} for {len(mu1)} features")
    arrays = {"first mean": mu1, "first covariance": cov1, "second mean": mu2, "second covariance": cov2}
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise UserError(
                "Fréchet distance", f"the {name} has values that are not finite", "make the statistics again"
            )


@dataclass(frozen=True)
class Factor:
    """Factor F (d, rank) with F Fᵀ = Σ except for negative eigenvalues.

    Attributes:
        rows: F.
        negative: Most negative eigenvalue of Σ relative to its largest, beyond rounding.
        left_out: Sum of the eigenvalues left out as rounding.
    """

    rows: np.ndarray
    negative: float
    left_out: float

    @property
    def rank(self) -> int:
        """Numerical rank of Σ."""
        return int(self.rows.shape[1])


def _factor(cov: np.ndarray, rounding: float) -> Factor:
    """Factor of a covariance; it may have slightly negative eigenvalues or asymmetric rounding, e.g. as float32.

    Raises:
        UserError: The matrix is not a covariance.
    """
    diagonal = np.abs(np.diagonal(cov))
    scale = float(diagonal.max(initial=0))
    if scale <= rounding:
        if np.abs(cov).max(initial=0) > rounding:
            raise UserError("Fréchet distance", "a covariance has a zero diagonal but other entries")
        return Factor(np.zeros((len(cov), 0)), 0.0, float(diagonal.sum()))
    panels = (slice(at, at + _PANEL) for at in range(0, len(cov), _PANEL))
    asymmetry = max(np.abs(cov[panel] - cov[:, panel].T).max() for panel in panels)
    if asymmetry > max(1e-3 * scale, rounding):
        raise UserError("Fréchet distance", "a covariance is not symmetric", "make the statistics again")
    if asymmetry <= 1e-10 * scale:
        # A pivoted Cholesky decomposition takes a fraction of the time of eigenvalues, but needs symmetry. LAPACK reads
        # columns: the transpose of a symmetric matrix saves a copy.
        limit = max(len(cov) * _EPS * scale, rounding)
        pivoted, order, rank, _ = dpstrf(cov.T, tol=limit, lower=1)
        rows, upper = np.empty((rank, len(cov))), pivoted.T
        # LAPACK leaves the input in the other triangle, and counts pivots from 1.
        for number in range(rank):
            upper[number, :number] = 0
        rows[:, order - 1] = upper[:rank]
        if rank == len(cov):
            return Factor(rows.T, 0.0, 0.0)
        del pivoted, upper
        # With negative eigenvalues the rest is larger than its diagonal, which ended the decomposition.
        rest = rows.T @ rows
        rest -= cov
        if np.abs(rest, out=rest).max() <= limit:
            return Factor(rows.T, 0.0, float(np.trace(rest)))
    values, vectors = np.linalg.eigh((cov + cov.T) / 2)
    negative = float(values[0] / max(values[-1], 1e-300)) if values[0] < -rounding else 0.0
    if negative < -1e-3:
        raise UserError(
            "Fréchet distance",
            f"a covariance has an eigenvalue of {negative:.1e} relative to its largest",
            "it is not a covariance: make the statistics again",
        )
    limit = max(len(cov) * _EPS * values[-1], rounding)
    keep, small = values > limit, np.abs(values) <= limit
    return Factor(vectors[:, keep] * np.sqrt(values[keep]), negative, float(np.abs(values[small]).sum()))
