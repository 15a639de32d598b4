"""Blocks of networks compiled by torch (inductor), which joins the operations between matrix products into few kernels.

Blocks whose class, shapes and mode are equal share one compilation. Parameters, state dict and random draws do not
change; results differ by rounding.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch._dynamo
import torch._functorch.config
import torch._inductor.config
from torch import nn
from torch._dynamo.utils import calculate_time_spent

from sida.config.kernels import Replacement
from sida.errors import say
from sida.networks.body import blocks_of
from sida.networks.precond import store_half

#: The compiler chooses the layout of maps.
channels_last = False
convert_frozen_weights = store_half
#: Dropout draws as without the compiler; where torch has the option, no kernel is chosen by its speed in this process,
#: so that a resumed run has the same bits.
_OPTIONS = {"fallback_random": True}
if hasattr(torch._inductor.config, "deterministic"):
    _OPTIONS["deterministic"] = True
COMPILER: dict[str, Any] = {"backend": "inductor", "options": _OPTIONS}


def replacements(net: nn.Module) -> list[Replacement]:
    """The computation of each block of a network (:class:`sida.networks.body.Block`).

    Blocks of EDM2 that are recomputed and normalise their weights stay as they are: the repeated pass, which does not
    normalise again, would be another graph.
    """
    rewrites = lambda block: any(getattr(layer, "weight_norm", "off") != "off" for layer in block.children())
    blocks = [block for block in blocks_of(net) if not (block.checkpointed and rewrites(block))]
    return [Replacement(block, "compute", compiled(type(block).compute)) for block in blocks]


@functools.cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A block's function ``(block, map, embedding) -> map``, which compiles for each new shape and mode when called."""
    say("kernels: torch compiles each kind of block at its first call, which may take minutes")
    # One class has blocks of many shapes. A loss of several terms goes backward through a block several times.
    torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = 10_000
    torch._functorch.config.donated_buffer = False
    return torch.compile(function, dynamic=False, **COMPILER)


_told = 0.0


def news() -> str | None:
    """Seconds that torch has compiled since the last line; None below one second."""
    global _told
    seconds = calculate_time_spent()["total_wall_time"] - _told
    if seconds < 1:
        return None
    _told += seconds
    return f"torch compiled blocks for {seconds:.0f} s"
