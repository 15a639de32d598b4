"""CIFAR-10's python archive, read without trusting it.

The archive is a tar of pickles. A pickle is a program, so the four names that a dictionary of numpy arrays needs are
replaced by functions of our own, and any other name stops the reader; nothing from the file is called.
"""

from __future__ import annotations

import io
import pickle
import tarfile
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from sida.errors import UserError

TRAINING = tuple(f"data_batch_{number}" for number in range(1, 6))
TEST = ("test_batch",)
_MAX_BYTES = 64 << 20


class _Array:
    """Stands for ``numpy.ndarray`` as an argument; cannot be called."""


def _new_array(kind: type, shape: tuple[int, ...], typecode: Any) -> np.ndarray:
    """An empty array that the pickle's state then fills."""
    if kind is not _Array:
        raise pickle.UnpicklingError("asks for something other than an array")
    return np.empty(0, dtype=np.uint8)


def _byte_type(name: str, *_: Any) -> np.dtype[Any]:
    if name not in ("u1", "|u1"):
        raise pickle.UnpicklingError(f"asks for arrays of {name}")
    return np.dtype("u1", copy=True)


def _latin1(text: str, codec: str) -> bytes:
    if codec != "latin1":
        raise pickle.UnpicklingError(f"asks for the codec {codec}")
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _new_array,
    ("numpy._core.multiarray", "_reconstruct"): _new_array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _byte_type,
    ("_codecs", "encode"): _latin1,
}


class _Reader(pickle.Unpickler):
    """Finds stand-ins of our own for four names and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """Looks a name up in the allow-list."""
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"asks for {module}.{name}")
        return _ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> Any:
        """Refuses references out of the file."""
        raise pickle.UnpicklingError("asks for an external object")


def read_cifar10(path: str, batches: tuple[str, ...] = TRAINING) -> Iterator[tuple[np.ndarray, int]]:
    """Yields ``(image uint8 (32, 32, 3), class)`` of ``cifar-10-python.tar.gz``, in its order.

    Args:
        path: The archive.
        batches: Members to read: :data:`TRAINING` (50,000 images) or :data:`TEST` (10,000).

    Raises:
        UserError: No such file, a broken archive, a missing batch, or a batch that is not what it should be.
    """
    try:
        with tarfile.open(path, "r:*") as archive:
            members = {PurePosixPath(member.name).name: member for member in archive if member.isfile()}
            for name in batches:
                if name not in members:
                    raise UserError(f"{path}: has no member {name}; fetch cifar-10-python.tar.gz again")
                if members[name].size > _MAX_BYTES:
                    raise UserError(f"{path}: {name} claims {members[name].size} bytes; that is not CIFAR-10")
                stream = archive.extractfile(members[name])
                assert stream is not None
                yield from _read_batch(stream.read(), f"{path}: {name}")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; fetch cifar-10-python.tar.gz first") from None
    except (tarfile.TarError, EOFError, OSError) as error:
        # Python's message lists every compression that it tried, one per line.
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(":")
        raise UserError(f"{path}: not a whole tar archive ({reason}); fetch it again") from None


def _read_batch(content: bytes, where: str) -> Iterator[tuple[np.ndarray, int]]:
    try:
        batch = _Reader(io.BytesIO(content), encoding="latin1").load()
    except Exception as error:
        raise UserError(f"{where}: refused ({error}); it must be a pickle of plain arrays") from None
    data: Any = batch.get("data") if isinstance(batch, dict) else None
    labels = batch.get("labels") if isinstance(batch, dict) else None
    good = isinstance(data, np.ndarray) and data.dtype == np.uint8 and data.ndim == 2 and data.shape[1] == 3072
    if not good or not isinstance(labels, list) or len(labels) != len(data):
        raise UserError(f"{where}: must hold 'data' uint8 (N, 3072) and as many 'labels'; is this CIFAR-10?")
    for row, label in zip(data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels):
        if not isinstance(label, int) or not 0 <= label < 10:
            raise UserError(f"{where}: class {label!r} is not between 0 and 9")
        yield row, label
