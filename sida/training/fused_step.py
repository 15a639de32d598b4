"""A learner's step in two passes over its vectors (:mod:`sida.kernels.adam`)."""

from __future__ import annotations

import torch

from sida.kernels import adam as kernels
from sida.training.flat import Adam
from sida.training.guard import GuardReport


def fused_step(adam: Adam, gradient: torch.Tensor, lr: float, clip_value: float | None, infinity: float) -> GuardReport:
    """Guard, clip and :meth:`Adam.step`; equal to them up to rounding. The gradient is not changed."""
    seen = kernels.look(gradient, infinity)
    adam.steps += 1
    kernels.step(
        adam.vector,
        gradient,
        adam.mean,
        adam.square,
        lr,
        adam.betas,
        adam.eps,
        int(adam.steps),
        infinity,
        clip_value,
    )
    return GuardReport(seen[0].sqrt(), seen[1].long())
