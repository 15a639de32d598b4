"""The page of the study: its table is of the stored rows."""

import statistics
from collections import defaultdict

import pytest

from eval.results.csv_files import read_csv
from sida.config.registries import FOLDER

STUDY = FOLDER / "lsg/study"
LABELS = {"k1": "κ = 1 (SiD)", "k1.5": "κ = 1.5", "k2": "κ = 2", "k3": "κ = 3", "teacher-2": "κ₄ = 2 alone"}


def seeds():
    """Values of a row's seeds, each the mean of its trials, by row and metric."""
    trials = defaultdict(list)
    for _, record in read_csv(STUDY / "stored/measurements.csv")[1]:
        trials[record["run"], record["metric"]].append(float(record["value"]))
    values = defaultdict(list)
    for (run, metric), found in trials.items():
        values[run.rpartition("-s")[0], metric].append(statistics.mean(found))
    return values


@pytest.mark.parametrize("row", LABELS)
def test_the_table_is_of_the_stored_rows(row):
    values, cells = seeds(), []
    for metric, digits in (("fd", 2), ("recall", 3), ("accuracy", 3)):
        found = values[row, metric]
        assert len(found) == 4
        cells.append(f"{statistics.mean(found):.{digits}f} ± {statistics.stdev(found):.{digits}f}")
    page = (STUDY / "README.md").read_text()
    assert f"| {LABELS[row]} | 4 | {' | '.join(cells)} |" in page


def test_the_outcomes_are_of_the_stored_rows():
    mean = {key: statistics.mean(found) for key, found in seeds().items()}
    assert mean["k1", "accuracy"] < mean["k1.5", "accuracy"] < mean["k2", "accuracy"] == mean["k3", "accuracy"] == 1
    assert 1.6 < mean["k1.5", "fd"] / mean["k1", "fd"] < 1.7
    assert f"{100 * (mean['k2', 'fd'] / mean['teacher-2', 'fd'] - 1):.1f}" == "1.7"
    assert mean["teacher-2", "recall"] > 2 * mean["k2", "recall"]
