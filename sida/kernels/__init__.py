"""Kernels for GPUs in Triton: what a U-Net does between its convolutions, and the optimizer, in as few passes over
memory as the mathematics allows. Each computes in float32 what the networks' modules say in torch's operations; they
differ from these by rounding only (tests/kernels).
"""

from __future__ import annotations

import functools
import importlib

#: The oldest Triton for whose compiler they are written, and the torch that comes with it.
OLDEST, OLDEST_TORCH = (3, 3), "2.7"


@functools.cache
def lack() -> str | None:
    """Why the kernels cannot be used here; None when they can."""
    try:
        version = str(importlib.import_module("triton").__version__)
    except ImportError as error:
        return f"the package triton cannot be imported ({error})"
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        least = ".".join(map(str, OLDEST))
        return f"triton {version} is older than {least}, which comes with torch {OLDEST_TORCH}"
    return None
