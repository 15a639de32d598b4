"""Samplers of sCM's students: consistency steps, and one step a segment.

Source: EpiGenomicsCode/edm2_sCM:generate_images.py (``scm_sampler``, ``ms_scd_sampler``), training/segment_schedule.py.
"""

import dataclasses
import itertools
import math
from typing import Any

import torch

from sida.config.samplers import GeneratorSteps, Sampler
from sida.errors import UserError
from sida.sampling.drawing import Call, Drawing
from sida.sampling.samplers import multi_step

#: Angle at which every step after the first starts.
MIDDLE = 1.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConsistencySteps(GeneratorSteps):
    """Steps of which all after the first start at one level, σ_d tan 1.1.

    Attributes:
        sigma_data: σ_d of the network; 0.98 is the level of 0.5.
    """

    sigma_data: float

    @property
    def sigmas(self) -> list[float]:
        """See `GeneratorSteps.sigmas`."""
        return [self.sigma_data * math.tan(MIDDLE)] * (self.count - 1)


def consistency(call: Call) -> torch.Tensor:
    """Images after consistency steps, float32 (N, C, H, W): the first from ``sigma_max``, others from fresh noise."""
    steps = ConsistencySteps(call.sampler.steps, call.sampler.sigma_max, sigma_data=call.net.sigma_data)
    return multi_step(call.net, *call.inputs, steps, call.streams.randn_like)


def segments(call: Call) -> torch.Tensor:
    """Images after one step for each of equal segments of the angle from ``sigma_max`` to 0, float32 (N, C, H, W)."""
    z, class_labels = call.inputs
    largest, count = math.atan(call.sampler.sigma_max / call.net.sigma_data), call.sampler.steps
    x = call.sampler.sigma_max * math.cos(largest) * z
    for start, end in itertools.pairwise(largest * (1 - step / count) for step in range(count + 1)):
        x = call.net.step(x, start, end, class_labels)
    return x


def check_segments(sampler: Sampler, net: Any, guide: Any) -> None:
    """Checks that a network takes segments.

    Raises:
        UserError: It does not.
    """
    if not getattr(net, "segment_conditioning", False):
        fault = f"'{sampler.kind}' needs a network of segments (segment_conditioning), not {type(net).__name__}"
        raise UserError("sampler.kind", fault, "use consistency")


CONSISTENCY = Drawing(consistency)
SEGMENTS = Drawing(segments, check_segments)
