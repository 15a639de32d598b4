"""The study of the derivative's two forms: its pages' numbers are those of stored rows and of the measured step."""

import json
import math
import statistics

import pytest
import scipy.stats

from eval.results.csv_files import read_csv
from eval.results.stored import read_stored
from sida.config.registries import FOLDER
from workflow.preset import load_preset
from workflow.preset.stored_rows import row_digest

PLUGIN = FOLDER / "meanflow"
STUDY = PLUGIN / "study"
FORMS = {"forward": "forward derivative", "difference": "difference"}
STEP = json.loads((STUDY / "step.json").read_text())


def seeds(metric):
    """Mean of the trials of each seed, by form."""
    trials: dict[str, list[float]] = {}
    for _, record in read_csv(STUDY / "stored/measurements.csv")[1]:
        if record["metric"] == metric:
            trials.setdefault(record["run"], []).append(float(record["value"]))
    assert {len(values) for values in trials.values()} == {10}
    return {form: [statistics.mean(values) for run, values in trials.items() if run.startswith(form)] for form in FORMS}


def gap(metric):
    """Difference of the means in per cent of the forward derivative's, with Welch's 95 % interval of logarithms."""
    forward, difference = ([math.log(value) for value in values] for values in seeds(metric).values())
    interval = scipy.stats.ttest_ind(difference, forward, equal_var=False).confidence_interval(0.95)
    found = statistics.mean(difference) - statistics.mean(forward)
    return [100 * math.expm1(value) for value in (found, interval.low, interval.high)]


def test_stored_rows_are_those_of_todays_settings():
    preset, stored = load_preset(STUDY / "preset.yaml"), read_stored(STUDY / "stored")
    assert stored["rows"] == {run: row_digest(preset, run) for run in stored["rows"]}


@pytest.mark.parametrize("form", FORMS)
def test_the_table_is_of_the_stored_rows_and_the_measured_step(form):
    cells = [str(len(seeds("fd")[form]))]
    for metric, digits in (("fd", 2), ("recall", 3), ("fd_pixel", 3)):
        values = seeds(metric)[form]
        cells.append(f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}")
    line = f"| {FORMS[form]} | {' | '.join(cells)} | {1000 * STEP['seconds'][form]:.0f} ms |"
    for page in (PLUGIN / "README.md", STUDY / "README.md"):
        assert line in page.read_text(), page


def test_the_sentences_are_of_the_stored_rows_and_the_measured_step():
    pages = [(folder / "README.md").read_text().replace("−", "-") for folder in (PLUGIN, STUDY)]
    for page in pages:
        assert "{:+.1f} % ({:+.1f} to {:+.1f} %)".format(*gap("fd")) in page
        assert f"{STEP['ratio']:.2f} of the time" in page
    assert f"{min(STEP['ratios']):.2f} to {max(STEP['ratios']):.2f}" in pages[1]
    scatter = [100 * statistics.stdev(map(math.log, values)) for values in seeds("fd").values()]
    assert "scatter by {:.1f} and {:.1f} % of FD".format(*scatter) in pages[1]
    for metric in ("recall", "fd_pixel"):
        assert f"{gap(metric)[0]:+.1f} %" in pages[1]
