"""Locks on open files (``flock``), which the kernel releases when their process ends for any reason."""

from __future__ import annotations

import fcntl
from typing import BinaryIO


def try_lock(file: int | BinaryIO, shared: bool = False) -> bool:
    """Takes a file's lock unless another holder has it; returns whether it was taken.

    Args:
        file: Open file or descriptor; closing it releases the lock.
        shared: Take a lock that several holders may share.

    Raises:
        OSError: The file system has no locks.
    """
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def wait_for_lock(file: int | BinaryIO) -> None:
    """Waits for a file's lock and takes it; arguments and errors as of :func:`try_lock`."""
    fcntl.flock(file, fcntl.LOCK_EX)
