"""Number of images in each class of a data set: ``config/labels/<data set>.json``.

Generators are measured on classes drawn with the data's frequencies; with these counts no archive is needed for it.
``sida data labels`` writes the counts.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from dataclasses import dataclass
from pathlib import Path

from sida.config.mapping import from_mapping, load_spec
from sida.config.resources import find
from sida.errors import UserError
from sida.files.atomic import sha256_json, write_text


@dataclass(frozen=True)
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
        if not self.counts or min(self.counts) < 0:
            raise ValueError("counts: must list the number of images of each class, each 0 or more")
        if sum(self.counts) != self.images:
            raise ValueError(f"images: says {self.images}, but the counts sum to {sum(self.counts)}; count again")
        if not self.images:
            raise ValueError("images: must be at least 1")

    @functools.cached_property
    def sha256(self) -> str:
        """Digest of the counts alone."""
        return sha256_json(list(self.counts))

    def describe(self) -> str:
        """One line for people."""
        spread = sorted({min(self.counts), max(self.counts)})
        each = " to ".join(f"{count:,}" for count in spread)
        return f"{len(self.counts):,} classes of {each} images, {self.images:,} in all"


def find_labels(name: str | os.PathLike[str], protocol: str | os.PathLike[str] | None = None) -> Path | None:
    """The file that a protocol's ``labels`` names, or None if it does not exist.

    Args:
        name: A data set of ``config/labels``, or a ``.json`` file.
        protocol: File of the protocol; its folder, and the folder ``labels/`` beside that, are searched first.
    """
    own = [Path(protocol).parent.parent, Path(protocol).parent] if protocol is not None else []
    try:
        return find("labels", Path(name), own)
    except UserError:
        return None


def load_labels(name: str | os.PathLike[str]) -> LabelCounts:
    """Reads counts by name or path (see :func:`find_labels`).

    Raises:
        UserError: Missing or broken file, or counts that contradict their sum.
    """
    path = find_labels(name)
    if path is None:
        raise UserError(f"no class counts '{name}'; {remedy(name)}")
    return from_mapping(LabelCounts, load_spec(str(path)), str(path))


def remedy(name: str | os.PathLike[str]) -> str:
    """How to provide missing counts, for errors."""
    command = f"sida data labels SOURCE --out {name}"
    return f"write them in seconds with `{command}`, or take a protocol with label_dist: uniform"


def write_labels(path: str | os.PathLike[str], labels: LabelCounts) -> None:
    """Writes a file of counts atomically."""
    write_text(path, json.dumps(dataclasses.asdict(labels)) + "\n")
