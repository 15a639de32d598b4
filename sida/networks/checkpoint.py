"""Network files: the suite's safetensors, and the authors' pickles, which are read without executing them.

A description does not load the network (``sida info`` and reports).
"""

from __future__ import annotations

import itertools
import math
import os
from pathlib import Path
from typing import Any

from sida.errors import UserError, one_line
from sida.files.atomic import sha256_file
from sida.files.pickles import PickleFile, read_pickle, read_state_dict
from sida.files.tensors import read_tensor_header, starts_as_pickle
from sida.networks.file import (
    build_on_meta,
    check_names_and_shapes,
    copy_network,
    load_network,
    read_metadata,
    save_network,
)
from sida.networks.official_file import (
    find_network,
    import_official,
    import_state_dict,
    network_config,
    network_tensors,
)

__all__ = [
    "copy_network",
    "import_official",
    "import_state_dict",
    "load_network",
    "read_metadata",
    "read_pickle",
    "read_state_dict",
    "save_network",
]


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
        UserError: As :func:`sida.networks.checkpoint.load_network` and
        :func:`sida.networks.checkpoint.import_official`.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(path, "no such file", "give a .safetensors or a .pkl network")
    facts: dict[str, Any] = {"file": str(path), "bytes": path.stat().st_size}
    if starts_as_pickle(path):
        facts |= _pickle(path, key, network_class)
    else:
        metadata = read_metadata(path)
        shapes = {entry.name: entry.shape for entry in read_tensor_header(path).entries}
        facts |= {**metadata, **_counts(metadata["network"], shapes, path)}
    return {**facts, "sha256": sha256_file(path)}


def _pickle(path: Path, key: str, network_class: str | None) -> dict[str, Any]:
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
