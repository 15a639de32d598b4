"""Construction of networks from the JSON in configurations and checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from sida.config.families import EDM, Family
from sida.config.registry import Registry, RegistryEntry
from sida.errors import SettingError, UserError, settings_in
from sida.networks.options import check_options
from sida.networks.precond import Precond

REAL_BELOW = 4096
"""Tensors with fewer elements (filters, frequencies, schedules) always have content."""
_FACTORIES = {torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn}
_SCALING = {"mul", "add", "sub", "div", "__truediv__"} | {
    f"__{side}{name}__" for side in ("", "r") for name in ("mul", "add", "sub")
}


class ShapesOnly(TorchFunctionMode):
    """Context in which large new tensors have a shape but no content."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Sends large factory calls to the meta device; scaling a tensor without content returns it unchanged."""
        kwargs = kwargs or {}
        if func in _FACTORIES and kwargs.get("device") is None and _num_elements(func, args, kwargs) >= REAL_BELOW:
            # torch.rand on the meta device would import torch's compiler.
            func = torch.empty if func in (torch.rand, torch.randn) else func
            kept = {name: value for name, value in kwargs.items() if name != "generator"}
            return func(*args, **{**kept, "device": "meta"})
        if getattr(func, "__name__", "") in _SCALING and len(args) == 2 and not kwargs:
            tensors = [a for a in args if isinstance(a, torch.Tensor)]
            if len(tensors) == 1 and tensors[0].is_meta and tensors[0].is_floating_point():
                return tensors[0]
        return func(*args, **kwargs)


def _num_elements(func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> int:
    sizes = kwargs.get("size", args[:1] if func is torch.full else args)
    if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)):
        sizes = sizes[0]
    return math.prod(n for n in sizes if isinstance(n, int))


#: Classes of networks by their names, which files record.
NETWORKS = Registry(
    "network",
    "sida.networks.precond:Precond",
    {
        "EDMPrecond": RegistryEntry("sida.networks.precond:EDMPrecond"),
        "GDDPrecond": RegistryEntry("sida.networks.precond:GDDPrecond"),
        "ECTPrecond": RegistryEntry("sida.networks.precond:ECTPrecond"),
        "VPPrecond": RegistryEntry("sida.networks.precond:VPPrecond"),
        "VEPrecond": RegistryEntry("sida.networks.precond:VEPrecond"),
        "EDM2Precond": RegistryEntry("sida.networks.edm2_precond:EDM2Precond"),
        "SongUNet": RegistryEntry("sida.networks.song_unet:SongUNet"),
        "DhariwalUNet": RegistryEntry("sida.networks.dhariwal_unet:DhariwalUNet"),
        "EDM2UNet": RegistryEntry("sida.networks.edm2_unet:EDM2UNet"),
    },
)


def build_network(config: Mapping[str, Any], where: str = "network") -> nn.Module:
    """Builds a network with fresh weights, drawn from torch's global generator.

    Args:
        config: ``{"class": name, "kwargs": {...}}`` with the class names and keyword arguments of the official
            networks, such as ``net.init_config``. Two spellings of SiDA's code are accepted, too: U-Nets named
            ``..._EncoderDecoder``, and ``use_gan`` with ``force_normalization`` in place of ``weight_norm``. An
            addition is ``half_dtype``: ``bfloat16`` or ``float16``, see `Precond.half_dtype`. A custom class is named
            ``module:object``; building runs its code, so it needs permission (:mod:`sida.config.plugins`).
        where: Place named in errors, e.g. file and key.

    Returns:
        The network, in training mode, on the default device.

    Raises:
        UserError: Unknown class, unknown or missing keyword, wrong type or value.
    """
    if not isinstance(config, Mapping) or set(config) - {"class", "kwargs"} or "class" not in config:
        raise UserError(where, "must be a mapping with the keys 'class' and 'kwargs'")
    name, kwargs = config["class"], config.get("kwargs", {})
    cls = NETWORKS.find(str(name), f"{where}.class")
    if not isinstance(kwargs, Mapping):
        raise UserError(f"{where}.kwargs", "must be a mapping of constructor arguments")
    where, options = f"{where}.kwargs", dict(kwargs)
    if not issubclass(cls, Precond):
        return _made(cls, check_options(cls, options, where), where)
    half = options.pop("half_dtype", None)
    if half not in (None, "float16", "bfloat16"):
        raise SettingError(f"{where}.half_dtype", "must be float16 or bfloat16")
    options, inner = cls.read_options(options, where)
    net = _made(cls, check_options(cls, options, where, extra=inner), where)
    if half is not None:
        net.half_dtype = getattr(torch, half)
    return net


def _made(cls: type[nn.Module], options: Mapping[str, Any], where: str) -> Any:
    with settings_in(where):
        return cls(**options)


def architecture(net: nn.Module) -> dict[str, Any]:
    """The ``{class, kwargs}`` from which a network was built."""
    return dict(cast(Mapping[str, Any], net.init_config))


def family_of(network: Mapping[str, Any] | nn.Module, where: str = "network") -> Family:
    """Family of a network or of ``{class, kwargs}``; other modules count as EDM's family.

    Raises:
        UserError: The class is unknown or not permitted.
    """
    config = getattr(network, "init_config", None) if isinstance(network, nn.Module) else network
    if config is None:
        return EDM
    cls = type(network) if isinstance(network, Precond) else NETWORKS.find(config["class"], f"{where}.class")
    return cls.family_of(config["kwargs"]) if issubclass(cls, Precond) else EDM
