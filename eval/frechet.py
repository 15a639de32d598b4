"""Fréchet distance between two Gaussians: ‖μ₁ − μ₂‖² + tr Σ₁ + tr Σ₂ − 2 tr (Σ₁Σ₂)^½.

The eigenvalues of Σ₁Σ₂ are those of a symmetric matrix: with Σᵢ = FᵢFᵢᵀ and W = F₂ᵀF₁ they are the eigenvalues of
WᵀW, so tr (Σ₁Σ₂)^½ = Σ √λ(WᵀW). The factors come from a Cholesky decomposition with pivoting, which stops at the
numerical rank: null directions drop out instead of adding √(rounding noise). That costs two triangular factors, one
product and one symmetric eigenvalue problem, a tenth of a general matrix square root.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sida.errors import UserError

_EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class FrechetReport:
    """A distance with what is needed to judge it.

    Attributes:
        value: The squared Fréchet distance (what FID prints).
        mean_term: ‖μ₁ − μ₂‖².
        covariance_term: The rest.
        num_features: Dimension d.
        ranks: Numerical ranks of the two covariances.
        counts: Numbers of samples behind them, None where unknown.
        most_negative: Most negative eigenvalue that had to be clipped, relative to the largest (0 for a proper
            covariance; published float32 references may have a tiny one).
        numerical_error: Estimate of the rounding error of ``value``.
    """

    value: float
    mean_term: float
    covariance_term: float
    num_features: int
    ranks: tuple[int, int]
    counts: tuple[int | None, int | None]
    most_negative: float
    numerical_error: float

    @property
    def warnings(self) -> list[str]:
        """Sentences for a person; empty when nothing is wrong."""
        found = []
        for which, rank, count in zip(("first", "second"), self.ranks, self.counts):
            if count is not None and count <= self.num_features:
                found.append(
                    f"{which} set: {count} images for {self.num_features} features; the covariance is singular and "
                    "the distance biased upwards: compare only with equal n"
                )
            elif count is None and rank < self.num_features:
                # With enough samples a lower rank only means features without variance, e.g. constant pixels.
                found.append(f"{which} set: covariance has rank {rank} of {self.num_features}")
        if self.most_negative < -1e-8:
            found.append(f"an eigenvalue of {self.most_negative:.1e} relative to the largest was set to 0")
        if self.numerical_error > 1e-4 * max(abs(self.value), 1e-4):
            found.append(f"rounding error up to {self.numerical_error:.1e}")
        return found


def frechet_distance(mu1: np.ndarray, cov1: np.ndarray, mu2: np.ndarray, cov2: np.ndarray) -> float:
    """Squared Fréchet distance of N(mu1, cov1) and N(mu2, cov2); see :func:`frechet_report` for the conditions.

    Args:
        mu1: Mean (d,).
        cov1: Covariance (d, d), symmetric, positive semi-definite up to rounding.
        mu2: Mean (d,).
        cov2: Covariance (d, d).

    Raises:
        UserError: Shapes that do not fit, values that are not finite, or matrices that are no covariances.
    """
    return frechet_report(mu1, cov1, mu2, cov2).value


def frechet_report(
    mu1: np.ndarray,
    cov1: np.ndarray,
    mu2: np.ndarray,
    cov2: np.ndarray,
    counts: tuple[int | None, int | None] = (None, None),
) -> FrechetReport:
    """The distance with ranks, clipped eigenvalues and an estimate of its rounding error."""
    mu1, mu2 = (np.asarray(mu, dtype=np.float64).reshape(-1) for mu in (mu1, mu2))
    cov1, cov2 = (np.atleast_2d(np.asarray(cov, dtype=np.float64)) for cov in (cov1, cov2))
    _check(mu1, cov1, mu2, cov2)
    factor1, negative1 = _factor(cov1)
    factor2, negative2 = _factor(cov2)
    cross = factor2.T @ factor1
    gram = cross @ cross.T if len(cross) < cross.shape[1] else cross.T @ cross
    eigenvalues = np.clip(np.linalg.eigvalsh(gram), 0, None) if gram.size else np.zeros(0)
    mean_term = float(np.square(mu1 - mu2).sum())
    traces = float(np.trace(cov1) + np.trace(cov2))
    covariance_term = traces - 2 * float(np.sqrt(eigenvalues).sum())
    # An eigenvalue is known to about eps times the largest; its root then to eps·max / (2√λ), at worst √(eps·max).
    delta = 8 * _EPS * float(eigenvalues.max(initial=0))
    slack = np.minimum(np.sqrt(delta), delta / (2 * np.sqrt(np.maximum(eigenvalues, 1e-300))))
    return FrechetReport(
        value=mean_term + covariance_term,
        mean_term=mean_term,
        covariance_term=covariance_term,
        num_features=len(mu1),
        ranks=(factor1.shape[1], factor2.shape[1]),
        counts=counts,
        most_negative=min(negative1, negative2),
        numerical_error=2 * float(slack.sum()) + 8 * _EPS * traces,
    )


def _check(mu1: np.ndarray, cov1: np.ndarray, mu2: np.ndarray, cov2: np.ndarray) -> None:
    if mu1.shape != mu2.shape:
        raise UserError(
            f"Fréchet distance: means have {len(mu1)} and {len(mu2)} features; both sides need the same extractor"
        )
    for which, cov in (("first", cov1), ("second", cov2)):
        if cov.shape != (len(mu1), len(mu1)):
            raise UserError(f"Fréchet distance: {which} covariance has shape {cov.shape} for {len(mu1)} features")
    for name, array in (
        ("first mean", mu1),
        ("first covariance", cov1),
        ("second mean", mu2),
        ("second covariance", cov2),
    ):
        if not np.isfinite(array).all():
            raise UserError(f"Fréchet distance: the {name} has values that are not finite; make the statistics again")


def _factor(cov: np.ndarray) -> tuple[np.ndarray, float]:
    """``(F, negative)`` with F (d, rank) and F Fᵀ = ``cov`` but for its negative eigenvalues.

    ``negative`` is the most negative eigenvalue relative to the largest, 0 if the pivoted Cholesky succeeded.
    """
    from scipy.linalg.lapack import dpstrf

    scale = float(np.abs(np.diagonal(cov)).max(initial=0))
    if scale == 0:
        if np.abs(cov).max(initial=0) > 0:
            raise UserError("Fréchet distance: a covariance has a zero diagonal but other entries")
        return np.zeros((len(cov), 0)), 0.0
    triangle, pivots, rank, _ = dpstrf(cov, lower=1)
    factor = np.zeros((len(cov), rank))
    factor[pivots - 1] = np.tril(triangle)[:, :rank]
    # For a matrix that is no covariance the factorisation stops early without a word: probe the residual.
    probes = np.random.Generator(np.random.PCG64(0)).standard_normal((len(cov), 4))
    product = cov @ probes
    residual = np.abs(product - factor @ (factor.T @ probes)).max()
    if residual <= 1e-10 * np.abs(product).max() and np.abs(cov - cov.T).max() <= 1e-10 * scale:
        return factor, 0.0
    return _factor_by_eigenvalues(cov, scale)


def _factor_by_eigenvalues(cov: np.ndarray, scale: float) -> tuple[np.ndarray, float]:
    """The same for matrices with slightly negative eigenvalues or asymmetric rounding, e.g. stored as float32."""
    if np.abs(cov - cov.T).max() > 1e-3 * scale:
        raise UserError("Fréchet distance: a covariance is not symmetric; make the statistics again")
    values, vectors = np.linalg.eigh((cov + cov.T) / 2)
    negative = float(values[0] / max(values[-1], 1e-300))
    if negative < -1e-3:
        raise UserError(
            f"Fréchet distance: a covariance has an eigenvalue of {negative:.1e} relative to its largest; "
            "it is no covariance: make the statistics again"
        )
    keep = values > len(cov) * _EPS * values[-1]
    return vectors[:, keep] * np.sqrt(values[keep]), min(negative, 0.0)
