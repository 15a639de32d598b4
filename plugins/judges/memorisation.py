"""Memorisation: distances to the training images, of generated images and of held-out real images.

If a generator learned the distribution, its images are as far from the training images as new real images are; if it
learned the training images, its images are nearer. Fréchet distance, precision and recall do not show the difference.

Source: Meehan, Chaudhuri and Dasgupta, "A non-parametric test to detect data-copying in generative models" (AISTATS
2020, arXiv:2004.05675): distances to the nearest training image of generated and of held-out images, compared by the
Mann-Whitney U statistic. This is their Z_U over all images at once (C_T is its mean over cells of the space), with the
other sign; our share is one minus their Δ_T. The Z_U of layer6ai-labs/dgm-eval has a continuity correction, which moves
it by half a pair of images.
"""

from typing import NamedTuple

import torch

from sida.errors import UserError
from sida.eval.metrics.precision_recall import distance_blocks

_TAIL = 0.05


class MemorisationResult(NamedTuple):
    """Distances of generated images to their nearest training image, compared with the distances of held-out images.

    Attributes:
        share: P(generated nearer than held-out) over all pairs, ties counting half; 0.5 for new images, 1 for copies,
            below 0.5 where generated images lie farther away than real ones do.
        ratio: ``median_generated / median_held_out``; 1 for new images, 0 for copies.
        tail: Share of generated images nearer than the 5 % quantile of the held-out distances; 0.05 for new images.
        z: The share's distance from 0.5 in standard errors of the Mann-Whitney test (images drawn independently);
            positive means copying.
        median_generated: Median distance of generated images, in units of the features.
        median_held_out: Median distance of held-out images, in units of the features.
    """

    share: float
    ratio: float
    tail: float
    z: float
    median_generated: float
    median_held_out: float


def memorisation(generated: torch.Tensor, training: torch.Tensor, held_out: torch.Tensor) -> MemorisationResult:
    """Compares the distances to the nearest training image of generated and of held-out images.

    Args:
        generated: Features (N, C).
        training: Features (T, C) of the images that the generator was trained on, same device.
        held_out: Features (M, C) of real images that the generator was not trained on.

    Raises:
        UserError: Features of different widths, or none.
    """
    distances, references = (nearest(rows, training)[0].double() for rows in (generated, held_out))
    references, pairs = references.sort().values, len(distances) * len(references)
    assert distances.shape == (len(generated),)
    assert references.shape == (len(held_out),)
    # Pairs whose held-out image is farther, and ties.
    at_most = torch.searchsorted(references, distances, right=True)
    farther = (len(references) - at_most).sum()
    ties = (at_most - torch.searchsorted(references, distances)).sum()
    wins = float(farther) + 0.5 * float(ties)
    # U of Mann and Whitney for two sets of one distribution: mean nm / 2, variance nm (n + m + 1) / 12.
    z = (wins - pairs / 2) / (pairs * (len(distances) + len(references) + 1) / 12) ** 0.5
    median, median_held_out = float(distances.quantile(0.5)), float(references.quantile(0.5))
    ratio = 1.0
    if median != median_held_out:
        ratio = median / median_held_out if median_held_out else float("inf")
    return MemorisationResult(
        share=wins / pairs,
        ratio=ratio,
        tail=float((distances < references.quantile(_TAIL)).double().mean()),
        z=z,
        median_generated=median,
        median_held_out=median_held_out,
    )


def nearest(rows: torch.Tensor, others: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Euclidean distance of each row (N, C) to the nearest of ``others`` (M, C), float32 (N,), and its index, int64.

    The search for neighbours runs block by block in bounded memory. Distances are then computed from differences, so
    that equal rows have distance 0 exactly.

    Raises:
        UserError: Features of different widths, or none.
    """
    if rows.ndim != 2 or others.ndim != 2 or rows.shape[1] != others.shape[1] or not len(rows) or not len(others):
        raise UserError(
            "nearest neighbours",
            f"features have shapes {tuple(rows.shape)} and {tuple(others.shape)}",
            "both must be (N, C) of one extractor, with at least one image",
        )
    rows, others = rows.to(torch.float32), others.to(torch.float32)
    centre = others.double().mean(0).to(torch.float32)  # small norms lose fewer digits in ‖a − b‖²
    with torch.inference_mode():
        blocks = distance_blocks(rows - centre, others - centre, half=False)
        index = torch.cat([distances.argmin(1) for _, distances in blocks])
        assert index.shape == (len(rows),)
        parts = zip(rows.split(4096), index.split(4096))
        return torch.cat([(part - others[nearest]).norm(dim=1) for part, nearest in parts]), index
