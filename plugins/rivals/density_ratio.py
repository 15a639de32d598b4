"""Density ratio of data and generator by a discriminator, for f-distill and Uni-Instruct."""

from __future__ import annotations

from sida.late import Tensor
from sida.methods.sid import LOGIT_LIMIT


def density_ratio(logits: Tensor, bounds: tuple[float, float]) -> Tensor:
    """p_data / p_generator by a discriminator's logits, of their shape, within ``bounds``."""
    # The first clamp keeps exp finite.
    return logits.clamp(-LOGIT_LIMIT, LOGIT_LIMIT).exp().clamp(*bounds)


#: Smallest and largest density ratio of f-distill, and of Uni-Instruct's ``logits``.
RATIO_RANGE = (0.1, 20.0)
