"""Order of images in files: groups are trials or classes, and images that are sorted by class are put in random order.

Trial t takes images t·n … (t + 1)·n − 1. Folders and parts of names may be runs of a generator; a trial of images of
several runs measures none of them. They may be classes; a trial or a split of the inception score with few classes has
a wrong value. Names and sizes decide; where both readings fit, the user is asked.
"""

import collections
import os
import re
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np

from sida.data.folders import counted_by_tool, is_tools
from sida.errors import UserError

Groups = Literal["trials", "classes"]
_SAY = "give --groups trials or --groups classes"
#: Words with a number or letter that name a run of a generator, and those that name a class.
_RUN = re.compile(
    r"(?<![a-z])(?:trial|seed|run|rep|repeat|repetition|replicate|replica|attempt|round)"
    r"(?:[-_ .=#]*\d+|[-_ .=#]+[a-z])(?![a-z\d])",
    re.IGNORECASE,
)
_CLASS = re.compile(r"(?<![a-z])(?:class|label|cls|category)[-_ .=#]*\w|n\d{8}(?!\d)", re.IGNORECASE)
#: Share of a trial that a group of runs has, at least.
_PART = 10


class Trials(NamedTuple):
    """Trials that a score takes from files.

    Attributes:
        num_samples: Images of a trial.
        most: Trials of the protocol.
        asked: Trials that the user asks for; None: as many as the images allow.
        groups: The user's reading of folders and parts of names.
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
        trials: Number of trials, where groups are trials.
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
        UserError: Groups may be trials or classes, or runs do not have the images that trials take.
    """
    plan = trials or Trials(count, 1)
    runs = None if plan.groups == "classes" else _runs(path, names, classes, plan)
    if runs is not None:
        return _by_run(*runs, names, classes, plan)
    missing = " (no folder or part of names has the images of a trial: their order is kept)" if names else ""
    for by, groups in [("its labels", classes)] if classes is not None else _class_groups(names):
        if (order := dealt_order(groups)) is None:
            continue
        blocks = np.arange(count) // plan.num_samples  # trial of each image; the last one may be a part
        assert blocks.shape == groups.shape
        keeps_order = plan.groups == "trials" or (classes is not None and _are_alike(groups, blocks))
        if blocks[-1] == 0 or not keeps_order:
            return Order(order, "dealt, seed 0", _dealt_remark(by))
        order = np.concatenate([_within(part, groups) for part in _parts(blocks)])
        return Order(order, "dealt within trials, seed 0", f"{_dealt_remark(by)}, each within its trial{missing}")
    return Order(remark=f"groups: trials{missing}" if plan.groups == "trials" and missing else "")


def dealt_order(groups: np.ndarray) -> np.ndarray | None:
    """A random order (seed 0) of images whose tenths differ in their classes more than in a random order.

    Args:
        groups: Class of each image, or a label like a class, ``(N,)``.

    Returns:
        Positions int64 ``(N,)``; None where the chi-squared test of tenths and classes has p ≥ 1e-6.
    """
    count = len(groups)
    if not 2 <= len(np.unique(groups)) <= count // 2 or _are_alike(groups, np.arange(count) * 10 // count):
        return None
    return np.random.default_rng(0).permutation(count)


def _are_alike(groups: np.ndarray, parts: np.ndarray) -> bool:
    """Whether parts (numbers from 0, ``(N,)``) have classes as random parts have, by the chi-squared test (1e-6)."""
    count, (names, codes) = len(groups), np.unique(groups, return_inverse=True)
    table = np.zeros((int(parts[-1]) + 1, len(names)))  # images by part and class
    np.add.at(table, (parts, codes), 1)
    expected = np.outer(table.sum(1), table.sum(0)) / count
    # Fewer images than parts leave parts empty.
    present = expected > 0
    # Its import takes longer than listing the files, which alone may show a fault.
    from scipy.special import chdtrc

    distance = ((table - expected)[present] ** 2 / expected[present]).sum()
    return bool(chdtrc((len(table) - 1) * (len(names) - 1), distance) >= 1e-6)


def _dealt_remark(by: str) -> str:
    return (
        f"images are sorted by class ({by}), so a trial or a split of the inception score would hold few classes; they "
        "were dealt in a random order (seed 0)"
    )


def _parts(groups: np.ndarray) -> list[np.ndarray]:
    """Positions of each group, in the order of their names, numbers by size."""
    names = sorted(np.unique(groups).tolist(), key=lambda name: [_number(p) for p in re.split(r"(\d+)", str(name))])
    return [np.flatnonzero(groups == name) for name in names]


def _number(part: str) -> tuple[int, str]:
    return (int(part), "") if part.isdecimal() else (0, part)


def _within(positions: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Positions of a trial, dealt if they are sorted by class."""
    order = dealt_order(groups[positions])
    return positions if order is None else positions[order]


def _by_run(by: str, runs: np.ndarray, names: Sequence[str], classes: np.ndarray | None, plan: Trials) -> Order:
    """Order in which trial t has the first images of run t, and the rest follows."""
    first, rest, dealt = [], [], False
    for part in _parts(runs):
        inside = [names[int(at)] for at in part]
        for _, groups in [("", classes[part])] if classes is not None else _class_groups(inside):
            if (order := dealt_order(groups)) is not None:
                part, dealt = part[order], True
                break
        first.append(part[: plan.num_samples])
        rest.append(part[plan.num_samples :])
    remark = f"{by} are {len(first)} runs: trial t takes {plan.num_samples:,} images of run t"
    facts = f"trials by {by}"
    if dealt:
        remark, facts = f"{remark}, dealt within it (seed 0), since they are sorted by class", f"{facts}, dealt, seed 0"
    return Order(np.concatenate([*first, *rest]), facts, remark, len(first))


def _runs(
    path: object, names: Sequence[str], classes: np.ndarray | None, plan: Trials
) -> tuple[str, np.ndarray] | None:
    """Origin and run of each picture, where folders or parts of names are runs; else None.

    Raises:
        UserError: They may be runs, or are runs without the images of the trials.
    """
    count, n = len(names), plan.num_samples
    trials = plan.asked or min(count // n, plan.most)
    if trials * n > count or not trials or n == count:
        return None
    return _named_runs(path, names, plan, trials) or _groups_of_trials(path, names, classes, plan, trials)


def _named_runs(path: object, names: Sequence[str], plan: Trials, trials: int) -> tuple[str, np.ndarray] | None:
    """Origin and run of each picture, where folders or names have the words of runs; else None.

    Raises:
        UserError: The runs do not have the images of the trials.
    """
    count, n = len(names), plan.num_samples
    for by, texts in _columns(names):
        runs = np.array(["/".join(_RUN.findall(text)).lower() for text in texts])
        sizes = [*collections.Counter(runs.tolist()).values()]
        if not 2 <= len(sizes) <= count // 2 or max(sizes) * _PART < n or not all(runs):
            continue
        if min(sizes) >= n and (plan.asked is None or trials <= len(sizes)):
            return by, runs
        fault = f"{by} are {len(sizes)} runs of {min(sizes):,} to {max(sizes):,} images, not {trials} trials of {n:,}"
        fewer = f"give --trials {len(sizes)}" if min(sizes) >= n else f"give --num-samples {min(sizes)}"
        raise UserError(path, fault, f"{fewer}, or say --groups classes, which deals them over the trials")
    return None


def _groups_of_trials(
    path: object, names: Sequence[str], classes: np.ndarray | None, plan: Trials, trials: int
) -> tuple[str, np.ndarray] | None:
    """Origin and group of each picture, where folders or parts of names have the images of trials; else None.

    Raises:
        UserError: The groups may also be classes.
    """
    count, n = len(names), plan.num_samples
    for by, texts in _columns(names, parts=True):
        groups = np.array(texts)
        sizes = [*collections.Counter(texts).values()]
        if not 2 <= len(sizes) <= count // 2 or (plan.groups is None and all(map(_CLASS.search, {*texts}))):
            continue
        as_many = trials == len(sizes) and min(sizes) >= n and (plan.asked is not None or len({*sizes}) == 1)
        if not as_many and {*sizes} != {n}:
            continue
        if plan.groups == "trials":
            return by, groups
        if classes is not None:
            # Labels name the classes, so that groups of several classes are none.
            if all(len(np.unique(classes[part])) > 1 for part in _parts(groups)):
                return by, groups
        elif dealt_order(groups) is not None:
            some = ", ".join(dict.fromkeys(texts[:: max(1, min(sizes))]))
            raise UserError(path, f"{by} ({some:.60}) have the images of trials, and may be classes", _SAY)
    return None


def _columns(names: Sequence[str], parts: bool = False) -> Iterator[tuple[str, list[str]]]:
    """Yields the folders of pictures level by level, and their names, or the parts of names that are built alike."""
    if not names:
        return
    folders, bare = [os.path.dirname(name).split("/") for name in names], [os.path.basename(name) for name in names]
    for level in range(min(map(len, folders))):
        column = [folder[level] for folder in folders]
        if not (all(map(is_tools, column)) and counted_by_tool(column, names)):
            yield "its folders", column
    if not parts:
        yield "parts of its names", bare
        return
    split = [re.split(r"(\d+)", name) for name in bare]
    if len({len(part) for part in split}) == 1:
        pairs = [[(part[at - 1] if at % 2 else "") + part[at] for at in range(len(part))] for part in split]
        yield from (("parts of its names", list(column)) for column in zip(*pairs))


def _class_groups(names: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Yields what may stand for the classes of pictures, with its name: folders and parts of names."""
    if not names:
        return
    folders = [os.path.dirname(name) for name in names]
    numbered = all(is_tools(os.path.basename(folder)) for folder in folders) and counted_by_tool(folders, names)
    if len(set(folders)) > 1:
        yield "their folders", np.array([os.path.dirname(f) if numbered else f for f in folders])
    # Each part of names such as cat_0003.png or 0003-class-7.png, where all are built alike.
    parts = [re.split(r"(\d+)", os.path.basename(name)) for name in names]
    if len({len(part) for part in parts}) == 1:
        yield from (("their names", np.array(part)) for part in zip(*parts))
    else:
        yield "their names", np.array([re.sub(r"\d+\D*$", "", os.path.basename(name)) for name in names])
