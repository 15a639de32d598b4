"""Number of images in each class of a data set: ``config/labels/<data set>.json``.

Generators are measured on classes drawn with the data's frequencies; these counts suffice for that, without an archive.
"""

import dataclasses
import functools
import os
from collections.abc import Iterable
from pathlib import Path

from sida.config.named_files import find_file
from sida.config.settings import from_mapping, load_spec
from sida.errors import SettingError, UserError
from sida.files.atomic import sha256_json


@dataclasses.dataclass(frozen=True)
class LabelCounts:
    """Number of images in each class.

    Attributes:
        name: Name of the data set.
        images: Number of all images: the sum of ``counts``.
        counts: Images per class.
        source: Source of the counts, for people.
    """

    name: str
    images: int
    counts: tuple[int, ...]
    source: str = ""

    def __post_init__(self) -> None:
        if min(self.counts, default=-1) < 0 or not any(self.counts):
            raise SettingError("counts", "must list the number of images of each class, in all at least 1")
        if sum(self.counts) != self.images:
            raise SettingError("images", f"says {self.images}, but the counts sum to {sum(self.counts)}", "count again")

    @functools.cached_property
    def sha256(self) -> str:
        """Digest of the counts, whatever their name and source are."""
        return sha256_json(list(self.counts))


def find_labels(name: str | os.PathLike[str], own: Iterable[Path] = ()) -> Path | None:
    """File of class counts, or None if it does not exist.

    Args:
        name: A data set of ``config/labels``, or a ``.json`` file.
        own: Folders that are searched first, with their folders ``labels/``.
    """
    try:
        return find_file("labels", Path(name), own)
    except UserError:
        return None


def load_labels(name: str | os.PathLike[str]) -> LabelCounts:
    """Reads counts by name or path (see :func:`find_labels`).

    Raises:
        UserError: The file is missing or broken, or the counts contradict their sum.
    """
    if (path := find_labels(name)) is None:
        raise UserError("", f"no class counts '{name}'", remedy(name))
    return from_mapping(LabelCounts, load_spec(str(path)), str(path))


def remedy(name: str | os.PathLike[str]) -> str:
    """Remedy for missing counts, for errors."""
    file = f"{Path(name).stem}.json"
    return f"write {file} as config/labels/cifar10.json, or take a protocol with labels: null or label_dist: uniform"
