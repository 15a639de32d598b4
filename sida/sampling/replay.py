"""Evaluations of networks by CUDA graphs, one for each network and shape of batch.

The kernels of a small network run faster than a processor can launch them one by one. A graph launches the same kernels
together, with the same numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch

from sida.progress import say
from sida.runtime.graphs import Recording, RecordingError, Tensors

#: ``record(function, inputs)`` returns a replayable form of a function of tensors by name.
RecordFunction = Callable[[Callable[[Tensors], Tensors], Tensors], Callable[[Tensors], Tensors]]
#: Smallest number of evaluations worth a recording, which takes as long as about three.
_WORTH = 8


class Evaluations:
    """Evaluates networks for samplers, kernel by kernel or by replayed graphs.

    Draws share recordings as long as the networks and the addresses of their weights stay the same; the values of the
    weights may change.

    Args:
        record: Function that records; None evaluates kernel by kernel.
    """

    def __init__(self, record: RecordFunction | None = None) -> None:
        self._record = record
        self._kept: dict[str, _Kept] = {}

    @classmethod
    def on(cls, device: torch.device) -> Evaluations:
        """Returns evaluations by replayed graphs on a GPU, else kernel by kernel."""
        return cls(Recording if device.type == "cuda" else None)

    def of(self, net: torch.nn.Module, role: str, coming: int, kernels: str = "torch") -> Any:
        """Returns a substitute for ``net`` with the same attributes, for a sampler to call.

        Args:
            net: Network in evaluation mode. Two threads must not call the substitute at the same time.
            role: Role of the network in the draw; a role's new network replaces the network before.
            coming: Number of evaluations in the draw.
            kernels: Kernels of the network, see :class:`sida.config.samplers.Sampler`.
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
        """Evaluates the network once; the next evaluation does not overwrite the result."""
        shapes = tuple((name, tuple(tensor.shape), tensor.dtype) for name, tensor in inputs.items())
        try:
            if self._record is not None and shapes not in kept.recordings:
                kept.recordings[shapes] = self._record(lambda given: {"images": _evaluate(net, given)}, inputs)
        except RecordingError as reason:
            self._record = None
            say(f"CUDA graphs: {reason}; sampling continues kernel by kernel")
        if self._record is None:
            return _evaluate(net, inputs)
        # Evaluations write the memory of a recording one after the other, on any streams.
        device = inputs["x"].device
        if kept.done is not None:
            torch.cuda.current_stream(device).wait_event(kept.done)
        images = kept.recordings[shapes](inputs)["images"].clone()
        kept.done = torch.cuda.current_stream(device).record_event() if device.type == "cuda" else None
        return images


@dataclasses.dataclass
class _Kept:
    """State of a role: the network's identity, its recordings by shape, and the end of the last evaluation."""

    identity: tuple[Any, ...]
    evaluations: int = 0
    recordings: dict[Any, Callable[[Tensors], Tensors]] = dataclasses.field(default_factory=dict)
    done: torch.cuda.Event | None = None


class _Replayed:
    """Substitute for a network: the same attributes, with replayed calls."""

    def __init__(self, net: torch.nn.Module, evaluations: Evaluations, kept: _Kept) -> None:
        self._net, self._evaluations, self._kept = net, evaluations, kept

    def __getattr__(self, name: str) -> Any:
        return getattr(self._net, name)

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        inputs = {"x": x, "sigma": sigma} | ({} if labels is None else {"labels": labels})
        return self._evaluations.call(self._net, self._kept, inputs)


def _identity(net: torch.nn.Module, kernels: str) -> tuple[Any, ...]:
    """Key that is equal for networks that run the same kernels on the same memory."""
    settings = [getattr(net, name, None) for name in ("init_config", "use_fp16", "half_dtype")]
    places = [tensor.data_ptr() for tensor in (*net.parameters(), *net.buffers())]
    return (kernels, type(net), repr(settings), *places)


def _evaluate(net: torch.nn.Module, given: Mapping[str, torch.Tensor]) -> torch.Tensor:
    images: torch.Tensor = net(given["x"], given["sigma"], given.get("labels"))
    return images
