"""Files as a bad disk leaves them."""

from __future__ import annotations

import os
from pathlib import Path


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
