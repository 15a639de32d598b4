"""Judges of a training that lowers a Fréchet distance: extractors, with moments of the training data's features."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from sida.data import load_dataset
from sida.eval.features.registry import make_extractors
from sida.eval.measuring.references import ImageSet, features_of
from sida.machine import tf32

_BATCH = 500


@dataclasses.dataclass(frozen=True)
class Judge:
    """A feature network with the moments of real images.

    Attributes:
        features: Function from float images (N, C, H, W) in 0..255 to features (N, F), with gradient.
        mean: Mean of the real images' features, float64 (F,).
        cov: Covariance with the divisor N − 1, float64 (F, F).
    """

    features: Callable[[torch.Tensor], torch.Tensor]
    mean: torch.Tensor
    cov: torch.Tensor


def make_judges(names: Sequence[str], dataset: Mapping[str, Any], device: torch.device) -> dict[str, Judge]:
    """Makes judges, with the moments of all images of a data set.

    Args:
        names: Extractors.
        dataset: Data-set spec.
        device: Device of the networks and of the moments.

    Raises:
        UserError: An extractor that does not exist or has no gradient, or a data set that cannot be read.
    """
    extractors = make_extractors(names, device)
    for extractor in extractors.values():
        extractor.check_gradient()
    images = ImageSet.of_dataset(load_dataset(dataset))
    with tf32(False):
        statistics, _ = features_of(images.batches(_BATCH), images.count, extractors, [*extractors], [])
    moments = {name: (torch.from_numpy(sums.mean), torch.from_numpy(sums.cov)) for name, sums in statistics.items()}
    return {
        name: Judge(extractor.differentiable, *(part.to(device) for part in moments[name]))
        for name, extractor in extractors.items()
    }


def judge_digests(names: Sequence[str]) -> dict[str, str]:
    """Digest of each judge, which decides its features."""
    return {name: extractor.sha256 for name, extractor in make_extractors(names).items()}
