"""Whether a GPU may round the factors of products and convolutions to TF32."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


def set_tf32(matmul: bool, convolutions: bool) -> None:
    """Allows or forbids it in the whole process from here on."""
    torch.backends.cuda.matmul.allow_tf32 = matmul
    torch.backends.cudnn.allow_tf32 = convolutions


@contextlib.contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Allows or forbids it in both, in the whole process, and restores what was set before.

    Left alone, torch allows it in convolutions: a float32 network would then draw other images on a GPU than on a CPU.
    """
    before = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
    set_tf32(allowed, allowed)
    try:
        yield
    finally:
        set_tf32(*before)
