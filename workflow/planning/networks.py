"""Operations and memory of a network, counted on the meta device: nothing is computed, no weight is there."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class NetworkCost:
    """Cost of a network for one image; 2 operations per multiply-add.

    A backward pass to weights and inputs takes twice the operations of the forward pass, one to the inputs alone
    (through frozen weights) as many: each convolution and product has one such product for either.

    Attributes:
        parameters: Numbers that are learnt.
        forward: Operations of an evaluation.
        encoder: Operations of the encoder alone, which is the discriminator.
        kept: Bytes kept for a backward pass to all weights, in float32.
        kept_frozen: Bytes kept for one to the inputs alone.
        kept_once: Bytes kept whatever the number of images (scaled weights).
    """

    parameters: int
    forward: float
    encoder: float
    kept: float
    kept_frozen: float
    kept_once: float


def network_cost(network: Mapping[str, Any]) -> NetworkCost:
    """Counts a network.

    Args:
        network: ``{class, kwargs}``, see :func:`sida.networks.build_network`.
    """
    # Dropout costs nothing to speak of.
    kwargs = {key: value for key, value in network["kwargs"].items() if key != "dropout"}
    return _counted(json.dumps({**network, "kwargs": kwargs}, sort_keys=True))


@functools.cache
def _counted(text: str) -> NetworkCost:
    import torch

    from sida.networks import build_network

    with torch.device("meta"):
        net = build_network(json.loads(text))
    forward, kept_one = _evaluate(net, 1)
    _, kept_two = _evaluate(net, 2)
    net.requires_grad_(False)
    _, frozen = _evaluate(net, 1)
    encoder, _ = _evaluate(net, 1, "encoder")
    parameters = sum(parameter.numel() for parameter in net.parameters())
    kept = kept_two - kept_one
    once = max(0.0, kept_one - kept)
    return NetworkCost(parameters, forward, encoder, kept, frozen - once, once)


def _evaluate(net: Any, images: int, part: str = "decoder") -> tuple[float, float]:
    """Operations of an evaluation, and bytes that it keeps for a backward pass besides parameters."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import flop_registry

    class Counter(TorchDispatchMode):
        """Adds up the operations of what is dispatched; torch's own counter also follows modules, ten times slower."""

        total = 0.0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            if (count := flop_registry.get(func._overloadpacket)) is not None:
                self.total += count(*args, **(kwargs or {}), out_val=out)
            return out

    own = {parameter.untyped_storage()._cdata for parameter in net.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        place = tensor.untyped_storage()._cdata
        if place not in own:
            kept[place] = tensor
        return tensor

    shape = (images, net.img_channels, net.img_resolution, net.img_resolution)
    x = torch.empty(shape, device="meta", requires_grad=True)
    sigma = torch.empty((images, 1, 1, 1), device="meta")
    labels = torch.empty((images, net.label_dim), device="meta") if net.label_dim else None
    with Counter() as counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        net(x, sigma, labels, return_flag=part)
    return counter.total, float(sum(tensor.untyped_storage().nbytes() for tensor in kept.values()))
