"""A machine's GPUs, shared out among jobs by locks on files: a process holds a device as long as it lives.

The kernel lets go of a lock (``flock``) when the process that holds it ends, however it ends. Whoever waits stands in
one line (a lock of its own), so two jobs that want several devices never wait for each other's, and a job that wants
many is not overtaken for ever by those that want one.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from sida.files.locks import try_lock, wait_for_lock

#: Seconds between looks at devices that are taken.
PAUSE = 0.2


class PoolError(Exception):
    """A pool that cannot give what is asked for; its text is for users."""


def devices(pool: str) -> list[str]:
    """Names of a pool's devices, as CUDA_VISIBLE_DEVICES has them.

    Args:
        pool: Number of devices, the first ones of those that this process may see; or their names with commas.

    Raises:
        PoolError: No devices, one named twice, or more than may be seen.
    """
    if not pool.strip().isdecimal():
        names = [name.strip() for name in pool.split(",") if name.strip()]
        if not names or len(set(names)) < len(names):
            raise PoolError(f"SIDA_GPUS={pool}: must be a number of GPUs, or different names such as 0,2")
        return names
    seen, count = os.environ.get("CUDA_VISIBLE_DEVICES"), int(pool)
    names = (
        [name.strip() for name in seen.split(",") if name.strip()] if seen is not None else [*map(str, range(count))]
    )
    if not 0 < count <= len(names):
        raise PoolError(f"{count} GPUs are to be shared, but CUDA_VISIBLE_DEVICES={seen} names {len(names)}")
    return names[:count]


def take(pool: str, count: int, folder: Path | None = None) -> list[str]:
    """Waits for devices and keeps them until this process, or the one that it becomes, ends.

    Args:
        pool: See :func:`devices`.
        count: Number of devices.
        folder: Of the locks; by default one for each user of the machine (``SIDA_GPU_LOCKS`` names another).

    Returns:
        Names of the devices.

    Raises:
        PoolError: The pool is smaller than that, or its locks cannot be written.
    """
    names = devices(pool)
    if count > len(names):
        raise PoolError(
            f"a job needs {count} GPUs, but {len(names)} are shared here; set gpus={len(names)} in the preset"
        )
    folder = folder or Path(
        os.environ.get("SIDA_GPU_LOCKS") or Path(tempfile.gettempdir()) / f"sida-gpus-{os.getuid()}"
    )
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        line = _open(folder / "line.lock")
        wait_for_lock(line)
        held = _collect(folder, names, count)
    except OSError as error:
        raise PoolError(f"{folder}: {error.strerror}; name another folder for locks in SIDA_GPU_LOCKS") from None
    os.close(line)
    return held


def _collect(folder: Path, names: Sequence[str], count: int) -> list[str]:
    """Takes devices as they become free, until there are enough; the caller is the only one who collects."""
    held: dict[str, int] = {}
    while True:
        for name in names:
            if name in held:
                continue
            lock = _open(folder / f"gpu-{name.replace('/', '-')}.lock")
            if not try_lock(lock):
                os.close(lock)
                continue
            # The command that this process becomes keeps the descriptor, and with it the lock.
            os.set_inheritable(lock, True)
            held[name] = lock
            if len(held) == count:
                # So that processes which the command starts can keep them too.
                os.environ["SIDA_HELD_FILES"] = ",".join(map(str, held.values()))
                return sorted(held, key=names.index)
        time.sleep(PAUSE)


def _open(path: Path) -> int:
    """Opens a lock that another user may have made: reading is enough, and making it again may be forbidden."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
