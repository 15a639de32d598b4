"""Weights of other programs: published pickles, files of ``torch.save``, safetensors; nothing in them is executed.

A child (:mod:`sida.files.convert`) converts pickles to float32 tensors of a file of ours. The parent imports torch only
for tensors that it needs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from sida.errors import UserError, errors_at
from sida.files.convert import convert
from sida.files.ordinary import open_ordinary, size_on_disk
from sida.files.tensors import check_finite, read_tensors, starts_as_pickle

if TYPE_CHECKING:
    import torch


class ForeignWeights(NamedTuple):
    """Tensors of a pickle or a file of ``torch.save``.

    Attributes:
        path: The file.
        facts: Value of the reader, :func:`sida.files.foreign.network` or :func:`sida.files.foreign.weights`.
        arrays: The tensors of floating point by name, float32.
    """

    path: str | os.PathLike[str]
    facts: dict[str, Any]
    arrays: Mapping[str, np.ndarray]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor by name, in the file's order."""
        return {name: tuple(shape) for name, shape in self.facts["tensors"]}

    def tensor(self, name: str) -> torch.Tensor:
        """A tensor as float32; raises UserError for one of integers, or with NaN or infinity."""
        import torch

        if name not in self.arrays:
            fault = f"tensor '{name}' is of type {self.facts['kinds'].get(name)}"
            raise UserError(self.path, fault, "networks have floating-point tensors only")
        tensor = torch.from_numpy(self.arrays[name].copy())
        check_finite(self.path, name, tensor, "take another snapshot")
        return tensor


def convert_weights(
    path: str | os.PathLike[str], kind: Literal["network", "weights"], key: str | None, data: bool = True
) -> ForeignWeights:
    """Converts the tensors of a pickle or a file of ``torch.save``.

    Args:
        path: The file.
        kind: Whether it holds a network with its class, or a dictionary of tensors.
        key: Entry that holds them.
        data: Whether the tensors are needed; else only facts and shapes are read.

    Raises:
        UserError: The file is missing, damaged, not a pickle, outside the allow-list, or exceeds a limit.
    """
    with open_ordinary(path, "check the path, or fetch it: sida assets fetch") as stream, errors_at(path):
        size = size_on_disk(stream)
        facts, arrays = convert(
            f"sida.files.foreign:{kind}", stream, path, key, size, data,
            memory=3 * size, seconds=size / 10e6, output=4 * size + (1 << 20),
        )  # fmt: skip
    return ForeignWeights(path, facts, arrays)


class StateDict(NamedTuple):
    """A dictionary of tensors.

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


def open_state_dict(path: str | os.PathLike[str], key: str | None = None, data: bool = True) -> StateDict:
    """Opens a dictionary of tensors as :func:`read_state_dict`; without ``data`` only its shapes are needed."""
    if starts_as_pickle(path):
        file = convert_weights(path, "weights", key, data)
        return StateDict(file.shapes, file.tensor, file.facts["prefix"], file.facts["arguments"])
    tensors = read_tensors(path)[0]
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    return StateDict(shapes, tensors.__getitem__, key or "", None)


def read_state_dict(path: str | os.PathLike[str], key: str | None = None) -> dict[str, torch.Tensor]:
    """Reads a dictionary of tensors from safetensors or a file of ``torch.save``, without executing anything.

    Args:
        path: The file.
        key: Entry of a file of ``torch.save`` with the dictionary, if it has such an entry; ``a.b`` is entry b of entry
            a.

    Returns:
        Tensors by name in the file's order; a file of ``torch.save`` gives float32.

    Raises:
        UserError: As :func:`sida.files.tensors.read_tensors` or :func:`convert_weights`; or a file of ``torch.save``
            holds something else, or tensors of integers or with NaN.
    """
    state = open_state_dict(path, key)
    return {name: state.read(name) for name in state.shapes}
