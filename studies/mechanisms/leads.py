"""Leads of SiDA over SiD in the stored rows, by kept networks and at the end of the trainings.

A cell of the map is a teacher and a weight of the adversarial term; weight 0 is SiD. The *lead* of a cell is
1 − FD(SiDA) / FD(SiD), with geometric means over the training seeds. A training keeps the network of its lowest FD, as
the papers' do, and that network is measured with fresh images; the *end* is the last evaluation of the trainings, after
equally many images.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from sida.eval.contrasts import Interval, difference
from sida.eval.results.logs import log_path, read_log
from sida.eval.results.sheet import read_runs
from sida.eval.results.stored import read_stored, stored_rows

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Data:
    """A data set of the study.

    Attributes:
        name: Its name for readers.
        sheet: Sample sheet in the study's folder.
        stored: Folder of its stored results.
        images: Thousands of images at which leads are printed; the last is the end of the trainings.
        grades: Thousands of images of the teachers, by id.
        weights: Weights of the adversarial term that have rows.
        rate: End of the recipes' names that have another rate.
    """

    name: str
    sheet: str
    stored: str
    images: tuple[int, ...]
    grades: dict[str, int] = field(hash=False)
    weights: tuple[float, ...]
    rate: str = ""

    @property
    def end(self) -> int:
        """Thousands of images of the trainings."""
        return self.images[-1]

    def grade_of(self, teacher: str) -> str:
        """Length of a teacher's training: ``10 thousand``, of a second one of equal length ``10 thousand, another``."""
        before = [*self.grades.values()][: [*self.grades].index(teacher)]
        return f"{self.grades[teacher]} thousand" + ", another" * (self.grades[teacher] in before)


DIGITS = Data(
    "8×8 digits",
    "digits.tsv",
    "mechanisms-digits/stored",
    (5, 10, 20, 25, 30, 35, 40, 45, 50),
    {"d10": 10, "d40": 40, "d150": 150, "d200": 200},
    (0.0, 0.01, 0.3, 3.0),
)
FASHION = Data(
    "Fashion-MNIST",
    "runs.tsv",
    "stored",
    (6, 12, 18, 24, 30, 36, 42, 48),
    {"t10": 10, "t40": 40, "one": 150},
    (0.0, 0.3, 3.0),
)
COLOUR = Data(
    "colour pictures",
    "colour.tsv",
    "mechanisms-colour/stored",
    FASHION.images,
    {"t10": 10, "t40": 40},
    (0.0, 0.3),
)
#: The digits with 300 held out from every training, the feature network's too.
SPLIT = Data(
    "8×8 digits, 300 held out",
    "split.tsv",
    "mechanisms-split/stored",
    DIGITS.images,
    {"d10": 10, "d10b": 10, "d200": 200},
    (0.0, 0.01, 0.3),
)
#: The same from a teacher of 40 thousand images, in trainings of twice the length.
LATER = Data(
    "8×8 digits, 300 held out, twice as long",
    "later.tsv",
    "mechanisms-later/stored",
    tuple(range(10, 110, 10)),
    {"d40": 40},
    (0.0, 0.3),
)
#: Ten times the width: the rates that the rule of the width gives, and four times these.
WIDE = [
    Data(
        "8×8 digits, 320 channels", "wide.tsv", "mechanisms-wide/stored", DIGITS.images, {"d10": 10}, (0, 0.3, 3), rate
    )
    for rate in ("", "-fast")
]

#: SiDA with another part, by recipe.
PARTS = {
    "digits-alone": "the adversarial term alone",
    "digits-alone-from-sid": "the adversarial term alone, from SiD",
    "digits-generated": "generated images for real ones",
    "digits-generated-strong": "generated images for real ones, weight 25",
    "digits-own-encoder": "a discriminator with its own encoder",
    "digits-separate-steps": "separate steps",
    "digits-sample": "pooling by sample",
    "digits-gamma": "γ = 1",
}
#: The weight of SiDA in which a part is replaced; it has no effect on the adversarial term alone.
PARTS_WEIGHT = 0.3
#: Other methods, by recipe.
FRAMES = {"digits-gdd": "GDD, from 10 thousand", "digits-meanflow": "MeanFlow, without a teacher"}

#: Values of a metric by thousands of images, of a training.
Curve = dict[int, float]
#: Curves of the trainings of each cell (teacher and weight), by run.
Cells = dict[tuple[str, float], dict[str, Curve]]


def cells_of(data: Data, metric: str = "fd") -> Cells:
    """Curves of a metric of the stored trainings by cell; a cell without one is not there."""
    folder, cells, pattern = HERE / data.stored, Cells(), rf"(?:digits-)?w([\d.]+){data.rate}"
    stored = read_stored(folder)["rows"]
    for row in read_runs(HERE / data.sheet):
        if row.run in stored and (weight := re.fullmatch(pattern, row.recipe or "")):
            cells.setdefault((str(row.teacher), float(weight[1])), {})[row.run] = curve_of(data, row.run, metric)
    return cells


def trainings_of(data: Data) -> dict[tuple[str, str], dict[str, Curve]]:
    """FD of the stored trainings with a replaced part, and of other methods, by recipe and teacher."""
    stored, trainings = read_stored(HERE / data.stored)["rows"], {}
    for row in read_runs(HERE / data.sheet):
        if row.run in stored and row.recipe in PARTS | FRAMES:
            trainings.setdefault((row.recipe, str(row.teacher)), {})[row.run] = curve_of(data, row.run)
    return trainings


def curve_of(data: Data, run: str, metric: str = "fd") -> Curve:
    """Values of a metric in the evaluations of a stored training."""
    log = read_log(log_path(HERE / data.stored, run, "evaluations"))
    return {round(record["nimg"] / 1000): float(record[metric]) for record in log if metric in record}


def shares_of(data: Data, run: str) -> dict[float, float]:
    """Share of the adversarial term in a training's generator gradient, 0..1, by thousands of images."""
    log = read_log(log_path(HERE / data.stored, run, "train"))
    return {
        record["nimg"] / 1000: record["share"]["adversarial"]
        for record in log
        if "adversarial" in record.get("share", {})
    }


@functools.cache
def means_of(data: Data) -> dict[tuple[str, str], float]:
    """Mean over the trials of each measured row and metric: of a training, of its kept network."""
    values: dict[tuple[str, str], list[float]] = {}
    for row in stored_rows(HERE / data.stored):
        values.setdefault((row["run"], row["metric"]), []).append(float(row["value"]))
    return {key: fmean(trials) for key, trials in values.items()}


@functools.cache
def facts_of(data: Data) -> dict[str, dict[str, str]]:
    """One stored line of each measured row: its machine, code version and date, and the images of its network."""
    return {row["run"]: row for row in stored_rows(HERE / data.stored)}


def teacher_fd(data: Data, teacher: str) -> float | None:
    """Mean FD of a teacher over its trials; None if it was not measured."""
    return means_of(data).get((f"teacher-{teacher}", "fd"))


def values_of(
    data: Data, trainings: dict[str, Curve], metric: str = "fd", images: int | None = None
) -> list[float] | None:
    """Values of a metric of some trainings: of kept networks, or after thousands of images; None if one has none."""
    if images is not None:
        curves = trainings if metric == "fd" else {run: curve_of(data, run, metric) for run in trainings}
        values = [curve.get(images) for curve in curves.values()]
    else:
        values = [means_of(data).get((run, metric)) for run in trainings]
    known = [value for value in values if value is not None]
    return known if len(known) == len(values) else None


def geometric_mean(values: Iterable[float]) -> float:
    """Geometric mean of values above 0."""
    return math.exp(fmean(map(math.log, values)))


@dataclass(frozen=True)
class Lead:
    """Lead of some trainings over others, 1 is 100 %, with Welch's 95 % interval of the logarithms.

    Attributes:
        value: The lead.
        low: Lower end of the interval.
        high: Upper end.
        p: p value of no lead.
        seeds: Number of trainings of the smaller side.
    """

    value: float
    low: float
    high: float
    p: float
    seeds: int

    @property
    def is_open(self) -> bool:
        """Whether a side has two trainings: the scatter that the interval rests on is hardly known."""
        return self.seeds < 3


def lead(reference: Sequence[float], values: Sequence[float]) -> Lead:
    """Lead of values over a reference; each side has the FD of at least two trainings."""
    gap = log_gap(reference, values)
    value, high, low = (1 - math.exp(end) for end in (gap.value, gap.low, gap.high))
    return Lead(value, low, high, gap.p_value(), min(len(reference), len(values)))


def log_gap(reference: Sequence[float], values: Sequence[float]) -> Interval:
    """Difference of the mean logarithms, values less reference, with Welch's 95 % interval."""
    blocks = [{"": dict(enumerate(map(math.log, side)))} for side in (values, reference)]
    return difference(*blocks)


def lead_of(
    data: Data, cells: Cells, teacher: str, weight: float, metric: str = "fd", images: int | None = None
) -> Lead | None:
    """Lead of a cell by kept networks, or after thousands of images; None without two trainings on each side."""
    sides = [values_of(data, cells.get((teacher, w), {}), metric, images) for w in (0.0, weight)]
    known = [side for side in sides if side and len(side) > 1]
    return lead(*known) if len(known) == 2 else None


def percent(value: float) -> str:
    """A share as whole per cent, with a true minus."""
    text = f"{100 * value:.0f}"
    return "0" if text == "-0" else text.replace("-", "−")


def in_words(one: Lead | None) -> str:
    """A lead with its interval: ``83 % (81 to 85)``, and ° where a side has two trainings; empty for None."""
    if one is None:
        return ""
    return f"{percent(one.value)} % ({percent(one.low)} to {percent(one.high)})" + " °" * one.is_open


def gap_in_words(reference: Sequence[float] | None, values: Sequence[float] | None) -> str:
    """A lead with its interval, or of one pair of trainings without one; empty where a side has no values."""
    if not reference or not values:
        return ""
    if min(len(reference), len(values)) > 1:
        return in_words(lead(reference, values))
    return f"{percent(1 - geometric_mean(values) / geometric_mean(reference))} %, one pair"


def ratio_in_words(one: Lead | None) -> str:
    """FD of trainings by that of others, with its interval, as :func:`in_words`."""
    if one is None:
        return ""
    return f"{1 - one.value:.2f} ({1 - one.high:.2f} to {1 - one.low:.2f})" + " °" * one.is_open
