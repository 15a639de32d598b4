"""Prints the tables of ``real.md`` and draws its figure, ``real.png``: ``python studies/fashion/real.py``.

The rows are those of ``real-rows.csv`` and of the study's ``stored``. Intervals are over training seeds, with teachers
as blocks; changes by FD-Loss are from SiDA of the same teacher and training seed.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from eval.contrasts import NotMeasuredError, difference, mean_interval
from eval.figures.style import new_figure
from eval.results import load

HERE = Path(__file__).resolve().parent
QUALITIES = ("fd", "fd_heldout", "fd_pixel", "precision", "recall", "accuracy", "copies")
JUDGES = {
    "fd_judge1": "FD, judge 1",
    "fd_judge1_heldout": "FD, judge 1, held-out",
    "fd": "FD, judge 2",
    "fd_heldout": "FD, judge 2, held-out",
    "fd_pixel": "FD, pixels",
    "precision": "precision",
    "recall": "recall",
    "accuracy": "accuracy",
}
COLOURS = {"one": "#0072B2", "two": "#D55E00", "three": "#009E73"}


def rows() -> pd.DataFrame:
    """Means over trials: columns ``teacher``, ``method``, ``seed``, ``metric`` and ``value``."""
    table = pd.concat([load(HERE / "stored").measurements, pd.read_csv(HERE / "real-rows.csv")])
    table["run"] = table["run"].str.removesuffix(".fashion-judge1")
    table = table[table["run"].str.fullmatch(r"(one|two|three)-.+-s\d")]
    means = table.groupby(["run", "metric"])["value"].mean().reset_index()
    means[["teacher", "method", "seed"]] = means["run"].str.extract(r"^(\w+?)-(.+)-s(\d)$")
    return means


def blocks(means: pd.DataFrame, method: str, metric: str, teachers: set[str]) -> dict[str, list[float]]:
    """Values of a method's training seeds by teacher."""
    kept = means[(means["method"] == method) & (means["metric"] == metric) & means["teacher"].isin(teachers)]
    return {str(teacher): list(found["value"]) for teacher, found in kept.groupby("teacher")}


def compare(means: pd.DataFrame, method: str, others: tuple[str, ...]) -> pd.DataFrame:
    """A method's mean by metric, and its difference to others from the same teachers with its interval."""
    teachers = set(means[means["method"] == method]["teacher"])
    found = {}
    for metric in QUALITIES:
        own = blocks(means, method, metric, teachers)
        try:
            cells = {"mean": f"{mean_interval(own).value:.3f}"}
            for other in others:
                gap = difference(own, blocks(means, other, metric, teachers))
                cells[f"− {other}"] = f"{gap.value:+.3f} ({gap.low:+.3f} to {gap.high:+.3f})"
        except NotMeasuredError as error:
            cells = {"mean": str(error)}
        found[metric] = cells
    return pd.DataFrame(found).T


def changes(means: pd.DataFrame) -> pd.DataFrame:
    """Changes by FD-Loss: columns ``teacher``, ``seed``, ``metric``, ``before``, ``after`` and ``change`` (percent)."""
    keys = ["teacher", "seed", "metric"]
    means = means[means["metric"].isin(JUDGES)]
    sides = [means[means["method"] == name].set_index(keys)["value"] for name in ("sida-again", "fd-loss")]
    both = pd.concat(sides, axis=1, keys=["before", "after"]).dropna().reset_index()
    return both.assign(change=100 * (both["after"] / both["before"] - 1))


def draw(found: pd.DataFrame) -> None:
    """Draws each network's changes of distances, and their means."""
    figure = new_figure(4.8, 2.2)
    axes = figure.add_subplot()
    names = [name for name in JUDGES if name.startswith("fd")]
    for place, metric in enumerate(reversed(names)):
        mine = found[found["metric"] == metric]
        for (teacher, _), one in mine.groupby(["teacher", "seed"]):
            axes.plot(one["change"], [place], "o", color=COLOURS[str(teacher)], alpha=0.8)
        axes.plot([mine["change"].mean()] * 2, [place - 0.3, place + 0.3], color="black")
    for teacher in sorted(set(found["teacher"])):
        axes.plot([], [], "o", color=COLOURS[teacher], label=f"from teacher {teacher}")
    axes.axvline(0, color="#999999", linewidth=0.6, zorder=0)
    axes.set_yticks(range(len(names)), [JUDGES[name] for name in reversed(names)])
    axes.set_xlabel("change of the distance by FD-Loss on judge 1, in %")
    axes.plot([], [], color="black", label="mean")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncol=3, frameon=False)
    figure.savefig(HERE / "real.png", dpi=160, metadata={"Software": None})


def main() -> None:
    """Prints both tables and draws the figure."""
    means = rows()
    for method in ("realsid-velocity", "realsid-image"):
        print(f"\n{method}\n{compare(means, method, ('sid', 'sida')).to_markdown()}")
    found = changes(means)
    if found.empty:
        return
    for metric in JUDGES:
        mine = found[found["metric"] == metric]
        cell = {str(teacher): list(part["change"]) for teacher, part in mine.groupby("teacher")}
        sure = mean_interval(cell)
        print(f"{metric:20} {mine['before'].mean():8.3f} → {mine['after'].mean():8.3f}", end="  ")
        print(f"{sure.value:+.1f} % ({sure.low:+.1f} to {sure.high:+.1f})")
    draw(found)


if __name__ == "__main__":
    main()
