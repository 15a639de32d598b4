"""Opening of data sets from their specs."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sida.config.datasets import DATASET_KINDS, DatasetConfig
from sida.config.mapping import from_mapping
from sida.config.plugins import load_object, our_object
from sida.data.dataset import Dataset
from sida.data.latents import open_archive
from sida.errors import UserError


def load_dataset(spec: Mapping[str, Any] | DatasetConfig, where: str = "dataset") -> Dataset:
    """Opens a data set and checks it against its spec.

    Args:
        spec: Mapping of the fields of :class:`DatasetConfig`. A custom ``kind`` is ``module:function``, called as
            ``function(config, name=..., use_labels=..., max_size=..., random_seed=..., xflip=...)``; it passes the five
            keywords to the :class:`Dataset` that it returns.
        where: Place named in errors.

    Raises:
        UserError: The spec is wrong, a file is missing or broken, or the data contradict the spec.
    """
    config = spec if isinstance(spec, DatasetConfig) else from_mapping(DatasetConfig, spec, where)
    known = DATASET_KINDS.get(config.kind)
    opens = our_object(known.opens) if known else load_object(config.kind, f"{where}.kind", "function")[1]
    views = {
        "name": config.name,
        "use_labels": config.labels and config.label_dim != 0,
        "max_size": config.max_size,
        "random_seed": config.random_seed,
        "xflip": config.xflip,
    }
    try:
        inspect.signature(opens).bind(config, **views)
    except TypeError as error:
        raise UserError(
            f"{where}.kind: '{config.kind}' cannot be called as function(config, **views): {error}"
        ) from None
    try:
        dataset = opens(config, **views)
    except ValueError as error:
        raise UserError(f"{where}.{error}") from None
    if not isinstance(dataset, Dataset):
        raise UserError(f"{where}.kind: '{config.kind}' returned {type(dataset).__name__}, not a sida.data.Dataset")
    _compare(dataset, config, where)
    return dataset


def open_stored(config: DatasetConfig, **views: Any) -> Dataset:
    """Opens an archive or folder.

    Raises:
        ValueError: The path is a folder for kind ``zip``, or a file for kind ``folder``.
    """
    path = Path(os.path.expanduser(str(config.path)))
    if path.exists() and path.is_dir() != (config.kind == "folder"):
        raise ValueError(f"kind: {path} is a {'folder' if path.is_dir() else 'file'}, not a {config.kind}")
    return open_archive(str(path), cache=config.cache, **views)


def _compare(dataset: Dataset, config: DatasetConfig, where: str) -> None:
    """Checks counts and sizes against the spec, and the digest if the spec has one."""
    found = {
        "num_images": dataset.raw_count,
        "resolution": dataset.resolution,
        "channels": dataset.num_channels,
        "label_dim": dataset.label_dim,
    }
    place = config.path or config.name
    for key, actual in found.items():
        expected = getattr(config, key)
        if expected is not None and expected != actual:
            raise UserError(f"{where}.{key}: {place} has {actual}, the spec says {expected}; correct one of them")
    if config.sha256 is not None and config.sha256 != dataset.sha256:
        raise UserError(
            f"{where}.sha256: {place} has {dataset.sha256}, the spec says {config.sha256}; "
            "fetch or prepare the file again, or correct the spec"
        )
