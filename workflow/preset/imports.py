"""Folders of imported checkpoints."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path


def import_folders(checkpoints: Iterable[str | None]) -> dict[str, str]:
    """A folder for each checkpoint that is imported, by its asset id or path.

    It is the asset's id, which may hold dots (``...-a1.2``), or the file's stem. Trainings call their networks alike
    (``a/network-snapshot.pkl``, ``b/network-snapshot.pkl``): then each name ends with a digest of the path.
    """
    names = {name: _plain(name) for name in checkpoints if name and not name.endswith(".safetensors")}
    shared = Counter(names.values())
    return {
        name: folder if shared[folder] == 1 else f"{folder}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
        for name, folder in names.items()
    }


def _plain(checkpoint: str) -> str:
    path = Path(checkpoint)
    return path.stem if path.suffix in (".pkl", ".pt", ".pth") else path.name
