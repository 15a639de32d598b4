"""Tensor files with a JSON record: networks, training states, statistics, features, references.

The files are safetensors, with the record in the header under the key ``sida``; the ``safetensors`` package reads them
and writes files that this module reads. In place of the package, this module streams tensors one at a time (a gigabyte
is never in memory twice) and explains each kind of damage in one line (:mod:`sida.files.tensor_header`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sida.errors import UserError
from sida.files.atomic import atomic_path
from sida.files.tensor_header import (
    DATA_HASH,
    TensorEntry,
    TensorFileError,
    TensorHeader,
    damaged,
    entries_for,
    hashed_header,
    no_constant,
    read_tensor_header,
)

if TYPE_CHECKING:
    import torch

#: Key of the record in the header's metadata.
RECORD_KEY = "sida"
MAX_RECORD_DEPTH = 64
Buffer = bytes | bytearray | memoryview


@contextlib.contextmanager
def explained(path: str | os.PathLike[str], complaint: str, remedy: str) -> Iterator[None]:
    """Turns errors of reading a file into ``UserError("path: complaint (reason); remedy")``.

    These are :class:`TensorFileError`, ``OSError``, and the ``KeyError`` and ``ValueError`` of unexpected content.
    """
    try:
        yield
    except TensorFileError as error:
        raise UserError(f"{path}: {complaint} ({error.reason}); {remedy}") from None
    except (OSError, KeyError, ValueError) as error:
        raise UserError(f"{path}: {complaint} ({error}); {remedy}") from None


def write_tensor_file(
    path: str | os.PathLike[str],
    entries: Sequence[TensorEntry],
    metadata: dict[str, str],
    chunks: Iterable[Buffer],
    finish: Callable[[], dict[str, str]] | None = None,
) -> None:
    """Writes a tensor file atomically.

    Args:
        path: Target.
        entries: From :func:`entries_for`.
        metadata: Strings for the header. Equal entries, metadata and chunks give equal bytes.
        chunks: The tensors' bytes, in the order of ``entries``; a tensor may come in several pieces.
        finish: Function called after the tensors; returns metadata of the same length that replace ``metadata``, for
            digests that are only known then.

    Raises:
        ValueError: The chunks do not have the announced total length.
    """
    promised = sum(entry.num_bytes for entry in entries)
    digest = hashlib.sha256()

    def header(metadata: dict[str, str]) -> bytes:
        return hashed_header(entries, metadata, digest.hexdigest())

    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        length = stream.write(header(metadata))
        written = 0
        for chunk in chunks:
            digest.update(chunk)
            written += stream.write(chunk)
        if written != promised:
            raise ValueError(f"{path}: {written} bytes of tensors were given, {promised} announced")
        final = header(metadata if finish is None else finish())
        if len(final) != length:
            raise ValueError(f"{path}: the final metadata have another length")
        stream.seek(0)
        stream.write(final)


def encode_record(record: Mapping[str, Any], where: str) -> str:
    """Canonical JSON of a record.

    Raises:
        UserError: Values that are not JSON.
    """
    try:
        return json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: metadata are not plain JSON values ({error})") from None


def write_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, torch.Tensor], record: Mapping[str, Any] | None = None
) -> None:
    """Writes tensors (of any device) and a record of JSON values atomically. Equal content gives equal bytes.

    Raises:
        UserError: The record is not JSON, or the format does not have a tensor's type.
    """
    names = {dtype: name for name, dtype in torch_dtypes().items()}
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    for name, tensor in on_cpu.items():
        if tensor.dtype not in names:
            raise UserError(f"{path}: tensor '{name}' of type {tensor.dtype} cannot be stored; use float32 or int64")
    entries = entries_for((name, names[tensor.dtype], tensor.shape) for name, tensor in on_cpu.items())
    metadata = {} if record is None else {RECORD_KEY: encode_record(record, str(path))}
    chunks = (chunk for entry in entries for chunk in _tensor_bytes(on_cpu[entry.name]))
    write_tensor_file(path, entries, metadata, chunks)


def read_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Reads tensors (on the CPU, in file order) and record of a file; the record is empty if there is none.

    Raises:
        TensorFileError: The file is missing, cut off, damaged or of another format.
    """
    header = read_tensor_header(path)
    return dict(iterate_tensors(path, header)), read_record(path, header)


def read_record(path: str | os.PathLike[str], header: TensorHeader | None = None) -> dict[str, Any]:
    """Reads the record of a file without its tensors; empty if there is none.

    Raises:
        TensorFileError: As :func:`read_tensors`, or the record is no JSON mapping.
    """
    text = (header or read_tensor_header(path)).metadata.get(RECORD_KEY, "{}")
    try:
        record = json.loads(text, parse_constant=no_constant)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict) or _deeper(record, MAX_RECORD_DEPTH):
        raise TensorFileError(Path(path), f"its '{RECORD_KEY}' header is no JSON mapping", "make the file again")
    return record


def iterate_tensors(path: str | os.PathLike[str], header: TensorHeader) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields ``(name, tensor)`` one at a time, so that conversions never hold a file twice in memory.

    Raises:
        TensorFileError: The file became shorter, or a tensor is larger than the memory; after the last tensor, which
            the caller must therefore take: the recorded hash is not that of the tensors.
    """
    import torch

    dtypes, digest = torch_dtypes(), hashlib.sha256()
    with open(path, "rb") as stream:
        for entry in header.entries:
            stream.seek(header.data_start + entry.begin)
            try:
                data = bytearray(entry.num_bytes)
            except MemoryError:
                reason = f"tensor '{entry.name}' has {entry.num_bytes:,} bytes, more than there is memory"
                raise TensorFileError(Path(path), reason, "read it on a larger machine") from None
            if stream.readinto(data) != entry.num_bytes:
                raise TensorFileError(Path(path), "cut off while it was read")
            digest.update(data)
            dtype = dtypes[entry.dtype]
            flat = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
            yield entry.name, flat.reshape(entry.shape)
    if header.metadata.get(DATA_HASH, digest.hexdigest()) != digest.hexdigest():
        raise damaged(Path(path), "tensors do")


def verify_tensors(path: str | os.PathLike[str]) -> bool:
    """Checks the recorded hashes of a file, without torch; returns False if the file has none.

    Raises:
        TensorFileError: As :func:`read_tensors`.
    """
    header = read_tensor_header(path)
    if DATA_HASH not in header.metadata:
        return False
    with open(path, "rb") as stream:
        stream.seek(header.data_start)
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != header.metadata[DATA_HASH]:
        raise damaged(Path(path), "tensors do")
    return True


def torch_dtypes() -> dict[str, torch.dtype]:
    """Torch's types by the format's names."""
    import torch

    return {
        "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "U16": torch.uint16,
        "F16": torch.float16, "BF16": torch.bfloat16, "I32": torch.int32, "U32": torch.uint32, "F32": torch.float32,
        "I64": torch.int64, "U64": torch.uint64, "F64": torch.float64,
    }  # fmt: skip


def _tensor_bytes(tensor: torch.Tensor) -> Iterator[memoryview]:
    import torch

    if tensor.numel():
        yield tensor.reshape(-1).view(torch.uint8).numpy().data


def _deeper(value: Any, depth: int) -> bool:
    """Whether lists and mappings are nested more than ``depth`` deep."""
    pending = [(value, 0)]
    while pending:
        item, level = pending.pop()
        if isinstance(item, (dict, list)):
            if level >= depth:
                return True
            pending += [(inner, level + 1) for inner in (item.values() if isinstance(item, dict) else item)]
    return False
