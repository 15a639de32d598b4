"""The safetensors container: a JSON header with every tensor's name, type, shape and place, then the raw bytes.

Written here rather than through a library call so that tensors can be streamed one at a time (a gigabyte is never held
twice) and so that every way in which a file can be damaged has its own one-line explanation. The files are the same
as those of the ``safetensors`` package, in both directions.

Layout (huggingface/safetensors:README.md, "Format"): 8 bytes little-endian length N of the header; N bytes of JSON
``{"__metadata__": {str: str}, name: {"dtype", "shape", "data_offsets": [begin, end]}}``; data without holes.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard

from sida.errors import UserError
from sida.io import atomic_path

ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip
MAX_HEADER_BYTES = 100_000_000
Buffer = bytes | bytearray | memoryview
_AGAIN = "delete it and make or download it again"


@dataclasses.dataclass(frozen=True)
class TensorEntry:
    """Name, type and place of one tensor.

    Attributes:
        name: State-dict key.
        dtype: One of :data:`ITEM_BYTES`.
        shape: Sizes, slowest first.
        begin: First byte, counted from the start of the data part.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int

    @property
    def num_bytes(self) -> int:
        """Bytes of the tensor."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


@dataclasses.dataclass(frozen=True)
class Header:
    """What stands at the beginning of a file.

    Attributes:
        metadata: Free strings by key.
        entries: All tensors, in file order.
        data_start: Offset of the data part in the file.
    """

    metadata: dict[str, str]
    entries: tuple[TensorEntry, ...]
    data_start: int


def entries_for(specs: Iterable[tuple[str, str, Sequence[int]]]) -> tuple[TensorEntry, ...]:
    """Lays tensors ``(name, dtype, shape)`` out one behind the other, widest item first so that all are aligned."""
    ordered = sorted(specs, key=lambda spec: -ITEM_BYTES[spec[1]])
    entries, position = [], 0
    for name, dtype, shape in ordered:
        entry = TensorEntry(name, dtype, tuple(int(n) for n in shape), position)
        entries.append(entry)
        position += entry.num_bytes
    return tuple(entries)


def header_bytes(entries: Sequence[TensorEntry], metadata: dict[str, str]) -> bytes:
    """The length field and the JSON, padded with blanks so that the data begin at a multiple of 8 bytes."""
    value: dict[str, Any] = {"__metadata__": metadata}
    for entry in entries:
        place = [entry.begin, entry.begin + entry.num_bytes]
        value[entry.name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": place}
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def write_tensor_file(
    path: str | os.PathLike[str],
    entries: Sequence[TensorEntry],
    metadata: dict[str, str],
    chunks: Iterable[Buffer],
    finish: Callable[[], dict[str, str]] | None = None,
) -> None:
    """Writes a whole file or none.

    Args:
        path: Target; written under a temporary name and renamed.
        entries: From :func:`entries_for`.
        metadata: Strings for the header. Equal entries, metadata and chunks give equal bytes.
        chunks: The tensors' bytes, in the order of ``entries``; a tensor may come in several pieces.
        finish: Called after the tensors; gives metadata of the same length that replace the first ones (for digests
            that are computed meanwhile).

    Raises:
        ValueError: The pieces do not add up to the announced length.
    """
    promised = sum(entry.num_bytes for entry in entries)
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        header = header_bytes(entries, metadata)
        stream.write(header)
        written = 0
        for chunk in chunks:
            written += stream.write(chunk)
        if written != promised:
            raise ValueError(f"{path}: {written} bytes of tensors were given, {promised} announced")
        if finish is not None:
            final = header_bytes(entries, finish())
            if len(final) != len(header):
                raise ValueError(f"{path}: the final metadata have another length")
            stream.seek(0)
            stream.write(final)


def read_header(path: str | os.PathLike[str]) -> Header:
    """Reads and checks the header without touching the tensors.

    Raises:
        UserError: No such file, empty, a pickle, not safetensors, cut off, or a header that contradicts itself.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; check the path, or make the network first")
    size = path.stat().st_size
    with open(path, "rb") as stream:
        start = stream.read(8)
        _refuse_other_formats(path, start, size)
        length = int.from_bytes(start, "little")
        if length > MAX_HEADER_BYTES:
            raise UserError(f"{path}: not a safetensors file (impossible header length); convert or download it again")
        if 8 + length > size:
            raise UserError(f"{path}: cut off inside its header ({size} of {8 + length} bytes or more); {_AGAIN}")
        value = _parse_json(path, stream, length)
    metadata = value.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise UserError(f"{path}: not a safetensors file (metadata must be texts); convert or download it again")
    entries = sorted((_entry(path, name, item) for name, item in value.items()), key=lambda e: (e.begin, e.num_bytes))
    position = 0
    for entry in entries:
        if entry.begin != position:
            raise UserError(
                f"{path}: damaged header: tensor '{entry.name}' overlaps another or leaves a hole; {_AGAIN}"
            )
        position += entry.num_bytes
    expected = 8 + length + position
    if size < expected:
        raise UserError(f"{path}: cut off: {size} of {expected} bytes are there; {_AGAIN}")
    if size > expected:
        raise UserError(f"{path}: {size - expected} bytes too long for its header; {_AGAIN}")
    return Header(metadata, tuple(entries), 8 + length)


def _refuse_other_formats(path: Path, start: bytes, size: int) -> None:
    if size == 0:
        raise UserError(f"{path}: the file is empty; {_AGAIN}")
    if start[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05") or start[:4] == b"PK\x03\x04":
        raise UserError(
            f"{path}: this is a pickle; turn it into safetensors first: sida convert {path} OUT.safetensors"
        )
    if size < 8:
        raise UserError(f"{path}: cut off after {size} bytes; {_AGAIN}")


def _parse_json(path: Path, stream: BinaryIO, length: int) -> dict[str, Any]:
    try:
        value = json.loads(stream.read(length).decode("utf-8"))
    except (ValueError, RecursionError):
        raise UserError(f"{path}: not a safetensors file (unreadable header); convert or download it again") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: not a safetensors file (header is no mapping); convert or download it again")
    return value


def _entry(path: Path, name: str, item: Any) -> TensorEntry:
    """Checks one line of the header: known type, whole sizes, a place that fits the sizes."""
    fault = f"{path}: damaged header at tensor '{name}'; {_AGAIN}"
    if not isinstance(item, dict) or item.get("dtype") not in ITEM_BYTES:
        raise UserError(fault)
    shape, place = item.get("shape"), item.get("data_offsets")
    if not (_whole_numbers(shape) and _whole_numbers(place) and len(place) == 2):
        raise UserError(fault)
    entry = TensorEntry(name, item["dtype"], tuple(shape), place[0])
    if place[1] - place[0] != entry.num_bytes:
        raise UserError(fault)
    return entry


def _whole_numbers(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 2**63 for n in value)
