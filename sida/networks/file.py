"""Network files (safetensors) with weights, architecture and provenance; reading them executes no code."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sida.errors import UserError
from sida.files.atomic import atomic_path
from sida.files.tensors import RECORD_KEY, TensorHeader, iterate_tensors, read_record, read_tensor_header, write_tensors

if TYPE_CHECKING:
    import torch

NETWORK_FORMAT = "sida-network-1"
#: Remedy for weights without an architecture of this package.
FOREIGN_WEIGHTS = (
    "name the architecture (sida convert FILE OUT.safetensors --network config.json), or draw the images by a Python "
    "function (docs/score.md, 'A function')"
)


def save_network(net: torch.nn.Module, path: str | os.PathLike[str], metadata: Mapping[str, Any]) -> None:
    """Writes a network: float32 tensors and one JSON text in the header. Equal content gives equal bytes.

    Args:
        net: Module with an ``init_config`` (``{"class": ..., "kwargs": {...}}``), possibly wrapped for data-parallel
            training or compiled. Its whole state dict is stored; floating tensors as float32.
        path: Target file, written atomically.
        metadata: Provenance (``method``, ``dataset``, ``nimg``, ``parents``, ``code_version``, ...) as JSON values. A
            key ``network`` replaces ``net.init_config``. Leave dates out if runs are to be compared bit for bit.

    Raises:
        UserError: A tensor has NaN or infinity, or the metadata are not JSON.
    """
    net = unwrap(net)
    write_state_dict(net.state_dict(), path, {"network": getattr(net, "init_config", None), **metadata})


def write_state_dict(
    state: Mapping[str, torch.Tensor], path: str | os.PathLike[str], metadata: Mapping[str, Any]
) -> None:
    """Writes a network from its state dict; see :func:`save_network`.

    Args:
        state: The whole state dict, in its order.
        path: Target file.
        metadata: Provenance, with the architecture under ``network``.

    Raises:
        UserError: As :func:`save_network`.
    """
    import torch

    record = {**metadata, "format": NETWORK_FORMAT, "network": check_network_config(metadata.get("network"), str(path))}
    tensors = {}
    for name, tensor in state.items():
        tensors[name] = tensor.detach().to(torch.float32 if tensor.is_floating_point() else tensor.dtype)
        if tensor.is_floating_point() and not torch.isfinite(tensors[name]).all():
            raise UserError(path, f"not written, tensor '{name}' holds NaN or infinity", "resume from an earlier state")
    write_tensors(path, tensors, record)


def load_network(
    path: str | os.PathLike[str], device: str | torch.device = "cpu"
) -> tuple[torch.nn.Module, dict[str, Any]]:
    """Builds the network that a file describes, and loads its tensors.

    Args:
        path: File of :func:`save_network` or :func:`sida.networks.checkpoint.import_official`.
        device: Device of the network.

    Returns:
        ``(net, metadata)``: the network in eval mode (float32), and the header's JSON as a dictionary.

    Raises:
        UserError: The file is missing, empty, cut off or not safetensors, has NaN or no architecture, or its tensors
            are not exactly those of its architecture.
    """
    import torch

    path = Path(path)
    header = read_tensor_header(path)
    metadata = _metadata(path, header)
    net = build_on_meta(metadata["network"], len(header.entries), str(path))
    check_names_and_shapes(path, {e.name: e.shape for e in header.entries}, net)
    state = net.state_dict()
    loaded, broken = {}, []
    for name, tensor in iterate_tensors(path, header):
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            broken.append(name)
        loaded[name] = tensor.to(state[name].dtype)
    # Only after the last tensor, whose hash check reports damage first.
    if broken:
        raise UserError(path, f"tensor '{broken[0]}' holds NaN or infinity", "use an earlier snapshot")
    net.load_state_dict(loaded, strict=True, assign=True)
    if any(buffer.is_meta for buffer in net.buffers()):
        # Constants outside the state dict need a network built in real memory.
        from sida.networks import build_network

        net = build_network(metadata["network"])
        net.load_state_dict(loaded, strict=True)
    for parameter in net.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    return net.eval().to(device), metadata


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads architecture and provenance from the header, without the tensors; raises as :func:`load_network`."""
    return _metadata(Path(path), read_tensor_header(path))


def copy_network(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> dict[str, Any]:
    """Copies a network file byte by byte, after a look at its header; returns the header's JSON."""
    metadata = read_metadata(source)
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)
    return metadata


def check_network_config(network: Any, where: str) -> dict[str, Any]:
    """Returns a network's ``{"class": text, "kwargs": mapping}``; raises UserError for anything else."""
    if (
        not isinstance(network, Mapping)
        or not isinstance(network.get("class"), str)
        or not isinstance(network.get("kwargs"), Mapping)
    ):
        raise UserError(
            where, "no architecture (a mapping with 'class' and 'kwargs')", "make the file with sida convert"
        )
    return {"class": network["class"], "kwargs": dict(network["kwargs"])}


def unwrap(net: torch.nn.Module) -> torch.nn.Module:
    """Returns the network inside wrappers for data-parallel training and compilation."""
    while not hasattr(type(net), "init_config") and "init_config" not in vars(net):
        inner = net._modules.get("module") or net._modules.get("_orig_mod")
        if inner is None:
            break
        net = inner
    return net


def check_names_and_shapes(path: Path, found: Mapping[str, tuple[int, ...]], net: torch.nn.Module) -> None:
    """Requires exactly the tensors of ``net``, with equal shapes; raises UserError."""
    expected = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    kind = type(net).__name__
    missing = [name for name in expected if name not in found]
    extra = [name for name in found if name not in expected]
    for names, fault in ((missing, "misses"), (extra, "has unexpected")):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise UserError(
                path, f"{fault} tensor '{names[0]}'{more} for its architecture {kind}", "convert the original again"
            )
    for name, shape in expected.items():
        if found[name] != shape:
            raise UserError(
                path,
                f"tensor '{name}' has shape {list(found[name])}, its architecture {kind} needs {list(shape)}",
                "convert the original again",
            )


def build_on_meta(network: Mapping[str, Any], num_tensors: int, where: str) -> torch.nn.Module:
    """Builds a network whose large tensors have shapes but no content (torch's meta device).

    Args:
        network: ``{"class": ..., "kwargs": {...}}``.
        num_tensors: Tensors in the file; an architecture with more blocks is refused before it is built.
        where: File named in errors.
    """
    from sida.networks import build_network
    from sida.networks.build import ShapesOnly

    kwargs = network["kwargs"]
    blocks, levels = kwargs.get("num_blocks", 1), kwargs.get("channel_mult", ())
    if isinstance(blocks, int) and isinstance(levels, (list, tuple)) and blocks * max(len(levels), 1) > num_tensors:
        raise UserError(
            where,
            f"architecture claims {blocks * max(len(levels), 1)} blocks, the file has {num_tensors} tensors",
            "not loaded",
        )
    try:
        with ShapesOnly():
            return build_network(network, f"{where}: network")
    except UserError:
        raise
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(where, f"architecture '{network['class']}' cannot be built ({reason})") from None


def _metadata(path: Path, header: TensorHeader) -> dict[str, Any]:
    if RECORD_KEY not in header.metadata:
        raise UserError(
            path, f"written by another program (no '{RECORD_KEY}' header) with an unknown architecture", FOREIGN_WEIGHTS
        )
    record = read_record(path, header)
    if record.get("format") != NETWORK_FORMAT:
        raise UserError(path, f"its '{RECORD_KEY}' header is not of format '{NETWORK_FORMAT}'", "make the file again")
    return {**record, "network": check_network_config(record.get("network"), str(path))}
