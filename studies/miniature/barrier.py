"""The losses on the straight line between the weights of a teacher and its student, and the barriers on it.

    w(t) = (1 − t) w_teacher + t w_student,    barrier = max over 0 < t < 1 of L(w(t)) − [(1 − t) L(w(0)) + t L(w(1))]

The maximum excludes the ends of the line, unlike the source's: a loss below its chord then has a negative barrier and
not the barrier 0.

Source: Entezari et al. (arXiv:2110.06296), definition of the loss barrier, after Frankle et al. (arXiv:1912.05671), who
use the mean of both ends instead of the chord: their ends are equally good, a teacher and its student are not.

Both losses are functions of one vector of weights. The denoising loss is the teacher's loss on the data, with the
teacher's preconditioning. Images in one step are drawn with the student's preconditioning from the student's σ_init.
Noise levels, noise, latents and classes are equal at all points, so that the points of a curve share their noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np

from eval.measuring.protocol import load_protocol
from eval.results.analyses import Analysis, Found, Inputs
from sida.config.plugins import MONITOR
from sida.config.settings import Count, Range
from sida.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

#: Number of data images in a batch.
BATCH = 512
#: Losses on the line, with their descriptions.
LOSSES = {"denoising": "the teacher's denoising loss", "fd": "FD of images in one step"}


@dataclass(frozen=True, kw_only=True)
class BarrierSettings:
    """Points on the line between the weights of teacher and student.

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


def facts(curves: dict[str, list[float]]) -> dict[str, float]:
    """Barriers of the curves of a line."""
    return {f"{name}_barrier": barrier(curves[name]) for name in LOSSES}


def compute(inputs: Inputs, options: BarrierSettings) -> Found:
    """Computes both losses at each point.

    Raises:
        UserError: A file is missing, or two networks are not teacher and student.
    """
    from sida.errors import Progress

    line = WeightLine(inputs, options)
    progress = Progress(f"barrier {inputs.run}", options.points, "points")
    at = line_points(options.points)
    curves: dict[str, list[float]] = {"t": at, **{name: [] for name in LOSSES}}
    for number, t in enumerate(at):
        for name, value in line.losses(t).items():
            curves[name].append(value)
        progress.update(number + 1)
    return Found(facts(curves), curves, {"dataset_sha256": line.dataset.sha256})


LINE = Analysis(compute, {f"{name}_barrier": f"barrier of {about}" for name, about in LOSSES.items()}, BarrierSettings)


class WeightLine:
    """The straight line between the weights of two networks with equal shapes.

    Args:
        inputs: Teacher, student, data and protocol.
        options: Settings of the line.

    Raises:
        UserError: A file is missing or no network, the student is no one-step generator, names or shapes of weights
            differ, or the data are no pixels.
    """

    def __init__(self, inputs: Inputs, options: BarrierSettings) -> None:
        from sida.data import load_dataset
        from sida.losses import EDMLoss
        from sida.methods.registry import SID
        from sida.networks import family_of
        from sida.networks.checkpoint import load_network
        from sida.training.evaluation import Evaluation

        self.options, self.device, where = options, inputs.device, "--spec"
        if not inputs.teacher or not inputs.network or not inputs.dataset or not inputs.protocol:
            raise UserError(where, "needs teacher, network, dataset and protocol", "name rows of students")
        self.teacher, _ = load_network(inputs.teacher, self.device)
        self.student, metadata = load_network(inputs.network, self.device)
        sampler = metadata.get("sampler") or {}
        if sampler.get("kind") != "one_step":
            raise UserError(
                f"{where}.network", f"{inputs.network} is no one-step generator", "give a student's network"
            )
        self.dataset = load_dataset(inputs.dataset, f"{where}.dataset")
        if not self.dataset.is_pixels:
            raise UserError(f"{where}.dataset", "must be of pixels", "latents are not denoised here")
        self.ends = [self.teacher.state_dict(), self.student.state_dict()]
        shapes = [{name: value.shape for name, value in end.items()} for end in self.ends]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"{where}.network",
                f"{inputs.network} has other weights than {inputs.teacher}, so that there is no line between them",
                "give a student of this teacher",
            )
        self.ends = [{name: value.clone() for name, value in end.items()} for end in self.ends]
        levels = SID.settings_of(family_of(self.teacher), f"{where}.teacher")
        self.loss = EDMLoss(levels["P_mean"], levels["P_std"])
        protocol = load_protocol(inputs.protocol)
        if "fd" not in [metric.key for metric in protocol.watched]:
            raise UserError(f"{where}.protocol", "has no metric 'fd' that is watched", "name another protocol")
        watched = protocol.part(["fd"]).content()
        kwargs = {"dataset": inputs.dataset, "protocol": watched, "num_samples": options.num_samples}
        self.evaluate = Evaluation(
            {"monitor": MONITOR, "kwargs": {**kwargs, "device": self.device}},
            self.dataset, sampler["init_sigma"], self.device, where,
        )  # fmt: skip

    def losses(self, t: float) -> dict[str, float]:
        """Both losses at a point of the line, by their names in :data:`LOSSES`."""
        state = {
            name: ((1 - t) * first.double() + t * self.ends[1][name].double()).to(first.dtype)
            for name, first in self.ends[0].items()
        }
        for net in (self.teacher, self.student):
            net.load_state_dict(state)
        return {
            "denoising": self.denoising(),
            "fd": float(self.evaluate(self.student, lambda: None)["fd"]),
        }

    def denoising(self) -> float:
        """Denoising loss of the teacher's network with its current weights, a mean over images, noises and pixels."""
        total = count = 0.0
        for images, labels, draws in self._batches():
            terms = self.loss(self.teacher, images, labels, draws=draws)
            total += float(terms.double().sum())
            count += terms.numel()
        return total / count

    def _batches(self) -> Iterator[tuple[Tensor, Tensor, dict[str, Tensor]]]:
        import torch

        from sida.machine import generator

        device = self.device
        for number in range(self.options.passes):
            for begin in range(0, len(self.dataset), BATCH):
                indices = np.arange(begin, min(begin + BATCH, len(self.dataset)))
                source = generator(0, "barrier", number, begin)
                images = self.dataset.images(indices).float() / 127.5 - 1
                draws = {
                    "sigma_normal": torch.randn((len(indices), 1, 1, 1), generator=source).to(device),
                    "noise": torch.randn(images.shape, generator=source).to(device),
                }
                yield images.to(device), self.dataset.labels(indices).to(device), draws
