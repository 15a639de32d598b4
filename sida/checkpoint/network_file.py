"""Networks as safetensors: weights, architecture and provenance in one file that can be read without trust."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sida.errors import UserError
from sida.tensor_file import Header, entries_for, read_header, write_tensor_file

if TYPE_CHECKING:
    import torch

FORMAT = "sida-network-1"
METADATA_KEY = "sida"


def save_network(net: torch.nn.Module, path: str | os.PathLike[str], metadata: Mapping[str, Any]) -> None:
    """Writes a network: float32 tensors and one JSON text in the header. Equal content gives equal bytes.

    Args:
        net: Module with an ``init_config`` (``{"class": ..., "kwargs": {...}}``), possibly wrapped for data-parallel
            training or compiled. Its whole state dict is stored; floating tensors as float32.
        path: Target file; appears whole or not at all.
        metadata: Provenance (``method``, ``dataset``, ``nimg``, ``parents``, ``code_version``, ...), JSON values only.
            A key ``network`` replaces ``net.init_config``. Keep dates out where runs are to be compared bit for bit.

    Raises:
        UserError: A tensor holds NaN or infinity, or the metadata are not JSON.
    """
    import torch

    net = unwrap(net)
    network = metadata.get("network") or getattr(net, "init_config", None)
    record = {**metadata, "format": FORMAT, "network": check_network_config(network, str(path))}
    tensors = {}
    for name, tensor in net.state_dict().items():
        tensor = tensor.detach().to("cpu", torch.float32 if tensor.is_floating_point() else tensor.dtype).contiguous()
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise UserError(f"{path}: not written, tensor '{name}' holds NaN or infinity; resume from an earlier state")
        tensors[name] = tensor
    entries = entries_for((name, _dtype_name(t.dtype), t.shape) for name, t in tensors.items())
    chunks = (chunk for entry in entries for chunk in _tensor_bytes(tensors[entry.name]))
    write_tensor_file(path, entries, {METADATA_KEY: encode_metadata(record, str(path))}, chunks)


def load_network(
    path: str | os.PathLike[str], device: str | torch.device = "cpu"
) -> tuple[torch.nn.Module, dict[str, Any]]:
    """Builds the network that a file describes and fills in every tensor.

    Args:
        path: File of :func:`save_network` or :func:`sida.checkpoint.import_official`.
        device: Where the network is put.

    Returns:
        ``(net, metadata)``: the network in eval mode (float32), and the header's JSON as a dictionary.

    Raises:
        UserError: One line for a file that is missing, empty, cut off, not safetensors, filled with NaN, without
            architecture, or whose tensors are not exactly those of its architecture.
    """
    import torch

    path = Path(path)
    header = read_header(path)
    metadata = _metadata(path, header)
    net = build_on_meta(metadata["network"], len(header.entries), str(path))
    check_names_and_shapes(path, {e.name: e.shape for e in header.entries}, net)
    state = net.state_dict()
    loaded = {}
    with open(path, "rb") as stream:
        for entry in header.entries:
            stream.seek(header.data_start + entry.begin)
            data = bytearray(entry.num_bytes)
            if stream.readinto(data) != entry.num_bytes:
                raise UserError(f"{path}: cut off while it was read; delete it and make or download it again")
            flat = torch.frombuffer(data, dtype=_torch_dtype(entry.dtype)) if data else torch.empty(0)
            tensor = flat.reshape(entry.shape)
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise UserError(f"{path}: tensor '{entry.name}' holds NaN or infinity; use an earlier snapshot")
            loaded[entry.name] = tensor.to(state[entry.name].dtype)
    net.load_state_dict(loaded, strict=True, assign=True)
    if any(buffer.is_meta for buffer in net.buffers()):
        # Constants outside the state dict have values only when the network is built in real memory.
        from sida.networks import build_network

        net = build_network(metadata["network"])
        net.load_state_dict(loaded, strict=True)
    for parameter in net.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    return net.eval().to(device), metadata


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The header's JSON (architecture and provenance) without reading the tensors; errors as :func:`load_network`."""
    return _metadata(Path(path), read_header(path))


def encode_metadata(record: Mapping[str, Any], where: str) -> str:
    """Canonical JSON of the provenance, with a one-line error for values that are not JSON."""
    try:
        return json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: metadata are not plain JSON values ({error})") from None


def check_network_config(network: Any, where: str) -> dict[str, Any]:
    """Returns ``{"class": text, "kwargs": mapping}`` or raises the one-line error that names what is missing."""
    if (
        not isinstance(network, Mapping)
        or not isinstance(network.get("class"), str)
        or not isinstance(network.get("kwargs"), Mapping)
    ):
        raise UserError(
            f"{where}: no architecture (a mapping with 'class' and 'kwargs'); make the file with sida convert"
        )
    return {"class": network["class"], "kwargs": dict(network["kwargs"])}


def unwrap(net: torch.nn.Module) -> torch.nn.Module:
    """The network itself inside wrappers for data-parallel training and compilation."""
    while not hasattr(type(net), "init_config") and "init_config" not in vars(net):
        inner = net._modules.get("module") or net._modules.get("_orig_mod")
        if inner is None:
            break
        net = inner
    return net


def check_names_and_shapes(path: Path, found: Mapping[str, tuple[int, ...]], net: torch.nn.Module) -> None:
    """Requires exactly the tensors of ``net``: nothing missing, nothing extra, every shape equal."""
    expected = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    kind = type(net).__name__
    missing = [name for name in expected if name not in found]
    extra = [name for name in found if name not in expected]
    for names, fault in ((missing, "misses"), (extra, "has unexpected")):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise UserError(
                f"{path}: {fault} tensor '{names[0]}'{more} for its architecture {kind}; convert the original again"
            )
    for name, shape in expected.items():
        if found[name] != shape:
            raise UserError(
                f"{path}: tensor '{name}' has shape {list(found[name])}, its architecture {kind} needs {list(shape)};"
                " convert the original again"
            )


def build_on_meta(network: Mapping[str, Any], num_tensors: int, where: str) -> torch.nn.Module:
    """Builds ``network`` for its names and shapes; its large tensors have no content (torch's meta device).

    Args:
        network: ``{"class": ..., "kwargs": {...}}``.
        num_tensors: Tensors at hand; an architecture with more blocks than that is refused before it is built.
        where: File named in errors.
    """
    from sida.checkpoint.shapes_only import ShapesOnly
    from sida.networks import build_network

    blocks = network["kwargs"].get("num_blocks", 1)
    if isinstance(blocks, int) and blocks > num_tensors:
        raise UserError(f"{where}: architecture claims {blocks} blocks, the file has {num_tensors} tensors; not loaded")
    try:
        with ShapesOnly():
            return build_network(dict(network))
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{where}: architecture '{network['class']}' cannot be built ({reason})") from None


def _metadata(path: Path, header: Header) -> dict[str, Any]:
    text = header.metadata.get(METADATA_KEY)
    if text is None:
        raise UserError(
            f"{path}: safetensors without a '{METADATA_KEY}' header, so its architecture is unknown; use sida convert"
        )
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        raise UserError(f"{path}: its '{METADATA_KEY}' header is not JSON; make the file again") from None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise UserError(f"{path}: its '{METADATA_KEY}' header is not of format '{FORMAT}'; make the file again")
    return {**record, "network": check_network_config(record.get("network"), str(path))}


def _dtype_name(dtype: torch.dtype) -> str:
    import torch

    names = {torch.float32: "F32", torch.int64: "I64", torch.int32: "I32", torch.uint8: "U8", torch.bool: "BOOL"}
    if dtype not in names:
        raise UserError(f"a network with tensors of type {dtype} cannot be stored; use float32 or int64")
    return names[dtype]


def _torch_dtype(name: str) -> torch.dtype:
    import torch

    return {
        "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "U16": torch.uint16,
        "F16": torch.float16, "BF16": torch.bfloat16, "I32": torch.int32, "U32": torch.uint32, "F32": torch.float32,
        "I64": torch.int64, "U64": torch.uint64, "F64": torch.float64,
    }[name]  # fmt: skip


def _tensor_bytes(tensor: torch.Tensor) -> Iterator[memoryview]:
    import torch

    if tensor.numel():
        yield tensor.reshape(-1).view(torch.uint8).numpy().data
