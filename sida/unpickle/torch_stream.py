"""Readers of the two containers of ``torch.save``: the zip archive (since 1.6), and a sequence of pickles and storages.

Both hold a pickle in which a persistent id ``("storage", type, key, location, numel)`` represents a tensor's memory.
The location (``"cuda:0"``) is ignored, since nothing is placed on a device.
Format source: pytorch/pytorch:torch/serialization.py.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable
from typing import Any

from sida.errors import UserError
from sida.files.tensors import ITEM_BYTES
from sida.unpickle.inert import Allowed, Budget, RefusedError
from sida.unpickle.pickle_machine import PickleMachine
from sida.unpickle.records import Storage, Window, WindowStream

#: ``resolve(module, name)`` returns the inert replacement of a name in a file.
Resolve = Callable[[str, str], Any]
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
_LOCAL_HEADER = 30
MAX_DIRECTORY = 4 << 20
"""Largest directory of a zip archive in bytes; that of a network of 2,000 tensors has 300,000."""
STEPS_PER_MEMBER = 16
_LONGEST_KEY = 200
_BIG_ENDIAN = ("written on a big-endian machine", "save it again on a little-endian one")


def is_zip(window: Window) -> bool:
    """Whether the bytes begin like a zip archive."""
    return window.length >= 4 and window.read_at(0, 4) == b"PK\x03\x04"


def read_torch_stream(window: Window, resolve: Resolve, budget: Budget) -> Any:
    """Reads the pickled value of a torch file; tensors refer to their bytes inside ``window``.

    Raises:
        UserError: The file is damaged, cut off, or outside the allow-list.
    """
    return (_read_zip if is_zip(window) else _read_legacy)(window, resolve, budget)


def _storage_id(key: Any) -> tuple[str, str, int]:
    """Splits a persistent id into ``(dtype, key, numel)``."""
    if not isinstance(key, tuple) or len(key) not in (5, 6) or key[0] != "storage":
        raise RefusedError("it refers to something that is no tensor memory")
    _, kind, name, _, numel = key[:5]
    if len(key) == 6 and key[5] is not None:
        raise RefusedError("it holds storage views of PyTorch before 0.4")
    named = isinstance(name, str) and len(name) <= _LONGEST_KEY
    if not isinstance(kind, Storage) or not named or type(numel) is not int or numel < 0:
        raise TypeError("a storage with impossible sizes")
    return kind.dtype, name, numel


def _read_zip(window: Window, resolve: Resolve, budget: Budget) -> Any:
    parts = _zip_parts(window, budget)
    pickles = [name for name in parts if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise UserError("", "a zip archive, but not one of torch.save (no data.pkl)", "give the network's .pkl or .pt")
    prefix = pickles[0].removesuffix("data.pkl")
    order = parts.get(f"{prefix}byteorder")
    if order is not None and order.tobytes() != b"little":
        raise UserError("", *_BIG_ENDIAN)
    storages: dict[str, Storage] = {}

    def persistent(key: Any) -> Storage:
        dtype, name, numel = _storage_id(key)
        if name not in storages:
            data = parts.get(f"{prefix}data/{name}")
            if data is None or data.length < numel * ITEM_BYTES[dtype]:
                have = 0 if data is None else data.length
                raise RefusedError(f"a storage claims {numel * ITEM_BYTES[dtype]} bytes and {have} are there")
            storages[name] = Storage(dtype, numel, data)
        return storages[name]

    return PickleMachine(parts[pickles[0]], resolve, budget, persistent).load()[0]


def _zip_parts(window: Window, budget: Budget) -> dict[str, Window]:
    """The members of an archive as windows; compressed members, which torch never writes, are refused."""
    try:
        with zipfile.ZipFile(WindowStream(window, MAX_DIRECTORY)) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, struct.error, NotImplementedError) as error:
        raise UserError("", f"damaged or cut-off zip archive ({error})", "download it again") from None
    budget.spend(STEPS_PER_MEMBER * len(members))
    parts: dict[str, Window] = {}
    total = 0
    for member in members:
        total += member.file_size
        plain = member.compress_type == zipfile.ZIP_STORED and member.file_size == member.compress_size
        if not plain or member.flag_bits & 1:
            ratio = member.file_size / max(member.compress_size, 1)
            raise RefusedError(f"compressed archive member (ratio {ratio:.0f})", "torch.save writes none")
        try:
            head = window.read_at(member.header_offset, _LOCAL_HEADER)
            skip = int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
            parts[member.filename] = window.part(member.header_offset + _LOCAL_HEADER + skip, member.file_size)
        except EOFError:
            raise UserError("", "cut-off zip archive", "download it again") from None
    if total > window.length:
        raise RefusedError(f"archive members overlap ({total} bytes claimed, {window.length} there)", "")
    return parts


def _read_legacy(window: Window, resolve: Resolve, budget: Budget) -> Any:
    """Reads magic number, protocol, machine facts, value and storage keys, then each storage's length and bytes."""
    storages: dict[str, Storage] = {}

    def persistent(key: Any) -> Any:
        if isinstance(key, tuple) and len(key) == 4 and key[0] == "module" and isinstance(key[1], Allowed):
            # A class together with its source text (for warnings); the text is ignored.
            return key[1]
        dtype, name, numel = _storage_id(key)
        return storages.setdefault(name, Storage(dtype, numel))

    load = lambda position: PickleMachine(window, resolve, budget, persistent).load(position)
    magic, position = load(0)
    protocol, position = load(position)
    facts, position = load(position)
    if magic != LEGACY_MAGIC or protocol != LEGACY_PROTOCOL or not isinstance(facts, dict):
        raise UserError("", "not a torch stream, or of an unknown version", "save it again with torch.save")
    if facts.get("little_endian") is not True:
        raise UserError("", *_BIG_ENDIAN)
    value, position = load(position)
    keys, position = load(position)
    known = isinstance(keys, list) and len(keys) == len(storages) and all(type(key) in (str, int) for key in keys)
    if not known or {str(key) for key in keys} != storages.keys():
        raise UserError("", "damaged torch stream: its list of storages does not match", "download it again")
    for key in keys:
        storage = storages[str(key)]
        try:
            numel = int.from_bytes(window.read_at(position, 8), "little")
            if numel != storage.numel:
                raise UserError("", f"damaged torch stream: a storage has {numel} of {storage.numel} elements")
            storage.data = window.part(position + 8, storage.num_bytes)
        except EOFError:
            fault = f"cut off: a storage of {storage.num_bytes} bytes is not all there"
            raise UserError("", fault, "download it again") from None
        position += 8 + storage.num_bytes
    return value
