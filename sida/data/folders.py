"""Classes of pictures, and parts of a data set such as train and test, from the names of folders."""

from __future__ import annotations

import collections
import os
import re
from collections.abc import Collection, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np

from sida.data.archive import Files, common_folder
from sida.data.pictures import UNREAD
from sida.errors import UserError, counted

#: Names of folders with images for testing, and of folders that are parts of a data set.
_HELD_OUT = {"test", "testing", "val", "valid", "validation", "dev", "eval"}
_SPLIT = re.compile(rf"(?i:train|training|{'|'.join(sorted(_HELD_OUT))})([^a-z].*)?$")


class Classes(NamedTuple):
    """Class of every picture or None, folders of the classes in order, and a remark on the source of the classes."""

    labels: np.ndarray | None
    folders: Sequence[str] = ()
    remark: str = ""


def counted_classes(labels: np.ndarray) -> Classes:
    """Classes with numbers instead of names."""
    counts = np.bincount(labels)
    without = f", {remark}" if (remark := absent_classes(counts)) else ""
    return Classes(labels, (), f"{len(counts):,} classes of {counts.min():,} to {counts.max():,} images{without}")


def absent_classes(counts: Sequence[int] | np.ndarray) -> str:
    """Remark on classes below the largest one that have no images; empty if there are none."""
    classes = np.flatnonzero(np.asarray(counts) == 0).tolist()
    return f"none of class {', '.join(map(str, classes[:8]))}{', …' if len(classes) > 8 else ''}" if classes else ""


def picture_labels(files: Files, members: np.ndarray, rule: str) -> Classes:
    """Classes of pictures, from ``dataset.json`` or the rank of the top folder's name.

    Args:
        files: The source.
        members: Indices of the pictures.
        rule: ``auto``, ``folders`` or ``none``, as in :class:`~sida.data.prepare.PrepareConfig`.

    Raises:
        UserError: The rule needs folders that are missing, or ``auto`` is ambiguous.
    """
    if rule == "none":
        return Classes(None, (), "no classes (--labels none)")
    if rule == "auto" and (labels := files.labels(members)) is not None:
        return counted_classes(labels)
    folder, tops = _top_folders(files, members)
    folders = _in_order({*tops})
    if rule == "auto":
        numbered = all(map(is_tools, folders))
        names = [files.names[int(member)] for member in members]
        unclear = (numbered and not counted_by_tool(tops, names)) or _are_shards(folders)
        if fault := _doubt(files, folder, folders, unclear):
            raise UserError(files.path, fault, "say --labels folders or none, or name a folder within it")
        if numbered:
            remark = f"no classes: folders such as {folders[0]} are numbered by a tool (--labels)"
            return Classes(None, (), remark)
    if len(folders) == 1:
        if rule == "folders":
            raise UserError(files.path, "pictures are not in several folders", "use --labels none")
        bare = f" (empty folders: {', '.join(files.bare[:4])})" if files.bare else ""
        return Classes(None, (), f"no classes: the pictures are in one folder{bare}")
    # Ranks count folders with pictures, so that an empty one would shift all later classes.
    if empty := _without_pictures(files, folder, {*folders}):
        fault = f"{counted(len(empty), 'class folder')} without pictures that are read ({', '.join(empty[:4])})"
        remedy = "fill or remove them, or say --labels none: the classes behind them would have other numbers"
        raise UserError(files.path, fault, remedy)
    class_names = [top or "(no folder)" for top in folders]
    lines = [f"{rank} = {name}" for rank, name in enumerate(class_names)]
    remark = f"classes: {', '.join(lines if len(lines) < 13 else [*lines[:12], '…', lines[-1]])}"
    ranks = {top: rank for rank, top in enumerate(folders)}
    return Classes(np.array([ranks[top] for top in tops], np.int64), class_names, remark)


def _without_pictures(files: Files, folder: str, classes: set[str]) -> list[str]:
    """Sorted folders that are empty or hold pictures of other formats, next to the folders of classes."""
    others = [name for name in files.names if PurePosixPath(name).suffix.lower() in UNREAD]
    inside = [f"{name}/".removeprefix(folder) for name in (*files.bare, *others) if f"{name}/".startswith(folder)]
    return sorted({top for name in inside if (top := name.partition("/")[0])} - classes)


def is_tools(folder: str) -> bool:
    """Whether a tool may have numbered a folder: its name has five digits or more and nothing else."""
    return len(folder) > 4 and folder.isdecimal()


def _are_shards(folders: Sequence[str]) -> bool:
    """Whether names have one beginning and numbers of three digits or more, counted from 0 or 1: shard_000, …."""
    parts = [re.fullmatch(r"(.*?\D)(\d{3,})", name) for name in folders]
    matches = [part for part in parts if part]
    numbers = [int(part[2]) for part in matches]
    return (
        len(matches) == len(parts) > 1
        and len({part[1] for part in matches}) == 1
        and min(numbers) < 2
        and (max(numbers) - min(numbers) + 1 == len(numbers))
    )


def counted_by_tool(folders: Sequence[str], names: Sequence[str]) -> bool:
    """Whether folders are numbered parts of one set as tools write them: all but the last of one size, no name twice.

    Args:
        folders: Folder of each picture.
        names: Path of each picture, in order.
    """
    sizes = [*collections.Counter(folders).values()]
    bare = {os.path.basename(name) for name in names}
    return len(bare) == len(names) and len({*sizes[:-1]}) <= 1 and sizes[-1] <= sizes[0]


def _top_folders(files: Files, members: np.ndarray) -> tuple[str, list[str]]:
    """Common folder of all pictures, and for each picture its folder within that; empty without one."""
    names = [files.names[int(member)] for member in members]
    folder = common_folder(names)
    return folder, [name.removeprefix(folder).rpartition("/")[0].partition("/")[0] for name in names]


def _in_order(folders: Collection[str]) -> list[str]:
    """Folders in the order of their classes: by their numbers if the names differ only in numbers, else by name."""
    alike = len({re.sub(r"\d+", "#", top) for top in folders}) == 1
    return sorted(folders, key=lambda top: ([int(n) for n in re.findall(r"\d+", top)] if alike else [], top))


def _doubt(files: Files, folder: str, folders: list[str], unclear: bool) -> str | None:
    """Reason why folders may or may not be classes; None if they are unambiguous.

    ``unclear``: whether a tool may have numbered them.
    """
    prefixes = [name.removesuffix("dataset.json") for name in files.names if name.endswith("/dataset.json")]
    if unread := [prefix for prefix in prefixes if not folder.startswith(prefix)]:
        return f"has a dataset.json in {unread[0]}, which is not the folder of all pictures"
    several_parts = sum(bool(_SPLIT.match(top)) for top in folders) > 1
    if len(folders) > 1 and ("" in folders or several_parts or unclear):
        names = ", ".join(top or "(no folder)" for top in folders[:4])
        return f"has pictures in folders ({names}) that may be classes, parts of a data set or a tool's"
    return None


def part_of(files: Files, members: np.ndarray, subset: str | None) -> tuple[np.ndarray, str]:
    """Pictures of the subset, and a remark, if the top folders are parts of a data set such as train and test.

    Otherwise all pictures, without a remark.

    Raises:
        UserError: No folder or several ones are the subset; or a subset is asked for and there are no parts.
    """
    _, tops = _top_folders(files, members)
    folders = sorted({*tops})
    if len(folders) < 2 or not {top.lower() for top in folders} <= {"train", "training", *_HELD_OUT}:
        if subset is not None:
            fault = f"has no folders named train and test, of which --subset {subset} takes one"
            raise UserError(files.path, fault, "leave out --subset, or name a folder")
        return members, ""
    subset = subset or "train"
    matches = [top for top in folders if (top.lower() in _HELD_OUT) == (subset == "test")]
    if len(matches) != 1:
        fault = f"its folders {', '.join(folders)} are parts of a data set, {len(matches)} of them {subset}"
        raise UserError(files.path, fault, "unpack it, if it is an archive, and name one as the source")
    part = members[[top == matches[0] for top in tops]]
    other = "train" if subset == "test" else "test"
    return part, f"part {matches[0]} of {', '.join(folders)} (the other: --subset {other})"


def check_part(files: Files, part: np.ndarray) -> None:
    """Checks that a part of a data set has all class folders of the others, so that ranks are classes of them all.

    Args:
        files: The source.
        part: Indices of the part's pictures.

    Raises:
        UserError: It has only some of the folders. A part without classes is not compared.
    """
    members = files.pictures()
    _, tops = _top_folders(files, members)
    classes = {}
    for name in sorted({*tops}):
        folder, folders = _top_folders(files, members[[top == name for top in tops]])
        classes[name] = {*folders} if len({*folders}) > 1 else {PurePosixPath(folder).name} - {name}
    own = tops[members.tolist().index(part[0])]
    every = {name for names in classes.values() if len(names) > 1 for name in names}
    if all(map(is_tools, every)) or not classes[own] & every:
        return
    if missing := _in_order(every - classes[own]):
        other = next(other for other, its in classes.items() if missing[0] in its)
        fault = f"class folder {missing[0] or '(none)'} is in {other} and not in {own}: later classes would shift"
        raise UserError(files.path, fault, f"make the folders of all parts equal, or name {own} as the source")
