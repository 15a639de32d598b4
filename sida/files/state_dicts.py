"""Dictionaries of tensors in safetensors or files of ``torch.save``; nothing in them is executed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from sida.files.pickles import PickleFile
from sida.files.tensors import read_tensors, starts_as_pickle

if TYPE_CHECKING:
    import torch


class StateDict(NamedTuple):
    """An open dictionary of tensors.

    Attributes:
        shapes: Shapes by name, in the file's order.
        read: Function that reads one tensor.
        prefix: End of the key that leads to no entry, but may lead to names in the dictionary.
        arguments: Plain arguments of the training that a file of ``torch.save`` has beside the weights; None if it has
            no entry of them.
    """

    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], torch.Tensor]
    prefix: str
    arguments: Mapping[str, Any] | None


def read_state_dict(path: str | os.PathLike[str], key: str | None = None) -> dict[str, torch.Tensor]:
    """Reads a dictionary of tensors from safetensors or a file of ``torch.save``, without executing anything.

    Args:
        path: The file.
        key: Entry of a file of ``torch.save`` with the dictionary, if it has such an entry; ``a.b`` is entry b of entry
            a.

    Returns:
        Tensors by name in the file's order; a file of ``torch.save`` gives float32.

    Raises:
        UserError: As :func:`sida.files.tensors.read_tensors` or :class:`PickleFile`; or a file of ``torch.save`` holds
            something else, or tensors of integers or with NaN.
    """
    with open_state_dict(path, key) as state:
        return {name: state.read(name) for name in state.shapes}


@contextlib.contextmanager
def open_state_dict(path: str | os.PathLike[str], key: str | None = None) -> Iterator[StateDict]:
    """Opens a dictionary of tensors as :func:`read_state_dict`."""
    if starts_as_pickle(path):
        with PickleFile(path, "weights", key) as file:
            yield StateDict(file.shapes, file.tensor, file.facts["prefix"], file.facts["arguments"])
    else:
        tensors = read_tensors(path)[0]
        yield StateDict({name: tuple(t.shape) for name, t in tensors.items()}, tensors.__getitem__, key or "", None)
