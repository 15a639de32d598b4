"""The files of a run: its network, its logs, and networks kept on the way."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sida.checkpoint import save_network
from sida.io import write_text
from sida.networks import build_network
from sida.training.flat import FlatParameters
from sida.training.learner import load_buffers

Tensors = dict[str, torch.Tensor]


def snapshot_path(folder: Path, nimg: int) -> Path:
    """Where the average after ``nimg`` images is kept."""
    return folder / "snapshots" / f"network-{nimg:010d}.safetensors"


def write_network(path: Path, metadata: Mapping[str, Any], tensors: Tensors) -> None:
    """Writes a network from the state of an average.

    Args:
        path: Target.
        metadata: Provenance; ``network`` is the architecture.
        tensors: ``parameters`` (one vector) and ``buffers/<name>``, see :meth:`sida.training.learner.Average.state`.
    """
    net = build_network(metadata["network"])
    FlatParameters(net).vector.copy_(tensors["parameters"])
    load_buffers(net, tensors)
    save_network(net, path, metadata)


def write_logs(folder: Path, train: list[dict[str, Any]], evaluations: list[dict[str, Any]]) -> None:
    """Writes ``train.jsonl`` and ``evaluations.jsonl`` as a whole."""
    for name, records in (("train", train), ("evaluations", evaluations)):
        lines = "".join(json.dumps(record, sort_keys=True) + "\n" for record in records)
        write_text(folder / f"{name}.jsonl", lines)


def publish(folder: Path, record: Mapping[str, Any], tensors: Tensors) -> None:
    """Writes all results of a finished run from its last state; the network comes last, so it vouches for the rest.

    Args:
        folder: The run's folder.
        record: Record of the finished state.
        tensors: The network to publish, as for :func:`write_network`.
    """
    write_logs(folder, record["train"], record["evaluations"])
    write_network(folder / "network.safetensors", record["metadata"], tensors)
