"""The output of a score with the meaning of its parts; the lines are those that docs/score.md prints first."""

import re

from sida.config.lookup import ROOT
from tools.pictures import drawing
from tools.pictures.drawing import DATA, GREY, RESULT, WORK, box, text

_CHAR, _SIZE, _LEFT = 6.62, 11, 12


def picture() -> str:
    """Text of the SVG file."""
    page = (ROOT / "docs/score.md").read_text(encoding="utf-8")
    name, protocol = re.search(r"^    (.+): (protocol .*)$", page, re.M).groups()
    metric, mean, spread, least, most = re.search(
        r"^ +(FD ↓) +(\S+) (± \S+) +\(min (\S+), max (\S+)\)$", page, re.M
    ).groups()
    latex = re.search(r"^    One Step & .*? & \$1\$ & (\$.*?\$)", page, re.M)[1]
    quoted, trials = protocol.split(", ")
    spread_of_range = f"(min {least}, max {most})"
    rows = (
        ((name, GREY, "the name in your row (--name)"),),
        (
            (quoted, DATA, "protocol: metrics, reference, and seeds; --like or --protocol chooses it"),
            (trials, DATA, "each trial draws other images; a published row of CIFAR-10 has 10 × 50,000"),
        ),
        (
            (metric, GREY, "Fréchet distance; ↓ means that a lower value is better"),
            (mean, WORK, "mean over the trials"),
            (spread, WORK, "sample standard deviation over the trials; retraining is not in it"),
            (spread_of_range, GREY, "the lowest and the highest trial"),
        ),
        ((latex, RESULT, "the same value in your row of the LaTeX table"),),
    )
    parts, legend, y, number = [], [], 10, 0
    for row in rows:
        x = float(_LEFT)
        for words, colours, meaning in row:
            number += 1
            width = _CHAR * len(words) + 10
            parts += [box(x, y + 12, width, 22, colours), text(x + 5, y + 27, words, _SIZE, anchor="start", mono=True)]
            parts.append(text(x + width / 2, y + 9, str(number), 10, bold=True))
            legend.append((number, colours, meaning))
            x += width + 8
        y += 44
    y += 8
    for number, colours, meaning in legend:
        halves = _halves(meaning)
        parts += [box(_LEFT, y, 20, 18, colours), text(_LEFT + 10, y + 13, str(number), 10.5, bold=True)]
        parts += [text(_LEFT + 28, y + 13 + 14 * place, half, 11, anchor="start") for place, half in enumerate(halves)]
        y += 24 + 14 * (len(halves) - 1)
    return drawing.picture("The output of sida score, part by part", y + 4, parts)


def _halves(words: str) -> list[str]:
    """One line, or two that break at a semicolon."""
    return [words] if len(words) <= 56 else [half.strip() for half in re.split(r"(?<=;)", words)]
