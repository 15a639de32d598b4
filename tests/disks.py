"""File systems and files as bad disks leave them: small, read only, flipped bits, cut off."""

from __future__ import annotations

import contextlib
import os
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


def fill(folder: Path, leave: int) -> Path:
    """Fills a small disk up to so many bytes, with a file that is given back."""
    filler = folder / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(folder).free - leave))
    return filler


def flip(path: Path, part: float = 0.6) -> None:
    """Turns a bit at a part of a file's length; its times stay, as they do where nothing was written."""
    content = bytearray(path.read_bytes())
    content[int(part * len(content))] ^= 4
    _replace(path, bytes(content))


def cut(path: Path, part: float = 0.6) -> None:
    """Cuts a file off; its times stay."""
    content = path.read_bytes()
    _replace(path, content[: int(part * len(content))])


def _replace(path: Path, content: bytes) -> None:
    status = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


#: Ways to damage a file.
DAMAGES = {"flip": flip, "cut": cut}
