"""Networks through ``torch.compile``, where that works."""

from __future__ import annotations

import functools
import inspect
from typing import Any, cast

import torch

from sida.progress import say


def compiled(net: torch.nn.Module) -> torch.nn.Module:
    """The network through ``torch.compile``, for calls in one mode and with one set of shapes and flags.

    Each call of this function gives code of its own (a network that is trained and also used frozen wants two),
    and the hundreds of checks per call that nothing about parameters and modules has changed are left out: here
    nothing does. Changed shapes or flags of the inputs still compile again.

    A torch that cannot keep the code of two calls apart compiles with all checks; where nothing can be compiled (no
    C++ compiler, say) the network itself comes back. One line says so.
    """
    device = next(net.parameters()).device.type
    fault = _fault(device)
    if fault is not None:
        _say_once(f"compile: torch {torch.__version__} cannot compile here ({fault}); going on without it")
        return net
    # Small networks lose by converted memory layouts and by Python between the kernels (benchmarks/).
    options: dict[str, Any] = {"layout_optimization": False, "cpp_wrapper": True} if device == "cpu" else {}
    skip_checks = getattr(torch.compiler, "skip_guard_on_all_nn_modules_unsafe", None)
    isolate: dict[str, Any] = {}
    # Without checks, code that is not kept apart would be taken for the other mode of the network.
    if skip_checks is not None and "isolate_recompiles" in inspect.signature(torch.compile).parameters:
        isolate["isolate_recompiles"] = True
        options["guard_filter_fn"] = skip_checks
    else:
        _say_once(f"compile: torch {torch.__version__} compiles with checks at every call; a newer one is faster")
    return cast(torch.nn.Module, torch.compile(net, dynamic=False, options=options, **isolate))


@functools.cache
def _fault(device: str) -> str | None:
    """Why ``torch.compile`` does not work on a device; None when a trial does."""
    try:
        torch.compile(torch.neg, dynamic=False)(torch.ones(1, device=device))
    except Exception as error:  # whatever it is, training goes on without
        return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return None


@functools.cache
def _say_once(line: str) -> None:
    say(line)
