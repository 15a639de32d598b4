"""From the JSON stored in configurations and checkpoints to a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from sida.errors import UserError, suggestion
from sida.networks.dhariwal_unet import DhariwalUNet
from sida.networks.options import check_options
from sida.networks.precond import EDMPrecond, VEPrecond, VPPrecond, find_unet
from sida.networks.song_unet import SongUNet

NETWORKS: dict[str, type[nn.Module]] = {
    cls.__name__: cls for cls in (EDMPrecond, VPPrecond, VEPrecond, SongUNet, DhariwalUNet)
}


def build_network(config: Mapping[str, Any], where: str = "network") -> nn.Module:
    """Builds a network with fresh weights, drawn from torch's global generator.

    Args:
        config: ``{"class": name, "kwargs": {...}}``: the class names and keyword arguments of this package, which are
            those of the official networks. ``net.init_config`` of a built network is such a mapping.
        where: Place named in errors, e.g. file and key.

    Returns:
        The network, in training mode, on the default device.

    Raises:
        UserError: Unknown class, unknown or missing keyword, wrong type or value.
    """
    if not isinstance(config, Mapping) or set(config) - {"class", "kwargs"} or "class" not in config:
        raise UserError(f"{where}: must be a mapping with the keys 'class' and 'kwargs'")
    name, kwargs = config["class"], config.get("kwargs", {})
    if name not in NETWORKS:
        raise UserError(f"{where}.class: unknown network '{name}'{suggestion(str(name), NETWORKS)}")
    if not isinstance(kwargs, Mapping):
        raise UserError(f"{where}.kwargs: must be a mapping of constructor arguments")
    cls = NETWORKS[name]
    unet = None
    if name in ("EDMPrecond", "VPPrecond", "VEPrecond"):
        default = "DhariwalUNet" if name == "EDMPrecond" else "SongUNet"
        unet = find_unet(str(kwargs.get("model_type", default)), f"{where}.kwargs.model_type")
    return cls(**check_options(cls, kwargs, f"{where}.kwargs", extra=unet))
