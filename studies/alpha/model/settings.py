"""Settings of the analytic study of α (:mod:`.study`)."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from sida.config.settings import Count, Finite, Positive, Range
from sida.errors import SettingError


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnalyticSettings:
    """The analytic study of SiD's α, on Gaussians and a two-mode mixture in two dimensions.

    Attributes:
        alphas: Values of α; 1 must be among them.
        t_max: Largest generator time in thousandths, as in the losses.
        levels: Nodes of the quadratures over noise levels.
        scale: Standard deviation of the Gaussian that the generator can match.
        scales: Standard deviations, by axis, of the Gaussian that an isotropic generator cannot match.
        mode_distance: Half the distance of the two modes.
        mode_scale: Standard deviation of each mode.
        starts: Initial widths of the generator, as multiples of ``scale``.
        ratios: Rates of ψ over the generator's rate: rows of the stability map.
        lag: Rate of ψ over the generator's rate in the trainings on the mixture with a lagging ψ.
        step: Step size: the share of its distance by which the generator's mean moves in a step.
        steps: Steps of each simulation on Gaussians.
        mixture_steps: Steps of each training on the mixture.
        mixture_levels: Noise levels of the trainings on the mixture.
        mixture_points: Latents per mode in the trainings on the mixture, each with one noise (a power of two).
    """

    alphas: tuple[Finite, ...] = (-0.25, 0.0, 0.5, 0.75, 1.0, 1.2, 1.5)
    t_max: Annotated[float, Range(above=0, most=1000)] = 800
    levels: Annotated[int, Range(least=4, most=64)] = 16
    scale: Positive = 0.5
    scales: tuple[Positive, Positive] = (2.0, 0.25)
    mode_distance: Positive = 0.8
    mode_scale: Positive = 0.25
    starts: tuple[Positive, ...] = (0.05, 0.1, 0.13, 0.16, 0.25, 0.5, 2.0, 4.0, 5.5, 7.0, 12.0, 20.0, 28.0, 40.0)
    ratios: tuple[Positive, ...] = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.65, 0.9, 1.2, 2.0)
    lag: Positive = 0.3
    step: Annotated[float, Range(above=0, most=0.5)] = 0.02
    steps: Annotated[int, Range(least=100)] = 6000
    mixture_steps: Annotated[int, Range(least=20)] = 700
    mixture_levels: Annotated[int, Range(least=4, most=64)] = 8
    mixture_points: Count = 128

    def __post_init__(self) -> None:
        if 1.0 not in self.alphas:
            raise SettingError(
                "alphas", "must include 1.0, the reference of all comparisons", f"got {list(self.alphas)}"
            )
        if not self.ratios or not self.starts:
            raise SettingError("starts" if self.ratios else "ratios", "must not be empty")
        if self.scales[0] == self.scales[1]:
            raise SettingError("scales", "must differ, or the generator can match them")
        if self.mixture_points & (self.mixture_points - 1):
            raise SettingError("mixture_points", f"must be a power of two, got {self.mixture_points}")
