"""Kernels recorded once as a CUDA graph and then replayed."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch

from sida.progress import say

Tensors = Mapping[str, torch.Tensor]
#: Calls before the recording: libraries choose their kernels and take their workspace in them.
_WARM_UP = 2


class RecordingError(Exception):
    """The kernels of a function cannot be recorded; the text says why."""


@contextlib.contextmanager
def put_back(tensors: Sequence[torch.Tensor]) -> Iterator[None]:
    """Tensors that change within it get their values back."""
    # Not on their device: a recording takes the most memory that is ever taken there.
    kept = [tensor.to("cpu", copy=True) for tensor in tensors]
    try:
        yield
    finally:
        for tensor, value in zip(tensors, kept):
            tensor.copy_(value)


class Recording:
    """A function of tensors on a GPU, as the kernels that it runs.

    The function may draw from torch's global generator of the device (it goes on as if the function had been called),
    but must not look at a value. Its tensors are read and written where they lay when it was recorded.

    Args:
        function: Takes and returns tensors by name.
        inputs: Of the shapes, dtypes and device of all later calls.
        pool: ``torch.cuda.graph_pool_handle()``: memory that is shared with other recordings. They must not run at
            the same time, and outputs are to be used before the next one runs. None takes memory of its own.
        protected: Tensors that the calls before the recording may change: they get their values back.

    Raises:
        RecordingError: The function looks at a value, or whatever else goes wrong within it.
    """

    def __init__(
        self,
        function: Callable[[Tensors], Tensors],
        inputs: Tensors,
        pool: Any = None,
        protected: Sequence[torch.Tensor] = (),
    ) -> None:
        self.inputs = {name: tensor.clone() for name, tensor in inputs.items()}
        self.graph = torch.cuda.CUDAGraph()
        device = next(iter(self.inputs.values())).device
        random = torch.cuda.get_rng_state(device)
        with put_back(protected):
            try:
                self._record(function, pool, device)
            except (RuntimeError, RecordingError) as error:
                first = str(error).strip().splitlines() or [type(error).__name__]
                raise RecordingError(f"a step's kernels cannot be recorded ({first[0]})") from None
            finally:
                torch.cuda.synchronize(device)
                torch.cuda.set_rng_state(random, device)

    def _record(self, function: Callable[[Tensors], Tensors], pool: Any, device: torch.device) -> None:
        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP):
                function(self.inputs)
        torch.cuda.current_stream(device).wait_stream(side)
        # Other threads go on meanwhile: they read data ahead and write states. The current device is recorded.
        with torch.cuda.device(device), torch.cuda.graph(self.graph, pool=pool, capture_error_mode="thread_local"):
            self.outputs = dict(function(self.inputs))

    def __call__(self, inputs: Tensors) -> Tensors:
        """Runs the kernels on other inputs; the outputs lie where they always lie."""
        for name, tensor in inputs.items():
            self.inputs[name].copy_(tensor, non_blocking=True)
        self.graph.replay()
        return self.outputs


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
