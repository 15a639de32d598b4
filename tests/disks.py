"""File systems of their own for tests: small ones, and ones that may only be read."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def small_disk(folder: Path, size: str = "1m") -> Iterator[Path]:
    """A tmpfs of a size at a new folder; skips the test where none may be mounted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system may be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def make_read_only(folder: Path, only: bool = True) -> None:
    """Makes a small disk one that may only be read, or takes that back."""
    subprocess.run(["mount", "-o", f"remount,{'ro' if only else 'rw'}", str(folder)], check=True)


def fill(folder: Path, leave: int = 0) -> Path:
    """Fills a small disk up to so many bytes, with a file that is given back."""
    filler = folder / "filler"
    with open(filler, "wb", buffering=0) as stream, contextlib.suppress(OSError):
        while stream.write(bytes(4096)):
            pass
    if leave:
        with open(filler, "r+b") as stream:
            stream.truncate(filler.stat().st_size - leave)
    return filler
