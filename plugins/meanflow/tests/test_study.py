"""The study of the derivative's two forms: its pages' numbers are those of stored rows and of the measured step."""

import json
import math
import statistics
from dataclasses import dataclass

import pytest
import scipy.stats

from sida.config.registries import FOLDER
from sida.eval.contrasts import chances
from sida.eval.results.measurements import load_measurements
from sida.eval.results.stored import read_stored
from sida.workflow.preset import load_preset
from sida.workflow.preset.specs import row_digest

PLUGIN = FOLDER / "meanflow"
STUDY = PLUGIN / "study"
FORMS = {"forward": "forward derivative", "difference": "difference"}


@dataclass(frozen=True)
class Part:
    """A data set of the study: preset, folder of stored results, trials of a seed, digits of FD, times of a step."""

    preset: str
    stored: str
    trials: int
    digits: tuple[int, int, int]
    step: str

    def seeds(self, metric):
        """Mean of the trials of each seed, by form."""
        stored = load_measurements(STUDY / self.stored)
        assert {len(stored.lines(run, metric)) for run in stored.runs} == {self.trials}
        return {
            form: [stored.estimate(run, metric).mean for run in stored.runs if run.startswith(form)] for form in FORMS
        }

    @property
    def times(self):
        """Seconds of a step and their ratios."""
        return json.loads((STUDY / self.step).read_text())


DIGITS = Part("preset.yaml", "stored", 10, (2, 3, 3), "step.json")
FASHION = Part("fashion.yaml", "fashion/stored", 2, (3, 3, 2), "step-fashion.json")


def gap(part, metric):
    """Difference of the means in per cent of the forward derivative's, with Welch's 95 % interval of logarithms."""
    forward, difference = ([math.log(value) for value in values] for values in part.seeds(metric).values())
    interval = scipy.stats.ttest_ind(difference, forward, equal_var=False).confidence_interval(0.95)
    found = statistics.mean(difference) - statistics.mean(forward)
    return [100 * math.expm1(value) for value in (found, interval.low, interval.high)]


PARTS = pytest.mark.parametrize("part", [DIGITS, FASHION], ids=["digits", "fashion"])


@PARTS
def test_stored_rows_are_those_of_todays_settings(part):
    preset, stored = load_preset(STUDY / part.preset), read_stored(STUDY / part.stored)
    assert stored["rows"] == {run: row_digest(preset, run) for run in stored["rows"]}


@PARTS
@pytest.mark.parametrize("form", FORMS)
def test_the_tables_are_of_the_stored_rows_and_the_measured_step(form, part):
    cells = [str(len(part.seeds("fd")[form]))]
    for metric, digits in zip(("fd", "recall", "fd_pixel"), part.digits, strict=True):
        values = part.seeds(metric)[form]
        cells.append(f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}")
    line = f"| {FORMS[form]} | {' | '.join(cells)} | {1000 * part.times['seconds'][form]:,.0f} ms |"
    for page in (PLUGIN / "README.md", STUDY / "README.md"):
        assert line in page.read_text(), page


@PARTS
def test_the_sentences_are_of_the_stored_rows_and_the_measured_step(part):
    pages, times = [(folder / "README.md").read_text().replace("−", "-") for folder in (PLUGIN, STUDY)], part.times
    for page in pages:
        assert "{:+.1f} % ({:+.1f} to {:+.1f} %)".format(*gap(part, "fd")) in page
        assert f"{times['ratio']:.2f} of the time" in page
    assert f"{min(times['ratios']):.2f} to {max(times['ratios']):.2f}" in pages[1]
    scatter = [100 * statistics.stdev(map(math.log, values)) for values in part.seeds("fd").values()]
    assert "scatter by {:.1f} and {:.1f} % of FD".format(*scatter) in pages[1]
    for metric in ("recall", "fd_pixel"):
        assert f"{gap(part, metric)[0]:+.1f} %" in pages[1]


def test_the_chance_to_show_equal_forms_is_that_of_the_scatter_found():
    scatter = [statistics.stdev(map(math.log, values)) for values in DIGITS.seeds("fd").values()]
    bound = math.log(1.048)
    three, six = (100 * chances(0.0, tuple(scatter), (n, n), -bound, bound, 0.95)[0] for n in (3, 6))
    assert f"a chance of {three:.0f} % to show it, and the six that were planned {six:.0f} %." in page(PLUGIN)
    assert f"a chance of {three:.0f} % to show that they are within 4.8 %, and six have {six:.0f} %." in page(STUDY)


def page(folder):
    return (folder / "README.md").read_text()
