"""CUDA graphs, which record kernels once and replay them, and ``torch.compile``."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch

from sida.progress import say

Tensors = Mapping[str, torch.Tensor]
#: Calls before the recording, in which libraries choose their kernels and allocate their workspace.
_WARM_UP = 2


class RecordingError(Exception):
    """The kernels of a function cannot be recorded as a CUDA graph; the message gives the reason."""


@contextlib.contextmanager
def restored(tensors: Sequence[torch.Tensor]) -> Iterator[None]:
    """Restores the values of tensors at the end of the context."""
    # The copies lie on the CPU: a recording already takes the peak of the device's memory.
    kept = [tensor.to("cpu", copy=True) for tensor in tensors]
    try:
        yield
    finally:
        for tensor, value in zip(tensors, kept):
            tensor.copy_(value)


class Recording:
    """A CUDA graph of a function of tensors on a GPU.

    The function may draw from the device's global torch generator, which advances as in a direct call, but must not
    read a value on the CPU. Each replay reads and writes the memory of the tensors that the recording saw.

    Args:
        function: Takes and returns tensors by name.
        inputs: Tensors with the shapes, dtypes and device of all later calls.
        pool: ``torch.cuda.graph_pool_handle()``: memory shared with other recordings, which must not run at the same
            time; use the outputs before the next one runs. None allocates separate memory.
        protected: Tensors that the calls before the recording may change; their values are restored.

    Raises:
        RecordingError: The function reads a value on the CPU, or fails.
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
        with restored(protected):
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
        # Other threads read data ahead and write states meanwhile. Only the current device is recorded.
        with torch.cuda.device(device), torch.cuda.graph(self.graph, pool=pool, capture_error_mode="thread_local"):
            self.outputs = dict(function(self.inputs))

    def __call__(self, inputs: Tensors) -> Tensors:
        """Runs the kernels on new inputs; all calls return the same output tensors with new values."""
        for name, tensor in inputs.items():
            self.inputs[name].copy_(tensor, non_blocking=True)
        self.graph.replay()
        return self.outputs


def compiled(net: torch.nn.Module) -> torch.nn.Module:
    """Compiles a network with ``torch.compile``, for calls in one mode and with one set of shapes and flags.

    Each call of this function gives separate code: a network that is trained and also used frozen needs two. The
    compiled code does not check at each call whether parameters and modules have changed, since they never do here.
    Changed shapes or flags of the inputs still compile again.

    A torch that cannot separate the code of two calls compiles with all checks. Without a C++ compiler the function
    returns the network itself. In both cases it prints one line.
    """
    device = next(net.parameters()).device.type
    fault = _fault(device)
    if fault is not None:
        _say_once(f"compile: torch {torch.__version__} cannot compile here ({fault}); continuing without it")
        return net
    # Converted memory layouts and Python code between the kernels make small networks slower (benchmarks/).
    options: dict[str, Any] = {"layout_optimization": False, "cpp_wrapper": True} if device == "cpu" else {}
    skip_checks = getattr(torch.compiler, "skip_guard_on_all_nn_modules_unsafe", None)
    isolate: dict[str, Any] = {}
    # Without checks, the code of one mode of the network would also run for the other mode.
    if skip_checks is not None and "isolate_recompiles" in inspect.signature(torch.compile).parameters:
        isolate["isolate_recompiles"] = True
        options["guard_filter_fn"] = skip_checks
    else:
        _say_once(f"compile: torch {torch.__version__} compiles with checks at every call; a newer one is faster")
    return cast(torch.nn.Module, torch.compile(net, dynamic=False, options=options, **isolate))


@functools.cache
def _fault(device: str) -> str | None:
    """Reason why ``torch.compile`` does not work on a device, found by a trial, or None."""
    try:
        torch.compile(torch.neg, dynamic=False)(torch.ones(1, device=device))
    except Exception as error:  # training continues without, whatever the error
        return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return None


@functools.cache
def _say_once(line: str) -> None:
    say(line)
