"""Counts operations and memory of a network on the meta device, without weights or computation."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from sida.assets.cache import cache_dir
from sida.files.atomic import write_json
from sida.progress import say
from sida.runtime.provenance import source_digest

#: Number of images in a count: a prime unlike any width or kernel size, which identifies sizes that grow with images.
IMAGES = 11


@dataclasses.dataclass(frozen=True)
class NetworkCost:
    """Cost of a network for one image; 2 operations per multiply-add.

    A backward pass to weights and inputs takes twice the operations of the forward pass; a backward pass to the inputs
    alone (through frozen weights) takes as many as the forward pass.

    Attributes:
        parameters: Number of learnt parameters.
        forward: Operations of an evaluation.
        encoder: Operations of the encoder, which is the discriminator.
        kept: Bytes kept for a backward pass to all weights, in float32.
        kept_frozen: Bytes kept for a backward pass to the inputs alone.
        kept_once: Bytes kept independent of the number of images (scaled weights).
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
    # Dropout is negligible.
    kwargs = {key: value for key, value in network["kwargs"].items() if key != "dropout"}
    return _counted(json.dumps({**network, "kwargs": kwargs}, sort_keys=True))


@functools.cache
def _counted(text: str) -> NetworkCost:
    """Counts for a network's description, cached on disk, since counting a large network takes seconds."""
    digest = hashlib.sha256(f"{source_digest()} {version('torch')} {text}".encode()).hexdigest()
    path = cache_dir() / "counts" / f"{digest[:32]}.json"
    with contextlib.suppress(OSError, ValueError, TypeError):
        return NetworkCost(**json.loads(path.read_bytes()))
    cost = _count(text)
    # A cache of another user may be read-only.
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, dataclasses.asdict(cost))
    return cost


def _count(text: str) -> NetworkCost:
    import torch

    from sida.networks import build_network
    from sida.networks.edm2_unet import MPConv

    network = json.loads(text)
    size, channels = (network["kwargs"].get(key, "?") for key in ("img_resolution", "model_channels"))
    say(f"[plan] counting operations and memory of {network['class']}, {size}×{size}, {channels} channels")
    with torch.device("meta"):
        net = build_network(network)
    for layer in net.modules():
        if isinstance(layer, MPConv):
            # Storing normalised weights takes time and does not count.
            layer.rewrite = "never"
    forward, kept, once = _evaluate(net)
    net.requires_grad_(False)
    _, frozen, _ = _evaluate(net)
    encoder, _, _ = _evaluate(net, "encoder")
    parameters = sum(parameter.numel() for parameter in net.parameters())
    return NetworkCost(parameters, forward, encoder, kept, frozen, once)


def _evaluate(net: Any, part: str = "decoder") -> tuple[float, float, float]:
    """Operations and kept bytes of an evaluation per image, and kept bytes that do not grow with images.

    Kept bytes are those for a backward pass, besides parameters.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import flop_registry

    class Counter(TorchDispatchMode):
        """Adds up the operations of dispatched calls; torch's own counter follows modules and is ten times slower."""

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

    shape = (IMAGES, net.img_channels, net.img_resolution, net.img_resolution)
    x = torch.empty(shape, device="meta", requires_grad=True)
    sigma = torch.empty((IMAGES, 1, 1, 1), device="meta")
    labels = torch.empty((IMAGES, net.label_dim), device="meta") if net.label_dim else None
    with Counter() as counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        net(x, sigma, labels, return_flag=part)
    sizes = [tensor.untyped_storage().nbytes() for tensor in kept.values()]
    of_images = sum(size for size in sizes if size // 4 % IMAGES == 0)
    return counter.total / IMAGES, of_images / IMAGES, float(sum(sizes) - of_images)
