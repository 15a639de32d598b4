"""Networks for tests: with recorded weights, and with random ones, since fresh networks end in zero layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from sida.networks import build_network

#: A U-Net of 8×8 images that is built in milliseconds.
SMALL = {
    "img_resolution": 8, "img_channels": 1, "label_dim": 3, "model_type": "SongUNet", "model_channels": 8,
    "channel_mult": [1], "num_blocks": 1, "attn_resolutions": [4],
}  # fmt: skip


def random_network(cls: str, kwargs: Mapping[str, Any], seed: int = 0, std: float = 0.1) -> Any:
    """A network whose parameters are all normal, in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = build_network({"class": cls, "kwargs": kwargs})
        for parameter in net.parameters():
            torch.nn.init.normal_(parameter, std=std)
    return net.eval()


def recorded_network(
    arrays: Mapping[str, Any], cls: str, kwargs: Mapping[str, Any], prefix: str = "param/", strict: bool = True
) -> Any:
    """A network with the weights of a golden vector, in evaluation mode."""
    net = build_network({"class": cls, "kwargs": kwargs})
    state = {k.removeprefix(prefix): torch.as_tensor(v) for k, v in arrays.items() if k.startswith(prefix)}
    net.load_state_dict(state, strict=strict)
    return net.eval()


def inputs(arrays: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """Recorded images, levels and labels (None where there are no classes)."""
    return arrays["in/x"], arrays["in/sigma"], arrays.get("in/class_labels")
