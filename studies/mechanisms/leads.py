"""Prints the tables of leads of ``README.md``: ``python -m studies.mechanisms.leads``.

A cell of the map is a teacher and a weight of the adversarial term; weight 0 is SiD. The *lead* of a cell is
1 − FD(SiDA) / FD(SiD) at equal images, with geometric means over the training seeds; its interval is that of a t test
of the logarithms. The values are the evaluations during the stored trainings.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, variance

from sida.eval.contrasts import interval_of
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


DIGITS = Data(
    "8×8 digits",
    "digits.tsv",
    "mechanisms-digits/stored",
    (10, 25, 40, 50),
    {"d10": 10, "d40": 40, "d150": 150, "d200": 200},
    (0.0, 0.01, 0.3, 3.0),
)
FASHION = Data(
    "Fashion-MNIST", "runs.tsv", "stored", (12, 24, 36, 48), {"t10": 10, "t40": 40, "one": 150}, (0.0, 0.3, 3.0)
)
#: Ten times the width: the rates that the rule of the width gives, and four times these.
WIDE = [
    Data(
        "8×8 digits, 320 channels", "wide.tsv", "mechanisms-wide/stored", DIGITS.images, {"d10": 10}, (0, 0.3, 3), rate
    )
    for rate in ("", "-fast")
]

#: FD by thousands of images, of a training.
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
    """Mean over the trials of each measured row and metric."""
    values: dict[tuple[str, str], list[float]] = {}
    for row in stored_rows(HERE / data.stored):
        values.setdefault((row["run"], row["metric"]), []).append(float(row["value"]))
    return {key: fmean(trials) for key, trials in values.items()}


def teacher_fd(data: Data, teacher: str) -> float | None:
    """Mean FD of a teacher over its trials; None if it was not measured."""
    return means_of(data).get((f"teacher-{teacher}", "fd"))


@dataclass(frozen=True)
class Lead:
    """Lead of a cell, 1 is 100 %, with the ends of its 95 % intervals: of equal variances, and Welch's."""

    value: float
    low: float
    high: float
    welch: tuple[float, float]


def lead(sid: Sequence[float], sida: Sequence[float]) -> Lead:
    """Lead of SiDA; each side has the FD of at least two trainings."""
    (a, n), (b, m) = (([math.log(value) for value in values], len(values)) for values in (sid, sida))
    gap, df = fmean(b) - fmean(a), n + m - 2
    pooled = ((n - 1) * variance(a) + (m - 1) * variance(b)) / df
    equal = interval_of(gap, [(pooled * (1 / n + 1 / m), df)])
    welch = interval_of(gap, [(variance(a) / n, n - 1), (variance(b) / m, m - 1)])
    ends = [1 - math.exp(end) for end in (gap, equal.high, equal.low, welch.high, welch.low)]
    return Lead(*ends[:3], (ends[3], ends[4]))


def lead_of(cells: Cells, teacher: str, weight: float, images: int) -> Lead | None:
    """Lead of a cell after some thousands of images; None without two trainings on each side."""
    sides = [
        [curve[images] for curve in cells.get((teacher, w), {}).values() if images in curve] for w in (0.0, weight)
    ]
    return lead(*sides) if min(map(len, sides)) > 1 else None


def percent(value: float) -> str:
    """A share as whole per cent, with a true minus."""
    return f"{100 * value:.0f}".replace("-", "−").replace("−0", "0")


def table(data: Data) -> str:
    """Markdown table of the trained cells: FD of each training, and leads with their intervals; then missing cells."""
    cells, (*earlier, end) = cells_of(data), data.images
    heads = ["teacher", "its FD", "weight", f"FD of each training at {end} thousand images"]
    heads += [f"lead at {images}" for images in earlier] + [f"lead at {end}, 95 %", "Welch's", "in pixels"]
    lines, missing = [heads, ["---:"] * 3 + ["---"] + ["---:"] * (len(data.images) + 2)], []
    in_pixels = cells_of(data, "fd_pixel")
    for teacher, grade in data.grades.items():
        fd, trained = teacher_fd(data, teacher), [w for w in data.weights if (teacher, w) in cells]
        for weight in trained:
            line = [f"{grade} thousand", "not measured" if fd is None else f"{fd:.1f}", f"{weight:g}"]
            line.append(", ".join(f"{curve[end]:.2f}" for curve in cells[teacher, weight].values()))
            leads = [lead_of(cells, teacher, weight, images) if weight else None for images in data.images]
            line += ["" if one is None else f"{percent(one.value)} %" for one in leads]
            if last := leads[-1]:
                line[-1] += f" ({_ends(last)})"
            line.append("" if last is None else " to ".join(map(percent, last.welch)))
            pixels = lead_of(in_pixels, teacher, weight, end) if weight else None
            line.append("" if pixels is None else f"{percent(pixels.value)} % ({_ends(pixels)})")
            lines.append(line)
        if rest := [f"{weight:g}" for weight in data.weights if weight not in trained]:
            missing.append(f"weight{'s' * (len(rest) > 1)} {', '.join(rest)} from {grade} thousand")
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return text + (f"\n\nNot trained: {'; '.join(missing)}." if missing else "")


def _ends(one: Lead) -> str:
    return f"{percent(one.low)} to {percent(one.high)}"


def ratio(reference: Sequence[float], values: Sequence[float]) -> str:
    """FD of some trainings by that of others, with its 95 % interval."""
    one = lead(reference, values)
    return f"{1 - one.value:.2f} ({1 - one.high:.2f} to {1 - one.low:.2f})"


#: What differs from SiDA, by recipe.
PARTS = {
    "digits-alone": "the adversarial term alone",
    "digits-generated": "generated images for real ones",
    "digits-own-encoder": "a discriminator with its own encoder",
    "digits-separate-steps": "separate steps",
    "digits-sample": "pooling by sample",
    "digits-gamma": "γ = 1",
}
#: The weight of SiDA in which a part is replaced; it has no effect on the adversarial term alone.
PARTS_WEIGHT = 0.3
#: FD that trainings are timed to, in images.
REACHED = 20.0


#: Other methods, by recipe.
FRAMES = {"digits-gdd": "GDD, from 10 thousand", "digits-meanflow": "MeanFlow, without a teacher"}


def trainings_of(data: Data) -> dict[tuple[str, str], dict[str, Curve]]:
    """FD of the stored trainings with a replaced part, and of other methods, by recipe and teacher."""
    stored, trainings = read_stored(HERE / data.stored)["rows"], {}
    for row in read_runs(HERE / data.sheet):
        if row.run in stored and row.recipe in PARTS | FRAMES:
            trainings.setdefault((row.recipe, str(row.teacher)), {})[row.run] = curve_of(data, row.run)
    return trainings


#: Heading, factor and decimals of the metrics of kept networks.
KEPT = {
    "fd": ("FD", 1, 1),
    "fd_pixel": ("FD, pixels", 1, 1),
    "accuracy": ("accuracy in %", 100, 0),
    "precision": ("precision", 1, 2),
    "recall": ("recall", 1, 2),
}


def kept_table(data: Data) -> str:
    """Markdown table of the networks that the trainings kept, measured again: lowest and highest mean of each cell."""
    means, cells, trainings, groups = means_of(data), cells_of(data), trainings_of(data), {"real images": ["data"]}
    for teacher, grade in data.grades.items():
        groups[f"teacher of {grade} thousand"] = [f"teacher-{teacher}"]
        groups |= {
            f"weight {weight:g}, from {grade} thousand": [*cells[teacher, weight]]
            for weight in data.weights
            if (teacher, weight) in cells
        }
        groups |= {
            f"{PARTS[recipe]}, from {grade} thousand": [*runs]
            for (recipe, of_teacher), runs in trainings.items()
            if of_teacher == teacher and recipe in PARTS
        }
    groups |= {FRAMES[recipe]: [*runs] for (recipe, _), runs in trainings.items() if recipe in FRAMES}
    lines = [["", *(head for head, _, _ in KEPT.values())], ["---", *["---:"] * len(KEPT)]]
    for label, runs in groups.items():
        if not all((run, "fd") in means for run in runs):
            continue
        line = [label]
        for metric, (_, factor, digits) in KEPT.items():
            values = sorted(factor * means[run, metric] for run in runs)
            line.append(" to ".join(dict.fromkeys(f"{value:.{digits}f}" for value in (values[0], values[-1]))))
        lines.append(line)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def parts_table(data: Data) -> str:
    """Markdown table of SiDA with a part replaced: FD of each training, ratios to SiD and SiDA with their intervals."""
    cells, trainings, end = cells_of(data), trainings_of(data), data.images[-1]
    heads = ["part", "teacher", f"FD of each training at {end} thousand images", f"thousand images to FD {REACHED:g}"]
    lines = [[*heads, "FD / SiD's, 95 %", f"FD / SiDA's of weight {PARTS_WEIGHT:g}, 95 %"], ["---"] * 2 + ["---:"] * 4]
    known = {
        key: trainings[key] for recipe in PARTS for teacher in data.grades if (key := (recipe, teacher)) in trainings
    }
    # First SiDA itself, then with each part replaced.
    sida = {
        ("", teacher): cells[teacher, PARTS_WEIGHT]
        for teacher in data.grades
        if (teacher, PARTS_WEIGHT) in cells and any(of_teacher == teacher for _, of_teacher in known)
    }
    for (recipe, teacher), curves in {**sida, **known}.items():
        line = [PARTS.get(recipe, f"none: SiDA, weight {PARTS_WEIGHT:g}"), f"{data.grades[teacher]} thousand"]
        line.append(", ".join(f"{curve[end]:.2f}" for curve in curves.values()))
        line.append(", ".join(_first_below(curve) for curve in curves.values()))
        for reference in (0.0, PARTS_WEIGHT):
            others = cells.get((teacher, reference), {})
            is_known = min(len(others), len(curves)) > 1 and not (reference and not recipe)
            line.append(
                ratio(*([curve[end] for curve in side.values()] for side in (others, curves))) if is_known else ""
            )
        lines.append(line)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


#: Cells of the short table: teacher and weight.
SHORT = (("d10", 0.3), ("d10", 0.01), ("d40", 0.3), ("d200", 3.0))


def short_table(data: Data) -> str:
    """Markdown table of :data:`SHORT`: FD at the end, lead with its interval and recall of the kept networks.

    FD is the geometric mean over the trainings, recall the mean over them.
    """
    heads = ["images of the teacher's training", "λ_adv", "FD: SiD", "SiDA", "SiDA lower by, 95 %"]
    heads += ["recall: SiD", "SiDA", "trainings"]
    lines, means, cells, end = [heads, ["---:"] * len(heads)], means_of(data), cells_of(data), data.images[-1]
    for teacher, weight in SHORT:
        sides = [cells[teacher, w] for w in (0.0, weight)]
        fd = [f"{math.exp(fmean(math.log(curve[end]) for curve in side.values())):.1f}" for side in sides]
        mean_recall = [f"{fmean(means[run, 'recall'] for run in side):.2f}" for side in sides]
        one = lead_of(cells, teacher, weight, end)
        assert one is not None
        line = [f"{data.grades[teacher]} thousand", f"{weight:g}", *fd, f"{percent(one.value)} % ({_ends(one)})"]
        lines.append([*line, *mean_recall, " and ".join(str(len(side)) for side in sides)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _first_below(curve: Curve) -> str:
    return next((str(images) for images, value in sorted(curve.items()) if value <= REACHED), "—")


def main() -> None:
    """Prints the tables."""
    for data in (DIGITS, *WIDE, FASHION):
        print(f"{data.name}\n\n{table(data)}\n\n{kept_table(data)}\n")
    print(f"{parts_table(DIGITS)}\n\n{short_table(DIGITS)}")


if __name__ == "__main__":
    main()
