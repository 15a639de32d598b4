"""Stored images that a row measures, as Snakemake is to see them change: a folder's time says nothing of its files."""

from __future__ import annotations

import functools
import hashlib
import os


def with_pictures(digest: str, checkpoint: str | None) -> str:
    """The digest of a measurement's spec, and of the files of a folder that it measures.

    Args:
        digest: Of the spec.
        checkpoint: As in the sheet.

    Returns:
        The digest as it is where no folder is measured: nothing else is measured again.
    """
    if checkpoint is None or not os.path.isdir(checkpoint):
        return digest
    return hashlib.sha256(f"{digest} {folder_digest(checkpoint)}".encode()).hexdigest()


@functools.cache
def folder_digest(folder: str | os.PathLike[str]) -> str:
    """SHA-256 of names, sizes and times of a folder's files, but for hidden ones: 50,000 are a fraction of a second."""
    digest = hashlib.sha256()
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders.sort()
        digest.update(f"{os.path.relpath(parent, folder)}/\n".encode(errors="surrogateescape"))
        for name in sorted(files):
            if not name.startswith("."):
                digest.update(f"{name} {_told(os.path.join(parent, name))}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _told(path: str) -> str:
    try:
        status = os.stat(path)
    except OSError:
        # Measuring says what is wrong with it.
        return "unreadable"
    return f"{status.st_size} {status.st_mtime_ns}"
