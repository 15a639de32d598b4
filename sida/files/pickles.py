"""Pickles of strangers: published networks, weights of ``torch.save``, reference statistics.

A child reads them (:mod:`sida.files.unpickler`). The parent gets facts as JSON, and tensors piece by piece. Neither
side imports torch.
"""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from sida.errors import UserError, located
from sida.files.fenced import RESULT, Child
from sida.files.ordinary import open_ordinary, size_on_disk
from sida.files.tensors import read_tensors, starts_as_pickle
from sida.files.unpickler import AGAIN

if TYPE_CHECKING:
    import torch

READER = "sida.files.unpickler:Reader"
#: Elements of a piece of a tensor.
_PIECE = RESULT // 8


class PickleFile:
    """Tensors in a pickle or a file of ``torch.save``; closing it ends its child.

    Args:
        path: The file.
        method: Method of :class:`sida.files.unpickler.Reader` that finds them, ``network`` or ``weights``.
        key: Entry that holds them.

    Attributes:
        path: The file.
        facts: Facts that the method found.
        shapes: Shape of each tensor by name.

    Raises:
        UserError: The file is missing, damaged, no pickle, outside the allow-list, or exceeds a limit.
    """

    def __init__(self, path: str | os.PathLike[str], method: str, key: str | None) -> None:
        self.path = path
        with located(path), open_ordinary(path, "check the path, or fetch it: sida assets fetch") as stream:
            size = size_on_disk(stream)
            self._child = Child(READER, path, 3 * size, size / 10e6)
            try:
                self.facts, _ = self._child.ask(method, key, files=[stream])
                with answered(path):
                    self.shapes = {name: tuple(shape) for name, shape in self.facts["tensors"]}
                    if any(type(n) is not int or n < 0 for shape in self.shapes.values() for n in shape):
                        raise ValueError
                # A view can claim one element many times.
                claimed = sum(map(math.prod, self.shapes.values()))
                if claimed > size:
                    fault = f"refused: its tensors claim {claimed:,} elements, the file has {size:,} bytes"
                    raise UserError("", fault, AGAIN)
            except BaseException:
                self._child.close()
                raise

    def __enter__(self) -> PickleFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.close()

    def tensor(self, name: str) -> torch.Tensor:
        """A tensor of floating-point numbers as float32.

        Raises:
            UserError: It holds other numbers, NaN or infinity.
        """
        import torch

        values = np.empty(math.prod(self.shapes[name]), np.float32)
        for start in range(0, len(values), _PIECE):
            place = values[start : start + _PIECE]
            found = self._child.ask("piece", name, start, len(place))[1].get("piece")
            if found is None or found.dtype != np.float32 or found.shape != place.shape:
                raise UserError(self.path, "its reader gave other numbers than were asked for", AGAIN)
            place[:] = found
        return torch.from_numpy(values).reshape(self.shapes[name])


def read_pickle(path: str | os.PathLike[str]) -> Any:
    """Reads a pickle of plain values and numpy arrays, e.g. reference statistics, without executing anything.

    Args:
        path: A pickle of dictionaries, lists, tuples, numbers, texts and numpy arrays.

    Returns:
        The same structure; tuples and sets as lists, bytes as text of latin-1.

    Raises:
        UserError: As :class:`PickleFile`, or the file holds tensors or objects (for networks: ``sida convert``).
    """
    with open_ordinary(path, "check the path, or fetch it: sida assets fetch") as stream:
        return _plain_values(stream, path)


def parse_pickle(content: bytes, where: str) -> Any:
    """As :func:`read_pickle`, for a pickle in memory (a member of an archive); ``where`` is named in errors."""
    with tempfile.TemporaryFile() as stream:
        stream.write(content)
        stream.seek(0)
        return _plain_values(stream, where)


def _plain_values(stream: Any, where: object) -> Any:
    size = size_on_disk(stream)

    def joined(value: Any) -> Any:
        if isinstance(value, dict):
            return arrays[value[""]] if value.keys() == {""} else {key: joined(item) for key, item in value.items()}
        return [joined(item) for item in value] if isinstance(value, list) else value

    with Child(READER, where, 3 * size, size / 10e6) as child:
        value, arrays = child.ask("plain", files=[stream])
        with answered(where):
            return joined(value)


@contextlib.contextmanager
def answered(where: object) -> Iterator[None]:
    """Makes one line of what a child's answer lacks."""
    try:
        yield
    except (LookupError, TypeError, ValueError, RecursionError):
        raise UserError(where, "its reader gave no value that can be used", AGAIN) from None


def read_state_dict(path: str | os.PathLike[str], key: str | None = None) -> dict[str, torch.Tensor]:
    """Reads a dictionary of tensors from a file of ``torch.save``, without executing anything.

    Args:
        path: The file.
        key: Entry with the dictionary, where the file has an entry of this name.

    Returns:
        Tensors float32 by name, in the file's order.

    Raises:
        UserError: As :class:`PickleFile`; or the file holds something else, or tensors of integers or with NaN.
    """
    with PickleFile(path, "weights", key) as file:
        return {name: file.tensor(name) for name in file.shapes}


def read_weights(path: str | os.PathLike[str], key: str | None = None) -> dict[str, torch.Tensor]:
    """Reads a dictionary of tensors from safetensors, or as :func:`read_state_dict`.

    Raises:
        UserError: As :func:`read_state_dict` and :func:`sida.files.tensors.read_tensors`.
    """
    return read_state_dict(path, key) if starts_as_pickle(path) else read_tensors(path)[0]
