"""Recomputes activations in the backward pass instead of keeping them from the forward pass.

A convolution keeps its input for the gradient of its weights. If that input is an activation of a map that is kept
anyway, one pass over memory recomputes it, the same to the last bit; this applies to half of the maps that a residual
block keeps.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


@contextlib.contextmanager
def recomputed(y: Tensor) -> Iterator[None]:
    """Keeps no copy of ``y`` for the gradients of operations within the context; its function recomputes it.

    Args:
        y: Result of a function of this package called with ``recompute=True``. Without gradients nothing is kept, and
            the context does nothing.
    """
    node = y.grad_fn
    if node is None:
        yield
        return
    remake = node.remake  # type: ignore[attr-defined]
    begin, size, dtype = y.data_ptr(), y.numel(), y.dtype

    def pack(kept: Tensor) -> Any:
        # The same memory, possibly with its axes in another order.
        same = (kept.data_ptr(), kept.numel(), kept.dtype) == (begin, size, dtype)
        return (node, kept.shape, kept.stride()) if same else kept

    def unpack(packed: Any) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        source, shape, stride = packed
        whole: Tensor = remake(source)
        return whole.as_strided(shape, stride)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield
