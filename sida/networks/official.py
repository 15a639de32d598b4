"""The authors' pickles: conversion to safetensors without executing code, and description.

A pickled network's records give its class, constructor arguments and named tensors. Plain state dicts of other programs
become a network file where the user names their architecture.
"""

from __future__ import annotations

import hashlib
import inspect
import itertools
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sida.errors import UserError, one_line, suggestion
from sida.files.atomic import sha256_file
from sida.files.pickles import PickleFile, Record, Tensor, read_state_dict
from sida.files.tensors import read_tensor_header, read_tensors, starts_as_pickle
from sida.networks.edm2_unet import copied_weight_norm, official_weight_norm
from sida.networks.file import (
    FOREIGN_WEIGHTS,
    NETWORK_FORMAT,
    NETWORKS,
    build_on_meta,
    check_names_and_shapes,
    check_network_config,
    family_of,
    read_metadata,
    write_state_dict,
)

MAX_MODULES = 50_000
MAX_ENTRIES = 2_000_000
MAX_MODULE_DEPTH = 32
MAX_NAME = 500
#: Limits of constructor arguments: their number, characters of a text. The largest network has 20.
MAX_ARGUMENTS, MAX_ARGUMENT_TEXT = 100, 200
_GROUPS = ("_modules", "_parameters", "_buffers")
_HOOKS = ("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs")
# The suite's class for each outermost class of the released files. SiDA's variants add outputs, not parameters.
_CLASSES = {
    # NVlabs/edm:training/networks.py; the students of SiD (mingyuanzhou/SiD@main) too
    "EDMPrecond": "EDMPrecond",
    "VPPrecond": "VPPrecond",
    "VEPrecond": "VEPrecond",
    # mingyuanzhou/SiD@sida:sida_training/sida_networks.py
    "EDMPrecond_EncoderDecoder": "EDMPrecond",
    # NVlabs/edm2:training/networks_edm2.py
    "Precond": "EDM2Precond",
    # mingyuanzhou/SiD@sida:sida_training_edm2/sida_networks_edm2.py; SiD's, SiDA's and SiD2A's students are generators
    "EDM_2_Precond_EncoderDecoder": "EDM2Precond",
    "EDM_2_Precond_Generator": "EDM2Precond",
    # locuslab/ect:training/networks.py
    "ECMPrecond": "ECTPrecond",
    # Zyriix/GDD:training/networks.py
    "GDDPrecond": "GDDPrecond",
}
# GDD trained in mixed precision, but draws in float32 (Zyriix/GDD:generate.py).
_OVERRIDES = {"GDDPrecond": {"use_fp16": False}}
_SWITCHES = ("use_gan", "force_normalization")
_SHARED_ARGUMENTS = 3


def modules(network: Record, where: str) -> Iterator[tuple[str, Record]]:
    """Yields all modules with their dotted names, the network itself first (name ``""``), in state-dict order.

    Raises:
        UserError: The structure is not that of a network (cycles, endless nesting, values in place of modules).
    """
    pending: list[tuple[str, Any, int]] = [("", network, 0)]
    count = entries = 0
    while pending:
        name, module, depth = pending.pop()
        count += 1
        if not isinstance(module, Record) or not isinstance(module.state, dict):
            raise UserError(where, f"'{one_line(name)}' is no module", "not a network of EDM, EDM2, SiD, SiDA or GDD")
        # In a crafted file many modules may share one large dictionary.
        entries += len(module.state) + sum(len(mapping(module, group, where)) for group in (*_GROUPS, *_HOOKS))
        if count + len(pending) > MAX_MODULES or depth > MAX_MODULE_DEPTH or entries > MAX_ENTRIES:
            raise UserError(where, "refused: more nested modules than any network has")
        yield name, module
        children = mapping(module, "_modules", where)
        pending += [
            (_dotted(name, key, where), child, depth + 1)
            for key, child in reversed(children.items())
            if child is not None
        ]


def network_tensors(network: Record, where: str) -> dict[str, Tensor]:
    """The state dict: parameters and persistent buffers by dotted name."""
    found: dict[str, Tensor] = {}
    for name, module in modules(network, where):
        transient = module.state.get("_non_persistent_buffers_set")
        transient = transient if isinstance(transient, (set, frozenset)) else ()
        for group in ("_parameters", "_buffers"):
            for key, value in mapping(module, group, where).items():
                if value is None or (group == "_buffers" and key in transient):
                    continue
                full = _dotted(name, key, where)
                if not isinstance(value, Tensor):
                    raise UserError(where, f"'{one_line(full)}' is no tensor", "the file is damaged or foreign")
                found[full] = value
        if len(found) > MAX_MODULES:
            raise UserError(where, "refused: more tensors than any network has")
    if not found:
        raise UserError(where, "the network has no tensors", "not a network of EDM, EDM2, SiD, SiDA or GDD")
    return found


def _dotted(name: str, key: Any, where: str) -> str:
    if not isinstance(key, str) or len(name) + len(key) > MAX_NAME:
        fault = f"refused: a key below '{one_line(name, 80)}' is no name, or longer than any network's"
        raise UserError(where, fault)
    return f"{name}.{key}" if name else key


def mapping(module: Record, group: str, where: str) -> dict[Any, Any]:
    """One of a module's dictionaries."""
    value = module.state.get(group, {})
    if not isinstance(value, dict):
        raise UserError(
            where, f"{one_line(module.class_name, 80)}.{group} is no mapping", "the file is damaged or foreign"
        )
    return value


def network_config(
    network: Record, names: Mapping[str, Tensor], where: str, network_class: str | None = None
) -> dict[str, Any]:
    """Recovers ``{"class", "kwargs"}`` for :func:`sida.networks.build_network`.

    Args:
        network: Record of the preconditioned network.
        names: Tensors of the network.
        where: File named in errors.
        network_class: The suite's class, which overrides the name in the file.

    Raises:
        UserError: The class is unknown, or the file does not record the constructor arguments.
    """
    own = network_class or _CLASSES.get(network.class_name)
    if own is None:
        raise UserError(
            where,
            f"architecture '{one_line(network.class_name)}' is none of EDM, EDM2, SiD, SiDA or GDD",
            "if one of ours computes the same, name it (--network-class)",
        )
    if own not in NETWORKS:
        raise UserError(where, f"there is no network class '{own}'{suggestion(own, NETWORKS)}")
    args, kwargs = network.state.get("_init_args", ()), network.state.get("_init_kwargs")
    if not isinstance(args, tuple) or not isinstance(kwargs, dict):
        raise UserError(
            where, f"{one_line(network.class_name)} does not record its constructor arguments", "not loadable"
        )
    if len(args) > _SHARED_ARGUMENTS:
        raise UserError(
            where,
            f"{one_line(network.class_name)} records {len(args)} constructor arguments by position",
            f"beyond the first {_SHARED_ARGUMENTS} the authors' classes disagree, and their files name them",
        )
    if len(kwargs) > MAX_ARGUMENTS or not all(isinstance(key, str) and len(key) < MAX_ARGUMENT_TEXT for key in kwargs):
        raise UserError(where, "refused: constructor arguments that no network has")
    order = list(inspect.signature(NETWORKS[own].load()).parameters)
    given = {**dict(zip(order, args)), **kwargs}
    given = {key: _json_value(value, f"{where}: {one_line(key)}") for key, value in given.items()}
    family = family_of({"class": own, "kwargs": given})
    switches = {key: bool(given.pop(key)) for key in _SWITCHES if family.weight_norm and key in given}
    if family.variance_head and "logvar_linear.weight" not in names:
        # SiDA's generators have no such head, although their class takes the argument.
        given[family.variance_head] = None
    if family.weight_norm:
        given["weight_norm"] = weight_norm(network, switches, where)
    return {"class": own, "kwargs": {**given, **_OVERRIDES.get(own, {})}}


def weight_norm(network: Record, switches: Mapping[str, bool], where: str) -> str:
    """Mode of weight normalisation of a pickled EDM2 network (fact 21 of tests/golden/README.md).

    Forced normalisation is a pre-hook bound to a module. In a pickle made from a copy, the bound module is a detached
    twin with the training flag of the time of the copy, which decides between ``always`` and ``off``.
    """
    flags = []
    for _, module in modules(network, where):
        for group in _HOOKS:
            if not isinstance(module.state.get(group), dict):
                continue
            for hook in module.state[group].values():
                method = hook[0] if isinstance(hook, tuple) and hook else hook
                target = method.args[0] if isinstance(method, Record) and method.is_method else None
                if isinstance(target, Record) and isinstance(target.state, dict):
                    if target.state is module.state:
                        return "pre_hook"
                    flags.append(target.state.get("training") is True)
    if flags:
        return copied_weight_norm("pre_hook", any(flags))
    return official_weight_norm(switches.get("use_gan", False), False)


def _json_value(value: Any, where: str, levels: int = 3) -> Any:
    """Constructor arguments as JSON: lists for tuples, null for infinity."""
    if isinstance(value, str) and len(value) > MAX_ARGUMENT_TEXT:
        raise UserError(where, f"refused: a constructor argument of {len(value)} characters")
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        if math.isnan(value):
            raise UserError(where, "is not a number")
        return None if math.isinf(value) else value
    if isinstance(value, (list, tuple)) and len(value) <= 64 and levels:
        return [_json_value(item, where, levels - 1) for item in value]
    raise UserError(where, f"a constructor argument of type {type(value).__name__}, which no known network takes")


_PARALLEL = "module."


def import_state_dict(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    network: Mapping[str, Any],
    key: str | None = None,
    origin_url: str | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Writes a network file from a state dict; nothing in the file is executed.

    Args:
        path: File of ``torch.save`` or ``safetensors`` with the tensors of the network.
        out: Target ``.safetensors``; appears whole or not at all, tensors as float32.
        network: Architecture ``{"class": ..., "kwargs": {...}}``.
        key: Entry of the ``torch.save`` file that holds the state dict, if the file has one of that name.
        origin_url: Where the file was downloaded; recorded.
        metadata: Further provenance.

    Returns:
        The metadata as written.

    Raises:
        UserError: A damaged file, an architecture that cannot be built, or tensors that are not exactly those of the
            architecture.
    """
    path = Path(path)
    config = check_network_config(network, "network")
    tensors = read_state_dict(path, key) if starts_as_pickle(path) else read_tensors(path)[0]
    if all(name.startswith(_PARALLEL) for name in tensors):
        tensors = {name.removeprefix(_PARALLEL): tensor for name, tensor in tensors.items()}
    net = build_on_meta(config, len(tensors), str(path))
    check_names_and_shapes(path, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, net)
    origin = {"file": path.name, "url": origin_url, "sha256": sha256_file(path)}
    record = {**(metadata or {}), "network": net.init_config, "origin": origin}
    write_state_dict({name: tensors[name] for name in net.state_dict()}, out, record)
    return record


def import_official(
    pkl_path: str | os.PathLike[str],
    out_path: str | os.PathLike[str],
    key: str = "ema",
    origin_url: str | None = None,
    *,
    network_class: str | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Converts a pickle of EDM, EDM2, SiD, SiDA or GDD to safetensors without executing anything in it.

    Args:
        pkl_path: A plain pickle or a file of ``torch.save`` whose value, or an entry of it, is the network.
        out_path: Target ``.safetensors``, written atomically. All tensors are stored as float32 (exact for the float16
            of EDM2's files).
        key: Entry with the network.
        origin_url: URL of the download, for the record.
        network_class: The suite's class, which overrides the name in the file.
        metadata: Further provenance (``method``, ``dataset``, ``nimg``, ...).

    Returns:
        The metadata as written; ``origin`` has the file's name, URL and SHA-256, the key, and the name of
        the network's class with the SHA-256 of its embedded source.

    Raises:
        UserError: The file is missing, empty, cut off, not a pickle, outside the allow-list, without the key, of
            another architecture, or has unexpected, missing or NaN-filled tensors.
    """
    path = Path(pkl_path)
    where = str(path)
    if Path(out_path).resolve() == path.resolve():
        raise UserError(where, "the original would be overwritten", "name another output file")
    with PickleFile(path) as file:
        network = find_network(file.value, key, where)
        tensors = network_tensors(network, where)
        file.check_claims(tensors.values())
        config = network_config(network, tensors, where, network_class)
        net = build_on_meta(config, len(tensors), where)
        check_names_and_shapes(path, {name: tensor.shape for name, tensor in tensors.items()}, net)
        state = {name: _as_float32(file, tensors[name], name) for name in net.state_dict()}
    source = network.source or ""
    origin = {
        "file": path.name,
        "url": origin_url,
        "sha256": sha256_file(path),
        "key": key,
        "class": one_line(network.class_name),
        "source_sha256": hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest(),
    }
    record = {**(metadata or {}), "format": NETWORK_FORMAT, "network": net.init_config, "origin": origin}
    write_state_dict(state, out_path, record)
    return record


def _as_float32(file: PickleFile, tensor: Tensor, name: str) -> torch.Tensor:
    values, place = np.empty(tensor.numel, np.float32), 0
    for piece in file.pieces(tensor, name):
        values[place : place + len(piece)] = piece
        place += len(piece)
    return torch.from_numpy(values).reshape(tensor.shape)


def find_network(value: Any, key: str, where: str) -> Record:
    """Returns the network's record: the value itself or its entry ``key``.

    Raises:
        UserError: There is no such entry (the message lists the known ones), or it is not a network with its class.
    """
    if isinstance(value, dict):
        if key not in value:
            known = [one_line(str(k), 40) for k in itertools.islice(value, 100)]
            if known and all(isinstance(entry, Tensor) for entry in itertools.islice(value.values(), 100)):
                raise UserError(where, "a state dict of plain tensors without its network", FOREIGN_WEIGHTS)
            raise UserError(where, f"has no entry '{key}'{suggestion(key, known)}", "name the network's with --key")
        value = value[key]
    if isinstance(value, Record):
        if value.source is not None:
            return value
        raise UserError(
            where,
            f"holds an object of class '{one_line(value.class_name)}', whose code is not in the file",
            f"save its weights alone (torch.save(net.state_dict(), FILE)), then {FOREIGN_WEIGHTS}",
        )
    kind = "an entry of plain tensors" if isinstance(value, dict) else f"a {type(value).__name__}"
    raise UserError(
        where,
        f"'{key}' is {kind}, not a network that records its class",
        f"give the published .pkl (--key), or {FOREIGN_WEIGHTS}",
    )


def describe_file(path: str | os.PathLike[str], key: str = "ema", network_class: str | None = None) -> dict[str, Any]:
    """Describes a network file.

    Args:
        path: A ``.safetensors`` of this package or a published pickle; the content decides which.
        key: Entry of a pickle that holds the network.
        network_class: The suite's class of a pickle's network, if the name in the pickle is ambiguous.

    Returns:
        ``file``, ``bytes``, ``sha256``, ``format``, ``network`` (class and kwargs), ``parameters`` (trainable
        elements), ``tensors``, and the recorded provenance (``method``, ``dataset``, ``nimg``, ``parents``,
        ``origin``, ...). For a pickle also ``entries`` and ``class_in_file``.

    Raises:
        UserError: As :func:`sida.networks.file.load_network` and
        :func:`import_official`.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(path, "no such file", "give a .safetensors or a .pkl network")
    facts: dict[str, Any] = {"file": str(path), "bytes": path.stat().st_size}
    if starts_as_pickle(path):
        facts |= _describe_pickle(path, key, network_class)
    else:
        metadata = read_metadata(path)
        shapes = {entry.name: entry.shape for entry in read_tensor_header(path).entries}
        facts |= {**metadata, **_counts(metadata["network"], shapes, path)}
    return {**facts, "sha256": sha256_file(path)}


def _describe_pickle(path: Path, key: str, network_class: str | None) -> dict[str, Any]:
    with PickleFile(path) as file:
        value = file.value
    network = find_network(value, key, str(path))
    tensors = network_tensors(network, str(path))
    config = network_config(network, tensors, str(path), network_class)
    facts = _counts(config, {name: tensor.shape for name, tensor in tensors.items()}, path)
    entries = sorted(one_line(str(k), 40) for k in itertools.islice(value, 100)) if isinstance(value, dict) else []
    return {**facts, "format": "pickle", "entries": entries, "class_in_file": one_line(network.class_name)}


def _counts(config: dict[str, Any], shapes: dict[str, tuple[int, ...]], path: Path) -> dict[str, Any]:
    net = build_on_meta(config, len(shapes), str(path))
    check_names_and_shapes(path, shapes, net)
    parameters = sum(math.prod(shapes[name]) for name, _ in net.named_parameters())
    return {"network": net.init_config, "parameters": parameters, "tensors": len(shapes)}
