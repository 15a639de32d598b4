"""From the JSON stored in configurations and checkpoints to a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from sida.errors import UserError, suggestion
from sida.families import EDM, Family
from sida.networks.dhariwal_unet import DhariwalUNet
from sida.networks.edm2_precond import EDM2Precond
from sida.networks.edm2_unet import EDM2UNet
from sida.networks.edm_precond import EDMPrecond, GDDPrecond
from sida.networks.options import check_options
from sida.networks.precond import Precond
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
    options, inner = cls.read_options(dict(kwargs), where) if issubclass(cls, Precond) else (dict(kwargs), None)
    return cls(**check_options(cls, options, where, extra=inner))


def family_of(network: Mapping[str, Any] | nn.Module) -> Family:
    """Family of a network, built or as ``{class, kwargs}``; modules that are not ours are taken for EDM's."""
    config = getattr(network, "init_config", None) if isinstance(network, nn.Module) else network
    cls = NETWORKS.get(config["class"]) if config is not None else None
    return cls.family_of(config["kwargs"]) if config is not None and cls and issubclass(cls, Precond) else EDM
