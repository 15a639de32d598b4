"""Records of a score's finished trials, kept in the cache until the result is written where the caller wants it.

An interrupted score resumes with them. Scores of equal images have one folder, and one of them at a time uses it: a
lock excludes the others, which work without it.
"""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from sida.assets.cache import ReadOnlyCacheError, cache_dir, file_lock


@contextlib.contextmanager
def trials_folder(digest: str) -> Iterator[Path | None]:
    """Yields the locked folder of a score's trials, which may be missing.

    Args:
        digest: Digest of everything that decides the records.

    Yields:
        The folder; None if another score uses it, or the cache cannot be written or locked.
    """
    folder = cache_dir() / "scores" / digest
    busy = "score: the same images are scored elsewhere now; if this score is interrupted, it starts anew"
    with contextlib.ExitStack() as stack:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            held = stack.enter_context(_lock_of(folder, busy))
        except (OSError, ReadOnlyCacheError):
            held = False
        yield folder if held else None


def forget_trials(folder: Path) -> None:
    """Removes a folder of :func:`trials_folder`, unless another score uses it now: that one removes it."""
    with contextlib.suppress(ReadOnlyCacheError), _lock_of(folder) as held:
        if held:
            shutil.rmtree(folder, ignore_errors=True)


def _lock_of(folder: Path, announce: str | None = None) -> contextlib.AbstractContextManager[bool]:
    return file_lock(f"scores/{folder.name}", announce, wait=False)
