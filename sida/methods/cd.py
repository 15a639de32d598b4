"""Consistency distillation (CD): the teacher's weights, tuned to give one image along each path of its sampler."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from sida.config.settings import Range, Settings
from sida.methods.ect import ECT
from sida.methods.method import Passes


@dataclasses.dataclass(frozen=True, kw_only=True)
class CDOptions(Settings):
    """Levels and distance of CD. Defaults are official (CIFAR-10), but for its distance, LPIPS.

    Attributes:
        levels: Noise levels of the sampler whose paths the generator learns.
        distance: ``l2``: mean of squares; ``l1``: mean of magnitudes.
        weighting: Weight of a level t; ``uniform``: 1; ``snr+1``: 1/t² + 1.
    """

    levels: Annotated[int, Range(least=2)] = 18
    distance: Literal["l2", "l1"] = "l2"
    weighting: Literal["uniform", "snr+1"] = "uniform"


CD = dataclasses.replace(
    ECT,
    name="cd",
    title="CD without LPIPS",
    about="consistency distillation along the teacher's sampler, on real images; starts from the teacher",
    options=CDOptions,
    trainer="sida.methods.consistency:make_cd",
    reads=frozenset({"real_source"}),
    passes=Passes(generator=6),
    defaults={
        "edm": {
            "betas": (0.9, 0.999), "init_sigma": 80.0, "dropout": 0.0, "ema_half_life_kimg": 3549.0,
            "warmup_kimg": 0.0, "weight_norm": None, "fake_score_weight_norm": None,
        },
    },
)  # fmt: skip
