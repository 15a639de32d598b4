"""Networks from the JSON in configurations, and network files with weights, architecture and provenance.

Files are safetensors; reading them executes no code.
"""

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import nn

from sida.config.registries import Registry
from sida.config.settings import from_mapping
from sida.errors import SettingError, UserError, one_line, reason_of, settings_in
from sida.files.content import ENCODE, LATENTS
from sida.files.foreign import FOREIGN_WEIGHTS
from sida.files.tensors import (
    RECORD_KEY,
    TensorHeader,
    check_finite,
    iterate_tensors,
    read_again,
    read_tensor_header,
    write_tensors,
)
from sida.networks.precond import Precond

#: Classes of networks by their names, which files record.
NETWORKS: Registry[type[Precond]] = Registry("networks", "network", "sida.networks.precond:Precond")
#: Longest list in a network's options.
_LONGEST = 32


def checked_network(config: Any, where: str = "network") -> tuple[type[Precond], dict[str, Any]]:
    """Checks a network's description; its class lists the options (`Precond.options_of`).

    Args:
        config: See `build_network`.
        where: Place named in errors, e.g. file and key.

    Returns:
        The class, and the given keyword arguments in the annotated types.

    Raises:
        UserError: See `build_network`.
    """
    config = check_network_config(config, where)
    cls, where = network_class(config, where), f"{where}.kwargs"
    with settings_in(where):
        options = cls.options_of(config["kwargs"])
    fields = {"half_dtype": ("half_dtype", Literal["float16", "bfloat16"], "float16"), **options}
    schema = dataclasses.make_dataclass(cls.__name__, fields.values(), kw_only=True)
    checked: Any = from_mapping(schema, config["kwargs"], where)
    for name, value in vars(checked).items():
        if isinstance(value, tuple) and len(value) > (most := cls.long_options.get(name, _LONGEST)):
            raise SettingError(f"{where}.{name}", f"must have at most {most} entries, got {len(value)}")
    return cls, {name: getattr(checked, name) for name in config["kwargs"]}


def build_network(config: Mapping[str, Any], where: str = "network") -> Precond:
    """Builds a network with fresh weights, drawn from torch's global generator.

    Args:
        config: ``{"class": name, "kwargs": {...}}`` with the class names and keyword arguments of the official
            networks, such as ``net.init_config``; U-Nets may be named ``..._EncoderDecoder``, as in SiDA's code. An
            addition is ``half_dtype``: ``bfloat16`` or ``float16``, see `Precond.half_dtype`. A custom class is named
            ``module:object``; building runs its code, so it needs permission (:mod:`sida.config.lookup`).
        where: Place named in errors, e.g. file and key.

    Returns:
        The network, in training mode, on the default device.

    Raises:
        UserError: Unknown class, unknown or missing keyword, wrong type or value.
    """
    cls, options = checked_network(config, where)
    half = options.pop("half_dtype", None)
    with settings_in(f"{where}.kwargs"):
        net = cls(**options)
    if half is not None:
        net.half_dtype = getattr(torch, half)
    return net


def architecture(net: nn.Module) -> dict[str, Any]:
    """The ``{class, kwargs}`` from which a network was built."""
    return dict(cast(Mapping[str, Any], net.init_config))


def network_class(network: Mapping[str, Any], where: str = "network") -> type[Precond]:
    """Class of a network ``{class, kwargs}``.

    Raises:
        UserError: The class is unknown or not permitted.
    """
    cls: type[Precond] = NETWORKS.find(network["class"], f"{where}.class")
    return cls


def adjusted(network: Mapping[str, Any], options: Mapping[str, Any], where: str) -> tuple[dict[str, Any], Any]:
    """Description of a network with other values of options that no parameter depends on.

    Args:
        network: ``{class, kwargs}``.
        options: Values of `Precond.adjustable` options by name.
        where: Place of the options named in errors.

    Returns:
        The description, and the options in their annotated types.

    Raises:
        SettingError: An option does not exist, is fixed, or has a wrong value.
    """
    allowed = network_class(network).adjustable
    for name in options:
        if name not in allowed:
            fault = f"{network['class']} {f'has {sorted(allowed)} to change' if allowed else 'has none to change'}"
            raise SettingError(f"{where}.{name}", fault, "remove it")
    adjusted_network = {**network, "kwargs": {**network["kwargs"], **options}}
    if not options:
        return adjusted_network, {}
    try:
        build_on_meta(adjusted_network, where)
        kwargs = checked_network(adjusted_network, where)[1]
    except UserError as error:
        raise SettingError(f"{where}.{error.where.rpartition('.')[2]}", error.fault, error.remedy) from None
    return adjusted_network, {name: kwargs[name] for name in options}


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
) -> dict[str, Any]:
    """Writes a network from its state dict, and returns the metadata as written; see :func:`save_network`.

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
        check_finite(path, name, tensors[name], "resume from an earlier state")
    write_tensors(path, tensors, record)
    return record


@read_again
def load_network(
    path: str | os.PathLike[str], device: str | torch.device = "cpu"
) -> tuple[torch.nn.Module, dict[str, Any]]:
    """Builds the network that a file describes, and loads its tensors.

    Args:
        path: File of :func:`save_network` or :func:`sida.networks.import_network`.
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
    net = fitting_network(path, metadata["network"], header.shapes)
    state, loaded = net.state_dict(), {}
    for name, tensor in iterate_tensors(path, header):
        check_finite(path, name, tensor, "use an earlier snapshot")
        loaded[name] = tensor.to(state[name].dtype)
    net.load_state_dict(loaded, strict=True, assign=True)
    for parameter in net.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    return net.eval().to(device), metadata


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads architecture and provenance from the header, without the tensors; raises as :func:`load_network`."""
    return _metadata(Path(path), read_tensor_header(path))


def check_network_config(network: Any, where: str) -> dict[str, Any]:
    """Returns a network's ``{"class": text, "kwargs": mapping}``; raises UserError for anything else."""
    network = {"kwargs": {}, **network} if isinstance(network, Mapping) else {}
    cls, kwargs = network.get("class"), network.get("kwargs")
    if not isinstance(cls, str) or not isinstance(kwargs, Mapping) or len(network) > 2:
        raise UserError(where, "no architecture (a mapping with the keys 'class' and 'kwargs')")
    return {"class": cls, "kwargs": dict(kwargs)}


def build_on_meta(network: Mapping[str, Any], where: str) -> nn.Module:
    """Builds a network whose parameters have shapes but no content (torch's meta device); its constants have content.

    A custom class may compute with its parameters, so it is built in real memory.

    Args:
        network: ``{"class": ..., "kwargs": {...}}``.
        where: File named in errors.
    """
    network = check_network_config(network, where)
    with building_on_meta(where, network["class"], network["class"] in NETWORKS):
        return build_network(network, f"{where}: network")


@contextlib.contextmanager
def building_on_meta(where: str, name: str, on_meta: bool = True) -> Iterator[None]:
    """Within, networks are built without memory, and a failure is one of the architecture that a file describes.

    Args:
        where: File named in errors.
        name: Class named in errors.
        on_meta: False builds in real memory.

    Raises:
        UserError: The network cannot be built.
    """
    memory = torch.device("meta") if on_meta else contextlib.nullcontext()
    try:
        # Loading must not change the draws of the caller.
        with torch.random.fork_rng(devices=[]), memory:
            yield
    except UserError:
        raise
    except Exception as error:  # of torch for absurd sizes, of another library, or of a custom class
        raise UserError(where, f"architecture '{name}' cannot be built ({reason_of(error)})") from None


def fitting_network(
    path: Path,
    network: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    remedy: str = "convert the original again",
) -> nn.Module:
    """Builds a network by :func:`build_on_meta`, and checks that a file has exactly its tensors.

    Args:
        path: The file.
        network: ``{"class": ..., "kwargs": {...}}``.
        shapes: Shapes of the file's tensors by name.
        remedy: Remedy in the error of other tensors.

    Raises:
        UserError: As :func:`build_on_meta` and :func:`check_tensors`.
    """
    net = build_on_meta(network, str(path))
    check_tensors(path, type(net).__name__, shapes, shapes_of(net.state_dict()), remedy)
    return net


def check_tensors(
    path: Path,
    architecture: str,
    shapes: Mapping[str, tuple[int, ...]],
    expected: Mapping[str, tuple[int, ...]],
    remedy: str,
) -> None:
    """Checks that a file has exactly the tensors of a network.

    Args:
        path: The file.
        architecture: Class of the network, named in the error.
        shapes: Shapes of the file's tensors by name.
        expected: Shapes of the network's tensors by name.
        remedy: Remedy in the error of other tensors.

    Raises:
        UserError: A tensor is missing, is more, or has another shape.
    """
    differing = [name for name in {**expected, **shapes} if shapes.get(name) != expected.get(name)]
    if differing:
        name, more = differing[0], f" ({len(differing)} tensors differ)" if len(differing) > 1 else ""
        has, needs = ("none" if name not in of else list(of[name]) for of in (shapes, expected))
        tensor = f"tensor '{one_line(name, 80)}'"
        fault = f"{tensor}: the file has {has}, its architecture {architecture} needs {needs}{more}"
        raise UserError(path, fault, remedy)


def shapes_of(state: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    """Shape of each tensor by name."""
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def _metadata(path: Path, header: TensorHeader) -> dict[str, Any]:
    record = header.record
    if record is None and "latents" in header.shapes:
        raise UserError(path, f"is {LATENTS}, not a network", ENCODE)
    if record is None:
        fault = f"written by another program (no '{RECORD_KEY}' header) with an unknown architecture"
        raise UserError(path, fault, FOREIGN_WEIGHTS)
    if record.get("format") != NETWORK_FORMAT:
        raise UserError(path, f"its '{RECORD_KEY}' header is not of format '{NETWORK_FORMAT}'", "make the file again")
    return {**record, "network": check_network_config(record.get("network"), str(path))}
