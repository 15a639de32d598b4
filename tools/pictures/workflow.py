"""The stages of a study as a graph, with the costs of each by `sida plan`, for three presets side by side."""

import math

from sida.config.lookup import ROOT
from sida.plugins.planner.plan import Plan, make_plan
from tools.pictures import drawing
from tools.pictures.drawing import DATA, GREY, RESULT, WORK, arrow, box, line, text

#: Presets with a row of CIFAR-10 each, and the words above their columns.
COLUMNS = (
    ("released", "cifar10-uncond-sida-a1", "SiDA"),
    ("sid2a", "cifar10-uncond-sid2a-a1.2", "SiD²A"),
    ("paper", "cifar10-uncond-sida-a1", "SiDA"),
)
#: Kind of the plan's jobs (empty: no costs), words of the box, its left and right side, and its colours.
_STAGES = (
    ("fetch", ("downloads",), 8, 196, GREY),
    ("import", ("networks,", "imported"), 8, 84, DATA),
    ("data", ("real images,", "prepared"), 94, 196, DATA),
    ("student", ("generator,", "trained"), 94, 196, WORK),
    ("measure", ("ten trials of 50,000", "images, measured"), 8, 196, WORK),
    ("", ("table, figures",), 8, 196, RESULT),
)
_TOP, _HEIGHT, _STEP = 54, 34, 54
_CENTRES = (236, 302, 366)


def picture() -> str:
    """Text of the SVG file."""
    plans = [
        make_plan([ROOT / f"studies/papers/{preset}.yaml"], [row], "H200", fresh=True) for preset, row, _ in COLUMNS
    ]
    parts = [text(8, 18, "job", 11.5, anchor="start", bold=True)]
    for centre, (preset, _, method) in zip(_CENTRES, COLUMNS):
        parts += [text(centre, 18, preset, 11.5, bold=True), text(centre, 34, method, 11, grey=True)]
    for number, (kind, words, left, right, colours) in enumerate(_STAGES):
        y = _TOP + _STEP * number
        parts += [line(f"M204 {y + _HEIGHT + 10}H394"), box(left, y, right - left, _HEIGHT, colours)]
        first = y + _HEIGHT / 2 + 4 - 6.5 * (len(words) - 1)
        parts += [text((left + right) / 2, first + 13 * place, half, 11) for place, half in enumerate(words)]
        for centre, plan in zip(_CENTRES, plans if kind else ()):
            cost = _cost(plan, kind)
            parts.append(text(centre, y + _HEIGHT / 2 + 4, cost, 12, grey=cost == "–", bold=cost.endswith(" h")))
    parts += _arrows()
    end = _TOP + _STEP * len(_STAGES) + 4
    parts += [
        text(8, end, "CIFAR-10 without classes. Times of one H200 and sizes on disk", 11, anchor="start", grey=True),
        text(8, end + 15, "by sida plan, not measured. –: the preset has no such job.", 11, anchor="start", grey=True),
    ]
    return drawing.picture("Jobs of a study and their planned costs for three presets", end + 25, parts)


def _arrows() -> list[str]:
    """Arrows between the boxes of the graph."""
    tops = [_TOP + _STEP * number for number in range(len(_STAGES))]
    ends = [top + _HEIGHT for top in tops]
    return [
        arrow(f"M46 {ends[0]}", 46, tops[1]),
        arrow(f"M145 {ends[0]}", 145, tops[2]),
        arrow(f"M145 {ends[2]}", 145, tops[3]),
        line(f"M64 {ends[1]}V{tops[3] + 17}H89", "#707070"),
        f'<path d="M88 {tops[3] + 13}v8l6 -4z" fill="#707070"/>',
        arrow(f"M30 {ends[1]}", 30, tops[4]),
        arrow(f"M145 {ends[3]}", 145, tops[4]),
        arrow(f"M102 {ends[4]}", 102, tops[5]),
    ]


def _cost(plan: Plan, kind: str) -> str:
    """GPU time of the jobs of a kind, else their size; a dash for no job."""
    jobs = [job for job in plan.jobs.values() if job.kind == kind]
    hours = sum(job.gpu_hours for job in jobs)
    size = sum(job.download_gb for job in jobs) or sum(job.disk_gb for job in jobs)
    if hours:
        return f"{hours:,.0f} h" if hours >= 1 else f"{math.ceil(60 * hours)} min"
    return f"{size:.1f} GB" if jobs else "–"
