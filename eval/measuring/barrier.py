"""Computes the losses on the line between a teacher's weights and its student's (:mod:`eval.results.barriers`).

Both losses are functions of one vector of weights. The denoising loss is the teacher's loss on the data, with the
teacher's preconditioning. Images in one step are drawn with the student's preconditioning from the student's σ_init.
Noise levels, noise, latents and classes are equal at all points, so that the points of a curve share their noise.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch

from eval.measuring.protocol import load_protocol
from eval.measuring.weight_study import StudySpec, write_study
from eval.results.barriers import LOSSES, barrier, line_points
from sida.config.mapping import from_mapping
from sida.config.plugins import MONITOR
from sida.config.ranges import Count, Range
from sida.data import Dataset, load_dataset
from sida.errors import UserError
from sida.files.atomic import sha256_file
from sida.losses import EDMLoss
from sida.methods.registry import SID
from sida.networks import family_of
from sida.networks.checkpoint import load_network
from sida.progress import Progress
from sida.runtime.randomness import generator
from sida.training.evaluation import Evaluation

#: Number of data images in a batch.
BATCH = 512


@dataclass(frozen=True, kw_only=True)
class BarrierSpec(StudySpec):
    """Settings of a barrier measurement: a student, its teacher, and the points between them.

    Attributes:
        teacher: File of the teacher's network.
        student: File of the student's network.
        protocol: Name, path or content of the protocol, whose Fréchet distance ``fd`` is measured.
        points: Number of points on the line, including both ends.
        num_samples: Images of the Fréchet distance at each point.
        passes: Times that each image of the data is denoised.
    """

    teacher: str
    student: str
    protocol: Any
    points: Annotated[int, Range(least=3, most=1001)] = 11
    num_samples: Annotated[int, Range(least=2)] = 2500
    passes: Count = 2


def measure_barrier(spec: Mapping[str, Any], out: str | os.PathLike[str], where: str = "--spec") -> dict[str, Any]:
    """Computes both curves and writes them; returns the record.

    Args:
        spec: See :class:`BarrierSpec`.
        out: The ``.json`` to write.
        where: Place named in errors.

    Raises:
        UserError: Bad spec, files that are missing, or two networks that are not teacher and student.
    """
    settings = from_mapping(BarrierSpec, spec, where)

    def compute() -> dict[str, Any]:
        line = WeightLine(settings, where)
        progress = Progress(f"barrier {settings.run}", settings.points, "points")
        curves: dict[str, list[float]] = {name: [] for name in LOSSES}
        for number, t in enumerate(line_points(settings.points)):
            for name, value in line.losses(t).items():
                curves[name].append(value)
            progress.update(number + 1)
        return {
            "points": line_points(settings.points),
            "curves": curves,
            "barriers": {name: barrier(values) for name, values in curves.items()},
            "num_samples": settings.num_samples,
            "passes": settings.passes,
            "dataset_sha256": line.dataset.sha256,
            "protocol": line.protocol.record(),
            "teacher_sha256": sha256_file(settings.teacher),
        }

    return write_study("barriers", settings, settings.student, compute, out, where)


class WeightLine:
    """The straight line between the weights of two networks with equal shapes.

    Args:
        spec: Settings of the measurement.
        where: Place named in errors.

    Raises:
        UserError: A file is missing or no network, the student is no one-step generator, names or shapes of weights
            differ, or the data are no pixels.
    """

    def __init__(self, spec: BarrierSpec, where: str) -> None:
        self.spec = spec
        self.teacher, _ = load_network(spec.teacher, spec.device)
        self.student, metadata = load_network(spec.student, spec.device)
        sampler = metadata.get("sampler") or {}
        if sampler.get("kind") != "one_step":
            raise UserError(f"{where}.student: {spec.student} is no one-step generator; give a student's network")
        self.dataset: Dataset = load_dataset(spec.dataset, f"{where}.dataset")
        if not self.dataset.is_pixels:
            raise UserError(f"{where}.dataset: must be of pixels; latents are not denoised here")
        self.ends = [self.teacher.state_dict(), self.student.state_dict()]
        shapes = [{name: value.shape for name, value in end.items()} for end in self.ends]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"{where}.student: {spec.student} has other weights than {spec.teacher}, so that there is no line "
                "between them; give a student of this teacher"
            )
        self.ends = [{name: value.clone() for name, value in end.items()} for end in self.ends]
        levels = SID.settings_of(family_of(self.teacher), f"{where}.teacher")
        self.loss = EDMLoss(levels["P_mean"], levels["P_std"])
        kwargs = {"dataset": spec.dataset, "protocol": spec.protocol, "num_samples": spec.num_samples}
        self.evaluate = Evaluation(
            {"monitor": MONITOR, "kwargs": {**kwargs, "device": spec.device}},
            self.dataset, sampler["init_sigma"], spec.device, where,
        )  # fmt: skip
        self.protocol = load_protocol(spec.protocol)
        if "fd" not in [metric.key for metric in self.protocol.watched]:
            raise UserError(f"{where}.protocol: has no metric 'fd' that is watched; name another protocol")

    def losses(self, t: float) -> dict[str, float]:
        """Both losses at a point of the line, by their names in :data:`~eval.results.barriers.LOSSES`."""
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

    def _batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]]:
        device = self.spec.device
        for number in range(self.spec.passes):
            for begin in range(0, len(self.dataset), BATCH):
                indices = np.arange(begin, min(begin + BATCH, len(self.dataset)))
                source = generator(0, "barrier", number, begin)
                images = self.dataset.images(indices).float() / 127.5 - 1
                draws = {
                    "sigma_normal": torch.randn((len(indices), 1, 1, 1), generator=source).to(device),
                    "noise": torch.randn(images.shape, generator=source).to(device),
                }
                yield images.to(device), self.dataset.labels(indices).to(device), draws
