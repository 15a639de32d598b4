"""The files of a run: its network, its logs, and networks kept on the way."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sida.checkpoint import read_metadata, save_network
from sida.errors import UserError
from sida.io import write_text
from sida.networks import build_network
from sida.training.learner import FlatParameters, load_buffers

Tensors = dict[str, torch.Tensor]
#: Where runs go that name no folder: below the results like everything else, and apart from every preset.
LOCAL_RESULTS = Path("results") / "local"


def split_outdir(
    config: Mapping[str, Any], outdir: str | os.PathLike[str] | None, where: str
) -> tuple[dict[str, Any], str | os.PathLike[str] | None]:
    """Takes the key ``outdir`` out of a mapping of settings, because the folder does not decide the result.

    Args:
        config: Settings, perhaps with ``outdir``.
        outdir: Folder given beside the settings; goes before the key.
        where: Place named in errors.

    Returns:
        The settings without the key, and the folder (None if nobody named one).

    Raises:
        UserError: The key is no text.
    """
    named = config.get("outdir")
    if named is not None and not (isinstance(named, (str, os.PathLike)) and str(named)):
        raise UserError(f"{where}.outdir: must be the path of a folder, got {named!r}; remove it or name one")
    rest = {key: value for key, value in config.items() if key != "outdir"}
    return rest, named if outdir is None else outdir


def run_folder(outdir: str | os.PathLike[str] | None, kind: str, name: str) -> Path:
    """Folder of a run: the one given, else ``results/local/<kind>/<name>``.

    Args:
        outdir: Folder, or None.
        kind: ``teachers`` or ``students``.
        name: Name of the run.
    """
    return LOCAL_RESULTS / kind / name if outdir is None else Path(outdir)


def snapshot_path(folder: Path, nimg: int) -> Path:
    """Where the average after ``nimg`` images is kept."""
    return folder / "snapshots" / f"network-{nimg:010d}.safetensors"


def sort_snapshots(folder: Path, digest: str) -> None:
    """Puts snapshots of other configurations into ``snapshots/<digest>/``, and this one's back from there.

    So a run that goes on after another one in the same folder finds its own, and neither overwrites the other's.

    Raises:
        UserError: A snapshot is damaged.
    """
    shelf = folder / "snapshots"
    for path in sorted(shelf.glob("network-*.safetensors")):
        owner = str(read_metadata(path)["config_sha256"])
        if owner != digest:
            (shelf / owner[:12]).mkdir(exist_ok=True)
            path.rename(shelf / owner[:12] / path.name)
    for path in sorted((shelf / digest[:12]).glob("network-*.safetensors")):
        path.rename(shelf / path.name)


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
