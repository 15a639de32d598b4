"""Tensor files with a JSON record: networks, training states, statistics, features, references.

The files are safetensors, with the record as the only metadata, under the key ``sida``: with several keys the package
safetensors writes them in any order. The record has two hashes, of the tensors and of its own content; readers return
it without them. Files of other programs and of the first versions have no such hashes and are read as they are.

The package checks types, sizes and offsets of tensors; this module also finds a name that occurs twice and an absurd
header. Tensors are read and not mapped, because a mapping ends the process if the file is cut or changes.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, ParamSpec, TypeVar

import safetensors

from sida.errors import UserError, errors_at, reason_of
from sida.files.atomic import atomic_path
from sida.files.child import is_shape
from sida.files.content import ARRAYS, LATENTS, NETWORK, START, kind_of_file, refuse_packed, refuse_text
from sida.files.ordinary import UnreadableError, open_ordinary
from sida.files.text_files import check_amount, check_hash, parse_json, with_hash

if TYPE_CHECKING:
    import torch

P = ParamSpec("P")
T = TypeVar("T")
#: Times that a file is read which is replaced meanwhile.
_ATTEMPTS = 10
#: Key of the record in the metadata, and of the hash of the tensors in the record.
RECORD_KEY, TENSORS_HASH = "sida", "tensors_sha256"
#: Limits of a header. A network of 2,000 tensors needs 300,000 bytes and 20,000 values; parsed JSON takes up to 30
#: times the memory of its text.
MAX_HEADER_BYTES = 16 << 20
MAX_HEADER_VALUES = 500_000
_AGAIN = "delete it and make or download it again"
_SAVE = "save its weights as safetensors or by torch.save, or download it again"
_CHUNK = 1 << 22


class TensorFileError(UserError):
    """A file that cannot be read as tensors."""


class TensorEntry(NamedTuple):
    """Name, type, shape and byte range of one tensor; the range counts from the start of the data part."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class TensorHeader(NamedTuple):
    """Header of a file.

    Attributes:
        record: The record; None in a file of another program.
        entries: The tensors by name.
        data_start: Offset of the data part in bytes.
        sha256: Recorded hash of the tensors; None without one.
        file: Identity of the file that was open: a rename may put another one there.
    """

    record: dict[str, Any] | None
    entries: tuple[TensorEntry, ...]
    data_start: int
    sha256: str | None
    file: tuple[int, ...]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the tensors by name."""
        return {entry.name: entry.shape for entry in self.entries}


def torch_dtypes() -> dict[str, torch.dtype]:
    """Torch's types by the format's names."""
    import torch

    return {
        "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "U16": torch.uint16,
        "F16": torch.float16, "BF16": torch.bfloat16, "I32": torch.int32, "U32": torch.uint32, "F32": torch.float32,
        "I64": torch.int64, "U64": torch.uint64, "F64": torch.float64,
    }  # fmt: skip


def write_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, torch.Tensor], record: Mapping[str, Any] | None = None
) -> str:
    """Writes tensors (on any device) and a record of JSON values atomically. Equal content gives equal bytes.

    Returns:
        SHA-256 of the tensors, as recorded in the file.

    Raises:
        UserError: The record is not JSON, or the format does not have a tensor's type.
    """
    import torch
    from safetensors.torch import save_file

    names = {dtype: name for name, dtype in torch_dtypes().items()}
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())}
    digest, addresses = hashlib.sha256(), set[int]()
    for name, tensor in on_cpu.items():
        if tensor.dtype not in names:
            raise UserError(path, f"tensor '{name}' of type {tensor.dtype} cannot be stored", "use float32 or int64")
        digest.update(_facts(name, names[tensor.dtype], tensor.shape))
        address = tensor.untyped_storage().data_ptr()
        if address in addresses:  # the package refuses tensors that share memory
            on_cpu[name] = tensor.clone()
        addresses.add(address)
        if tensor.numel():
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    try:
        hashed = with_hash({**(record or {}), TENSORS_HASH: digest.hexdigest()})
        text = json.dumps(hashed, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise UserError(path, f"metadata are not plain JSON values ({error})") from None
    with atomic_path(path) as temporary:
        try:
            save_file(on_cpu, temporary, {RECORD_KEY: text})
        except safetensors.SafetensorError as error:
            if (number := _system_error(error)) is None:
                raise
            raise OSError(number, os.strerror(number), str(path)) from None
    return digest.hexdigest()


def _system_error(error: Exception) -> int | None:
    """Number of the system's error in a message of the package; None if the content is at fault."""
    number = re.search(r"os error (\d+)", str(error))
    return None if number is None else int(number[1])


def _facts(name: str, dtype: str, shape: tuple[int, ...]) -> bytes:
    """Name, type and shape of a tensor as bytes; the hash of the tensors covers them and the values."""
    return json.dumps([name, dtype, list(shape)]).encode()


def starts_as_pickle(path: str | os.PathLike[str]) -> bool:
    """Whether a file of weights is a pickle, or torch's zip archive of a pickle, by its first bytes.

    Raises:
        UserError: The file is missing, not an ordinary file, packed, or a text instead of a file.
    """
    with open_ordinary(path, "check the path, or fetch it: sida assets fetch") as stream:
        start = stream.read(START)
    refuse_text(path, start)
    refuse_packed(path, start)
    return _is_pickle(start[:9])


def _is_pickle(start: bytes) -> bool:
    # The length of a safetensors header (640 bytes, for example) may look like a pickle; then JSON follows.
    plain = start[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05") and start[8:9] != b"{"
    return plain or start[:4] == b"PK\x03\x04"


def read_tensor_header(path: str | os.PathLike[str]) -> TensorHeader:
    """Reads and checks the header without touching the tensors.

    Raises:
        TensorFileError: The file is missing, empty, a pickle, of another format, cut off, or has an inconsistent header
            or a record that is not a JSON mapping.
        UnreadableError: The system cannot read the file; its content may be intact.
    """
    text, file = _header_bytes(path)
    value = _header_value(path, text)
    metadata = value.pop("__metadata__", None) or {}
    for name, tensor in value.items():
        if not is_shape(tensor["shape"]):
            raise TensorFileError(path, f"damaged: tensor '{name:.80}' has an impossible shape", _AGAIN)
    entries = (TensorEntry(n, t["dtype"], tuple(t["shape"]), *t["data_offsets"]) for n, t in sorted(value.items()))
    with errors_at(path):
        record = parse_json(metadata.get(RECORD_KEY, "null"), "")
        if not isinstance(record, dict | None):
            raise TensorFileError("", f"its '{RECORD_KEY}' header is not a JSON mapping", "make the file again")
        record = record and check_hash(record, "", _AGAIN)
    digest = record.pop(TENSORS_HASH, None) if record else None
    return TensorHeader(record, tuple(entries), len(text), digest, file)


def _header_bytes(path: str | os.PathLike[str]) -> tuple[bytes, tuple[int, ...]]:
    """Length and header of a file that starts as safetensors, and the file's identity."""
    if not Path(path).is_file():
        raise TensorFileError(path, "no such file", "check the path, or make the file first")
    with open(path, "rb") as stream:
        start = stream.read(START)
        with _as_tensor_error():
            refuse_text(path, start)
            refuse_packed(path, start)
        kind = kind_of_file(path, start)
        kind = "a zip archive" if start.startswith(b"PK") and os.fspath(path).endswith(".zip") else kind
        if kind not in ("", NETWORK, LATENTS):
            pictures = kind in (*ARRAYS, "one picture", "a zip archive")
            remedy = f"score pictures: sida score {path}" if pictures else _SAVE
            raise TensorFileError(path, f"is {kind}, not a network", remedy)
        if _is_pickle(start[:9]):
            remedy = f"turn it into safetensors first: sida convert {path} OUT.safetensors"
            raise TensorFileError(path, "this is a pickle", remedy)
        length = int.from_bytes(start[:8], "little")
        if length > MAX_HEADER_BYTES:
            raise TensorFileError(path, "not a safetensors file (impossible header length)", _SAVE)
        stream.seek(0)
        return stream.read(8 + length), _identity(stream)


def _header_value(path: str | os.PathLike[str], text: bytes) -> dict[str, Any]:
    """Header as a mapping, which the package has checked against the file's size."""
    try:
        check_amount(text, "", most=MAX_HEADER_VALUES)
        with safetensors.safe_open(path, "numpy"):
            value: dict[str, Any] = parse_json(text[8:], "")
    except MemoryError:
        raise UnreadableError(path, f"cannot be read ({os.strerror(errno.ENOMEM)})") from None
    except (UserError, safetensors.SafetensorError, OSError) as error:
        # The package maps the file; older versions let the system's error through, as a text with its number.
        if not isinstance(error, UserError) and (number := _system_error(error)) is not None:
            raise UnreadableError(path, f"cannot be read ({os.strerror(number)})") from None
        if isinstance(error, OSError):
            raise
        reason = str(error).rpartition("header: ")[2]
        raise TensorFileError(path, f"cut off, damaged, or not a safetensors file ({reason})", _AGAIN) from None
    return value


@contextlib.contextmanager
def _as_tensor_error() -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise TensorFileError(error.where, error.fault, error.remedy) from None


class ReplacedError(UnreadableError):
    """A file that was replaced by another one while it was read."""


def _identity(stream: BinaryIO) -> tuple[int, ...]:
    facts = os.fstat(stream.fileno())
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str], header: TensorHeader) -> Iterator[io.BufferedReader]:
    """Opens the file of a header.

    Raises:
        ReplacedError: There is another file now.
    """
    with errors_at(path), open(path, "rb") as stream:
        if _identity(stream) != header.file:
            raise ReplacedError("", "was replaced while it was read", "run the same command again")
        yield stream


def read_again(read: Callable[P, T]) -> Callable[P, T]:
    """Decorates a reader, which begins anew up to ten times where its file is replaced meanwhile."""

    @functools.wraps(read)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        for _ in range(_ATTEMPTS - 1):
            with contextlib.suppress(ReplacedError):
                return read(*args, **kwargs)
        return read(*args, **kwargs)

    return wrapped


@read_again
def read_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Reads tensors (on the CPU, by name) and record of a file; the record is empty if there is none.

    Raises:
        TensorFileError: The file is missing, cut off, damaged or of another format.
    """
    header = read_tensor_header(path)
    return dict(iterate_tensors(path, header)), header.record or {}


def iterate_tensors(path: str | os.PathLike[str], header: TensorHeader) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields ``(name, tensor)`` one at a time, in the order of names.

    Raises:
        TensorFileError: The tensors do not match the recorded hash, or the file became shorter.
        UnreadableError: A tensor is larger than the memory, or there is another file now (:class:`ReplacedError`).
    """
    import torch

    dtypes = torch_dtypes()
    with _opened(path, header) as stream:
        # All tensors are checked before the first one is used.
        _is_verified(stream, header)
        for entry in header.entries:
            if entry.dtype not in dtypes:
                raise TensorFileError(
                    "", f"tensor '{entry.name}' has the unknown type {entry.dtype}", "save it as float32"
                )
            stream.seek(header.data_start + entry.begin)
            try:
                data = bytearray(entry.end - entry.begin)
            except MemoryError:
                reason = f"tensor '{entry.name}' has {entry.end - entry.begin:,} bytes, more than there is memory"
                raise UnreadableError("", reason, "read it on a larger machine") from None
            if stream.readinto(data) != len(data):
                raise TensorFileError("", "cut off while it was read", _AGAIN)
            dtype = dtypes[entry.dtype]
            flat = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
            yield entry.name, flat.reshape(entry.shape)


def check_finite(path: str | os.PathLike[str], name: str, tensor: torch.Tensor, remedy: str) -> None:
    """Refuses a tensor with NaN or infinity, naming file and tensor."""
    if tensor.is_floating_point() and not tensor.isfinite().all():
        raise UserError(path, f"tensor '{name}' holds NaN or infinity", remedy)


@read_again
def verify_tensors(path: str | os.PathLike[str]) -> bool:
    """Checks the recorded hashes of a file, without torch; returns False if the file has none.

    Raises:
        TensorFileError: As :func:`read_tensors`.
    """
    header = read_tensor_header(path)
    with _opened(path, header) as stream:
        return _is_verified(stream, header)


def _is_verified(stream: BinaryIO, header: TensorHeader) -> bool:
    """Whether the tensors have a hash and match it; False without one.

    Raises:
        TensorFileError: They do not match it.
    """
    if header.sha256 is None:
        return False
    digest = hashlib.sha256()
    for entry in header.entries:
        digest.update(_facts(*entry[:3]))
        stream.seek(header.data_start + entry.begin)
        size = entry.end - entry.begin
        while size and (chunk := stream.read(min(size, _CHUNK))):
            digest.update(chunk)
            size -= len(chunk)
    if digest.hexdigest() != header.sha256:
        raise TensorFileError("", "damaged: its tensors do not have the recorded SHA-256", _AGAIN)
    return True


@contextlib.contextmanager
def read_errors(path: str | os.PathLike[str], complaint: str, remedy: str) -> Iterator[None]:
    """Turns errors of reading a file into ``UserError("path: complaint (reason); remedy")``.

    These are :class:`TensorFileError`, ``OSError``, the ``KeyError`` and ``ValueError`` of unexpected content, and the
    ``RuntimeError`` of weights of another network.
    """
    try:
        yield
    except (TensorFileError, OSError, KeyError, ValueError, RuntimeError) as error:
        reason = error.fault if isinstance(error, TensorFileError) else reason_of(error)
        raise UserError(path, f"{complaint} ({reason})", remedy) from None
