"""Building a network for its names and shapes: large tensors take no memory and no time, small ones are real.

``torch.device("meta")`` does the same for all tensors, but its arithmetic runs through torch's compiler, whose import
costs seconds in every process.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

REAL_BELOW = 4096
"""Tensors with fewer elements are made as usual: filters, frequencies, schedules."""
_FACTORIES = {torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn}
_SCALING = {
    "mul",
    "__mul__",
    "__rmul__",
    "add",
    "__add__",
    "__radd__",
    "sub",
    "__sub__",
    "__rsub__",
    "div",
    "__truediv__",
}


class ShapesOnly(TorchFunctionMode):
    """Within this context, large new tensors have a shape but no content."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Sends large factory calls to the meta device; scaling a tensor without content returns it unchanged."""
        kwargs = kwargs or {}
        if func in _FACTORIES and kwargs.get("device") is None and _num_elements(func, args, kwargs) >= REAL_BELOW:
            # Drawing on the meta device imports torch's compiler too; there is nothing to draw.
            func = torch.empty if func in (torch.rand, torch.randn) else func
            kept = {name: value for name, value in kwargs.items() if name != "generator"}
            return func(*args, **{**kept, "device": "meta"})
        if getattr(func, "__name__", "") in _SCALING and len(args) == 2 and not kwargs:
            tensors = [a for a in args if isinstance(a, torch.Tensor)]
            if len(tensors) == 1 and tensors[0].is_meta and tensors[0].is_floating_point():
                return tensors[0]
        return func(*args, **kwargs)


def _num_elements(func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> int:
    sizes = kwargs.get("size", args[:1] if func is torch.full else args)
    if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)):
        sizes = sizes[0]
    return math.prod(n for n in sizes if isinstance(n, int))
