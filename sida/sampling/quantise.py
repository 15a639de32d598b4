"""Floats to bytes, by the rules of the official tools (fact 25 of tests/golden/README.md)."""

from __future__ import annotations

import torch


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """Network output (about [-1, 1]) to uint8: ``x * 127.5 + 128``, clamped to 0..255, **truncated**.

    Floats of any dtype keep their precision; the result has the same shape. NaN becomes 0.
    """
    return torch.nan_to_num(images * 127.5 + 128, nan=0.0).clamp(0, 255).to(torch.uint8)
