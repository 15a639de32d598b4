"""Prints how much FD scatters by teacher, training seed and trial: ``python studies/fashion/scatter.py [FOLDER]``.

The folder has the study's results (default: ``stored`` beside this file). For each method with two or more training
seeds of a teacher: standard deviations as shares of the mean, each without the part of the level below it, and that of
training seeds with its interval.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pandas as pd
from scipy.stats import chi2

from sida.eval.results import load

HERE = Path(__file__).resolve().parent


def scatter(values: pd.DataFrame) -> pd.DataFrame:
    """Shares of the mean by method, in percent, and degrees of freedom.

    Args:
        values: Columns ``method``, ``teacher``, ``seed``, ``trial`` and ``value``; equally many of each.
    """
    found = {}
    for method, rows in values.groupby("method"):
        runs = rows.groupby(["teacher", "seed"])["value"]
        trial, count = runs.var().mean(), runs.size().mean()
        means = runs.mean().groupby("teacher")
        between, seeds = means.var().mean(), means.size().mean()
        teacher = means.mean().var() - between / seeds
        parts = {"teacher": teacher, "training seed": between - trial / count, "trial": trial}
        shares = {name: 100 * max(part, 0.0) ** 0.5 / rows["value"].mean() for name, part in parts.items()}
        freedom = {"df of teachers": means.ngroups - 1, "df of seeds": int((means.size() - 1).sum())}
        # The trials' part is subtracted from the ends, too: the interval of a difference of variances.
        ends = {
            f"seed, {end}": 100 * max(limit**2 - trial / count, 0.0) ** 0.5 / rows["value"].mean()
            for end, limit in zip(("low", "high"), interval(between**0.5, freedom["df of seeds"]))
        }
        found[method] = {"mean": rows["value"].mean(), **shares, **freedom, **ends}
    return pd.DataFrame(found).T


def interval(std: float, df: int) -> tuple[float, float]:
    """The 95 % interval of a standard deviation with a number of degrees of freedom, of independent normal values."""
    low, high = (std * math.sqrt(df / chi2.ppf(share, df)) for share in (0.975, 0.025))
    return low, high


def values_of(folder: Path | str = HERE / "stored") -> pd.DataFrame:
    """FDs of the methods of which a teacher has two or more training seeds, for :func:`scatter`.

    Raises:
        SystemExit: No teacher has two.
    """
    table = load(folder).measurements
    rows = table[(table["metric"] == "fd") & table["run"].str.fullmatch(r"\w+-(sid|sida|sid2a|gdd)-s\d+")].copy()
    rows[["teacher", "method", "seed"]] = rows["run"].str.split("-", expand=True)
    pairs = rows.groupby(["method", "teacher"])["seed"].transform("nunique")
    if rows[pairs > 1].empty:
        sys.exit("no teacher has two training seeds of a method yet")
    return rows[pairs > 1]


def main() -> None:
    """Prints the table of metric ``fd``."""
    print(scatter(values_of(*sys.argv[1:2])).round(2).to_markdown())


if __name__ == "__main__":
    main()
