"""``torch.compile`` for networks whose shapes and modes are fixed for a whole run."""

from __future__ import annotations

from typing import Any, cast

import torch


def compiled(net: torch.nn.Module) -> torch.nn.Module:
    """The network through ``torch.compile``, for calls in one mode and with one set of shapes and flags.

    Each call of this function gives code of its own (a network that is trained and also used frozen wants two),
    and the hundreds of checks per call that nothing about parameters and modules has changed are left out: here
    nothing does. Changed shapes or flags of the inputs still compile again.
    """
    options: dict[str, Any] = {"guard_filter_fn": torch.compiler.skip_guard_on_all_nn_modules_unsafe}
    if next(net.parameters()).device.type == "cpu":
        # Small networks lose by converted memory layouts and by Python between the kernels (benchmarks/).
        options |= {"layout_optimization": False, "cpp_wrapper": True}
    # Not in the type stubs yet: isolate_recompiles.
    return cast(torch.nn.Module, torch.compile(net, dynamic=False, isolate_recompiles=True, options=options))  # type: ignore[call-overload]
