"""The loss on the straight line between the weights of a teacher and its student, and the barrier on it.

    w(t) = (1 − t) w_teacher + t w_student,    barrier = max over 0 < t < 1 of L(w(t)) − [(1 − t) L(w(0)) + t L(w(1))]

The maximum excludes the ends of the line, unlike the source's: a loss below its chord then has a negative barrier and
not the barrier 0.

Source: Entezari et al. (arXiv:2110.06296), definition of the loss barrier, after Frankle et al. (arXiv:1912.05671), who
use the mean of both ends instead of the chord: their ends are equally good, a teacher and its student are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from eval.results.selection import StudiedRows
from sida.config.ranges import Count, Range

#: Losses that are computed on the line, with their descriptions.
LOSSES = {
    "denoising": "the teacher's denoising loss",
    "fd": "FD of images in one step",
}


@dataclass(frozen=True, kw_only=True)
class BarrierSettings(StudiedRows):
    """Settings of barriers: the students, and the points on the line between the weights of teacher and student.

    Attributes:
        points: Number of equally spaced points on the line, including both ends.
        num_samples: Number of images for the Fréchet distance at each point.
        passes: Number of noise levels, each with noise, for each data image in the denoising loss; equal at all points.
    """

    points: Annotated[int, Range(least=3, most=1001)] = 11
    num_samples: Annotated[int, Range(least=2)] = 2500
    passes: Count = 2


def line_points(count: int) -> list[float]:
    """Equally spaced t in [0, 1], including both ends."""
    return [number / (count - 1) for number in range(count)]


def chord(values: Sequence[float]) -> list[float]:
    """Values of the straight line between a curve's ends at the curve's points."""
    return [(1 - t) * values[0] + t * values[-1] for t in line_points(len(values))]


def barrier(values: Sequence[float]) -> float:
    """Barrier of a loss from its values at three or more equally spaced points; negative below the chord."""
    return max(value - level for value, level in list(zip(values, chord(values)))[1:-1])
