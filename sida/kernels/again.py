"""Maps that are made again where a backward pass wants them, instead of being kept from the forward pass until then.

A convolution keeps its input for the gradient of its weights. Where that input is an activation of something that is
kept anyway, one pass over memory makes it again, the same to the last bit; half of what a residual block keeps is of
this kind.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


@contextlib.contextmanager
def made_again(y: Tensor) -> Iterator[None]:
    """What is computed within keeps no copy of a map that its function can make again.

    Args:
        y: Result of a function of this package called with ``again=True``. Where nothing has gradients there is
            nothing to keep, and nothing happens.
    """
    node = y.grad_fn
    if node is None:
        yield
        return
    remake = node.remake  # type: ignore[attr-defined]
    begin, size, dtype = y.data_ptr(), y.numel(), y.dtype

    def pack(kept: Tensor) -> Any:
        # Also where it is kept with its axes in another order.
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
