"""Prints the tables of ``real.md`` and draws its figure, ``real.png``: ``python studies/fashion/real.py``.

The rows are those of ``real-rows.csv`` and of the study's ``stored``. Intervals are over training seeds, with teachers
as blocks and the design of their seeds; changes by FD-Loss are from SiDA of the same teacher and training seed.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from sida.eval.contrasts import difference, mean_interval
from sida.eval.figures.style import VARIANTS, new_figure
from sida.eval.results import load

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


def rows() -> pd.DataFrame:
    """Means over trials: columns ``teacher``, ``method``, ``seed``, ``metric`` and ``value``."""
    table = pd.concat([load(HERE / "stored").measurements, pd.read_csv(HERE / "real-rows.csv")])
    table["run"] = table["run"].str.removesuffix(".fashion-judge1")
    means = table.groupby(["run", "metric"])["value"].mean().reset_index()
    means[["teacher", "method", "seed"]] = means["run"].str.extract(r"^(\w+?)-(.+)-s(\d)$")
    return means.dropna(subset="method")


def blocks(means: pd.DataFrame, method: str, metric: str, teachers: set[str]) -> dict[str, dict[int, float]]:
    """Values of a method's trainings by teacher and seed."""
    kept = means[(means["method"] == method) & (means["metric"] == metric) & means["teacher"].isin(teachers)]
    return by_seed(kept, "value")


def by_seed(table: pd.DataFrame, column: str) -> dict[str, dict[int, float]]:
    """A column by teacher and seed."""
    return {str(name): dict(zip(rows["seed"].astype(int), rows[column])) for name, rows in table.groupby("teacher")}


def compare(means: pd.DataFrame, method: str, others: tuple[str, ...]) -> pd.DataFrame:
    """A method's mean by metric, and its difference to others from the same teachers with its interval."""
    teachers = set(means[means["method"] == method]["teacher"])
    found = {}
    for metric in QUALITIES:
        own = blocks(means, method, metric, teachers)
        cells = {"mean": f"{mean_interval(own).value:.3f}"}
        for other in others:
            gap = difference(own, blocks(means, other, metric, teachers))
            cells[f"− {other}"] = f"{gap.value:+.3f} ({gap.low:+.3f} to {gap.high:+.3f})"
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
    places = {name: place for place, name in enumerate(reversed(names))}
    shown = found[found["metric"].isin(names)]
    # Colours of methods would name a method.
    for (colour, marker), (teacher, mine) in zip(VARIANTS, shown.groupby("teacher")):
        axes.plot(mine["change"], mine["metric"].map(places), marker, color=colour, label=f"from teacher {teacher}")
    for metric, mean in shown.groupby("metric")["change"].mean().items():
        axes.vlines(mean, places[str(metric)] - 0.3, places[str(metric)] + 0.3, color="black")
    axes.axvline(0, color="#999999", linewidth=0.6, zorder=0)
    axes.set_yticks([*places.values()], [JUDGES[name] for name in places])
    axes.set_xlabel("change of the distance by FD-Loss on judge 1, in %")
    axes.vlines([], 0, 0, color="black", label="mean")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncol=3, frameon=False)
    figure.savefig(HERE / "real.png", dpi=160, metadata={"Software": None})


def main() -> None:
    """Prints both tables and draws the figure."""
    means = rows()
    for space in ("velocity", "image"):
        real, control = f"realsid-{space}", f"control-{space}"
        for method, others in ((real, ("sid", "sida")), (control, (real, "sid"))):
            print(f"\n{method}\n{compare(means, method, others).to_markdown()}")
    found = changes(means)
    for metric in JUDGES:
        mine = found[found["metric"] == metric]
        sure = mean_interval(by_seed(mine, "change"))
        pairs = mean_interval({"all": dict(enumerate(mine["change"]))})
        print(f"{metric:20} {mine['before'].mean():8.3f} → {mine['after'].mean():8.3f}", end="  ")
        print(
            f"{sure.value:+.1f} % ({sure.low:+.1f} to {sure.high:+.1f}; by pairs {pairs.low:+.1f} to {pairs.high:+.1f})"
        )
    draw(found)


if __name__ == "__main__":
    main()
