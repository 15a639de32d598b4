"""Networks from the JSON in configurations, and network files with weights, architecture and provenance.

Files are safetensors; reading them executes no code.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from sida.config.families import EDM, Family
from sida.config.plugins import Registry, RegistryEntry
from sida.errors import SettingError, UserError, settings_in
from sida.files.atomic import atomic_path
from sida.files.tensors import RECORD_KEY, TensorHeader, iterate_tensors, read_record, read_tensor_header, write_tensors
from sida.files.unpickler import FOREIGN_WEIGHTS
from sida.networks.precond import Precond
from sida.networks.unet import check_options

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
        "EDM2Precond": RegistryEntry("sida.networks.precond:EDM2Precond"),
        "SongUNet": RegistryEntry("sida.networks.edm_unet:SongUNet"),
        "DhariwalUNet": RegistryEntry("sida.networks.edm_unet:DhariwalUNet"),
        "EDM2UNet": RegistryEntry("sida.networks.edm2_unet:EDM2UNet"),
    },
)


def build_network(config: Mapping[str, Any], where: str = "network") -> nn.Module:
    """Builds a network with fresh weights, drawn from torch's global generator.

    Args:
        config: ``{"class": name, "kwargs": {...}}`` with the class names and keyword arguments of the official
            networks, such as ``net.init_config``; U-Nets may be named ``..._EncoderDecoder``, as in SiDA's code. An
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
    net = _made(cls, check_options(cls, options, where, extra=cls.unet_class(options, where)), where)
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


NETWORK_FORMAT = "sida-network-1"


def save_network(net: torch.nn.Module, path: str | os.PathLike[str], metadata: Mapping[str, Any]) -> None:
    """Writes a network: float32 tensors and one JSON text in the header. Equal content gives equal bytes.

    Args:
        net: Module with an ``init_config`` (``{"class": ..., "kwargs": {...}}``). Its whole state dict is stored;
            floating tensors as float32.
        path: Target file, written atomically.
        metadata: Provenance (``method``, ``dataset``, ``nimg``, ``parents``, ``code_version``, ...) as JSON values. A
            key ``network`` replaces ``net.init_config``. Leave dates out if runs are to be compared bit for bit.

    Raises:
        UserError: A tensor has NaN or infinity, or the metadata are not JSON.
    """
    write_state_dict(net.state_dict(), path, {"network": getattr(net, "init_config", None), **metadata})


def write_state_dict(
    state: Mapping[str, torch.Tensor], path: str | os.PathLike[str], metadata: Mapping[str, Any]
) -> None:
    """Writes a network from its state dict; see :func:`save_network`.

    Args:
        state: The whole state dict, in its order.
        path: Target file.
        metadata: Provenance, with the architecture under ``network``.

    Raises:
        UserError: As :func:`save_network`.
    """
    record = {**metadata, "format": NETWORK_FORMAT, "network": check_network_config(metadata.get("network"), str(path))}
    tensors = {}
    for name, tensor in state.items():
        tensors[name] = tensor.detach().to(torch.float32 if tensor.is_floating_point() else tensor.dtype)
        if tensor.is_floating_point() and not torch.isfinite(tensors[name]).all():
            raise UserError(path, f"not written, tensor '{name}' holds NaN or infinity", "resume from an earlier state")
    write_tensors(path, tensors, record)


def load_network(
    path: str | os.PathLike[str], device: str | torch.device = "cpu"
) -> tuple[torch.nn.Module, dict[str, Any]]:
    """Builds the network that a file describes, and loads its tensors.

    Args:
        path: File of :func:`save_network` or :func:`sida.networks.official.import_official`.
        device: Device of the network.

    Returns:
        ``(net, metadata)``: the network in eval mode (float32), and the header's JSON as a dictionary.

    Raises:
        UserError: The file is missing, empty, cut off or not safetensors, has NaN or no architecture, or its tensors
            are not exactly those of its architecture.
    """
    path = Path(path)
    header = read_tensor_header(path)
    metadata = _metadata(path, header)
    net = build_on_meta(metadata["network"], len(header.entries), str(path))
    check_names_and_shapes(path, {e.name: e.shape for e in header.entries}, net)
    state, loaded = net.state_dict(), {}
    for name, tensor in iterate_tensors(path, header):
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise UserError(path, f"tensor '{name}' holds NaN or infinity", "use an earlier snapshot")
        loaded[name] = tensor.to(state[name].dtype)
    net.load_state_dict(loaded, strict=True, assign=True)
    if any(buffer.is_meta for buffer in net.buffers()):
        # Constants outside the state dict need a network built in real memory.
        with torch.random.fork_rng(devices=[]):
            net = build_network(metadata["network"])
        net.load_state_dict(loaded, strict=True)
    for parameter in net.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    return net.eval().to(device), metadata


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads architecture and provenance from the header, without the tensors; raises as :func:`load_network`."""
    return _metadata(Path(path), read_tensor_header(path))


def copy_network(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> dict[str, Any]:
    """Copies a network file byte by byte, after a look at its header; returns the header's JSON."""
    metadata = read_metadata(source)
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)
    return metadata


def check_network_config(network: Any, where: str) -> dict[str, Any]:
    """Returns a network's ``{"class": text, "kwargs": mapping}``; raises UserError for anything else."""
    if (
        not isinstance(network, Mapping)
        or not isinstance(network.get("class"), str)
        or not isinstance(network.get("kwargs"), Mapping)
    ):
        fault = "no architecture (a mapping with 'class' and 'kwargs')"
        raise UserError(where, fault, "make the file with sida convert")
    return {"class": network["class"], "kwargs": dict(network["kwargs"])}


def check_names_and_shapes(path: Path, found: Mapping[str, tuple[int, ...]], net: torch.nn.Module) -> None:
    """Requires exactly the tensors of ``net``, with equal shapes; raises UserError."""
    expected = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    kind = type(net).__name__
    missing = [name for name in expected if name not in found]
    extra = [name for name in found if name not in expected]
    remedy = "convert the original again"
    for names, verb in ((missing, "misses"), (extra, "has unexpected")):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise UserError(path, f"{verb} tensor '{names[0]}'{more} for its architecture {kind}", remedy)
    for name, shape in expected.items():
        if found[name] != shape:
            fault = f"tensor '{name}' has shape {list(found[name])}, its architecture {kind} needs {list(shape)}"
            raise UserError(path, fault, remedy)


def build_on_meta(network: Mapping[str, Any], num_tensors: int, where: str) -> torch.nn.Module:
    """Builds a network whose large tensors have shapes but no content (torch's meta device).

    Args:
        network: ``{"class": ..., "kwargs": {...}}``.
        num_tensors: Tensors in the file; an architecture with more blocks is refused before it is built.
        where: File named in errors.
    """
    kwargs = network["kwargs"]
    blocks, levels = kwargs.get("num_blocks", 1), kwargs.get("channel_mult", ())
    if isinstance(blocks, int) and isinstance(levels, (list, tuple)) and blocks * max(len(levels), 1) > num_tensors:
        fault = f"architecture claims {blocks * max(len(levels), 1)} blocks, the file has {num_tensors} tensors"
        raise UserError(where, fault, "not loaded")
    try:
        # Small tensors are drawn, and loading must not change the draws of the caller.
        with torch.random.fork_rng(devices=[]), ShapesOnly():
            return build_network(network, f"{where}: network")
    except UserError:
        raise
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(where, f"architecture '{network['class']}' cannot be built ({reason})") from None


def _metadata(path: Path, header: TensorHeader) -> dict[str, Any]:
    if RECORD_KEY not in header.metadata:
        fault = f"written by another program (no '{RECORD_KEY}' header) with an unknown architecture"
        raise UserError(path, fault, FOREIGN_WEIGHTS)
    record = read_record(path, header)
    if record.get("format") != NETWORK_FORMAT:
        raise UserError(path, f"its '{RECORD_KEY}' header is not of format '{NETWORK_FORMAT}'", "make the file again")
    return {**record, "network": check_network_config(record.get("network"), str(path))}
