"""Temporary files that tell whose they are, so that those of killed processes can be swept and no others."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import socket
import time
from pathlib import Path

from sida.files.locks import try_lock

#: Seconds after which a file is swept whose process nobody can ask, and before which none is.
DAY, MINUTE = 86_400.0, 60.0
_NAME = re.compile(r"\..+?\.(?:(?P<host>[0-9a-f]{8})-(?P<pid>\d+)\.)?[a-z0-9_]{8}\.tmp(?:\.[^.]+)?")
_swept: set[str] = set()


def prefix(name: str) -> str:
    """Beginning of the name of a temporary file for ``name``: it holds this machine and this process."""
    return f".{name[:180]}.{_host()}-{os.getpid()}."


def hold(handle: int) -> None:
    """Locks an open file until it is closed or its process ends, however that comes."""
    # Where the file system has no locks, the name decides.
    with contextlib.suppress(OSError):
        try_lock(handle)


def sweep_dead(folder: Path) -> None:
    """Removes what processes that are dead left in a folder; looked for once by each process.

    Dead is whose lock is free and whose number on this machine is free, too. Of another machine's files, and of those
    without a name, the lock must be free and the last change a day ago.
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
    # A living process holds its lock; only where there are no locks, its number alone speaks for it.
    return age > DAY and (free is True or host != _host())


def _lock_is_free(path: str) -> bool | None:
    """Whether nobody holds a file's lock; None where the file system does not say."""
    with open(path, "rb") as stream:
        try:
            return try_lock(stream, shared=True)
        except OSError:
            return None


def _runs(pid: int) -> bool:
    """Whether this machine has a process of a number."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def _host() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
