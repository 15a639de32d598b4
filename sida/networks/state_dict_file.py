"""Plain state dicts of other programs: weights become a network file where the user names their architecture."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sida.files.atomic import sha256_file
from sida.files.tensor_header import read_tensor_header, starts_as_pickle
from sida.files.tensors import iterate_tensors
from sida.networks.file import build_on_meta, check_names_and_shapes, check_network_config, write_state_dict
from sida.unpickle.values import read_state_dict

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
    tensors = (
        read_state_dict(path, key) if starts_as_pickle(path) else dict(iterate_tensors(path, read_tensor_header(path)))
    )
    if all(name.startswith(_PARALLEL) for name in tensors):
        tensors = {name.removeprefix(_PARALLEL): tensor for name, tensor in tensors.items()}
    net = build_on_meta(config, len(tensors), str(path))
    check_names_and_shapes(path, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, net)
    origin = {"file": path.name, "url": origin_url, "sha256": sha256_file(path)}
    record = {**(metadata or {}), "network": net.init_config, "origin": origin}
    write_state_dict({name: tensors[name] for name in net.state_dict()}, out, record)
    return record
