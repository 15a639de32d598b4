"""From the JSON stored in configurations and checkpoints to a network."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from sida.errors import UserError, suggestion
from sida.networks.dhariwal_unet import DhariwalUNet
from sida.networks.edm2_precond import EDM2Precond, official_weight_norm
from sida.networks.edm2_unet import EDM2UNet
from sida.networks.edm_precond import EDMPrecond, GDDPrecond
from sida.networks.options import check_options
from sida.networks.precond import find_unet
from sida.networks.song_unet import SongUNet
from sida.networks.vp_ve_precond import VEPrecond, VPPrecond

NETWORKS: dict[str, type[nn.Module]] = {
    cls.__name__: cls
    for cls in (EDMPrecond, GDDPrecond, VPPrecond, VEPrecond, SongUNet, DhariwalUNet, EDM2UNet, EDM2Precond)
}


def build_network(config: Mapping[str, Any], where: str = "network") -> nn.Module:
    """Builds a network with fresh weights, drawn from torch's global generator.

    Args:
        config: ``{"class": name, "kwargs": {...}}``: the class names and keyword arguments of this package, which are
            those of the official networks. ``net.init_config`` of a built network is such a mapping. Two
            spellings of SiDA's code are understood too: U-Nets named ``..._EncoderDecoder``, and ``use_gan`` with
            ``force_normalization`` in place of ``weight_norm``.
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
    cls, where = NETWORKS[name], f"{where}.kwargs"
    kwargs = dict(kwargs)
    inner: type[nn.Module] | None = None
    if cls is EDM2Precond:
        inner = EDM2UNet
        kwargs = _explicit_weight_norm(kwargs, where)
    elif "model_type" in inspect.signature(cls).parameters:
        default = inspect.signature(cls).parameters["model_type"].default
        inner = find_unet(str(kwargs.get("model_type", default)), f"{where}.model_type")
    return cls(**check_options(cls, kwargs, where, extra=inner))


def _explicit_weight_norm(kwargs: dict[str, Any], where: str) -> dict[str, Any]:
    flags = {name: kwargs.pop(name) for name in ("use_gan", "force_normalization") if name in kwargs}
    if not flags:
        return kwargs
    if len(flags) == 1 or "weight_norm" in kwargs:
        raise UserError(f"{where}: give either 'weight_norm' or both 'use_gan' and 'force_normalization'")
    return {**kwargs, "weight_norm": official_weight_norm(**{name: bool(flag) for name, flag in flags.items()})}
