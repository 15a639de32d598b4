"""Reads the arrays in a pickle, a file of ``torch.save``, an npy of objects or safetensors, in a child.

Their names lead to them: ``fid.mu`` is entry ``mu`` of entry ``fid``. Lists of images are one array, and the columns of
a list of pairs are ``arr_0`` and ``arr_1``, as numpy names unnamed arrays.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from sida.errors import UserError
from sida.files.fenced import ANY_ARRAY, KINDS, SHAPE, Either, fits, only_in_child
from sida.files.unpickler import View, read_value

_TYPES = {
    "BOOL": "|b1", "U8": "|u1", "I8": "|i1", "I16": "<i2", "U16": "<u2", "F16": "<f2", "I32": "<i4", "U32": "<u4",
    "F32": "<f4", "I64": "<i8", "U64": "<u8", "F64": "<f8",
}  # fmt: skip
_LONGEST_HEADER = 16 << 20
_NUMBERS = (bool, int, float, np.generic)


class _Slice(NamedTuple):
    """An array in safetensors."""

    file: BinaryIO
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def numbers(self) -> np.ndarray:
        self.file.seek(self.offset)
        content = self.file.read(math.prod(self.shape) * self.dtype.itemsize)
        return np.frombuffer(content, self.dtype).reshape(self.shape)


class Reader:
    """Answers for one file: its arrays, then elements of them."""

    FORMS = {
        "arrays": ({"numbers": {str: (SHAPE, Either(KINDS), bool)}, "unread": {str: str}}, {}),
        "rows": (None, {"rows": (ANY_ARRAY[0], (int,))}),
    }  # fmt: skip

    def __init__(self) -> None:
        only_in_child()
        self._parts: dict[str, list[Any]] = {}
        self._last: tuple[Any, np.ndarray] = (None, np.empty(0))

    def arrays(self, files: list[BinaryIO]) -> tuple[Any, dict[str, np.ndarray]]:
        """Shape, type and False by name, for each array of numbers; the fault of each other value, as ``unread``."""
        (file,) = files
        is_safetensors = file.read(10)[8:] == b'{"'
        file.seek(0)
        content = _safetensors(file) if is_safetensors else read_value(file)
        numbers: dict[str, Any] = {}
        unread: dict[str, str] = {}
        for name, value in _named(content, ""):
            try:
                shape, self._parts[name] = _joined(value)
                numbers[name] = [shape, self._parts[name][0].dtype.newbyteorder("<").str, False]
            except UserError as error:
                if name or _is_list(value):  # a single object may be a network
                    unread[name] = error.fault
        return {"numbers": numbers, "unread": unread}, {}

    def rows(self, files: list[BinaryIO], name: str, begin: int, count: int) -> tuple[Any, dict[str, np.ndarray]]:
        """Elements ``begin … begin + count - 1`` of an array, in the order of its last index."""
        end, start, pieces = begin + count, 0, []
        for number, part in enumerate(self._parts[name]):
            size = math.prod(part.shape)
            if start < end and begin < start + size:
                # Readers ask for the pieces of a large part in a row.
                if self._last[0] != (name, number):
                    values = part if isinstance(part, np.ndarray) else part.numbers()
                    self._last = (name, number), values.reshape(-1)
                pieces.append(self._last[1][max(0, begin - start) : end - start])
            start += size
        rows = np.concatenate(pieces) if pieces else np.empty(0, self._parts[name][0].dtype)
        return None, {"rows": rows.astype(rows.dtype.newbyteorder("<"), copy=False)}


def _safetensors(file: BinaryIO) -> dict[str, Any]:
    length = int.from_bytes(file.read(8), "little")
    if length > _LONGEST_HEADER:
        raise UserError("", "not a safetensors file (impossible header length)", "make it again")
    facts = json.loads(file.read(length))
    facts.pop("__metadata__", None)
    slices = {}
    for name, entry in facts.items():
        begin, kind = 8 + length + entry["data_offsets"][0], _TYPES.get(entry["dtype"])
        slices[name] = _Slice(file, begin, tuple(entry["shape"]), np.dtype(kind)) if kind else entry["dtype"]
    return slices


def _named(value: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Names of the values that are not mappings; an empty name for a single one."""
    if isinstance(value, np.ndarray) and value.dtype.hasobject:
        value = value.tolist()
    if _is_list(value):
        value = _columns(value)
    if not isinstance(value, dict):
        yield prefix.removesuffix("."), value
        return
    for name, item in value.items():
        yield from _named(item, f"{prefix}{name}.")


def _columns(rows: Any) -> Any:
    """Columns by name of a list of mappings or pairs, or of images and classes; any other list as it is."""
    if rows and all(isinstance(row, dict) and row.keys() == rows[0].keys() for row in rows):
        return {name: [row[name] for row in rows] for name in rows[0]}
    if rows and all(_is_list(row) and len(row) == 2 for row in rows):
        rows = [list(column) for column in zip(*rows)]
    elif len(rows) != 2 or not all(map(_is_array, rows)) or len(rows[0].shape) == len(rows[1].shape):
        return rows
    return {f"arr_{index}": column for index, column in enumerate(rows)}


def _is_list(value: Any) -> bool:
    # Tensors are named tuples here.
    return type(value) in (list, tuple)


def _is_array(value: Any) -> bool:
    return isinstance(value, (View, _Slice, np.ndarray))


def _tail(array: Any) -> tuple[int, ...]:
    """Sizes in which the arrays of a list are alike; batches of images may differ in their number."""
    return tuple(array.shape[1:]) if len(array.shape) > 3 else (-1, *array.shape)


def _joined(value: Any) -> tuple[list[int], list[Any]]:
    """Shape of an array, and the parts of it that follow one another.

    Raises:
        UserError: The value is not an array of numbers, nor a list of such arrays that are alike.
    """
    is_list = _is_list(value)
    if (is_list and value and all(isinstance(item, _NUMBERS) for item in value)) or isinstance(value, _NUMBERS):
        value, is_list = np.asarray(value), False
    parts = [*value] if is_list else [value]
    if not parts or not all(map(_is_array, parts)):
        raise UserError("", "it is not an array of numbers")
    if any(part.dtype.kind not in "biuf" or not fits(part.shape, SHAPE) for part in parts):
        raise UserError("", "its array does not hold plain numbers")
    if len({(_tail(part), part.dtype) for part in parts}) > 1:
        raise UserError("", "its arrays differ in size or type")
    shape = [*parts[0].shape]
    if is_list:
        shape = [sum(part.shape[0] for part in parts), *shape[1:]] if len(shape) > 3 else [len(parts), *shape]
    return shape, parts
