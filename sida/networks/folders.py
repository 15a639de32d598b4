"""Folders with a network in the files of another library, on this machine or on the Hugging Face Hub.

Plugins read them (registry ``network_folders``). A file that a folder has names its reader.
"""

from __future__ import annotations

import abc
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sida.assets.registry import asset_at, names_on_hub
from sida.config.registries import Registry, missing_plugins

#: A network's file in a folder of a run, and in one of `sida export`.
NETWORK_FILES = ("network.safetensors", "generator/network.safetensors")


class NetworkFolder(abc.ABC):
    """An opened folder.

    Attributes:
        where: Folder or address, named in errors.
    """

    where: str

    @property
    @abc.abstractmethod
    def sha256(self) -> str:
        """Digest of all that decides the network."""

    @abc.abstractmethod
    def write(self, out: str | os.PathLike[str], null_label: bool, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """Writes the network file, and returns its metadata.

        Args:
            out: Target ``.safetensors``.
            null_label: Whether the last class stands for no class.
            metadata: Provenance.

        Raises:
            UserError: A setting or a tensor that is not read.
        """


def open_folder(source: str, key: str = "ema") -> NetworkFolder | None:
    """Opens a folder, or a repository ``hf://OWNER/NAME[@REVISION]``, whose files are fetched, by its reader.

    Args:
        source: Folder or address.
        key: Weights that are read where there are several.

    Returns:
        The folder; None if no reader has a file that it has.

    Raises:
        UserError: The plugin that reads it is not here; or it lacks a file, or is not read.
    """
    names, present = None, lambda name: Path(source, name).is_file()
    if source.startswith("hf://"):
        hub = asset_at(source).hub
        if hub is None or hub[2] or "#" in source:
            return None
        names = names_on_hub(*hub[:2])
        present = names.__contains__
    readers = Registry[Callable[..., NetworkFolder]]("network_folders", "the reader of folders with")
    for marker in filter(present, readers):
        return readers[marker](source, names, key)
    for marker in filter(present, missing_plugins("network_folders")):
        readers.refuse_missing(marker, source)
    return None
