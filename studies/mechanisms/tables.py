"""Prints the tables of the study's pages and of the first page: ``python -m studies.mechanisms.tables``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import fmean, stdev

from sida.eval.contrasts import DECIDING, POWER, chances, holm
from studies.mechanisms.leads import (
    COLOUR,
    DIGITS,
    FASHION,
    FRAMES,
    LATER,
    PARTS,
    PARTS_WEIGHT,
    SPLIT,
    WIDE,
    Curve,
    Data,
    Lead,
    cells_of,
    facts_of,
    gap_in_words,
    geometric_mean,
    in_words,
    lead,
    lead_of,
    means_of,
    percent,
    ratio_in_words,
    teacher_fd,
    trainings_of,
    values_of,
)


def markdown(heads: Sequence[str], lines: Iterable[Sequence[str]], texts: int = 1) -> str:
    """A Markdown table whose first columns are texts and whose others are numbers."""
    rule = ["---"] * texts + ["---:"] * (len(heads) - texts)
    return "\n".join(f"| {' | '.join(line)} |" for line in (heads, rule, *lines))


def _all(values: Sequence[float] | None) -> str:
    return ", ".join(f"{value:.2f}" for value in values or ())


#: Cells of the short table: data set, teacher and weight.
SHORT = (
    (SPLIT, "d10", 0.3),
    (SPLIT, "d10b", 0.3),
    (SPLIT, "d10", 0.01),
    (SPLIT, "d10b", 0.01),
    (LATER, "d40", 0.3),
    (SPLIT, "d200", 0.3),
    (FASHION, "t10", 3.0),
    (COLOUR, "t10", 0.3),
    (COLOUR, "t40", 0.3),
)


def short_table() -> str:
    """FD, lead and recall of the kept networks of :data:`SHORT`, and the lead at the end of the trainings.

    FD is the geometric mean over the trainings, recall the mean over them.
    """
    heads = ["pictures", "images of the teacher's training", "λ_adv", "FD: SiD", "SiDA", "SiDA lower by, 95 %"]
    heads += ["at the trainings' end", "to held-out images", "recall: SiD", "SiDA", "trainings"]
    lines = []
    for data, teacher, weight in SHORT:
        cells = cells_of(data)
        sides = [cells[teacher, w] for w in (0.0, weight)]
        fd, recall = ([values_of(data, side, metric) or [] for side in sides] for metric in ("fd", "recall"))
        line = [data.name, data.grade_of(teacher), f"{weight:g}"]
        line += [f"{geometric_mean(side):.1f}" for side in fd]
        for metric, images in (("fd", None), ("fd", data.end), ("fd_heldout", None)):
            line.append(gap_in_words(*(values_of(data, side, metric, images) for side in sides)))
        line += [f"{fmean(side):.2f}" for side in recall]
        lines.append([*line, " and ".join(str(len(side)) for side in sides)])
    return markdown(heads, lines)


#: Distances besides FD, where they are measured, by the heading of their lead.
FURTHER = {"fd_heldout": "held out", "fd_glyphs_heldout": "held out, unseen features", "fd_pixel": "in pixels"}


def leads_table(data: Data) -> str:
    """The trained cells: FD of each kept network and at each end, and leads with intervals; then missing cells."""
    cells, missing = cells_of(data), []
    further = {key: head for key, head in FURTHER.items() if any(metric == key for _, metric in means_of(data))}
    heads = ["teacher", "its FD", "weight", "FD of each kept network", "lead, 95 %"]
    heads += [*further.values(), f"FD of each at {data.end} thousand images", "lead there, 95 %"]
    lines = []
    for teacher in data.grades:
        grade = data.grade_of(teacher)
        fd, trained = teacher_fd(data, teacher), [w for w in data.weights if (teacher, w) in cells]
        for weight in trained:
            line = [grade, "not measured" if fd is None else f"{fd:.1f}", f"{weight:g}"]
            line.append(_all(values_of(data, cells[teacher, weight])))
            kept = ("fd", *further)
            line += [in_words(lead_of(data, cells, teacher, weight, metric)) if weight else "" for metric in kept]
            line.append(_all(values_of(data, cells[teacher, weight], images=data.end)))
            line.append(in_words(lead_of(data, cells, teacher, weight, images=data.end)) if weight else "")
            lines.append(line)
        if rest := [f"{weight:g}" for weight in data.weights if weight not in trained]:
            missing.append(f"weight{'s' * (len(rest) > 1)} {', '.join(rest)} from {grade}")
    return markdown(heads, lines, 0) + (f"\n\nNot trained: {'; '.join(missing)}." if missing else "")


def time_table(data: Data) -> str:
    """Leads after each number of images, and the images to SiD's lowest FD."""
    cells, lines = cells_of(data), []
    heads = ["teacher", "weight", *(f"{images}" for images in data.images)]
    heads += ["SiD's lowest FD", "SiD there after", "SiDA there after"]
    for teacher in data.grades:
        for weight in data.weights[1:]:
            if (teacher, weight) not in cells:
                continue
            leads = (lead_of(data, cells, teacher, weight, images=images) for images in data.images)
            line = [data.grade_of(teacher), f"{weight:g}"]
            line += ["" if one is None else f"{percent(one.value)} %" for one in leads]
            sid = [*cells[teacher, 0.0].values()]
            level = geometric_mean(min(curve.values()) for curve in sid)
            line += [f"{level:.2f}", ", ".join(str(min(curve, key=lambda at: curve[at])) for curve in sid)]
            line.append(", ".join(first_below(curve, level) for curve in cells[teacher, weight].values()))
            lines.append(line)
    return markdown(heads, lines)


def first_below(curve: Curve, level: float) -> str:
    """Thousands of images after which a curve is first at or below a level."""
    return next((str(images) for images, value in sorted(curve.items()) if value <= level), "—")


#: Heading, factor and decimals of the metrics of kept networks.
KEPT = {
    "fd": ("FD", 1, 1),
    "fd_pixel": ("FD, pixels", 1, 1),
    "accuracy": ("accuracy in %", 100, 0),
    "precision": ("precision", 1, 2),
    "recall": ("recall", 1, 2),
    "copies": ("nearer than held out", 1, 2),
    "copies_pixel": ("nearer, in pixels", 1, 2),
    "copies_tail": ("near copies", 1, 2),
}


def kept_table(data: Data) -> str:
    """The kept networks: when they were kept, and lowest and highest mean of each cell."""
    means, cells, trainings, groups = means_of(data), cells_of(data), trainings_of(data), {"real images": ["data"]}
    for teacher in data.grades:
        grade = data.grade_of(teacher)
        groups[f"teacher of {grade}"] = [f"teacher-{teacher}"]
        groups |= {
            f"weight {weight:g}, from {grade}": [*cells[teacher, weight]]
            for weight in data.weights
            if (teacher, weight) in cells
        }
        groups |= {
            f"{PARTS[recipe]}, from {grade}": [*runs]
            for (recipe, of_teacher), runs in trainings.items()
            if of_teacher == teacher and recipe in PARTS
        }
    groups |= {FRAMES[recipe]: [*runs] for (recipe, _), runs in trainings.items() if recipe in FRAMES}
    shown = {key: about for key, about in KEPT.items() if any(metric == key for _, metric in means)}
    heads, lines = ["", "kept after thousand images", *(head for head, _, _ in shown.values())], []
    for label, runs in groups.items():
        if not all((run, "fd") in means for run in runs):
            continue
        kept = [facts_of(data)[run].get("kept_at", "") for run in runs]
        is_teacher = label.startswith("teacher")
        line = [label, "" if is_teacher or not all(kept) else _span([float(at) / 1000 for at in kept], 0)]
        for metric, (_, factor, digits) in shown.items():
            line.append(_span([factor * means[run, metric] for run in runs], digits))
        lines.append(line)
    return markdown(heads, lines)


def _span(values: Sequence[float], digits: int) -> str:
    return " to ".join(dict.fromkeys(f"{end(values):.{digits}f}" for end in (min, max)))


#: FD that trainings are timed to, in images; no prediction names it.
REACHED = 20.0


def part_leads(data: Data, images: int | None) -> dict[tuple[str, str], tuple[Lead | None, Lead | None, float | None]]:
    """Leads of each part over SiD and over SiDA, and the corrected p value of the latter, by recipe and teacher."""
    cells, trainings = cells_of(data), trainings_of(data)
    known = {key: runs for key, runs in trainings.items() if key[0] in PARTS}
    sides: dict[tuple[str, str], list[Lead | None]] = {}
    for (recipe, teacher), runs in known.items():
        values = values_of(data, runs, images=images) or []
        others = [values_of(data, cells.get((teacher, w), {}), images=images) or [] for w in (0.0, PARTS_WEIGHT)]
        sides[recipe, teacher] = [lead(other, values) if min(len(other), len(values)) > 1 else None for other in others]
    tested = [key for key, (_, of_sida) in sides.items() if of_sida]
    corrected = dict(zip(tested, holm([one.p for key in tested if (one := sides[key][1])])))
    return {key: (*pair, corrected.get(key)) for key, pair in sides.items()}


def parts_table(data: Data, images: int | None = None) -> str:
    """SiDA with a part replaced, by kept networks or after thousands of images: ratios of FD to SiD's and to SiDA's."""
    cells, trainings, leads = cells_of(data), trainings_of(data), part_leads(data, images)
    last = f"thousand images to FD {REACHED:g}" if images else "recall"
    which = f"FD of each training at {images} thousand images" if images else "FD of each kept network"
    held_out = not images and ("data", "fd_heldout") in means_of(data)
    heads = ["part", "teacher", which, "FD / SiD's, 95 %"]
    heads += [f"FD / SiDA's of weight {PARTS_WEIGHT:g}, 95 %", "p, Holm's"]
    heads += ["held out: FD / SiD's, 95 %"] * held_out + [last]

    def line(label: str, teacher: str, runs: dict[str, Curve], *numbers: str) -> list[str]:
        words = ", ".join(first_below(curve, REACHED) for curve in runs.values()) if images else ""
        words = words or _span(values_of(data, runs, "recall") or [], 2)
        sid, own = (values_of(data, side, "fd_heldout") for side in (cells.get((teacher, 0.0), {}), runs))
        of_held_out = [ratio_in_words(lead(sid, own)) if sid and own and min(len(sid), len(own)) > 1 else ""] * held_out
        fd = _all(values_of(data, runs, images=images))
        return [label, data.grade_of(teacher), fd, *numbers, *of_held_out, words]

    lines = []
    for teacher in dict.fromkeys(teacher for recipe, teacher in leads if (teacher, PARTS_WEIGHT) in cells):
        numbers = ratio_in_words(lead_of(data, cells, teacher, PARTS_WEIGHT, images=images)), "", ""
        lines.append(line(f"none: SiDA, weight {PARTS_WEIGHT:g}", teacher, cells[teacher, PARTS_WEIGHT], *numbers))
    for recipe, label in PARTS.items():
        for teacher in data.grades:
            if (recipe, teacher) in leads:
                of_sid, of_sida, p = leads[recipe, teacher]
                numbers = ratio_in_words(of_sid), ratio_in_words(of_sida), "" if p is None else p_in_words(p)
                if images is None and _is_untrained(data, trainings[recipe, teacher]):
                    numbers = "the untrained start", "", ""
                lines.append(line(label, teacher, trainings[recipe, teacher], *numbers))
    return markdown(heads, lines, 2)


def _is_untrained(data: Data, runs: Iterable[str]) -> bool:
    """Whether each kept network is the start of its training, so that it has no scatter of trainings."""
    return not any(float(facts_of(data)[run].get("kept_at") or 0) for run in runs)


def p_in_words(p: float) -> str:
    """A p value with two digits."""
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def scatter_table(data: Data) -> str:
    """Standard deviation of the logarithm of FD over the trainings of each cell and part."""
    cells = {
        f"weight {weight:g}, from {data.grade_of(teacher)}": runs for (teacher, weight), runs in cells_of(data).items()
    }
    parts = {
        f"{PARTS[recipe]}, from {data.grade_of(teacher)}": runs
        for (recipe, teacher), runs in trainings_of(data).items()
        if recipe in PARTS
    }
    lines = []
    for label, runs in (cells | parts).items():
        kept, last = (f"{100 * log_std(values_of(data, runs, images=at) or []):.1f} %" for at in (None, data.end))
        lines.append([label, str(len(runs)), "untrained" if _is_untrained(data, runs) else kept, last])
    return markdown(["", "trainings", "scatter of kept networks", f"at {data.end} thousand images"], lines)


def log_std(values: Sequence[float]) -> float:
    """Standard deviation of the logarithm of two values or more."""
    return stdev(map(math.log, values))


#: Parts with the rule that decides each: its id, and the range of the ratio to the other side's FD.
RULES = {
    "digits-own-encoder": ("M-14", 1 / 1.1, math.inf, PARTS_WEIGHT),
    "digits-separate-steps": ("M-15", 1.0, 1.0, PARTS_WEIGHT),
    "digits-generated": ("M-16", 0.95, math.inf, 0.0),
    "digits-sample": ("M-17", 0.8, 1.25, PARTS_WEIGHT),
    "digits-gamma": ("M-17", 0.8, 1.25, PARTS_WEIGHT),
}
#: True ratios of FD for which the table of power has a column.
TRUE_RATIOS = (1.0, 1.1, 1.25, 1.5)


def power_table(data: Data) -> str:
    """Chance that each rule about a part decides, with the seeds and the scatter of the rows, by the true ratio."""
    cells, trainings, lines = cells_of(data), trainings_of(data), []
    heads = ["rule", "part", "asks for a ratio", "scatter of FD: part", "other side", "trainings"]
    heads += [f"decided if it is {true:g}" for true in TRUE_RATIOS] + ["seeds a side for 80 %"]
    teacher = next(iter(data.grades))
    for recipe, (rule, low, high, weight) in RULES.items():
        sides = [values_of(data, runs) or [] for runs in (trainings[recipe, teacher], cells[teacher, weight])]
        stds = log_std(sides[0]), log_std(sides[1])
        ends = math.log(low), math.log(high)
        decided = [sum(chances(math.log(true), stds, _counts(sides), *ends, DECIDING)) for true in TRUE_RATIOS]
        asked = "other than 1" if low == high else f"{low:.2f} to {high:.2f}" if high < math.inf else f"from {low:.2f}"
        line = [
            rule,
            PARTS[recipe],
            asked,
            *(f"{percent(std)} %" for std in stds),
            " and ".join(map(str, _counts(sides))),
        ]
        # A difference has no chance to be shown where there is none.
        true = TRUE_RATIOS[1 if low == high else 0]
        seeds = next(n for n in range(2, 100) if sum(chances(math.log(true), stds, (n, n), *ends, DECIDING)) >= POWER)
        lines.append([*line, *(f"{percent(share)} %" for share in decided), f"{seeds} (if it is {true:g})"])
    return markdown(heads, lines, 3)


def _counts(sides: Sequence[Sequence[float]]) -> tuple[int, int]:
    return len(sides[0]), len(sides[1])


def machines_table(data_sets: Sequence[Data]) -> str:
    """Machine, code version and day of the rows of each data set."""
    lines = []
    for data in data_sets:
        groups: dict[tuple[str, ...], list[str]] = {}
        for run, facts in facts_of(data).items():
            key = (facts["trained_on"] or facts["device"], facts["code_version"], facts["date"][:10])
            groups.setdefault(key, []).append(run)
        lines += [[data.name, *key, _of_cells(runs)] for key, runs in groups.items()]
    return markdown(["data", "trained and measured on", "code version", "day", "rows"], lines, 5)


def _of_cells(runs: Iterable[str]) -> str:
    """Runs as their cells with the seeds: ``d10-w0 (401 to 404)``."""
    cells: dict[str, list[int]] = {}
    for run in runs:
        name, _, seed = run.rpartition("-s")
        cells.setdefault(name or run, []).extend([int(seed)] if name else [])
    return ", ".join(f"{name} ({_span(seeds, 0)})" if seeds else name for name, seeds in cells.items())


def main() -> None:
    """Prints the tables."""
    print(short_table())
    for data in (DIGITS, SPLIT, LATER, *WIDE, FASHION, COLOUR):
        print(f"\n{data.name}\n\n{leads_table(data)}\n\n{time_table(data)}\n\n{kept_table(data)}")
    for data in (DIGITS, SPLIT):
        print(f"\n{parts_table(data)}\n\n{parts_table(data, data.end)}")
    print(f"\n{scatter_table(DIGITS)}\n\n{power_table(DIGITS)}")
    print(f"\n{machines_table((DIGITS, SPLIT, LATER, WIDE[0], FASHION, COLOUR))}")


if __name__ == "__main__":
    main()
