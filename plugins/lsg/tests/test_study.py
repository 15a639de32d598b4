"""The page of the study: its tables are of the stored rows."""

import statistics
from collections import defaultdict

import pytest
import scipy.stats

from sida.config.registries import FOLDER
from sida.eval.contrasts import holm
from sida.eval.results.measurements import load_measurements
from sida.eval.results.stored import read_stored
from sida.workflow.preset import load_preset
from sida.workflow.preset.specs import row_digest

STUDY = FOLDER / "lsg/study"
DIGITS, FASHION = STUDY / "stored", STUDY / "fashion/stored"
LABELS = {"k1": "κ = 1 (SiD)", "k1.5": "κ = 1.5", "k2": "κ = 2", "k3": "κ = 3", "teacher-2": "κ₄ = 2 alone"}
#: Folder of stored results, row, and its training seeds.
ROWS = [*((DIGITS, row, 4) for row in LABELS), (FASHION, "k1", 2), (FASHION, "k2", 2)]


def seeds(folder):
    """Values of a row's seeds, each the mean of its trials, by row and metric."""
    stored, values = load_measurements(folder), defaultdict(list)
    for run in stored.runs:
        for metric in {line.metric for line in stored.of_run(run)}:
            values[run.rpartition("-s")[0], metric].append(stored.estimate(run, metric).mean)
    return values


@pytest.mark.parametrize(("folder", "row", "count"), ROWS)
def test_the_tables_are_of_the_stored_rows(folder, row, count):
    values, cells = seeds(folder), []
    for metric, digits in (("fd", 2), ("recall", 3), ("accuracy", 3)):
        found = values[row, metric]
        assert len(found) == count
        cells.append(f"{statistics.mean(found):.{digits}f} ± {statistics.stdev(found):.{digits}f}")
    page = (STUDY / "README.md").read_text()
    assert f"| {LABELS[row]} | {count} | {' | '.join(cells)} |" in page


def test_the_outcomes_are_of_the_stored_rows():
    mean = {key: statistics.mean(found) for key, found in seeds(DIGITS).items()}
    assert mean["k1", "accuracy"] < mean["k1.5", "accuracy"] < mean["k2", "accuracy"] == mean["k3", "accuracy"] == 1
    assert 1.6 < mean["k1.5", "fd"] / mean["k1", "fd"] < 1.7
    assert f"{100 * (mean['k2', 'fd'] / mean['teacher-2', 'fd'] - 1):.1f}" == "1.7"
    assert mean["teacher-2", "recall"] > 2 * mean["k2", "recall"]


def test_guidance_of_the_teacher_alone_is_compared_by_all_metrics():
    values, page, p_values = seeds(DIGITS), (STUDY / "README.md").read_text().replace("−", "-"), {}
    for metric in ("fd", "recall", "is", "fd_pixel", "precision"):
        test = scipy.stats.ttest_ind(values["teacher-2", metric], values["k2", metric], equal_var=False)
        p_values[metric] = test.pvalue
        if metric == "fd":
            gap = statistics.mean(values["teacher-2", metric]) - statistics.mean(values["k2", metric])
            low, high = test.confidence_interval(0.95)
            assert f"{gap:.2f} ({low:.2f} to {high:.2f}) for the teacher's alone" in page
    for metric, digits, p_digits in (("recall", 4, 3), ("is", 2, 3), ("fd_pixel", 2, 3)):
        alone, both = (f"{statistics.mean(values[row, metric]):.{digits}f}" for row in ("teacher-2", "k2"))
        assert f"{alone} against {both} (p {p_values[metric]:.{p_digits}f}" in page
    corrected = dict(zip(p_values, holm([*p_values.values()])))
    assert {metric for metric, p in corrected.items() if p < 0.05} == {"recall", "is", "fd_pixel"}


def test_the_outcomes_on_fashion_mnist_are_of_the_stored_rows():
    values = seeds(FASHION)
    mean = {key: statistics.mean(found) for key, found in values.items()}
    assert max(values["k1", "fd"]) < min(values["k2", "fd"])
    assert max(values["k1", "accuracy"]) < min(values["k2", "accuracy"])
    assert max(values["k2", "recall"]) < min(values["k1", "recall"])
    gaps = mean["k2", "accuracy"] - mean["k1", "accuracy"], mean["k1", "recall"] - mean["k2", "recall"]
    line = "accuracy {:.2f} higher, recall {:.2f} lower, FD {:.2f} times as high".format(
        *gaps, mean["k2", "fd"] / mean["k1", "fd"]
    )
    assert line in (STUDY / "README.md").read_text()


@pytest.mark.parametrize(("preset", "folder"), [("preset", DIGITS), ("fashion", FASHION)])
def test_stored_rows_are_those_of_todays_settings(preset, folder):
    asked, stored = load_preset(STUDY / f"{preset}.yaml"), read_stored(folder)
    assert stored["rows"] == {run: row_digest(asked, run) for run in stored["rows"]}
