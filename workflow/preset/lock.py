"""Lock on a preset's results with its holder's name: one workflow at a time; a killed workflow leaves no lock.

``flock`` decides between processes of one machine, and of all machines whose file system carries it between them. Where
it does not, the file says who holds it, and a sign of life decides: the holder touches the file every few seconds,
and who finds another machine's name in it watches for that. No clock is compared with another one.
"""

from __future__ import annotations

import atexit
import contextlib
import datetime
import json
import os
import secrets
import shlex
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

from sida.errors import UserError
from sida.files.locks import try_lock
from sida.progress import say

NAME = ".workflow.lock"
#: Seconds between two signs of life, and how long another machine's are waited for.
BEAT, PATIENCE = 10.0, 60.0


class PresetLock:
    """The lock of ``results/<preset>``: taken once, held to the end of the process, however that comes.

    Args:
        folder: The preset's results; made when missing.
        command: What the holder is running, as words.
    """

    def __init__(self, folder: str | os.PathLike[str], command: list[str]) -> None:
        self.folder, self.path = Path(folder), Path(folder) / NAME
        self._token = secrets.token_hex(8)
        self._record = {"token": self._token, "machine": machine(), "host": socket.gethostname(), "pid": os.getpid()}
        self._record |= {"since": _now(), "command": shlex.join(command)}
        self._file: int | None = None
        self._ended = threading.Event()
        self._signs = threading.Thread(target=self._live, daemon=True, name=f"lock of {self.folder}")

    def take(self) -> None:
        """Takes the lock, or fails with the name of its holder.

        Raises:
            UserError: Another workflow is at work in this folder, or the folder cannot be written. Nothing was changed.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # Closed in the processes that this one starts: a job that outlives a killed workflow holds nothing.
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise UserError(
                f"{self.folder}: cannot be written ({error.strerror}); fix that, or start where results may be kept"
            ) from None
        try:
            self._settle(reaches=self._locked())
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, json.dumps(self._record).encode(), 0)
        except BaseException as error:
            os.close(self._file)
            self._file = None
            if isinstance(error, OSError):
                raise UserError(
                    f"{self.path}: cannot be written ({error.strerror}); make room, then start again"
                ) from None
            raise
        atexit.register(self.release)
        self._signs.start()

    def release(self) -> None:
        """Gives the lock back; a second time does nothing."""
        self._ended.set()
        # A child that was forked ends too, but the lock is its parent's.
        if self._file is None or os.getpid() != self._record["pid"]:
            return
        # Not for ever: a file system that does not answer must not hold up the end.
        self._signs.join(timeout=5)
        if (read_holder(self.path) or {}).get("token") == self._token:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, 0)
        os.close(self._file)
        self._file = None

    def _locked(self) -> bool:
        """Takes the operating system's lock; whether it says anything about this machine's processes."""
        assert self._file is not None
        try:
            free = try_lock(self._file)
        except OSError:
            # A file system without locks.
            return False
        if not free:
            raise self._refusal(read_holder(self.path))
        return True

    def _settle(self, reaches: bool) -> None:
        """Whether the one who is named in the file is gone; says so."""
        holder = read_holder(self.path)
        if holder is None:
            return
        if not (reaches and holder["machine"] == machine()):
            say(f"{self.folder}: {_who(holder)} may be at work here; watching {PATIENCE:.0f} s for a sign of life")
            before, end = _touched(self.path), time.monotonic() + PATIENCE
            while time.monotonic() < end:
                time.sleep(min(1.0, PATIENCE / 10))
                if _touched(self.path) != before:
                    raise self._refusal(read_holder(self.path))
        say(f"{self.folder}: the workflow before ({_who(holder)}) ended without a message; this workflow continues")

    def _refusal(self, holder: dict[str, Any] | None) -> UserError:
        return UserError(
            f"{self.folder}: another workflow is at work here ({_who(holder)}); wait for its end or stop it, "
            "or work beside it in a folder of your own: --config preset=NAME"
        )

    def _live(self) -> None:
        """Gives signs of life until the end; stops the workflow if another one has taken its place meanwhile."""
        while not self._ended.wait(BEAT):
            # A file system that does not answer for now is no reason to stop.
            with contextlib.suppress(OSError):
                os.utime(self.path)
            holder = read_holder(self.path)
            if holder and holder["token"] != self._token:
                say(f"error: {self.folder}: {_who(holder)} has taken over here; this workflow stops")
                self._ended.set()
                os.kill(os.getpid(), signal.SIGTERM)


def machine() -> str:
    """What tells this machine, since it was started, from all others."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()


def read_holder(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """What a lock's file says of its holder (``host``, ``pid``, ``since``, ``command``, ...); None if nothing."""
    try:
        record = json.loads(Path(path).read_bytes())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and {"token", "machine", "host", "pid"} <= record.keys() else None


def _who(holder: dict[str, Any] | None) -> str:
    """A holder in words, on one line whatever its file says."""
    if holder is None:
        return "it has not said who it is"
    words = f"process {holder['pid']} on {holder['host']} since {holder.get('since')}: {holder.get('command')}"
    return "".join(letter if letter.isprintable() else " " for letter in words)[:300]


def _touched(path: Path) -> tuple[int, bytes] | None:
    """What every sign of life changes. The file is opened, so that a network's file system asks its server."""
    try:
        with open(path, "rb") as stream:
            return os.fstat(stream.fileno()).st_mtime_ns, stream.read()
    except OSError:
        return None


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
