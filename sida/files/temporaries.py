"""Temporary files that name their process, so that exactly those of killed processes can be removed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import socket
import time
from pathlib import Path

from sida.files.locks import try_lock

#: Seconds after which a file of an unknown process is removed, and before which no file is.
DAY, MINUTE = 86_400.0, 60.0
_NAME = re.compile(r"\..+?\.(?:(?P<host>[0-9a-f]{8})-(?P<pid>\d+)\.)?[a-z0-9_]{8}\.tmp(?:\.[^.]+)?")
_swept: set[str] = set()


def prefix(name: str) -> str:
    """Beginning of the name of a temporary file for ``name``, with this machine and this process in it."""
    return f".{name[:180]}.{_host()}-{os.getpid()}."


def hold(handle: int) -> None:
    """Locks an open file until it is closed or its process ends."""
    # Where the file system has no locks, the name decides.
    with contextlib.suppress(OSError):
        try_lock(handle)


def sweep_dead(folder: Path) -> None:
    """Removes temporary files of dead processes from a folder, once for each process and folder.

    A process of this machine is dead if its lock and its process id are free. A file of another machine, or without
    a process in its name, is removed if its lock is free and its last change is a day ago.
    """
    if str(folder) in _swept:
        return
    _swept.add(str(folder))
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            name = _NAME.fullmatch(entry.name)
            with contextlib.suppress(OSError):
                if name and entry.is_file(follow_symlinks=False) and _is_dead(entry, name["host"], name["pid"]):
                    os.unlink(entry.path)


def _is_dead(entry: os.DirEntry[str], host: str | None, pid: str | None) -> bool:
    age = time.time() - entry.stat(follow_symlinks=False).st_mtime
    free = _lock_is_free(entry.path)
    if age < MINUTE or free is False:
        return False
    if host == _host() and not _runs(int(pid or 0)):
        return True
    # A living process holds its lock; on file systems without locks its process id decides.
    return age > DAY and (free is True or host != _host())


def _lock_is_free(path: str) -> bool | None:
    """Whether no process holds a file's lock; None if the file system has no locks."""
    with open(path, "rb") as stream:
        try:
            return try_lock(stream, shared=True)
        except OSError:
            return None


def _runs(pid: int) -> bool:
    """Whether this machine has a process with this id."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def _host() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
