"""Conversion of a pickle's tensor records to float32 values, piece by piece, with a check for NaN."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from sida.errors import UserError
from sida.files.tensors import ITEM_BYTES
from sida.unpickle.inert import printable
from sida.unpickle.pickles import open_pickle
from sida.unpickle.records import Tensor

if TYPE_CHECKING:
    import numpy as np
    import torch

_PIECE = 1 << 18
_NUMPY = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}


def read_state_dict(path: str | os.PathLike[str], key: str | None = None) -> dict[str, torch.Tensor]:
    """Reads a dictionary of tensors from a file of ``torch.save``, without executing anything.

    Args:
        path: The file.
        key: Entry with the dictionary, where the file has an entry of this name.

    Returns:
        Tensors float32 by name, in the file's order.

    Raises:
        UserError: As :func:`open_pickle`; or the file holds something else, or tensors of integers or with NaN.
    """
    import numpy as np
    import torch

    value, window = open_pickle(path)
    if isinstance(value, dict) and isinstance(value.get(key), dict):
        value = value[key]
    named = value.items() if isinstance(value, dict) else ()
    tensors = {name: item for name, item in named if isinstance(name, str) and isinstance(item, Tensor)}
    if not tensors or len(tensors) < len(value):
        raise UserError(path, "holds no dictionary of tensors", "give the published file of weights")
    claimed = sum(max(tensor.numel, tensor.span) for tensor in tensors.values())
    if claimed > window.length:
        raise UserError(path, f"refused: its tensors claim {claimed} elements, the file has {window.length} bytes")
    result = {}
    for name, tensor in tensors.items():
        stored_type(tensor, name, str(path))
        flat, done = np.empty(4 * tensor.numel, dtype=np.uint8), 0
        for piece in float32_pieces(tensor, name, str(path)):
            flat[done : done + len(piece)] = piece
            done += len(piece)
        result[name] = torch.from_numpy(flat.view("<f4")).reshape(tensor.shape)
    return result


def stored_type(tensor: Tensor, name: str, where: str) -> str:
    """Type (as in safetensors) in which a network's tensor is stored: always float32.

    Raises:
        UserError: The tensor does not hold floating-point numbers.
    """
    if tensor.storage.dtype not in ("F16", "BF16", "F32", "F64"):
        fault = f"tensor '{name}' is of type {tensor.storage.dtype}"
        raise UserError(where, fault, "networks have floating-point tensors only")
    return "F32"


def float32_pieces(tensor: Tensor, name: str, where: str) -> Iterator[memoryview]:
    """Yields the elements as float32 bytes in row-major order; refuses NaN and infinity."""
    import numpy as np

    if tensor.numel == 0:
        return
    for piece in _pieces(tensor, where):
        values = np.ascontiguousarray(piece, dtype="<f4")
        # A sum is far cheaper than a test of every element, which follows only if the sum is not finite.
        with np.errstate(all="ignore"):
            suspicious = not np.isfinite(values.sum())
        if suspicious and not np.isfinite(values).all():
            raise UserError(where, f"tensor '{printable(name)}' holds NaN or infinity", "take another snapshot")
        yield values.reshape(-1).view(np.uint8).data


def _pieces(tensor: Tensor, where: str) -> Iterator[np.ndarray]:
    """Yields a contiguous tensor in pieces, each in the memory of the previous one, and a strided view as a whole."""
    import numpy as np

    length = min(_PIECE, tensor.numel) if tensor.contiguous else tensor.span
    room = np.empty(length * ITEM_BYTES[tensor.storage.dtype], dtype=np.uint8)
    try:
        if not tensor.contiguous:
            flat = _elements(tensor, tensor.offset, room)
            strides = [step * flat.itemsize for step in tensor.stride]
            yield np.lib.stride_tricks.as_strided(flat, tensor.shape, strides, writeable=False)
            return
        for start in range(0, tensor.numel, _PIECE):
            count = min(_PIECE, tensor.numel - start)
            yield _elements(tensor, tensor.offset + start, room[: count * ITEM_BYTES[tensor.storage.dtype]])
    except EOFError:
        raise UserError(where, "became shorter while it was read", "download it again") from None


def _elements(tensor: Tensor, start: int, raw: np.ndarray) -> np.ndarray:
    """Fills bytes with elements from ``start`` on, and returns them in a floating-point type of numpy."""
    storage = tensor.storage
    if storage.data is None:
        raise EOFError
    storage.data.read_into(start * ITEM_BYTES[storage.dtype], raw.data)
    if storage.dtype == "BF16":
        return (raw.view("<u2").astype("<u4") << 16).view("<f4")
    return raw.view(_NUMPY[storage.dtype])
