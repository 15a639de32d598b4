"""Conversion of the authors' pickles to safetensors, streamed and without executing code."""

from __future__ import annotations

import concurrent.futures
import hashlib
import itertools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sida.errors import UserError, suggestion
from sida.files.atomic import sha256_file
from sida.files.tensor_header import ITEM_BYTES, entries_for
from sida.files.tensors import RECORD_KEY, encode_record, write_tensor_file
from sida.networks import official_architecture as architecture
from sida.networks.file import FOREIGN_WEIGHTS, NETWORK_FORMAT, build_on_meta, check_names_and_shapes
from sida.unpickle.inert import printable
from sida.unpickle.pickles import open_pickle
from sida.unpickle.records import PersistentObject, PlainObject, Tensor
from sida.unpickle.values import float32_pieces, stored_type


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
        raise UserError(f"{where}: the original would be overwritten; name another output file")
    value, window = open_pickle(path)
    network = find_network(value, key, where)
    tensors = architecture.tensors(network, where)
    claimed = sum(max(tensor.numel, tensor.span) * ITEM_BYTES[tensor.storage.dtype] for tensor in tensors.values())
    if claimed > window.length:
        raise UserError(f"{where}: refused: its tensors claim {claimed} bytes, the file has {window.length}")
    config = architecture.network_config(network, tensors, where, network_class)
    net = build_on_meta(config, len(tensors), where)
    check_names_and_shapes(path, {name: tensor.shape for name, tensor in tensors.items()}, net)
    origin = {
        "file": path.name,
        "url": origin_url,
        "sha256": "0" * 64,  # replaced below; computed while the tensors are written
        "key": key,
        "class": printable(network.class_name),
        "source_sha256": hashlib.sha256(network.source.encode("utf-8", "surrogatepass")).hexdigest(),
    }
    record = {**(metadata or {}), "format": NETWORK_FORMAT, "network": net.init_config, "origin": origin}
    entries = entries_for(
        (name, stored_type(tensors[name], name, where), tensors[name].shape) for name in net.state_dict()
    )
    chunks = (chunk for entry in entries for chunk in float32_pieces(tensors[entry.name], entry.name, where))

    def header() -> dict[str, str]:
        return {RECORD_KEY: encode_record(record, where)}

    def final_header() -> dict[str, str]:
        origin["sha256"] = digest.result()
        return header()

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        digest = pool.submit(sha256_file, path)
        write_tensor_file(out_path, entries, header(), chunks, final_header)
    return record


def find_network(value: Any, key: str, where: str) -> PersistentObject:
    """Returns the network's record: the value itself or its entry ``key``.

    Raises:
        UserError: There is no such entry (the message lists the known ones), or it is not a network with its class.
    """
    if isinstance(value, dict):
        if key not in value:
            known = [printable(str(k), 40) for k in itertools.islice(value, 100)]
            if known and all(isinstance(entry, Tensor) for entry in itertools.islice(value.values(), 100)):
                raise UserError(f"{where}: a state dict of plain tensors without its network; {FOREIGN_WEIGHTS}")
            raise UserError(f"{where}: has no entry '{key}'{suggestion(key, known)}; name the network's with --key")
        value = value[key]
    if isinstance(value, PersistentObject):
        return value
    if isinstance(value, PlainObject):
        raise UserError(
            f"{where}: holds an object of class '{printable(value.class_name)}', whose code is not in the file; save "
            f"its weights alone (torch.save(net.state_dict(), FILE)), then {FOREIGN_WEIGHTS}"
        )
    kind = "an entry of plain tensors" if isinstance(value, dict) else f"a {type(value).__name__}"
    raise UserError(
        f"{where}: '{key}' is {kind}, not a network that records its class; give the published .pkl (--key), "
        f"or {FOREIGN_WEIGHTS}"
    )
