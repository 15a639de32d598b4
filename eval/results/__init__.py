"""Results: trial files, their long table and its summary, published numbers, and all of it as DataFrames (`load`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sida.eval.results.logs import logs_of
from sida.eval.results.measurements import FURTHER, MEASUREMENT_COLUMNS, load_measurements
from sida.files.atomic import read_hashed_json
from sida.files.ordinary import file_below

if TYPE_CHECKING:
    import pandas

__all__ = ["load"]

_LOGS = {"evaluations.jsonl": "evaluation", "train.jsonl": "training"}
_CLAIMS = ("id", "statement", "source", "verdict")


class Frames(NamedTuple):
    """Results of a preset as DataFrames.

    Attributes:
        measurements: One line per run, trial and metric, with the columns of ``measurements.csv`` and the
            ``origin`` of numbers that another group measured.
        curves: One line per number of a training log: ``run``, ``log`` (``evaluation`` or ``training``), ``nimg``,
            ``quantity`` (keys within a key are joined by dots: ``losses.sid``) and ``value``.
        claims: One line per claim with its verdict; empty without decided claims.
    """

    measurements: pandas.DataFrame
    curves: pandas.DataFrame
    claims: pandas.DataFrame


def load(folder: str | Path) -> Frames:
    """Reads the measurements, training logs and verdicts of a preset.

    >>> measurements = load("results/demo").measurements
    >>> measurements.groupby(["run", "metric"]).value.agg(["mean", "std"])

    Args:
        folder: Results of a preset.

    Raises:
        UserError: The measurements are missing, or a file is damaged.
    """
    import pandas

    folder = Path(folder)
    claims = file_below(folder, "claims.json")
    rows = load_measurements(folder).rows
    records = [
        {"run": name.split("/")[1], "log": _LOGS[Path(name).name], **record}
        for name, log in logs_of(folder)
        if name.startswith("students/")
        for record in log
    ]
    keys = ["run", "log", "nimg"]
    curves = pandas.json_normalize(records) if records else pandas.DataFrame(columns=keys)
    curves = curves.melt(keys, var_name="quantity")
    curves["value"] = pandas.to_numeric(curves["value"], errors="coerce")
    return Frames(
        pandas.DataFrame([vars(row) for row in rows], columns=[*MEASUREMENT_COLUMNS, *FURTHER]),
        curves.dropna(subset="value").reset_index(drop=True),
        pandas.DataFrame(read_hashed_json(claims)["claims"] if claims.is_file() else [], columns=list(_CLAIMS)),
    )
