"""Networks for tests: with recorded weights, and with random ones, since fresh networks end in zero layers."""

from collections.abc import Mapping
from typing import Any

import torch

from sida.networks import build_network
from tests.golden.vectors import below

#: A U-Net of 8×8 images that is built in milliseconds.
SMALL = {
    "img_resolution": 8, "img_channels": 1, "label_dim": 3, "model_type": "SongUNet", "model_channels": 8,
    "channel_mult": [1], "num_blocks": 1, "attn_resolutions": [4],
}  # fmt: skip
SIZES = {"img_resolution": 8, "img_channels": 2, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [4]}
SONG = {**SIZES, "model_type": "SongUNet", "model_channels": 8}
NCSN = {**SONG, "embedding_type": "fourier", "channel_mult_noise": 2, "resample_filter": [1, 3, 3, 1]}
ADM = {**SIZES, "model_type": "DhariwalUNet", "model_channels": 64, "channel_mult_emb": 1}
FILTER = {"resample_filter": [1, 3, 3, 1], "channel_mult_noise": 2, "channel_mult_emb": 3}
#: Every architecture, built in milliseconds: class and constructor arguments.
CONFIGS = {
    "ddpmpp": ("EDMPrecond", {**SONG, "label_dim": 3, "augment_dim": 9}),
    "ncsnpp": ("EDMPrecond", {**NCSN, "encoder_type": "residual", "augment_dim": 4}),
    "adm": ("EDMPrecond", {**ADM, "label_dim": 3, "augment_dim": 9}),
    "edm2": (
        "EDM2Precond",
        {**SIZES, "model_channels": 8, "channels_per_head": 4, "label_dim": 3, "logvar_channels": 8},
    ),
    "edm2_filter": (
        "EDM2Precond",
        {**SIZES, **FILTER, "model_channels": 8, "attn_resolutions": [], "clip_act": None, "weight_norm": "off"},
    ),
}


def config(name: str, **changes: Any) -> dict[str, Any]:
    """An architecture of :data:`CONFIGS` with other arguments."""
    cls, kwargs = CONFIGS[name]
    return {"class": cls, "kwargs": {**kwargs, **changes}}


def random_network(cls: str, kwargs: Mapping[str, Any], seed: int = 0, std: float = 0.1) -> Any:
    """A network whose parameters are all normal, in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = build_network({"class": cls, "kwargs": kwargs})
        for parameter in net.parameters():
            torch.nn.init.normal_(parameter, std=std)
    return net.eval()


def recorded_network(arrays: Mapping[str, Any], cls: str, kwargs: Mapping[str, Any], prefix: str = "param/") -> Any:
    """A network with the weights of a golden vector, in evaluation mode."""
    net = build_network({"class": cls, "kwargs": kwargs})
    net.load_state_dict({name: torch.as_tensor(value) for name, value in below(arrays, prefix).items()})
    return net.eval()


def inputs(arrays: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """Recorded images, levels and labels (None where there are no classes)."""
    return arrays["in/x"], arrays["in/sigma"], arrays.get("in/class_labels")
