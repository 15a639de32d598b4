"""Lock on a preset's results that names its holder: one workflow at a time; a killed workflow leaves no lock.

``flock`` decides between processes of one machine, and of machines with a common file system that supports it. For
other file systems the lock file names its holder, and the holder touches the file every few seconds. A workflow that
finds the name of another machine watches the file for such a sign of life. Clocks of machines are never compared.
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
#: Seconds between two signs of life, and seconds of watching for those of another machine.
BEAT, PATIENCE = 10.0, 60.0


class PresetLock:
    """The lock of ``results/<preset>``: taken once, held until the process ends for any reason.

    Args:
        folder: The preset's results; made when missing.
        command: Command of the holder, as words.
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
        """Takes the lock.

        Raises:
            UserError: Another workflow holds the lock (the message names it), or the folder cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # Child processes do not inherit the lock: a job that outlives a killed workflow leaves no lock.
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise UserError(
                f"{self.folder}: cannot be written ({error.strerror}); fix that, or start in a writable folder"
            ) from None
        try:
            self._wait_for_holder(lockable=self._locked())
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
        """Releases the lock; a second call does nothing."""
        self._ended.set()
        # A forked child ends, too, but the lock belongs to its parent.
        if self._file is None or os.getpid() != self._record["pid"]:
            return
        # With a time limit: a file system that does not answer must not delay the end.
        self._signs.join(timeout=5)
        if (read_holder(self.path) or {}).get("token") == self._token:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, 0)
        os.close(self._file)
        self._file = None

    def _locked(self) -> bool:
        """Takes the operating system's lock; returns whether the file system supports locks."""
        assert self._file is not None
        try:
            free = try_lock(self._file)
        except OSError:
            # A file system without locks.
            return False
        if not free:
            raise self._refusal(read_holder(self.path))
        return True

    def _wait_for_holder(self, lockable: bool) -> None:
        """Waits until the named holder is known to be gone, and reports it; raises if the holder is alive."""
        holder = read_holder(self.path)
        if holder is None:
            return
        if not (lockable and holder["machine"] == machine()):
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
            "or use another folder of results: --config preset=NAME"
        )

    def _live(self) -> None:
        """Gives signs of life until the end; stops the workflow if another workflow has taken the lock."""
        while not self._ended.wait(BEAT):
            # A file system that does not answer temporarily is no reason to stop.
            with contextlib.suppress(OSError):
                os.utime(self.path)
            holder = read_holder(self.path)
            if holder and holder["token"] != self._token:
                say(f"error: {self.folder}: {_who(holder)} has taken over here; this workflow stops")
                self._ended.set()
                os.kill(os.getpid(), signal.SIGTERM)


def machine() -> str:
    """Identifier of this machine since its start."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()


def read_holder(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Holder in a lock file (``host``, ``pid``, ``since``, ``command``, ...); None without a readable holder."""
    try:
        record = json.loads(Path(path).read_bytes())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and {"token", "machine", "host", "pid"} <= record.keys() else None


def _who(holder: dict[str, Any] | None) -> str:
    """A holder as text on one line."""
    if holder is None:
        return "its lock file has no name"
    words = f"process {holder['pid']} on {holder['host']} since {holder.get('since')}: {holder.get('command')}"
    return "".join(letter if letter.isprintable() else " " for letter in words)[:300]


def _touched(path: Path) -> tuple[int, bytes] | None:
    """State of the lock file, changed by signs of life; opening the file makes a network file system ask its server."""
    try:
        with open(path, "rb") as stream:
            return os.fstat(stream.fileno()).st_mtime_ns, stream.read()
    except OSError:
        return None


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
