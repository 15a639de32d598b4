"""Gradient guard: replaces NaN and infinite gradients, clips, and reports norms."""

from __future__ import annotations

from typing import NamedTuple

import torch

#: What infinite gradients become in EDM, SiD, SiDA and GDD.
INFINITY_REPLACEMENT = 1e5


class GuardReport(NamedTuple):
    """What the guard saw.

    Attributes:
        norm: Euclidean norm after replacement, before clipping; 0-dim.
        replaced: Number of entries that were NaN or infinite; 0-dim integer tensor or int.
    """

    norm: torch.Tensor
    replaced: torch.Tensor | int


def guard_gradient(
    gradient: torch.Tensor, clip_value: float | None = None, infinity: float = INFINITY_REPLACEMENT
) -> GuardReport:
    """In place: NaN → 0, ±∞ → ±``infinity``, then clipped by value; the official order.

    Args:
        gradient: All gradients of a network in one vector.
        clip_value: Largest magnitude of an entry; None does not clip.
        infinity: What takes the place of infinity.
    """
    norm = gradient.norm()
    replaced: torch.Tensor | int = 0
    # One reduction decides whether anything is wrong; asking would make a GPU wait, so there it is always repaired.
    if gradient.is_cuda or not torch.isfinite(norm):
        replaced = gradient.numel() - torch.isfinite(gradient).sum()
        gradient.nan_to_num_(nan=0.0, posinf=infinity, neginf=-infinity)
        norm = gradient.norm()
    if clip_value is not None:
        gradient.clamp_(-clip_value, clip_value)
    return GuardReport(norm, replaced)
