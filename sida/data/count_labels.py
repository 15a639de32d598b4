"""Counting of a data set's images per class without reading images: from file names, or from ``dataset.json``."""

from __future__ import annotations

import collections
import itertools
import os
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from sida.assets.fetch import fetch
from sida.assets.registry import is_counted
from sida.config.datasets import LabelCounts, load_labels
from sida.data.archive import ARRAYS, label_array, parse_labels, with_suffix
from sida.data.load import load_dataset
from sida.data.prepare import picture_labels
from sida.errors import UserError
from sida.files.archives import PICTURES, open_files
from sida.files.tar_index import is_tar, tar_members

_SUFFIXES = PICTURES | ARRAYS


def count_labels(source: str | os.PathLike[str], name: str) -> LabelCounts:
    """Counts images per class as ``sida data prepare`` would label them.

    Args:
        source: A folder or zip with ``dataset.json`` or a folder per class; a tar of folders or (ImageNet) of one tar
            per class; a ``dataset.json``; or a ``.txt`` list with a file name at the start of each line.
        name: Name of the data set.

    Raises:
        UserError: The source is missing or has no integer classes.
    """
    path = Path(source)
    if path.is_file() and path.suffix == ".json":
        found = parse_labels(path.read_bytes(), str(path)) or {}
        classes = list(found.values())
    elif path.is_file() and (path.suffix == ".txt" or is_tar(path)):
        names = (name for name, *_ in tar_members(path)) if is_tar(path) else _listed(path)
        return _counted(_by_folder(names, str(path)), name, path)
    else:
        files = open_files(path)
        classes, _ = picture_labels(files, with_suffix(files, _SUFFIXES), "auto")
    if not classes or classes[0] is None:
        raise UserError(source, "names no classes: no labels in dataset.json, and no folder per class")
    array = label_array(classes, str(source))
    if array.ndim != 1:
        raise UserError(source, "its labels are vectors", "only classes 0, 1, 2, … can be counted")
    counts = collections.Counter(array.tolist())
    return _counted([counts[label] for label in range(int(array.max()) + 1)], name, path)


def counts_of(name: str | os.PathLike[str]) -> LabelCounts:
    """Class counts by name: from a file (:func:`sida.config.datasets.find_labels`), or counted from an asset.

    Raises:
        UserError: There are no such counts, the file is broken, or the download fails.
    """
    return count_labels(fetch(str(name)), str(name)) if is_counted(name) else load_labels(name)


def check_labels(labels: LabelCounts, spec: Mapping[str, Any], where: str) -> None:
    """Compares counts with the data set of a spec: its size and, if the data set is present, all its classes.

    Raises:
        UserError: They differ.
    """
    sizes = {"num_images": labels.images, "label_dim": len(labels.counts)}
    for key, size in sizes.items():
        if size != (spec.get(key) or size):
            raise UserError(where, f"'{labels.name}' has {key} {size:,}, the data set {spec[key]:,}", "get it again")
    path = spec.get("path")
    if (path is not None and not Path(os.path.expanduser(path)).exists()) or spec.get("label_dim") == 0:
        return
    dataset = load_dataset({**spec, "max_size": None, "xflip": False, "cache": False}, where)
    found = collections.Counter(dataset.class_indices.tolist())
    ours = dict(enumerate(labels.counts))
    wrong = sorted(label for label in {*ours, *found} if ours.get(label, 0) != found[label])
    if wrong:
        fault = (
            f"{path or dataset.name} has {found[wrong[0]]:,} images of class {wrong[0]}, the class counts of "
            f"'{labels.name}' say {ours.get(wrong[0], 0):,} ({len(wrong)} classes differ)"
        )
        raise UserError(where, fault, "is it the right and complete data set?")


def _listed(path: Path) -> Iterable[str]:
    """The first word of each line, as in the output of ``ls`` or in ImageNet's ``train_cls.txt``."""
    with open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.strip():
                yield line.split()[0]


def _by_folder(names: Iterable[str], where: str) -> list[int]:
    """Number of pictures per folder, sorted by folder; folders that contain all of them do not count."""
    pictures: collections.Counter[str] = collections.Counter()
    bare: collections.Counter[str] = collections.Counter()
    for name in names:
        folder, _, file = name.rpartition("/")
        suffix = os.path.splitext(file)[1].lower()
        if suffix in _SUFFIXES:
            pictures[folder] += 1
        elif not suffix:
            bare[folder] += 1
    # Names in ImageNet's lists have no suffix; beside pictures, such names are folders or notes.
    folders = {PurePosixPath(folder).parts: count for folder, count in (pictures or bare).items()}
    ends = zip(min(folders, default=()), max(folders, default=()))
    depth = len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], ends)))
    classes: collections.Counter[tuple[str, ...]] = collections.Counter()
    for parts, count in folders.items():
        classes[parts[depth : depth + 1]] += count
    if len(classes) < 2:
        raise UserError(where, "names no pictures in several folders", "give a source with a folder per class")
    return [classes[label] for label in sorted(classes)]


def _counted(counts: list[int], name: str, path: Path) -> LabelCounts:
    return LabelCounts(name, sum(counts), tuple(counts), f"sida data labels {path.name}")
