"""Kept states of a run: two intact generations, one owner at a time, never mixed with another configuration."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import torch

from sida.errors import UserError
from sida.io import atomic_path, sha256_file, write_json

FORMAT = "sida-state-1"
KEPT = 2


class KeptState(NamedTuple):
    """A state as it was saved.

    Attributes:
        record: Plain JSON values: counters, log records, best value.
        tensors: Named tensors on the CPU.
    """

    record: dict[str, Any]
    tensors: dict[str, torch.Tensor]


class StateStore:
    """The ``state/`` folder of a run; used as a context manager, which holds the folder's lock.

        with StateStore(folder, digest) as store:
            kept = store.load()

    A state is a tensor file and, written after it, a JSON file that holds its SHA-256: a process killed at any
    moment leaves the previous state intact. Another process that works on the same run is waited for.

    Args:
        folder: Created when missing.
        digest: Digest of everything that decides the run's result; states with another digest are moved aside.
    """

    def __init__(self, folder: Path, digest: str) -> None:
        self.folder, self.digest = Path(folder), digest
        self._lock: int | None = None

    def __enter__(self) -> StateStore:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise UserError(f"{self.folder}: cannot be written ({error.strerror}); choose another --out") from None
        try:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                say(f"{self.folder}: another process is at work on this run; waiting for it to finish")
                fcntl.flock(self._lock, fcntl.LOCK_EX)
        except BaseException:
            os.close(self._lock)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:
            # Closing releases the lock; so does the end of the process, however it comes.
            os.close(self._lock)
            self._lock = None

    def load(self) -> KeptState | None:
        """The newest intact state of this configuration, or None; says so when it is not simply the newest."""
        for number in reversed(self._numbers()):
            header = self._header(number)
            if header is None:
                self._discard(number, "is damaged")
                continue
            if header["digest"] != self.digest:
                self._move_aside(str(header["digest"]))
                return None
            tensors = self._tensors(number, header["tensors_sha256"])
            if tensors is None:
                self._discard(number, "is damaged or cut off")
                continue
            return KeptState(header["record"], tensors)
        return None

    def save(self, record: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
        """Writes a new state, then forgets all but the newest two.

        Raises:
            UserError: The disk is full or the folder is gone; earlier states are untouched.
        """
        from safetensors import SafetensorError

        try:
            self._save(record, tensors)
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"{self.folder}: the state cannot be written ({error}); make room, then run the same command again"
            ) from None

    def _save(self, record: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
        from safetensors.torch import save_file

        numbers = self._numbers()
        number = numbers[-1] + 1 if numbers else 1
        flat = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        with atomic_path(self._path(number, "safetensors")) as temporary:
            save_file(flat, temporary)
        header = {
            "format": FORMAT,
            "digest": self.digest,
            "tensors_sha256": sha256_file(self._path(number, "safetensors")),
            "record": dict(record),
        }
        write_json(self._path(number, "json"), header)
        for path in self.folder.glob("state-*"):
            if path.stem.removeprefix("state-").isdigit() and int(path.stem.removeprefix("state-")) <= number - KEPT:
                path.unlink(missing_ok=True)

    def _path(self, number: int, suffix: str) -> Path:
        return self.folder / f"state-{number:06d}.{suffix}"

    def _numbers(self) -> list[int]:
        """Numbers of the states that were completed, oldest first."""
        names = [path.stem.removeprefix("state-") for path in self.folder.glob("state-*.json")]
        return sorted(int(name) for name in names if name.isdigit())

    def _header(self, number: int) -> dict[str, Any] | None:
        try:
            header = json.loads(self._path(number, "json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        keys = {"format", "digest", "tensors_sha256", "record"}
        return header if isinstance(header, dict) and keys <= header.keys() and header["format"] == FORMAT else None

    def _tensors(self, number: int, sha256: str) -> dict[str, torch.Tensor] | None:
        from safetensors.torch import load_file

        path = self._path(number, "safetensors")
        if not path.is_file() or sha256_file(path) != sha256:
            return None
        tensors: dict[str, torch.Tensor] = load_file(path)
        return tensors

    def _discard(self, number: int, why: str) -> None:
        say(f"{self._path(number, 'json').with_suffix('')}: this state {why}; going back to the one before it")
        for suffix in ("json", "safetensors"):
            with contextlib.suppress(OSError):
                self._path(number, suffix).unlink()

    def _move_aside(self, digest: str) -> None:
        target = self.folder / f"other-{digest[:12]}"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        for path in self.folder.glob("state-*"):
            path.rename(target / path.name)
        say(f"{self.folder}: the kept state is of another configuration or other inputs; moved to {target.name}/, "
            "starting anew")  # fmt: skip


def say(line: str) -> None:
    """One line for the person who watches, if anyone does."""
    with contextlib.suppress(BrokenPipeError):
        print(line, file=sys.stderr, flush=True)
