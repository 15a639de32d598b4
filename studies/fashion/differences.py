"""Prints the tables of verdicts of ``anew.md``: ``python studies/fashion/differences.py``.

The first has means over teachers and training seeds, by method; the second, for pairs of methods, the differences of
these means with their 95 % intervals, on the teachers that both methods have; a line names the differences that an F
test finds unequal from teacher to teacher. The rows are those stored of ``fashion-anew``.
"""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

import pandas as pd

from sida.eval.contrasts import Interval, difference
from sida.eval.results import load
from sida.eval.results.sheet import read_runs

HERE = Path(__file__).resolve().parent
#: Labels by recipe; images of the data set have none.
METHODS = {
    "sid": "SiD",
    "sida": "SiDA",
    "sid2a": "SiD²A",
    "gdd": "GDD",
    "gdd-lite0": "GDD on EfficientNet-Lite0",
    "data": "real images, drawn again",
}
#: Heading, decimals and factor of the metrics of the first table; the second has the first three.
COLUMNS = {
    "fd": ("FD", 3, 1),
    "fd_pixel": ("FD, pixels", 1, 1),
    "fd_lite0": ("FD, EfficientNet-Lite0", 1, 1),
    "precision": ("precision", 2, 1),
    "recall": ("recall", 2, 1),
    "accuracy": ("accuracy in %", 1, 100),
    "copies_tail": ("near copies in %", 2, 100),
}
JUDGES = ("fd", "fd_pixel", "fd_lite0")
#: Marks of values by a network that the method was trained on (‡) or that learned from the same labels (§).
MARKS = {("gdd", "fd"): " §", ("gdd-lite0", "fd_lite0"): " ‡"}
PAIRS = (
    ("sida", "sid"),
    ("sid2a", "sid"),
    ("sid2a", "sida"),
    ("gdd", "sid"),
    ("gdd", "sida"),
    ("gdd", "sid2a"),
    ("gdd-lite0", "sid"),
    ("gdd-lite0", "gdd"),
)

#: Values by recipe, teacher and training seed.
Values = dict[str, dict[str, dict[int | None, float]]]


def values_of(metric: str) -> Values:
    """A metric's means over trials, by recipe."""
    table = load(HERE / "fashion-anew/stored").measurements
    means = table[table["metric"] == metric].groupby("run")["value"].mean()
    values: Values = {}
    for row in read_runs(HERE / "anew.tsv"):
        recipe = row.recipe or row.run
        if recipe in METHODS and row.run in means:
            values.setdefault(recipe, {}).setdefault(str(row.teacher), {})[row.seed] = float(means[row.run])
    return values


def means_of(values: Values) -> dict[str, float]:
    """Means over the teachers and their seeds, by recipe."""
    return {method: fmean(fmean(cell.values()) for cell in teachers.values()) for method, teachers in values.items()}


def compare(values: Values, method: str, other: str) -> Interval:
    """The difference of two methods' means, on the teachers that both have."""
    teachers = [name for name in values[method] if name in values[other]]
    first, second = ({name: values[side][name] for name in teachers} for side in (method, other))
    return difference(first, second)


def main() -> None:
    """Prints the tables."""
    values = {metric: values_of(metric) for metric in COLUMNS}
    means: dict[str, dict[str, str]] = {label: {} for label in METHODS.values()}
    for metric, (head, digits, factor) in COLUMNS.items():
        for method, value in means_of(values[metric]).items():
            means[METHODS[method]][head] = f"{factor * value:.{digits}f}{MARKS.get((method, metric), '')}"
    gaps: dict[str, dict[str, str]] = {}
    unequal: list[str] = []
    for method, other in PAIRS:
        pair = f"{METHODS[method]} − {METHODS[other]}"
        cells = gaps.setdefault(pair, {})
        for metric in JUDGES:
            head, digits, _ = COLUMNS[metric]
            gap = compare(values[metric], method, other)
            text = f"{gap.value:.{digits}f} ({gap.low:.{digits}f} to {gap.high:.{digits}f})".replace("-", "−")
            cells[head] = f"{text}{MARKS.get((method, metric), '')}"
            unequal += [f"{pair}, {head} (p = {gap.blocks_p:.3f})"] if gap.blocks_differ else []
    for table in (means, gaps):
        print(pd.DataFrame(table).T.to_markdown(disable_numparse=True), "\n")
    print(f"unequal from teacher to teacher: {', '.join(unequal)}")


if __name__ == "__main__":
    main()
