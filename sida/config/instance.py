"""Settings that only instance-based distillation has, as data: ``options`` of a recipe. Nothing here imports torch."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from sida.config.mapping import Settings
from sida.config.ranges import Range


@dataclasses.dataclass(frozen=True, kw_only=True)
class InstanceOptions(Settings):
    """How the teacher's images are drawn that the generator imitates.

    Attributes:
        num_steps: Steps of Heun's deterministic method, from the σ_max of EDM's sampler; 2n − 1 evaluations of the
            teacher for each training image.
    """

    num_steps: Annotated[int, Range(least=2)] = 18
