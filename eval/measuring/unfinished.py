"""Records of a score's finished trials, kept in the cache until the result is written where the caller wants it.

An interrupted score resumes with them. Scores of equal images have one folder, and one of them at a time uses it: a
lock beside the folder excludes the others, which work without it.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from sida.assets.cache import cache_dir
from sida.errors import say
from sida.files.atomic import try_lock


@contextlib.contextmanager
def trials_folder(digest: str) -> Iterator[Path | None]:
    """Yields the locked folder of a score's trials, which may be missing.

    Args:
        digest: Digest of everything that decides the records.

    Yields:
        The folder; None if another score uses it, or the cache cannot be written or locked.
    """
    folder = cache_dir() / "scores" / digest
    with contextlib.ExitStack() as stack:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            locked = stack.enter_context(_locked(folder))
        except OSError:
            yield None
            return
        if not locked:
            say("score: the same images are scored elsewhere now; if this score is interrupted, it starts anew")
        yield folder if locked else None


def forget_trials(folder: Path) -> None:
    """Removes a folder of :func:`trials_folder`, unless another score uses it now: that one removes it."""
    with contextlib.suppress(OSError), _locked(folder) as locked:
        if locked:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Holds the lock of a folder; yields False at once if another process or call holds it.

    Raises:
        OSError: The lock cannot be written, or the file system has no locks.
    """
    path = folder.with_name(f"{folder.name}.lock")
    stream = _lock(path)
    if stream is None:
        yield False
        return
    with stream:
        try:
            yield True
        finally:
            if not folder.exists():
                path.unlink(missing_ok=True)


def _lock(path: Path) -> BinaryIO | None:
    with contextlib.ExitStack() as stack:
        while True:
            stream = stack.enter_context(open(path, "ab"))
            if not try_lock(stream):
                return None
            # The last holder may have removed the file since it was opened: then its lock excludes nobody.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.stat(path), os.fstat(stream.fileno())):
                    stack.pop_all()
                    return stream
