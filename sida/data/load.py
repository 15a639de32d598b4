"""From a data-set spec (plain mapping) to a data set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sida.config import from_mapping
from sida.data.dataset import Dataset
from sida.data.digits import Digits
from sida.data.latents import open_archive
from sida.datasets import DatasetConfig
from sida.errors import UserError


def load_dataset(spec: Mapping[str, Any] | DatasetConfig, where: str = "dataset") -> Dataset:
    """Opens a data set and checks it against its spec.

    Args:
        spec: Mapping of the fields of :class:`DatasetConfig`.
        where: Place named in errors.

    Raises:
        UserError: A bad spec, a missing or broken file, or data that contradict the spec.
    """
    config = spec if isinstance(spec, DatasetConfig) else from_mapping(DatasetConfig, spec, where)
    views = {"max_size": config.max_size, "random_seed": config.random_seed, "xflip": config.xflip}
    use_labels = config.labels and config.label_dim != 0
    dataset: Dataset
    if config.kind == "digits":
        dataset = Digits(config.name, use_labels, **views)  # type: ignore[arg-type]
    else:
        dataset = _open_archive(config, use_labels, views, where)
    _compare(dataset, config, where)
    return dataset


def _open_archive(config: DatasetConfig, use_labels: bool, views: dict[str, Any], where: str) -> Dataset:
    assert config.path is not None
    path = Path(config.path).expanduser()
    if path.exists() and path.is_dir() != (config.kind == "folder"):
        raise UserError(f"{where}.kind: {path} is a {'folder' if path.is_dir() else 'file'}, not a {config.kind}")
    options = {"name": config.name, "use_labels": use_labels, "cache": config.cache, **views}
    dataset: Dataset = open_archive(str(path), **options)
    return dataset


def _compare(dataset: Dataset, config: DatasetConfig, where: str) -> None:
    """Checks counts and sizes against the spec; the digest only when the spec gives one."""
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
