"""Evaluations of networks that a GPU is asked for all at once: a CUDA graph for each network and shape of batch.

A small network's kernels run faster than a processor can ask for them one by one. The kernels are the same, so are the
numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch

from sida.progress import say
from sida.runtime.graphs import Recording, RecordingError, Tensors

#: ``record(function, inputs)``: the function of tensors by name, as it will be replayed.
RecordFunction = Callable[[Callable[[Tensors], Tensors], Tensors], Callable[[Tensors], Tensors]]
#: Evaluations that pay for a recording, which takes about three.
_WORTH = 8


class Evaluations:
    """Networks as samplers call them, kernel by kernel or replayed.

    What was recorded is kept from one draw to the next, as long as it is the same networks with their weights at the
    same place; the weights' values may change.

    Args:
        record: Records a function; None: all goes kernel by kernel.
    """

    def __init__(self, record: RecordFunction | None = None) -> None:
        self._record = record
        self._kept: dict[str, _Kept] = {}

    @classmethod
    def on(cls, device: torch.device) -> Evaluations:
        """Replayed on a GPU, else kernel by kernel."""
        return cls(Recording if device.type == "cuda" else None)

    def of(self, net: torch.nn.Module, role: str, coming: int, kernels: str = "torch") -> Any:
        """What a sampler calls in place of ``net``, and asks for its attributes.

        Args:
            net: A network in evaluation mode. It must not be evaluated through the result by two threads at a time.
            role: What it is in the draw; a role's next network takes the place of the one before.
            coming: How often the draw evaluates it.
            kernels: What computes it, see :class:`sida.config.samplers.Sampler`.
        """
        if self._record is None:
            return net
        identity = _identity(net, kernels)
        kept = self._kept.get(role)
        if kept is None or kept.identity != identity:
            kept = self._kept[role] = _Kept(identity)
        kept.evaluations += coming
        return _Replayed(net, self, kept) if kept.evaluations >= _WORTH else net

    def call(self, net: torch.nn.Module, kept: _Kept, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """One evaluation; the result stays what it is when the next one runs."""
        shapes = tuple((name, tuple(tensor.shape), tensor.dtype) for name, tensor in inputs.items())
        try:
            if self._record is not None and shapes not in kept.recordings:
                kept.recordings[shapes] = self._record(lambda given: {"images": _evaluate(net, given)}, inputs)
        except RecordingError as reason:
            self._record = None
            say(f"CUDA graphs: {reason}; going on kernel by kernel")
        if self._record is None:
            return _evaluate(net, inputs)
        # The memory of a recording is written by one evaluation after the other, whatever streams they are asked on.
        device = inputs["x"].device
        if kept.done is not None:
            torch.cuda.current_stream(device).wait_event(kept.done)
        images = kept.recordings[shapes](inputs)["images"].clone()
        kept.done = torch.cuda.current_stream(device).record_event() if device.type == "cuda" else None
        return images


@dataclasses.dataclass
class _Kept:
    """What is known of a role's network: which it is, its recordings by shapes, and the end of the last evaluation."""

    identity: tuple[Any, ...]
    evaluations: int = 0
    recordings: dict[Any, Callable[[Tensors], Tensors]] = dataclasses.field(default_factory=dict)
    done: torch.cuda.Event | None = None


class _Replayed:
    """Stands for a network: the same attributes, and calls that are replayed."""

    def __init__(self, net: torch.nn.Module, evaluations: Evaluations, kept: _Kept) -> None:
        self._net, self._evaluations, self._kept = net, evaluations, kept

    def __getattr__(self, name: str) -> Any:
        return getattr(self._net, name)

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        inputs = {"x": x, "sigma": sigma} | ({} if labels is None else {"labels": labels})
        return self._evaluations.call(self._net, self._kept, inputs)


def _identity(net: torch.nn.Module, kernels: str) -> tuple[Any, ...]:
    """Equal for networks that run the same kernels on the same memory."""
    settings = [getattr(net, name, None) for name in ("init_config", "use_fp16", "half_dtype")]
    places = [tensor.data_ptr() for tensor in (*net.parameters(), *net.buffers())]
    return (kernels, type(net), repr(settings), *places)


def _evaluate(net: torch.nn.Module, given: Mapping[str, torch.Tensor]) -> torch.Tensor:
    images: torch.Tensor = net(given["x"], given["sigma"], given.get("labels"))
    return images
