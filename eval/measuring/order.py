"""Order of images in files: folders are trials if an option says so, and images sorted by class get a random order.

Trial t takes images t·n … (t + 1)·n − 1. A trial or a split of the inception score with few classes has a wrong value.
"""

import os
import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from sida.data.archive import common_folder
from sida.data.folders import counted_by_tool, is_tools
from sida.errors import UserError

Groups = Literal["trials", "classes"]


class Trials(NamedTuple):
    """Trials that a score takes from files.

    Attributes:
        num_samples: Images of a trial.
        most: Trials of the protocol.
        asked: Trials that the user asks for; None: as many as the images allow.
        groups: Meaning of folders; None asks the user where several trials have several folders.
    """

    num_samples: int
    most: int
    asked: int | None = None
    groups: Groups | None = None


class Order(NamedTuple):
    """Order of images.

    Attributes:
        positions: Stored position of each image int64 ``(N,)``; None: as stored.
        facts: Description for the record; empty for the stored order.
        remark: Description for people.
        trials: Number of trials, where folders are trials.
    """

    positions: np.ndarray | None = None
    facts: str = ""
    remark: str = ""
    trials: int | None = None


def arranged(
    path: object, names: Sequence[str], classes: np.ndarray | None, count: int, trials: Trials | None = None
) -> Order:
    """Order in which images are measured.

    Args:
        path: Folder or file, for errors.
        names: Name of each picture, with its folders; empty for an array.
        classes: Known class of each image ``(count,)``, or None.
        count: Number of images.
        trials: Trials to take; None: all images are one set.

    Raises:
        UserError: Folders may be trials or classes, or do not have the images that trials take.
    """
    plan, folders = trials or Trials(count, 1), _folders(names)
    several = len(np.unique(folders)) > 1
    if several and plan.groups is None and (plan.asked or min(count // plan.num_samples, plan.most)) > 1:
        some = ", ".join(np.unique(folders)[:3])
        raise UserError(
            path, f"its folders ({some:.60}) may be trials or classes", "give --groups trials or --groups classes"
        )
    if plan.groups == "trials":
        return _by_trial(path, names, folders, classes, plan) if several else Order()
    labels, by = (classes, "its labels") if classes is not None else (_inner_folders(names), "their folders")
    if labels is None or (order := dealt_order(labels)) is None:
        return Order()
    remark = (
        f"images are sorted by class ({by}), so a trial or a split of the inception score would hold few classes; they "
        "were dealt in a random order (seed 0)"
    )
    return Order(order, "dealt, seed 0", remark)


def dealt_order(groups: np.ndarray) -> np.ndarray | None:
    """A random order (seed 0) of images whose tenths differ in their classes more than in a random order.

    Args:
        groups: Class of each image, or a label like a class, ``(N,)``.

    Returns:
        Positions int64 ``(N,)``; None where the chi-squared test of tenths and classes has p ≥ 1e-6.
    """
    count, (names, codes) = len(groups), np.unique(groups, return_inverse=True)
    if not 2 <= len(names) <= count // 2:
        return None
    table = np.zeros((10, len(names)))  # images by tenth and class
    np.add.at(table, (np.arange(count) * 10 // count, codes), 1)
    expected = np.outer(table.sum(1), table.sum(0)) / count
    present = expected > 0  # fewer images than tenths leave some empty
    # Its import takes longer than listing the files, which alone may show a fault.
    from scipy.special import chdtrc

    distance = ((table - expected)[present] ** 2 / expected[present]).sum()
    if chdtrc(9 * (len(names) - 1), distance) >= 1e-6:
        return None
    return np.random.default_rng(0).permutation(count)


def _by_trial(
    path: object, names: Sequence[str], folders: np.ndarray, classes: np.ndarray | None, plan: Trials
) -> Order:
    """Order in which trial t has the first images of folder t, and the rest follows.

    Raises:
        UserError: A folder has fewer images than a trial, or there are fewer folders than trials.
    """
    parts = [np.flatnonzero(folders == name) for name in sorted(np.unique(folders), key=_by_number)]
    size, fewest = plan.num_samples, min(map(len, parts))
    if fewest < size or (plan.asked or 0) > len(parts):
        fault = f"its {len(parts)} folders have {fewest:,} images or more, not {plan.asked or len(parts)} trials of "
        remedy = f"give --trials {len(parts)}" if fewest >= size else f"give --num-samples {fewest}"
        raise UserError(path, f"{fault}{size:,}", f"{remedy}, or --groups classes, which deals them over the trials")
    dealt = False
    for number, part in enumerate(parts):
        labels = classes[part] if classes is not None else _inner_folders([names[at] for at in part.tolist()])
        if labels is not None and (order := dealt_order(labels)) is not None:
            parts[number], dealt = part[order], True
    remark, facts = f"its folders are {len(parts)} trials of {size:,} images", "trials by its folders"
    if dealt:
        remark, facts = (
            f"{remark}, dealt within them (seed 0), since they are sorted by class",
            f"{facts}, dealt, seed 0",
        )
    positions = np.concatenate([*(part[:size] for part in parts), *(part[size:] for part in parts)])
    return Order(positions, facts, remark, len(parts))


def _folders(names: Sequence[str]) -> np.ndarray:
    """First folder in which pictures differ, ``(N,)``; empty for arrays and for the numbered folders of a tool."""
    common = common_folder(names) if names else ""
    folders = [name.removeprefix(common).rpartition("/")[0].partition("/")[0] for name in names]
    if folders and all(map(is_tools, folders)) and counted_by_tool(folders, names):
        folders = []
    return np.array(folders, str)


def _inner_folders(names: Sequence[str]) -> np.ndarray | None:
    """Whole folder of each picture, ``(N,)``, without the numbered folders of a tool; None for arrays."""
    folders = [os.path.dirname(name) for name in names]
    if folders and all(is_tools(os.path.basename(folder)) for folder in folders) and counted_by_tool(folders, names):
        folders = [os.path.dirname(folder) for folder in folders]
    return np.array(folders) if folders else None


def _by_number(name: str) -> list[tuple[int, str]]:
    """Sorts names such as trial-2 and trial-10 by their numbers."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", name)]
