"""Tensor files with a JSON record: networks, training states, statistics, features, references.

The files are safetensors, with the record in the header under the key ``sida``; the ``safetensors`` package reads them
and writes files that this module reads. It cannot write them: docs/architecture.md has the reasons.

Layout (huggingface/safetensors:README.md, "Format"): 8 bytes little-endian length N of the header; N bytes of JSON
``{"__metadata__": {str: str}, name: {"dtype", "shape", "data_offsets": [begin, end]}}``; data without holes.

Files of the suite have two hashes in the metadata: of the tensors' bytes, and of the header (computed with zeros in
place of this hash), so that a header can be checked alone. Files of other programs have none and are read as they are.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from sida.errors import UserError, located
from sida.files.atomic import atomic_path
from sida.files.text_files import check_amount, parse_json

if TYPE_CHECKING:
    import torch


ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip
#: Limits of a header. That of a network of 2,000 tensors has 300,000 bytes and 20,000 values; parsed JSON takes up to
#: 30 times its bytes.
MAX_HEADER_BYTES = 16 << 20
MAX_HEADER_VALUES = 500_000
MAX_DIMENSIONS = 32
_ENTRY_KEYS = ("dtype", "shape", "data_offsets")
DATA_HASH, HEADER_HASH = "sida_data_sha256", "sida_header_sha256"
_AGAIN = "delete it and make or download it again"
_CONVERT = "convert or download it again"


class TensorFileError(UserError):
    """A file that cannot be read as tensors.

    Args:
        reason: Fault of the file.
        remedy: Action that fixes the fault.
    """

    def __init__(self, reason: str, remedy: str = _AGAIN) -> None:
        super().__init__("", reason, remedy)
        self.args = (reason, remedy)  # with which a copy from another process is made


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


def _damaged(part: str) -> TensorFileError:
    return TensorFileError(f"damaged: its {part} not have the recorded SHA-256")


def _hashed_header(entries: Sequence[TensorEntry], metadata: dict[str, str], data_sha256: str) -> bytes:
    """As :func:`header_bytes`, with the hashes of the tensors' bytes and of the header."""
    text = header_bytes(entries, {**metadata, DATA_HASH: data_sha256, HEADER_HASH: _BLANK})
    return text.replace(_hash_field(_BLANK), _hash_field(hashlib.sha256(text).hexdigest()))


def _hash_field(value: str) -> bytes:
    return f'"{HEADER_HASH}":"{value}"'.encode()


def _check_header(text: bytes, metadata: dict[str, str]) -> None:
    """Checks the hash in a header, if there is one."""
    found = metadata.get(HEADER_HASH)
    if found is None and DATA_HASH not in metadata:
        return
    blank = text.replace(_hash_field(str(found)), _hash_field(_BLANK))
    if DATA_HASH not in metadata or hashlib.sha256(blank).hexdigest() != found:
        raise _damaged("header does")


def read_tensor_header(path: str | os.PathLike[str]) -> TensorHeader:
    """Reads and checks the header without touching the tensors.

    Raises:
        TensorFileError: The file is missing, empty, a pickle, not safetensors, cut off, or has an inconsistent header.
    """
    with located(path):
        if not Path(path).is_file():
            raise TensorFileError("no such file", "check the path, or make the file first")
        with open(path, "rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            start = stream.read(9)
            if is_pickle(start):
                remedy = f"turn it into safetensors first: sida convert {path} OUT.safetensors"
                raise TensorFileError("this is a pickle", remedy)
            if size < 8:
                raise TensorFileError(f"cut off after {size} bytes" if size else "the file is empty")
            length = int.from_bytes(start[:8], "little")
            if length > MAX_HEADER_BYTES:
                raise TensorFileError("not a safetensors file (impossible header length)", _CONVERT)
            if 8 + length > size:
                raise TensorFileError(f"cut off inside its header ({size} of {8 + length} bytes or more)")
            stream.seek(0)
            header = _parsed_header(stream.read(8 + length))
        expected = header.data_start + sum(entry.num_bytes for entry in header.entries)
        if size < expected:
            raise TensorFileError(f"cut off: {size} of {expected} bytes are there")
        if size > expected:
            raise TensorFileError(f"{size - expected} bytes too long for its header")
        return header


def _parsed_header(text: bytes) -> TensorHeader:
    """Checks the length field and the JSON of a header."""
    try:
        check_amount(text, "", most=MAX_HEADER_VALUES)
        value = parse_json(text[8:].decode(), "")
    except (UserError, UnicodeDecodeError, MemoryError) as error:
        raise TensorFileError(f"not a safetensors file (unreadable header: {error})", _CONVERT) from None
    if not isinstance(value, dict):
        raise TensorFileError("not a safetensors file (header is no mapping)", _CONVERT)
    metadata = value.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise TensorFileError("not a safetensors file (metadata must be texts)", _CONVERT)
    _check_header(text, metadata)
    entries = sorted((_entry(name, item) for name, item in value.items()), key=lambda e: (e.begin, e.num_bytes))
    position = 0
    for entry in entries:
        if entry.begin != position:
            raise TensorFileError(f"damaged header: tensor '{entry.name}' overlaps another or leaves a hole")
        position += entry.num_bytes
    return TensorHeader(metadata, tuple(entries), len(text))


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


def _entry(name: str, item: Any) -> TensorEntry:
    """Checks one entry of the header: known type, integer sizes, a place that fits the sizes."""
    dtype, shape, place = (item.get(key) if isinstance(item, dict) else None for key in _ENTRY_KEYS)
    damaged = TensorFileError(f"damaged header at tensor '{name}'")
    if not (isinstance(dtype, str) and dtype in ITEM_BYTES and _whole_numbers(shape) and _whole_numbers(place)):
        raise damaged
    if len(place) != 2 or len(shape) > MAX_DIMENSIONS or math.prod(max(n, 1) for n in shape) >= 2**63:
        raise damaged
    entry = TensorEntry(name, dtype, tuple(shape), place[0])
    if place[1] - place[0] != entry.num_bytes:
        raise damaged
    return entry


def _whole_numbers(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 2**63 for n in value)


#: Key of the record in the header's metadata.
RECORD_KEY = "sida"
Buffer = bytes | bytearray | memoryview


@contextlib.contextmanager
def explained(path: str | os.PathLike[str], complaint: str, remedy: str) -> Iterator[None]:
    """Turns errors of reading a file into ``UserError("path: complaint (reason); remedy")``.

    These are :class:`TensorFileError`, ``OSError``, and the ``KeyError`` and ``ValueError`` of unexpected content.
    """
    try:
        yield
    except (TensorFileError, OSError, KeyError, ValueError) as error:
        reason = error.fault if isinstance(error, TensorFileError) else error
        raise UserError(path, f"{complaint} ({reason})", remedy) from None


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

    header = lambda metadata: _hashed_header(entries, metadata, digest.hexdigest())
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
        raise UserError(where, f"metadata are not plain JSON values ({error})") from None


def write_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, torch.Tensor], record: Mapping[str, Any] | None = None
) -> None:
    """Writes tensors (of any device) and a record of JSON values atomically. Equal content gives equal bytes.

    Raises:
        UserError: The record is not JSON, or the format does not have a tensor's type.
    """
    import torch

    names = {dtype: name for name, dtype in torch_dtypes().items()}
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    for name, tensor in on_cpu.items():
        if tensor.dtype not in names:
            raise UserError(path, f"tensor '{name}' of type {tensor.dtype} cannot be stored", "use float32 or int64")
    entries = entries_for((name, names[tensor.dtype], tensor.shape) for name, tensor in on_cpu.items())
    metadata = {} if record is None else {RECORD_KEY: encode_record(record, str(path))}
    full = (on_cpu[entry.name] for entry in entries if entry.num_bytes)
    chunks = (tensor.reshape(-1).view(torch.uint8).numpy().data for tensor in full)
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
        record = parse_json(text, "")
    except UserError:
        record = None
    if not isinstance(record, dict):
        with located(path):
            raise TensorFileError(f"its '{RECORD_KEY}' header is no JSON mapping", "make the file again")
    return record


def iterate_tensors(path: str | os.PathLike[str], header: TensorHeader) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields ``(name, tensor)`` one at a time, so that conversions never hold a file twice in memory.

    Raises:
        TensorFileError: The file became shorter, or a tensor is larger than the memory; after the last tensor, which
            the caller must therefore take: the recorded hash is not that of the tensors.
    """
    import torch

    dtypes, digest = torch_dtypes(), hashlib.sha256()
    with located(path), open(path, "rb") as stream:
        for entry in header.entries:
            stream.seek(header.data_start + entry.begin)
            try:
                data = bytearray(entry.num_bytes)
            except MemoryError:
                reason = f"tensor '{entry.name}' has {entry.num_bytes:,} bytes, more than there is memory"
                raise TensorFileError(reason, "read it on a larger machine") from None
            if stream.readinto(data) != entry.num_bytes:
                raise TensorFileError("cut off while it was read")
            digest.update(data)
            dtype = dtypes[entry.dtype]
            flat = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
            yield entry.name, flat.reshape(entry.shape)
        if header.metadata.get(DATA_HASH, digest.hexdigest()) != digest.hexdigest():
            raise _damaged("tensors do")


def verify_tensors(path: str | os.PathLike[str]) -> bool:
    """Checks the recorded hashes of a file, without torch; returns False if the file has none.

    Raises:
        TensorFileError: As :func:`read_tensors`.
    """
    header = read_tensor_header(path)
    if DATA_HASH not in header.metadata:
        return False
    with located(path), open(path, "rb") as stream:
        stream.seek(header.data_start)
        if hashlib.file_digest(stream, "sha256").hexdigest() != header.metadata[DATA_HASH]:
            raise _damaged("tensors do")
    return True


def torch_dtypes() -> dict[str, torch.dtype]:
    """Torch's types by the format's names."""
    import torch

    return {
        "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "U16": torch.uint16,
        "F16": torch.float16, "BF16": torch.bfloat16, "I32": torch.int32, "U32": torch.uint32, "F32": torch.float32,
        "I64": torch.int64, "U64": torch.uint64, "F64": torch.float64,
    }  # fmt: skip
