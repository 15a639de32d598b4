"""The loss on the straight line between the weights of a teacher and its student, and the barrier on it.

    w(t) = (1 − t) w_teacher + t w_student,    barrier = max over 0 < t < 1 of L(w(t)) − [(1 − t) L(w(0)) + t L(w(1))]

It is taken inside the line, where the definition has the ends too: a loss that lies below its chord everywhere then has
a negative barrier, and not 0 by definition.

Source: Entezari et al. (arXiv:2110.06296), definition of the loss barrier, after Frankle et al. (arXiv:1912.05671), who
take the mean of both ends in the place of the chord: their ends are equally good, a teacher and its student are not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from eval.results.selection import SELECTABLE
from sida.config.ranges import Count, Range
from sida.errors import UserError, suggestion
from sida.files.atomic import read_hashed_json

BARRIER_FORMAT = "sida-barrier/1"
#: What is computed on the line, and how it is called.
LOSSES = {
    "denoising": "the teacher's denoising loss",
    "fd": "FD of images in one step",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class BarrierSettings:
    """Which students are compared with their teachers on the line between the weights, and how finely.

    Attributes:
        where: Conditions on the sample sheet; each row that fits must be trained here.
        points: Points on the line, both ends among them, equally far apart.
        num_samples: Images of the Fréchet distance at each point.
        passes: Times that each image of the data gets a noise level and a noise for the denoising loss; the same ones
            at each point.
    """

    where: dict[str, Any]
    points: Annotated[int, Range(least=3, most=1001)] = 11
    num_samples: Annotated[int, Range(least=2)] = 2500
    passes: Count = 2

    def __post_init__(self) -> None:
        if not self.where:
            raise ValueError("where: must name conditions on the sheet, such as {recipe: [sid, sida]}")
        for key in self.where:
            if key not in SELECTABLE:
                raise ValueError(f"where: the sample sheet has no column '{key}'{suggestion(key, SELECTABLE)}")


def line_points(count: int) -> list[float]:
    """Equally spaced t, both ends among them."""
    return [number / (count - 1) for number in range(count)]


def chord(values: Sequence[float]) -> list[float]:
    """The straight line between a curve's ends, at each of its points."""
    return [(1 - t) * values[0] + t * values[-1] for t in line_points(len(values))]


def barrier(values: Sequence[float]) -> float:
    """The barrier of a loss at equally spaced points, at least three, in the loss's unit; negative below the chord."""
    return max(value - level for value, level in list(zip(values, chord(values)))[1:-1])


def read_barrier(path: str | Path) -> dict[str, Any]:
    """Reads what ``sida-eval barrier`` wrote: ``run``, and ``curves`` by the names of :data:`LOSSES`.

    Raises:
        UserError: Missing, no JSON, damaged, or another file.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; make it with `sida-eval barrier --spec SPEC --out {path}`")
    found = read_hashed_json(path, "make it again with `sida-eval barrier`")
    if found.get("format") != BARRIER_FORMAT or not _is_complete(found.get("curves")):
        raise UserError(f"{path}: is not written by `sida-eval barrier` (format {BARRIER_FORMAT}); make it again")
    return found


def _is_complete(curves: Any) -> bool:
    if not isinstance(curves, Mapping) or set(curves) != set(LOSSES):
        return False
    lengths = {len(values) if isinstance(values, list) else 0 for values in curves.values()}
    numbers = [isinstance(value, (int, float)) for values in curves.values() for value in values]
    return len(lengths) == 1 and min(lengths) >= 3 and all(numbers)
