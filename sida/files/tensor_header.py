"""Header of a safetensors file: names, types and places of tensors, checked before any tensor is read.

Layout (huggingface/safetensors:README.md, "Format"): 8 bytes little-endian length N of the header; N bytes of JSON
``{"__metadata__": {str: str}, name: {"dtype", "shape", "data_offsets": [begin, end]}}``; data without holes.

Files of the suite have two hashes in the metadata: of the tensors' bytes, and of the header (computed with zeros in
place of this hash), so that a header can be checked alone. Files of other programs have none and are read as they are.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from sida.errors import UserError

ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip
#: Limits of a header. That of a network of 2,000 tensors has 300,000 bytes and 20,000 values; parsed JSON takes up to
#: 30 times its bytes.
MAX_HEADER_BYTES = 16 << 20
MAX_HEADER_VALUES = 500_000
MAX_DIMENSIONS = 32
DATA_HASH, HEADER_HASH = "sida_data_sha256", "sida_header_sha256"
_AGAIN = "delete it and make or download it again"
_CONVERT = "convert or download it again"


class TensorFileError(UserError):
    """A file that cannot be read as tensors.

    Args:
        path: The file.
        reason: Fault of the file.
        remedy: Action that fixes the fault.
    """

    def __init__(self, path: Path, reason: str, remedy: str = _AGAIN) -> None:
        super().__init__(f"{path}: {reason}; {remedy}")
        self.reason = reason


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
class TensorHeader:
    """Header of a file.

    Attributes:
        metadata: Strings by key, including the hashes.
        entries: All tensors, in file order.
        data_start: Offset of the data part in the file.
    """

    metadata: dict[str, str]
    entries: tuple[TensorEntry, ...]
    data_start: int


def entries_for(specs: Iterable[tuple[str, str, Sequence[int]]]) -> tuple[TensorEntry, ...]:
    """Assigns consecutive places to tensors ``(name, dtype, shape)``, widest type first so that all are aligned."""
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


_BLANK = "0" * 64


def damaged(path: Path, part: str) -> TensorFileError:
    """The error for a part of a file that has changed since it was written.

    Args:
        path: The file.
        part: The part with its verb: ``tensors do`` or ``header does``.
    """
    return TensorFileError(path, f"damaged: its {part} not have the recorded SHA-256")


def hashed_header(entries: Sequence[TensorEntry], metadata: dict[str, str], data_sha256: str) -> bytes:
    """As :func:`header_bytes`, with the hashes of the tensors' bytes and of the header."""
    text = header_bytes(entries, {**metadata, DATA_HASH: data_sha256, HEADER_HASH: _BLANK})
    return text.replace(_hash_field(_BLANK), _hash_field(hashlib.sha256(text).hexdigest()))


def _hash_field(value: str) -> bytes:
    return f'"{HEADER_HASH}":"{value}"'.encode()


def _check_header(path: Path, text: bytes, metadata: dict[str, str]) -> None:
    """Checks the hash in a header, if there is one."""
    found = metadata.get(HEADER_HASH)
    if found is None and DATA_HASH not in metadata:
        return
    blank = text.replace(_hash_field(str(found)), _hash_field(_BLANK))
    if DATA_HASH not in metadata or hashlib.sha256(blank).hexdigest() != found:
        raise damaged(path, "header does")


def read_tensor_header(path: str | os.PathLike[str]) -> TensorHeader:
    """Reads and checks the header without touching the tensors.

    Raises:
        TensorFileError: The file is missing, empty, a pickle, not safetensors, cut off, or has an inconsistent header.
    """
    path = Path(path)
    if not path.is_file():
        raise TensorFileError(path, "no such file", "check the path, or make the file first")
    size = path.stat().st_size
    with open(path, "rb") as stream:
        start = stream.read(9)
        _refuse_other_formats(path, start, size)
        length = int.from_bytes(start[:8], "little")
        if length > MAX_HEADER_BYTES:
            raise TensorFileError(path, "not a safetensors file (impossible header length)", _CONVERT)
        if 8 + length > size:
            raise TensorFileError(path, f"cut off inside its header ({size} of {8 + length} bytes or more)")
        stream.seek(0)
        text = stream.read(8 + length)
    value = _parse_json(path, text[8:])
    metadata = value.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise TensorFileError(path, "not a safetensors file (metadata must be texts)", _CONVERT)
    _check_header(path, text, metadata)
    entries = sorted((_entry(path, name, item) for name, item in value.items()), key=lambda e: (e.begin, e.num_bytes))
    position = 0
    for entry in entries:
        if entry.begin != position:
            raise TensorFileError(path, f"damaged header: tensor '{entry.name}' overlaps another or leaves a hole")
        position += entry.num_bytes
    expected = 8 + length + position
    if size < expected:
        raise TensorFileError(path, f"cut off: {size} of {expected} bytes are there")
    if size > expected:
        raise TensorFileError(path, f"{size - expected} bytes too long for its header")
    return TensorHeader(metadata, tuple(entries), 8 + length)


def is_pickle(start: bytes) -> bool:
    """Whether a file with these first nine bytes is a pickle, or torch's zip archive of a pickle.

    The length of a safetensors header (640 bytes, for example) may look like a pickle; then JSON follows.
    """
    stream = start[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05") and start[8:9] != b"{"
    return stream or start[:4] == b"PK\x03\x04"


def starts_as_pickle(path: str | os.PathLike[str]) -> bool:
    """:func:`is_pickle` of a file."""
    with open(path, "rb") as stream:
        return is_pickle(stream.read(9))


def _refuse_other_formats(path: Path, start: bytes, size: int) -> None:
    if size == 0:
        raise TensorFileError(path, "the file is empty")
    if is_pickle(start):
        remedy = f"turn it into safetensors first: sida convert {path} OUT.safetensors"
        raise TensorFileError(path, "this is a pickle", remedy)
    if size < 8:
        raise TensorFileError(path, f"cut off after {size} bytes")


def _parse_json(path: Path, data: bytes) -> dict[str, Any]:
    if sum(data.count(sign) for sign in (b",", b"[", b"{")) > MAX_HEADER_VALUES:
        raise TensorFileError(path, f"refused: a header of more than {MAX_HEADER_VALUES:,} values", _CONVERT)
    try:
        value = json.loads(data.decode("utf-8"), parse_constant=no_constant)
    except (ValueError, RecursionError, MemoryError):
        raise TensorFileError(path, "not a safetensors file (unreadable header)", _CONVERT) from None
    if not isinstance(value, dict):
        raise TensorFileError(path, "not a safetensors file (header is no mapping)", _CONVERT)
    return value


def _entry(path: Path, name: str, item: Any) -> TensorEntry:
    """Checks one entry of the header: known type, integer sizes, a place that fits the sizes."""
    fault = TensorFileError(path, f"damaged header at tensor '{name}'")
    if not isinstance(item, dict) or not isinstance(item.get("dtype"), str) or item["dtype"] not in ITEM_BYTES:
        raise fault
    shape, place = item.get("shape"), item.get("data_offsets")
    if not (_whole_numbers(shape) and _whole_numbers(place) and len(place) == 2 and len(shape) <= MAX_DIMENSIONS):
        raise fault
    if math.prod(max(n, 1) for n in shape) >= 2**63:
        raise fault
    entry = TensorEntry(name, item["dtype"], tuple(shape), place[0])
    if place[1] - place[0] != entry.num_bytes:
        raise fault
    return entry


def no_constant(name: str) -> None:
    """Refuses NaN and infinity, which Python's JSON reader accepts although JSON does not have them."""
    raise ValueError(f"{name} is no JSON")


def _whole_numbers(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 2**63 for n in value)
