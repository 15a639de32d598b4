"""The loss on the straight line between the weights of a teacher and its student, and the barrier on it.

    w(t) = (1 − t) w_teacher + t w_student,    barrier = max over 0 < t < 1 of L(w(t)) − [(1 − t) L(w(0)) + t L(w(1))]

The maximum excludes the ends of the line, unlike the source's: a loss below its chord then has a negative barrier and
not the barrier 0.

Source: Entezari et al. (arXiv:2110.06296), definition of the loss barrier, after Frankle et al. (arXiv:1912.05671), who
use the mean of both ends instead of the chord: their ends are equally good, a teacher and its student are not.
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
#: Losses that are computed on the line, with their descriptions.
LOSSES = {
    "denoising": "the teacher's denoising loss",
    "fd": "FD of images in one step",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class BarrierSettings:
    """Settings of barriers: the students, and the points on the line between the weights of teacher and student.

    Attributes:
        where: Conditions on the sample sheet; each matching row must be trained here.
        points: Number of equally spaced points on the line, including both ends.
        num_samples: Number of images for the Fréchet distance at each point.
        passes: Number of noise levels, each with noise, for each data image in the denoising loss; equal at all points.
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
    """Equally spaced t in [0, 1], including both ends."""
    return [number / (count - 1) for number in range(count)]


def chord(values: Sequence[float]) -> list[float]:
    """Values of the straight line between a curve's ends at the curve's points."""
    return [(1 - t) * values[0] + t * values[-1] for t in line_points(len(values))]


def barrier(values: Sequence[float]) -> float:
    """Barrier of a loss from its values at three or more equally spaced points; negative below the chord."""
    return max(value - level for value, level in list(zip(values, chord(values)))[1:-1])


def read_barrier(path: str | Path) -> dict[str, Any]:
    """Reads a file of ``sida-eval barrier``: ``run``, and ``curves`` by the names of :data:`LOSSES`.

    Raises:
        UserError: The file is missing, damaged or of another kind.
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
