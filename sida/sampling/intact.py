"""Integrity checks of sample files, by the checksums inside zip archives and PNG files."""

from __future__ import annotations

import functools
import os
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sida.data.pictures import few_chunks
from sida.errors import UserError
from sida.files.archives import MAX_MEMBER_BYTES
from sida.files.npy import check_members
from sida.files.ordinary_file import read_ordinary
from sida.unpickle.window import Window, WindowStream

#: Largest directory of a zip archive in bytes, enough for a million images.
_MOST_DIRECTORY = 64 << 20
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_FAULTS = (OSError, ValueError, EOFError, KeyError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error)


def intact_zip(path: Path) -> bool:
    """Whether every member of a zip (or npz) matches its checksum; cached by path, time and size."""
    try:
        status = os.stat(path)
        return _intact_zip(str(path), status.st_mtime_ns, status.st_size)
    except OSError:
        return False


@functools.cache
def _intact_zip(path: str, changed: int, size: int) -> bool:
    try:
        with zipfile.ZipFile(WindowStream(Window.of_file(Path(path)), _MOST_DIRECTORY)) as archive:
            check_members(archive.infolist(), size)
            return archive.testzip() is None and len(archive.namelist()) > 0
    except _FAULTS:
        return False


def intact_shard(path: Path, seeds: Sequence[int]) -> bool:
    """Whether an npz shard is intact and holds the images of these seeds."""
    if not intact_zip(path):
        return False
    try:
        with np.load(path, allow_pickle=False) as shard:
            return bool(np.array_equal(shard["seeds"], np.asarray(seeds)))
    except _FAULTS:
        return False


def intact_png(path: Path) -> bool:
    """Whether a PNG file is complete and all its chunks match their checksums."""
    try:
        content = read_ordinary(path, str(path), MAX_MEMBER_BYTES, "remove it", "that is no sample")
    except UserError:
        return False
    position = len(_SIGNATURE)
    if content[:position] != _SIGNATURE or not few_chunks(content):
        return False
    while position + 12 <= len(content):
        length = int.from_bytes(content[position : position + 4], "big")
        end = position + 8 + length
        if zlib.crc32(content[position + 4 : end]).to_bytes(4, "big") != content[end : end + 4]:
            return False
        if content[position + 4 : position + 8] == b"IEND":
            return end + 4 == len(content)
        position = end + 4
    return False
