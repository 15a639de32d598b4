"""Counter-based randomness: every draw is a function of (seed, purpose, counters), never of earlier draws.

So a resumed run equals an uninterrupted one, and draws do not depend on ranks, shards or batch sizes.
"""

from __future__ import annotations

import hashlib

import torch


def derive_seed(seed: int, purpose: str, *counters: int) -> int:
    """Mixes a run seed, a purpose and counters into 63 bits (non-negative)."""
    text = "/".join([str(int(seed)), purpose, *(str(int(c)) for c in counters)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, purpose: str, *counters: int, device: str | torch.device = "cpu") -> torch.Generator:
    """A fresh ``torch.Generator`` for one purpose, e.g. ``generator(seed, "psi", step, rank)``."""
    return torch.Generator(device=device).manual_seed(derive_seed(seed, purpose, *counters))
