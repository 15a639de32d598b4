"""Reader of CIFAR-10's python archive, a tar of pickles, which the allow-list reader reads without executing code."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from sida.errors import UserError
from sida.files.tar_index import TAR_FAULTS, checked_members
from sida.unpickle.pickles import parse_pickle

TRAINING = tuple(f"data_batch_{number}" for number in range(1, 6))
TEST = ("test_batch",)
_MAX_BYTES = 64 << 20


def read_cifar10(path: str, batches: tuple[str, ...] = TRAINING) -> Iterator[tuple[np.ndarray, int]]:
    """Yields ``(image uint8 (32, 32, 3), class)`` of ``cifar-10-python.tar.gz``, in its order.

    Args:
        path: The archive.
        batches: Members to read: :data:`TRAINING` (50,000 images) or :data:`TEST` (10,000).

    Raises:
        UserError: The file is missing or broken, or a batch is missing or invalid.
    """
    try:
        with tarfile.open(path, "r:*") as archive:
            members = {PurePosixPath(member.name).name: member for member in checked_members(archive)}
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
    except TAR_FAULTS as error:
        # Python's message lists every compression that it tried, one per line.
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(":")
        raise UserError(f"{path}: not a whole tar archive ({reason}); fetch it again") from None


def _read_batch(content: bytes, where: str) -> Iterator[tuple[np.ndarray, int]]:
    batch = parse_pickle(content, where)
    data: Any = batch.get("data") if isinstance(batch, dict) else None
    labels = batch.get("labels") if isinstance(batch, dict) else None
    good = isinstance(data, np.ndarray) and data.dtype == np.uint8 and data.ndim == 2 and data.shape[1] == 3072
    if not good or not isinstance(labels, list) or len(labels) != len(data):
        raise UserError(f"{where}: must hold 'data' uint8 (N, 3072) and as many 'labels'; is this CIFAR-10?")
    for row, label in zip(data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels):
        if not isinstance(label, int) or not 0 <= label < 10:
            raise UserError(f"{where}: class {label!r} is not between 0 and 9")
        yield row, label
