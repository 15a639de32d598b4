"""Untrusted pickles: published networks, weights of ``torch.save``, reference statistics.

A child (:mod:`sida.files.fenced`) reads them by an allow-list (:mod:`sida.files.unpickler`). The parent gets facts as
JSON, and tensors piece by piece. Neither side imports torch to read.
"""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from sida.errors import UserError, errors_at
from sida.files.content import START, refuse_text
from sida.files.fenced import RESULT, Child, check_answer
from sida.files.ordinary import open_ordinary, size_on_disk
from sida.files.unpickler import AGAIN

if TYPE_CHECKING:
    import torch

READER = "sida.files.unpickler:Reader"
#: Elements of a piece of a tensor.
_PIECE = RESULT // 8


class PickleFile:
    """Tensors in a pickle or a file of ``torch.save``; leaving its context ends its child.

    Args:
        path: The file.
        method: Method of :class:`sida.files.unpickler.Reader` that lists the tensors, ``network`` or ``weights``.
        key: Entry that holds them.

    Attributes:
        path: The file.
        facts: Value that the method returned.
        shapes: Shape of each tensor by name.

    Raises:
        UserError: The file is missing, damaged, not a pickle, outside the allow-list, or exceeds a limit.
    """

    def __init__(self, path: str | os.PathLike[str], method: str, key: str | None) -> None:
        self.path = path
        with errors_at(path), open_ordinary(path, "check the path, or fetch it: sida assets fetch") as stream:
            size = size_on_disk(stream)
            self._child = Child(READER, path, 3 * size, size / 10e6)
            try:
                self.facts, _ = self._child.ask(method, key, files=[stream])
                self.shapes = {name: tuple(shape) for name, shape in self.facts["tensors"]}
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
        """A tensor as float32; raises UserError for one of integers, or with NaN or infinity."""
        import torch

        # An answer is limited in size, so a large tensor arrives in pieces.
        values = np.empty(math.prod(self.shapes[name]), np.float32)
        for start in range(0, len(values), _PIECE):
            destination = values[start : start + _PIECE]
            piece = self._child.ask("piece", name, start, len(destination))[1]["piece"]
            check_answer(piece.shape == destination.shape, self.path)
            destination[:] = piece
        return torch.from_numpy(values).reshape(self.shapes[name])


def parse_pickle(content: bytes, where: object) -> Any:
    """Reads a pickle of plain values, arrays and tensors without executing anything.

    Args:
        content: A pickle, or a file of ``torch.save``, of dictionaries, lists, tuples, numbers, texts, numpy arrays and
            tensors.
        where: The file or member of an archive, named in errors.

    Returns:
        The same structure; tensors as numpy arrays, tuples and sets as lists, bytes as text of latin-1.

    Raises:
        UserError: As :class:`PickleFile`, or the file holds objects (for networks: ``sida convert``).
    """
    refuse_text(str(where), content[:START])
    with tempfile.TemporaryFile() as stream:
        stream.write(content)
        stream.seek(0)
        return _plain_values(stream, where)


def _plain_values(stream: Any, where: object) -> Any:
    size = size_on_disk(stream)

    def with_arrays(value: Any) -> Any:
        if isinstance(value, dict):
            return (
                arrays[value[""]] if value.keys() == {""} else {key: with_arrays(item) for key, item in value.items()}
            )
        return [with_arrays(item) for item in value] if isinstance(value, list) else value

    with Child(READER, where, 3 * size, size / 10e6) as child:
        value, arrays = child.ask("plain", files=[stream])
        with errors_of_answer(where):
            return with_arrays(value)


@contextlib.contextmanager
def errors_of_answer(where: object) -> Iterator[None]:
    """Turns errors from using a child's answer, which may lack parts, into one line."""
    try:
        yield
    except (LookupError, TypeError, ValueError, RecursionError):
        raise UserError(where, "its reader's answer cannot be used", AGAIN) from None
