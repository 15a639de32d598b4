"""Networks and other tensor files: what a stranger may hand over as a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import torch

from sida.checkpoint import load_network, save_network
from sida.networks import build_network
from sida.tensor_file import read_tensors, write_tensors
from tests.fuzz.changes import json_value
from tests.fuzz.frame import Reader, command

TINY: dict[str, Any] = {
    "img_resolution": 8, "img_channels": 1, "label_dim": 3, "model_type": "SongUNet", "model_channels": 4,
    "channel_mult": [1], "num_blocks": 1, "attn_resolutions": [],
}  # fmt: skip


def network() -> torch.nn.Module:
    """A small network with seeded weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_network({"class": "EDMPrecond", "kwargs": TINY})


def write_networks(folder: Path) -> None:
    """Our own format, of two classes."""
    metadata = {"method": "sid", "nimg": 3000, "dataset": "digits", "parents": {"teacher": "ab" * 32}}
    save_network(network(), folder / "edm.safetensors", metadata)


def write_state(folder: Path) -> None:
    """Tensors of every kind with a record."""
    tensors = {"a": torch.arange(6).reshape(2, 3), "b": torch.ones(5, dtype=torch.float64), "c": torch.zeros(0, 3)}
    write_tensors(folder / "state.safetensors", tensors, {"format": "x/1", "ranges": [[0, 5]], "name": "n"})


def header(data: bytes, rng: Random) -> bytes:
    """Changes the JSON of a header, or that of the record inside it; lengths stay right."""
    length = int.from_bytes(data[:8], "little")
    if length > len(data):
        raise ValueError("no header")
    value = json.loads(data[8 : 8 + length])
    record = value.get("__metadata__", {}).get("sida") if isinstance(value, dict) else None
    if record is not None and rng.random() < 0.7:
        value["__metadata__"]["sida"] = json.dumps(json_value(json.loads(record), rng))
    else:
        value = json_value(value, rng)
    text = json.dumps(value).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


READERS = (
    Reader("network file", write_networks, lambda path, own: load_network(path), (header,)),
    Reader("sida info", write_networks, lambda path, own: command("sida", "info", path), (header,)),
    Reader("tensor file", write_state, lambda path, own: read_tensors(path), (header,)),
)
