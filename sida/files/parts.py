"""Numbered parts of a long job, one tensor file each: states of a training, shards of samples, parts of a trial.

A part's header has its place and size in the job and the job's digest; the file has the hash of its own content. A part
that is cut off, damaged, renamed or of another job counts as missing. A killed process leaves whole parts only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from sida.errors import PassingError, UserError
from sida.files.ordinary import UnreadableError, open_ordinary
from sida.files.tensors import read_tensor_header, read_tensors, verify_tensors, write_tensors

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
_NAME = re.compile(r"(\d{12})\.safetensors", re.ASCII)


class Part(NamedTuple):
    """A part as it was written.

    Attributes:
        place: Where it lies in the job: number of images before it.
        size: Its number of images.
        tensors: Tensors by name, on the CPU.
        record: JSON values.
    """

    place: int
    size: int
    tensors: dict[str, torch.Tensor]
    record: dict[str, Any]


class PartFolder:
    """The parts of one job in a folder.

        parts = PartFolder(folder, digest)
        parts.write(0, 1024, {"images": images})
        assert parts.read(0).size == 1024

    Args:
        folder: Folder of the parts; missing until the first one is written.
        job: Digest of everything that decides the parts.
    """

    def __init__(self, folder: str | os.PathLike[str], job: str) -> None:
        self.folder, self.job = Path(folder), job

    def path(self, place: int) -> Path:
        """File of the part at a place."""
        return self.folder / f"{place:012d}.safetensors"

    def places(self) -> list[int]:
        """Places of the files that lie in the folder, whole or not, in ascending order.

        Raises:
            UnreadableError: The folder cannot be listed.
        """
        try:
            names = os.listdir(self.folder)  # glob takes a folder that cannot be read for an empty one
        except FileNotFoundError:
            return []
        except OSError as error:
            raise UnreadableError(self.folder, f"cannot be read ({error.strerror})") from None
        return sorted(int(match[1]) for match in map(_NAME.fullmatch, names) if match)

    def write(
        self, place: int, size: int, tensors: Mapping[str, torch.Tensor], record: Mapping[str, Any] | None = None
    ) -> None:
        """Writes a part atomically, over an earlier one at its place.

        Args:
            place: Number of images before it.
            size: Its number of images.
            tensors: Tensors on any device.
            record: Further JSON values.

        Raises:
            UserError: The part cannot be written; the other parts are untouched.
        """
        header = {"place": place, "size": size, "job": self.job, "record": dict(record or {})}
        try:
            write_tensors(self.path(place), tensors, header)
        except OSError as error:
            fault = f"cannot be written ({error})"
            raise PassingError(self.path(place), fault, "make room, then run the same command again") from None

    def read(self, place: int) -> Part | None:
        """The part at a place; None if it is missing, damaged or of another job.

        Raises:
            UnreadableError: The part may well be whole, but cannot be read now.
        """
        tensors, header = self._read(place, read_tensors) or ({}, {})
        return Part(place, header["size"], tensors, header["record"]) if self._is_own(place, header) else None

    def is_there(self, place: int) -> bool:
        """Whether a part of this job was written at the place, by its header alone; raises as :meth:`read`."""
        return self._is_own(place, self.header(place) or {})

    def is_whole(self, place: int) -> bool:
        """Whether :meth:`read` would give a part; keeps no tensors in memory, and raises as :meth:`read`."""
        return self.is_there(place) and bool(self._read(place, verify_tensors))

    def header(self, place: int) -> dict[str, Any] | None:
        """``place``, ``size``, ``job`` and ``record`` of any job's part, without tensors; None as :meth:`read`."""
        header = self._read(place, read_tensor_header)
        return None if header is None else header.record

    def _is_own(self, place: int, header: Mapping[str, Any]) -> bool:
        return (header.get("place"), header.get("job")) == (place, self.job)

    def _read(self, place: int, read: Callable[[Path], T]) -> T | None:
        path = self.path(place)
        try:
            with open_ordinary(path):  # a link to itself is unreadable, a pipe is no part
                return read(path)
        except UnreadableError:
            raise
        except UserError:
            return None
        except OSError as error:
            raise UnreadableError(path, f"cannot be read ({error.strerror or error})") from None

    def remove(self, place: int) -> None:
        """Removes the part at a place, if there is one."""
        self.path(place).unlink(missing_ok=True)
