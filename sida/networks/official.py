"""Networks of other programs: conversion to safetensors without executing code, and description.

The authors' pickles record a network's class, constructor arguments and named tensors. Plain state dicts become a
network file where the user or the registry names their architecture.
"""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sida.assets.cache import checked, fetch
from sida.assets.registry import Asset, check_network, find_asset, is_address, load_registry
from sida.config.settings import load_spec
from sida.errors import UserError, one_line, suggestion
from sida.files.atomic import sha256_file
from sida.files.ordinary import refuse_same
from sida.files.pickles import PickleFile, read_state_dict
from sida.files.tensors import read_tensor_header, read_tensors, starts_as_pickle
from sida.networks.edm2_unet import copied_weight_norm, official_weight_norm
from sida.networks.file import (
    NETWORK_FORMAT,
    NETWORKS,
    build_on_meta,
    check_names_and_shapes,
    check_network_config,
    copy_network,
    family_of,
    read_metadata,
    write_state_dict,
)

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


def network_config(file: PickleFile, network_class: str | None = None) -> dict[str, Any]:
    """Recovers ``{"class", "kwargs"}`` for :func:`sida.networks.build_network`.

    Args:
        file: The opened network.
        network_class: The suite's class, which overrides the name in the file.

    Raises:
        UserError: The class is unknown, or the file does not record the constructor arguments.
    """
    name, args, kwargs = (file.facts[key] for key in ("class", "args", "kwargs"))
    own = network_class or _CLASSES.get(name)
    if own is None:
        fault = f"architecture '{name}' is none of EDM, EDM2, SiD, SiDA or GDD"
        raise UserError(file.path, fault, "if one of ours computes the same, name it (--network-class)")
    if own not in NETWORKS:
        raise UserError(file.path, f"there is no network class '{own}'{suggestion(own, NETWORKS)}")
    if len(args) > _SHARED_ARGUMENTS:
        fault = f"{name} records {len(args)} constructor arguments by position"
        remedy = f"beyond the first {_SHARED_ARGUMENTS} the authors' classes disagree, and their files name them"
        raise UserError(file.path, fault, remedy)
    order = list(inspect.signature(NETWORKS[own].load()).parameters)
    given = {**dict(zip(order, args)), **kwargs}
    for key, value in given.items():
        if isinstance(value, float) and not math.isfinite(value):
            if math.isnan(value):
                raise UserError(f"{file.path}: {key}", "is not a number")
            given[key] = None
    family = family_of({"class": own, "kwargs": given})
    switches = {key: bool(given.pop(key)) for key in _SWITCHES if family.weight_norm and key in given}
    if family.variance_head and "logvar_linear.weight" not in file.shapes:
        # SiDA's generators have no such head, although their class takes the argument.
        given[family.variance_head] = None
    if family.weight_norm:
        given["weight_norm"] = weight_norm(file.facts["hook"], switches)
    return {"class": own, "kwargs": {**given, **_OVERRIDES.get(own, {})}}


def weight_norm(hook: Any, switches: Mapping[str, bool]) -> str:
    """Mode of weight normalisation of a pickled EDM2 network (fact 21 of tests/golden/README.md).

    Forced normalisation is a pre-hook bound to a module. In a pickle made from a copy, the bound module is a detached
    twin with the training flag of the time of the copy, which decides between ``always`` and ``off``.
    """
    if hook == "own":
        return "pre_hook"
    if hook is not None:
        return copied_weight_norm("pre_hook", bool(hook))
    return official_weight_norm(switches.get("use_gan", False), False)


def find_source(source: str) -> tuple[Path, Asset | None]:
    """Finds a network by its path, its id in ``config/assets.tsv`` or its address, and downloads it if need be.

    Returns:
        The path, and the asset of an id or an address.

    Raises:
        UserError: The source is neither a path nor a known id, or cannot be downloaded.
    """
    path = checked(source)
    if path.exists() and not is_address(source):
        return path, None
    check_network(source)
    return fetch(source), find_asset(load_registry(), source)


def import_network(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    asset: Asset | None = None,
    *,
    key: str = "ema",
    origin_url: str | None = None,
    network_class: str | None = None,
    network: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Writes a network file from what :func:`find_source` found; nothing in the source is executed.

    Args:
        path: A pickle, a state dict, or the network file at an address, which is copied byte by byte.
        out: Target ``.safetensors``; appears whole or not at all.
        asset: The registry's or the address's facts, for arguments that are not given.
        key: Entry of the pickle with the network or state dict.
        origin_url: URL of the download, for the record.
        network_class: The suite's class of a pickled network, which overrides the name in the file.
        network: Architecture ``{"class": ..., "kwargs": {...}}`` of a state dict.
        metadata: Further provenance.

    Returns:
        The metadata as written.

    Raises:
        UserError: The target is the source, or as :func:`import_official` and :func:`import_state_dict`.
    """
    refuse_same(path, out)
    if asset is not None:
        origin_url, network_class = origin_url or asset.url, network_class or asset.network_class
        if network is None and asset.architecture is not None:
            network = load_spec(str(asset.architecture), f"asset '{asset.id}'")
    if network is not None:
        return import_state_dict(path, out, network, key, origin_url, metadata)
    if asset is not None and is_address(asset.id) and not starts_as_pickle(path):
        return copy_network(path, out)
    return import_official(path, out, key, origin_url, network_class=network_class, metadata=metadata)


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
    with PickleFile(path, "network", key) as file:
        net = _checked_network(file, network_class)
        state = {name: file.tensor(name) for name in net.state_dict()}
    origin = {
        "file": path.name,
        "url": origin_url,
        "sha256": sha256_file(path),
        "key": key,
        "class": one_line(file.facts["class"]),
        "source_sha256": file.facts["source_sha256"],
    }
    record = {**(metadata or {}), "format": NETWORK_FORMAT, "network": net.init_config, "origin": origin}
    write_state_dict(state, out_path, record)
    return record


def _checked_network(file: PickleFile, network_class: str | None) -> torch.nn.Module:
    """The network of a pickle, without memory, whose tensors are those of the file."""
    net = build_on_meta(network_config(file, network_class), len(file.shapes), str(file.path))
    check_names_and_shapes(Path(file.path), file.shapes, net)
    return net


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
        net = build_on_meta(metadata["network"], len(shapes), str(path))
        check_names_and_shapes(path, shapes, net)
        facts |= {**metadata, **_counts(net)}
    return {**facts, "sha256": sha256_file(path)}


def _describe_pickle(path: Path, key: str, network_class: str | None) -> dict[str, Any]:
    with PickleFile(path, "network", key) as file:
        facts = _counts(_checked_network(file, network_class))
        entries = sorted(one_line(name, 40) for name in file.facts["entries"])
        return {**facts, "format": "pickle", "entries": entries, "class_in_file": one_line(file.facts["class"])}


def _counts(net: Any) -> dict[str, Any]:
    parameters = sum(parameter.numel() for parameter in net.parameters())
    return {"network": net.init_config, "parameters": parameters, "tensors": len(net.state_dict())}
