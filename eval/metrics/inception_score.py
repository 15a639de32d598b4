"""Inception score: exp of the mean Kullback-Leibler divergence of p(y|x) from p(y), averaged over splits.

Split i holds the images ``i·N//S … (i+1)·N//S − 1`` in the order in which they were generated. Only Σ p and
Σ p·log p per split are kept, in float64, so that images stream and parts merge.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy.special import chdtrc

from sida.errors import UserError


class InceptionScoreResult(NamedTuple):
    """Mean of the splits' scores and their population standard deviation (as the official tools print)."""

    mean: float
    std: float


class InceptionScoreSums:
    """Streaming sums of the score over ``num_images`` images.

    Args:
        num_images: Number of images of the whole set, which determines the splits.
        splits: Number of splits S.
        num_classes: Number of classes.
        device: Torch device of the sums.
    """

    def __init__(self, num_images: int, splits: int, num_classes: int, device: str | torch.device = "cpu") -> None:
        if not 1 <= splits <= num_images:
            raise UserError("inception score", f"{splits} splits need at least as many images, got {num_images}")
        self.splits = splits
        self.bounds = [i * num_images // splits for i in range(splits + 1)]
        self._probabilities = torch.zeros(splits, num_classes, dtype=torch.float64, device=device)
        self._entropies = torch.zeros(splits, dtype=torch.float64, device=device)

    def update(self, probabilities: torch.Tensor, first: int) -> None:
        """Adds the class probabilities (B, K) of images ``first … first + B − 1``."""
        rows = probabilities.to(torch.float64)
        # lim p→0 of p·log p is 0, as 0 times the logarithm of the least number is.
        terms = (rows * torch.log(rows.clamp_min(1e-300))).sum(1)
        for split in range(self.splits):
            begin, end = (max(0, bound - first) for bound in self.bounds[split : split + 2])
            part = rows[begin:end]
            if len(part):
                self._probabilities[split] += part.sum(0)
                self._entropies[split] += terms[begin:end].sum()

    def merge(self, other: InceptionScoreSums) -> None:
        """Adds the sums of another part of the same set."""
        self._probabilities += other._probabilities.to(self._probabilities.device)
        self._entropies += other._entropies.to(self._entropies.device)

    def score(self) -> InceptionScoreResult:
        """The score of all images."""
        counts = torch.tensor(self.bounds, dtype=torch.float64).diff()
        marginal = self._probabilities.cpu() / counts[:, None]
        assert marginal.shape == (self.splits, self._probabilities.shape[1])
        divergence = self._entropies.cpu() / counts - (marginal * torch.log(marginal.clamp_min(1e-300))).sum(1)
        scores = np.exp(divergence.numpy())
        return InceptionScoreResult(float(scores.mean()), float(scores.std()))

    def is_sorted(self) -> bool:
        """Whether splits differ in their classes more than in a random order (G test, p < 1e-6)."""
        totals = self._probabilities.cpu().numpy()
        expected = np.outer(totals.sum(1), totals.sum(0)) / max(totals.sum(), 1e-300)
        present = totals > 0
        distance = 2 * (totals[present] * np.log(totals[present] / expected[present])).sum()
        freedom = (self.splits - 1) * (totals.shape[1] - 1)
        return freedom > 0 and bool(chdtrc(freedom, distance) < 1e-6)


def inception_score(probs: torch.Tensor | np.ndarray, splits: int) -> InceptionScoreResult:
    """Score of class probabilities.

    Args:
        probs: (N, K), rows sum to 1.
        splits: Number of splits.

    Returns:
        ``(mean, std)`` over the splits; std is the population one (ddof 0).

    Raises:
        UserError: Wrong shape, rows that are not probabilities, or more splits than images.
    """
    rows = torch.as_tensor(probs)
    if rows.ndim != 2:
        raise UserError("inception score", f"probabilities must have shape (N, K), got {tuple(rows.shape)}")
    totals = rows.to(torch.float64).sum(1)
    if not bool(((totals - 1).abs() < 1e-3).all()) or bool((rows < 0).any()):
        raise UserError(
            "inception score", "rows must be probabilities that sum to 1", "apply a softmax to logits first"
        )
    sums = InceptionScoreSums(len(rows), splits, rows.shape[1])
    sums.update(rows, 0)
    return sums.score()
