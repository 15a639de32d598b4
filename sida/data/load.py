"""From a data-set spec (plain mapping) to a data set."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from sida.config import from_mapping
from sida.data.dataset import Dataset
from sida.data.digits import Digits
from sida.data.latents import open_archive
from sida.errors import UserError


@dataclasses.dataclass(frozen=True)
class DatasetConfig:
    """A data set as written in ``config/datasets.yaml``.

    Attributes:
        name: Short name for records.
        kind: ``digits`` (embedded), ``zip`` (EDM format) or ``folder`` (the same, unpacked).
        path: Archive or folder; not for ``digits``.
        resolution: Expected height and width; null accepts what is there.
        channels: Expected channels; null accepts what is there.
        label_dim: Expected number of classes; null accepts what is there, 0 leaves labels out.
        num_images: Expected number of images in the file; null accepts what is there.
        labels: False leaves labels out (an unconditional data set).
        max_size: Keep only this many images, drawn by ``random_seed``.
        random_seed: Seed of that draw.
        xflip: Append mirrored copies.
        cache: Keep what was read in memory (data sets that fit).
        sha256: Expected digest; null accepts what is there.
    """

    name: str
    kind: Literal["digits", "zip", "folder"]
    path: str | None = None
    resolution: int | None = None
    channels: int | None = None
    label_dim: int | None = None
    num_images: int | None = None
    labels: bool = True
    max_size: int | None = None
    random_seed: int = 0
    xflip: bool = False
    cache: bool = False
    sha256: str | None = None

    def __post_init__(self) -> None:
        if self.kind != "digits" and self.path is None:
            raise ValueError(f"path: a data set of kind '{self.kind}' needs one; give the file or folder")
        if self.kind == "digits" and self.path is not None:
            raise ValueError("path: the digits are embedded; remove this key")
        for key in ("resolution", "channels", "num_images", "max_size"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ValueError(f"{key}: must be at least 1, got {value}")
        if self.label_dim is not None and self.label_dim < 0:
            raise ValueError(f"label_dim: must be 0 or more, got {self.label_dim}")


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
