"""Networks of other programs: conversion to safetensors without executing code, and description.

The authors' pickles record a network's class, constructor arguments and named tensors. Plain state dicts become a
network file where the user or the registry names their architecture.
"""

import inspect
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.nn.functional import pad

from sida.assets.cache import checked, fetch
from sida.assets.registry import Asset, check_network, find_asset, is_address, load_registry
from sida.config.families import WeightNorm
from sida.config.lookup import our_object
from sida.config.registries import Registry, entries
from sida.config.settings import load_spec
from sida.errors import UserError, one_line, say, settings_in, suggestion
from sida.files.atomic import copy_file, sha256_file
from sida.files.ordinary import refuse_same
from sida.files.state_dicts import ForeignWeights, convert_weights, open_state_dict
from sida.files.tensors import read_tensor_header, starts_as_pickle
from sida.networks.described import family_of
from sida.networks.file import (
    NETWORKS,
    build_on_meta,
    check_network_config,
    fitting_network,
    read_metadata,
    write_state_dict,
)
from sida.networks.folders import NETWORK_FILES, NetworkFolder, open_folder
from sida.networks.wrappers import OTHER, unprefixed, unwrapped

# The suite's class for outermost classes of the released files with another name. SiDA's variants only add outputs.
_CLASSES = {
    # mingyuanzhou/SiD@sida:sida_training/sida_networks.py
    "EDMPrecond_EncoderDecoder": "EDMPrecond",
    # NVlabs/edm2:training/networks_edm2.py
    "Precond": "EDM2Precond",
    # mingyuanzhou/SiD@sida:sida_training_edm2/sida_networks_edm2.py; SiD's, SiDA's and SiD2A's students are generators
    "EDM_2_Precond_EncoderDecoder": "EDM2Precond",
    "EDM_2_Precond_Generator": "EDM2Precond",
    # locuslab/ect:training/networks.py
    "ECMPrecond": "ECTPrecond",
}
_SHARED_ARGUMENTS = 3


def network_config(file: ForeignWeights, network_class: str | None = None) -> dict[str, Any]:
    """Recovers ``{"class", "kwargs"}`` for :func:`sida.networks.build_network`.

    Args:
        file: The opened network.
        network_class: The suite's class, which overrides the name in the file.

    Raises:
        UserError: The class is unknown, or the file does not record the constructor arguments.
    """
    name, args, kwargs = (file.facts[key] for key in ("class", "args", "kwargs"))
    own = network_class or _CLASSES.get(name, name)
    if own not in NETWORKS:
        Registry("networks", "architecture").refuse_missing(str(own), str(file.path))
        fault = f"architecture '{one_line(own, 100)}' is not read{suggestion(own, NETWORKS)}"
        remedy = "draw images by its own code and score their folder (sida score FOLDER --against REAL)"
        raise UserError(file.path, fault, f"{remedy}, or name one of ours that computes the same (--network-class)")
    if len(args) > _SHARED_ARGUMENTS:
        fault = f"{name} records {len(args)} constructor arguments by position"
        remedy = f"beyond the first {_SHARED_ARGUMENTS} the authors' classes disagree, and their files name them"
        raise UserError(file.path, fault, remedy)
    order = list(inspect.signature(NETWORKS[own]).parameters)
    # No limit, such as EDM's sigma_max, is None in settings.
    options = {key: None if value == math.inf else value for key, value in {**dict(zip(order, args)), **kwargs}.items()}
    family = family_of({"class": own, "kwargs": options})
    if family.variance_head and "logvar_linear.weight" not in file.shapes:
        # SiDA's generators have no such head, although their class takes the argument.
        options[family.variance_head] = None
    if family.weight_norm:
        options.pop("force_normalization", None)
        options["weight_norm"] = weight_norm(bool(options.pop("use_gan", False)), file.facts["hook"])
    if own == "GDDPrecond":
        # GDD trained in mixed precision, but draws in float32 (Zyriix/GDD:generate.py).
        options["use_fp16"] = False
    return {"class": own, "kwargs": options}


def weight_norm(use_gan: bool, hook: object) -> WeightNorm:
    """Mode of weight normalisation that SiDA's EDM2 networks have by their hooks (fact 21 of tests/golden/README.md).

    Without the adversarial loss the layers normalise their weights in every training forward pass. With it they do so
    by a pre-hook, if ``force_normalization`` is set. The hook of a copy or pickle stays bound to the original, whose
    training flag is frozen at the time of the copy. So in the official loop the fake score (copied from a teacher in
    evaluation mode) is never rewritten, and the averaged generator and its pickles (copied from a generator in training
    mode) are rewritten in every forward pass.

    Args:
        use_gan: The network's switch for the adversarial loss.
        hook: Module to which the pre-hook is bound: ``own``, the training flag of another, or None without a hook.
    """
    if hook is None:
        return "off" if use_gan else "in_forward"
    if hook == "own":
        return "pre_hook"
    return "always" if hook else "off"


def find_source(source: str, key: str = "ema") -> tuple[Path | NetworkFolder, Asset | None]:
    """Finds a network by its path, its id in ``config/assets.tsv`` or its address, and downloads it if need be.

    The path is of a file, of the folder of a run or of ``sida export``, or of a folder that a plugin reads
    (:func:`open_folder`, which takes ``key``).

    Returns:
        The path of a file, or an opened folder, and the asset of an id or an address.

    Raises:
        UserError: The source is neither a path nor a known id, has no network, or cannot be downloaded.
    """
    path = checked(source)
    if (path.is_dir() or source.startswith("hf://")) and (folder := open_folder(source, key)):
        return folder, None
    if path.is_dir():
        existing = next((path / name for name in NETWORK_FILES if (path / name).is_file()), None)
        if existing is None:
            if next(path.glob("*.distcp"), None):
                join = "python -m torch.distributed.checkpoint.format_utils dcp_to_torch"
                fault = "is a checkpoint of torch.distributed.checkpoint, in parts"
                raise UserError(source, fault, f"join them first: {join} {source} net.pt")
            names = ", ".join([NETWORK_FILES[0], *entries("network_folders")])
            raise UserError(source, f"is a folder without {names}", "name the network's file, or the folder above")
        return existing, None
    if path.exists() and not is_address(source):
        return path, None
    check_network(source)
    return fetch(source), find_asset(load_registry(), source)


def _check_class(path: Path, name: str | None) -> None:
    if name is not None and name not in NETWORKS:
        fault = f"--network-class: no network class '{one_line(name, 100)}'{suggestion(name, NETWORKS)}"
        raise UserError(path, fault, "names are in docs/networks.md")


def import_network(
    path: str | os.PathLike[str] | NetworkFolder,
    out: str | os.PathLike[str],
    asset: Asset | None = None,
    *,
    key: str = "ema",
    network_class: str | None = None,
    network: Mapping[str, Any] | None = None,
    null_label: bool = False,
    metadata: Mapping[str, Any] | None = None,
    images: Any = None,
) -> dict[str, Any]:
    """Writes a network file from what :func:`find_source` found; nothing in the source is executed.

    Args:
        path: A pickle, a state dict, an opened folder, or a network file of this package, which is copied byte by
            byte.
        out: Target ``.safetensors``; appears whole or not at all.
        asset: The registry's or the address's facts, for arguments that are not given.
        key: Entry of the pickle with the network or state dict (``a.b`` is entry b of a), prefix of its names, or both
            joined by a dot.
        network_class: The suite's class of a pickled network, which overrides the name in the file; or the class of a
            state dict that completes its arguments from the tensors (`Precond.landmarks`).
        network: Architecture ``{"class": ..., "kwargs": {...}}`` of a state dict; such a class needs some ``kwargs`` at
            most.
        null_label: Whether the last class of a folder's network stands for no class.
        metadata: Further provenance.
        images: Opened data set for the check of a state dict's arguments (`Precond.state_check`); None: none.

    Returns:
        The metadata as written.

    Raises:
        UserError: The target is the source; the source is missing, damaged, outside the allow-list or without the key;
            its architecture is unknown or cannot be built; its tensors are not exactly those of the architecture, or
            hold NaN.
    """
    if isinstance(path, NetworkFolder):
        if network or network_class or images is not None:
            remedy = "leave out --network, --network-class and --data"
            raise UserError(path.where, "describes its architecture itself", remedy)
        return path.write(out, null_label, metadata or {})
    path = Path(path)
    _check_class(path, network_class)
    if null_label:
        raise UserError(path, "is not a folder, whose last class may stand for no class", "leave out --null-label")
    refuse_same(path, out)
    if asset is not None:
        network_class = network_class or asset.network_class
        if network is None and asset.architecture is not None:
            network = load_spec(str(asset.architecture), f"asset '{asset.id}'")
    if network is None and network_class in NETWORKS and NETWORKS[str(network_class)].landmarks:
        network = {"class": str(network_class), "kwargs": {}}
    if network is None and images is not None:
        raise UserError(path, "describes its architecture itself", "leave out --data")
    if network is None and not starts_as_pickle(path):
        # Metadata first: a file that is not a network must not be copied.
        file_metadata = read_metadata(path)
        copy_file(path, out)
        return file_metadata
    if network is None:
        net, state, facts = _network_of_pickle(path, key, network_class)
    else:
        net, state, omitted = _network_of_state(path, key, network, images=images)
        facts = {"left_out": omitted} if omitted else {}
    origin = {"file": path.name, "url": asset and asset.url, "sha256": sha256_file(path), **facts}
    record = {**(metadata or {}), "network": net.init_config, "origin": origin}
    return write_state_dict({name: state[name] for name in net.state_dict()}, out, record)


def _network_of_pickle(path: Path, key: str, network_class: str | None) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """A pickled network without memory, its state, and facts about its origin."""
    file = convert_weights(path, "network", key)
    net = _network_of(file, network_class)
    state = {name: file.tensor(name) for name in net.state_dict()}
    facts = {"class": one_line(file.facts["class"]), "source_sha256": file.facts["source_sha256"]}
    return net, state, {**facts, "key": key}


def _network_of_state(
    path: Path,
    key: str,
    network: Mapping[str, Any],
    described: bool = False,
    images: Any = None,
) -> tuple[Any, dict[str, Any], str]:
    """A network without memory, its state, and words for tensors of the file that it does not need.

    A network that is only ``described`` has no state, which is not checked.
    """
    network, omitted, remarks = check_network_config(network, f"{path}: --network"), "", list[str]()
    zero_rows: Mapping[str, int] = {}
    named = network["kwargs"]
    with settings_in(f"{path}:"):
        cls = NETWORKS.find(network["class"], "class")
    tensors, read, prefix, arguments = open_state_dict(path, key, data=not described)
    keys = key.removesuffix(prefix).rstrip("."), prefix
    if cls.landmarks:
        bare, remark = unprefixed(path, cls.landmarks, tensors, *keys)
        shapes = {short: tuple(tensors[name]) for short, name in bare.items()}
        with settings_in(f"{path}:"):
            reading = cls.read_state(shapes, network["kwargs"], arguments)
        network, omitted, zero_rows = {**network, "kwargs": reading.kwargs}, reading.left_out, reading.zero_rows
        names = {name: bare[short] for name, short in reading.names.items()}
        remarks = [f"without {omitted}, which no image needs"] if omitted else []
        remarks += [remark, *reading.remarks]
    else:
        net = build_on_meta(network, str(path))
        shapes_needed = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
        names, remark = unwrapped(path, shapes_needed, tensors, *keys)
        remarks = [remark]
    shapes = {name: tuple(tensors[old]) for name, old in names.items()}
    shapes |= {name: (shapes[name][0] + rows, *shapes[name][1:]) for name, rows in zero_rows.items()}
    net = fitting_network(path, network, shapes, OTHER)
    state = {} if described else {name: read(old) for name, old in names.items()}
    state |= {name: pad(state[name], (0, 0, 0, rows)) for name, rows in zero_rows.items() if name in state}
    if images is not None and not cls.state_check:
        raise UserError("--data", f"the tensors of {network['class']} say all its arguments", "leave it out")
    if cls.state_check and not described:
        our_object(cls.state_check)(path, network, state, named, images)
    if text := "; ".join(filter(None, remarks)):
        say(f"{path.name}: {text}")
    return net, state, omitted


def _network_of(file: ForeignWeights, network_class: str | None) -> Any:
    """The network of a pickle, without memory, whose tensors are those of the file."""
    try:
        config = network_config(file, network_class)
    except (LookupError, TypeError, ValueError):  # arguments of other types than the class takes
        raise UserError(file.path, "records arguments that its class cannot have", "download it again") from None
    return fitting_network(Path(file.path), config, file.shapes)


def describe_file(
    path: str | os.PathLike[str],
    key: str = "ema",
    network_class: str | None = None,
    network: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Describes a network file.

    Args:
        path: A ``.safetensors`` of this package or a published pickle; the content decides which.
        key: Entry of a pickle that holds the network.
        network_class: The suite's class of a pickle's network, if the name in the pickle is ambiguous; or the class of
            a state dict that completes its arguments from the tensors (SiT, REPA, DiT).
        network: Architecture ``{"class": ..., "kwargs": {...}}`` of a state dict, as for :func:`import_network`.

    Returns:
        ``file``, ``bytes``, ``sha256``, ``format``, ``network`` (class and kwargs), ``parameters`` (trainable
        elements), ``tensors``, and the recorded provenance (``method``, ``dataset``, ``nimg``, ``parents``,
        ``origin``, ...). For a pickle also ``entries``, ``class_in_file``, the SHA-256 of that
        class's source text, and the names in it that became ``inert`` objects.

    Raises:
        UserError: As :func:`sida.networks.file.load_network` and :func:`import_network`.
    """
    path = Path(path)
    _check_class(path, network_class)
    facts: dict[str, Any] = {}
    if network is None and network_class in NETWORKS and NETWORKS[str(network_class)].landmarks:
        network = {"class": str(network_class), "kwargs": {}}
    if network is not None:
        net, _, omitted = _network_of_state(path, key, network, described=True)
        facts |= {"format": "state dict", **({"left_out": omitted} if omitted else {})}
    elif starts_as_pickle(path):
        file = convert_weights(path, "network", key, data=False)
        net = _network_of(file, network_class)
        entries = sorted(one_line(name, 40) for name in file.facts["entries"])
        facts |= {"format": "pickle", "entries": entries, "class_in_file": one_line(file.facts["class"])}
        facts |= {"source_sha256": file.facts["source_sha256"], "inert": file.facts["inert"]}
    else:
        facts |= read_metadata(path)
        net = fitting_network(path, facts["network"], read_tensor_header(path).shapes)
    parameters = sum(parameter.numel() for parameter in net.parameters())
    facts |= {"network": net.init_config, "parameters": parameters, "tensors": len(net.state_dict())}
    return {**facts, "file": str(path), "bytes": path.stat().st_size, "sha256": sha256_file(path)}
