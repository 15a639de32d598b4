"""Reading of untrusted pickles without executing them: plain ones and those of ``torch.save``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from sida.errors import UserError
from sida.unpickle.allowed import AllowList
from sida.unpickle.inert import Budget, refusals
from sida.unpickle.pickle_machine import PickleMachine
from sida.unpickle.records import NumpyArray
from sida.unpickle.torch_stream import LEGACY_MAGIC, is_zip, read_torch_stream
from sida.unpickle.window import Window

MAX_VALUE_DEPTH = 64
_LEGACY_START = b"\x8a\x0a" + LEGACY_MAGIC.to_bytes(10, "little")


def open_pickle(path: str | os.PathLike[str]) -> tuple[Any, Window]:
    """Reads a pickle as plain values and records of :mod:`sida.unpickle.records`.

    Args:
        path: A plain pickle (protocol 2 to 5) or a file of ``torch.save``, old or new format.

    Returns:
        ``(value, window)``; tensors in ``value`` refer to their bytes in ``window``, which spans the file.

    Raises:
        UserError: The file is missing, empty, cut off, not a pickle, or outside the allow-list.
    """
    path = Path(path)
    where = str(path)
    if not path.is_file():
        raise UserError(f"{where}: no such file; check the path, or fetch it: sida assets fetch")
    window = Window.of_file(path)
    return _value(window, where), window


def _value(window: Window, where: str) -> Any:
    if window.length == 0:
        raise UserError(f"{where}: the file is empty; delete it and download it again")
    start = window.read_at(0, min(window.length, 16))
    budget = Budget.of_file(window.length)
    resolve = AllowList(where, budget).resolve
    if is_zip(window) or start[2:].startswith(_LEGACY_START):
        return read_torch_stream(window, resolve, budget, where)
    if start[0] != 0x80:
        hint = "an HTML page: the download went wrong" if start.lstrip()[:1] == b"<" else "check the path"
        raise UserError(f"{where}: not a pickle of protocol 2 to 5 ({hint})")
    return PickleMachine(window, resolve, budget, where).load()[0]


def read_pickle(path: str | os.PathLike[str]) -> Any:
    """Reads a pickle of plain values and numpy arrays, e.g. reference statistics, without executing anything.

    Args:
        path: A plain pickle (protocol 2 to 5) of dictionaries, lists, tuples, numbers, texts and numpy arrays.

    Returns:
        The same structure, with arrays as new ``numpy.ndarray`` and byte strings as ``bytes``.

    Raises:
        UserError: As :func:`open_pickle`, or the file holds tensors or objects (for networks: ``sida convert``).
    """
    value, window = open_pickle(path)
    return _plain_value(value, window, str(path))


def parse_pickle(content: bytes, where: str) -> Any:
    """As :func:`read_pickle`, for a pickle in memory (a member of an archive); ``where`` is named in errors."""
    window = Window(content, 0, len(content))
    return _plain_value(_value(window, where), window, where)


def _plain_value(value: Any, window: Window, where: str) -> Any:
    try:
        with refusals(where):
            return _plain(value, {}, 0, [0], window.length)
    except (ValueError, EOFError) as error:
        raise UserError(f"{where}: {error}; download it again, or use sida convert if it is a network") from None


def _plain(value: Any, done: dict[int, Any], depth: int, total: list[int], size: int) -> Any:
    """Copies a structure, with arrays as numpy arrays; shared parts stay shared, so that the copy is not larger."""
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        return value
    if id(value) in done:
        if done[id(value)] is _UNFINISHED:
            raise ValueError("a structure that contains itself")
        return done[id(value)]
    if depth > MAX_VALUE_DEPTH:
        raise ValueError(f"values are nested more than {MAX_VALUE_DEPTH} deep")
    done[id(value)] = _UNFINISHED

    def inner(item: Any) -> Any:
        return _plain(item, done, depth + 1, total, size)

    result: Any
    if isinstance(value, dict):
        result = {key: inner(item) for key, item in value.items()}
    elif isinstance(value, (list, tuple)):
        result = type(value)(inner(item) for item in value)
    elif isinstance(value, (set, frozenset)):
        result = value
    elif isinstance(value, (NumpyArray, Window)):
        length = value.length if isinstance(value, Window) else value.num_bytes
        total[0] += length
        if total[0] > 2 * size + (1 << 20):
            raise ValueError("its arrays claim more bytes than the file has")
        result = value.tobytes() if isinstance(value, Window) else value.to_numpy()
    else:
        raise ValueError(f"holds a {type(value).__name__}, not only plain values and arrays")
    done[id(value)] = result
    return result


_UNFINISHED = object()
