"""Kernels for GPUs in Triton: what a U-Net does between its convolutions, and the optimizer, in as few passes over
memory as the mathematics allows. Each computes in float32 what the networks' modules say in torch's operations; they
differ from these by rounding only (tests/kernels).
"""

from __future__ import annotations

import functools
import importlib


@functools.cache
def lack() -> str | None:
    """Why the kernels cannot be used here; None when they can."""
    try:
        importlib.import_module("triton")
    except ImportError:
        return "the package triton is not installed"
    return None
