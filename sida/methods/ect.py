"""Easy consistency tuning (ECT): the teacher's weights, tuned on real data to give one image at all noise levels."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from sida.config.settings import NotNegative, Positive, Range, Settings
from sida.methods.method import Method, Passes


@dataclasses.dataclass(frozen=True, kw_only=True)
class ECTOptions(Settings):
    """Levels and distance of ECT. Defaults are official (CIFAR-10).

    Attributes:
        q: Factor by which the step between the two levels shrinks from stage to stage.
        stage_kimg: Thousands of images of a stage.
        k: Enlargement of the step at low levels.
        b: Speed at which the enlargement decreases with the level.
        c: Constant of the pseudo-Huber distance; 0 gives the Euclidean distance.
        weighting: ``step``: one over the step between the levels; ``edm``: 1/t² + 1/σ_data².
    """

    q: Annotated[float, Range(above=1)] = 2.0
    stage_kimg: Positive = 3200.0
    k: NotNegative = 8.0
    b: NotNegative = 1.0
    c: NotNegative = 0.0
    weighting: Literal["step", "edm"] = "step"


ECT = Method(
    name="ect",
    title="ECT",
    about="consistency tuning on real images alone; starts from the teacher",
    start="teacher",
    real_images=True,
    options=ECTOptions,
    trainer="sida.methods.consistency:make_ect",
    reads=frozenset({"P_mean", "P_std", "real_source", "sigma_data"}),
    psi_steps=0,
    passes=Passes(generator=4),
    defaults={
        "edm": {
            "betas": (0.9, 0.999), "init_sigma": 80.0, "P_mean": -1.1, "P_std": 2.0, "dropout": 0.2,
            "ema_half_life_kimg": 887.0, "warmup_kimg": 0.0, "weight_norm": None, "fake_score_weight_norm": None,
        },
    },
)  # fmt: skip
