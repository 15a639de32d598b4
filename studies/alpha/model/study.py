"""The whole study of α in the model."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from .analysis import NUMBERS
from .bias import LAG, closed_form_residual, slope_errors
from .gaussian import Gaussians, at_rest, resting_alpha, restless_above
from .identities import (
    LEVELS,
    Expectation,
    divisor_error,
    error_residuals,
    projection_residual,
    score_residual,
    wavy,
)
from .mixture_training import problem, train
from .mixtures import Mixture, two_modes
from .quadrature import Array, ExactLoss, NoiseLevels, noise_levels
from .settings import AnalyticSettings
from .stability import ratios_map, starts_map

#: Distance from the data, in nats, at which a training on the mixture counts as finished.
NEAR_DATA = 0.5
#: Shapes of the data (long axis over short) for which the best α for the Fréchet distance is computed.
SHAPES = (1.2, 1.5, 2.0, 3.0, 5.0, 8.0)


def study(settings: AnalyticSettings) -> dict[str, Any]:
    """Computes the study.

    Returns:
        A JSON value with ``settings``; ``numbers`` by the names of :data:`NUMBERS`, null where these settings give no
        such number; and for figures ``bias``, ``starts``, ``ratios``, ``limited``, ``exact``, ``lagging``.
    """
    alphas = np.array(settings.alphas)
    levels = noise_levels(ExactLoss(t_max=settings.t_max), settings.levels)
    even = Gaussians(np.full(2, settings.scale), levels)
    uneven = Gaussians(np.array(settings.scales), levels)
    starts = starts_map(even, alphas, np.array(settings.starts), settings.step, settings.steps)
    ratios = ratios_map(uneven, alphas, np.array(settings.ratios), settings.step, settings.steps)
    limited = at_rest(uneven, alphas)
    bias = slope_errors(even, alphas)
    exact, lagging = (
        train(_mixture(settings), settings.alphas, settings.step, settings.mixture_steps, ratio)
        for ratio in (None, settings.lag)
    )
    numbers = {
        **identities(settings),
        "closed_form": closed_form_residual(uneven, alphas),
        "starts_agreement": starts["agreement"],
        "ratios_agreement": ratios["agreement"],
        **_false_points(alphas, starts),
        "no_rest_above": restless_above(uneven),
        "frechet_alpha": limited["frechet_alpha"],
        **_best_alphas(settings, levels),
        "cosine_exact": _least(exact["cosine"]),
        "cosine_lagging": _least(lagging["cosine"]),
        "cross_over_alpha_exact": _median(exact["cross_over_alpha"]),
        "cross_over_alpha_lagging": _median(lagging["cross_over_alpha"]),
        **{f"unbiased_alpha_{name}": value for name, value in bias["zero"].items()},
        **_by_alpha("collapse_below", alphas, starts["low"]),
        **_by_alpha("runaway_above", alphas, starts["high"]),
        **_by_alpha("needed_ratio", alphas, ratios["needed"]),
        **_by_alpha("width", alphas, [_over(width, limited["fisher_width"]) for width in limited["widths"]]),
        **_by_alpha("frechet", alphas, limited["frechet"]),
        **_by_alpha("steps_exact", alphas, _arrivals(exact)),
        **_by_alpha("steps_lagging", alphas, _arrivals(lagging)),
        "official_start": starts["official_start"],
        "mixture_diverged": sum([*exact["diverged"], *lagging["diverged"]]),
        "slowest_over_fastest": _spread(_arrivals(exact)),
        "lag": LAG,
    }
    return {
        "settings": dataclasses.asdict(settings),
        "numbers": {name: _finite(numbers.get(name)) for name in {**dict.fromkeys(NUMBERS), **numbers}},
        "bias": bias,
        "starts": starts,
        "ratios": ratios,
        "limited": limited,
        "exact": _plain(exact),
        "lagging": _plain(lagging),
    }


def identities(settings: AnalyticSettings) -> dict[str, float]:
    """Residuals of the three identities and of the formulas of an imperfect ψ, on the mixture, over levels and α."""
    distance, scale = settings.mode_distance, settings.mode_scale
    target = two_modes(distance, scale)
    means = torch.tensor([[[-0.6 * distance, 0.1], [1.1 * distance, 0.1]]], dtype=torch.float64, requires_grad=True)
    scales = torch.full((1, 2), 1.6 * scale, dtype=torch.float64, requires_grad=True)
    generator = Mixture(means, scales)
    # The residuals are affine in α, so the smallest and largest α represent all.
    alphas = [min(settings.alphas), max(settings.alphas)]
    each = [Expectation(target, generator, level * scale) for level in LEVELS]
    errors = [error_residuals(expected, alphas, wavy(2 * scale)) for expected in each]
    return {
        "identity_data": max(score_residual(target, expected.sigma) for expected in each),
        "identity_generator": max(score_residual(generator, expected.sigma) for expected in each),
        "identity_projection": max(projection_residual(expected, alphas) for expected in each),
        "imperfect_value": max(value for value, _ in errors),
        "imperfect_slope": max(slope for _, slope in errors),
        **{
            f"divisor_{pixels}": divisor_error(pixels, settings.scale, settings.scale / 2, settings.scale, draws)
            for pixels, draws in ((2, 20_000), (64, 20_000), (3072, 1000))
        },
    }


def _mixture(settings: AnalyticSettings) -> Any:
    return problem(
        settings.mode_distance, settings.mode_scale, settings.mixture_levels, settings.mixture_points, settings.t_max
    )


def _false_points(alphas: Array, starts: dict[str, Any]) -> dict[str, float | None]:
    false = [low is not None or high is not None for low, high in zip(starts["low"], starts["high"])]
    inside = [found for alpha, found in zip(alphas, false) if 0 <= alpha <= 1]
    outside = [found for alpha, found in zip(alphas, false) if not 0 <= alpha <= 1]
    return {
        "false_points_inside": sum(inside),
        "false_points_outside": sum(outside) / len(outside) if outside else None,
    }


def _best_alphas(settings: AnalyticSettings, levels: NoiseLevels) -> dict[str, float]:
    """Least and largest of the α that are best for the Fréchet distance, over shapes of the data of equal size."""
    size = math.sqrt(settings.scales[0] * settings.scales[1])
    models = [Gaussians(np.array([size * shape**0.5, size / shape**0.5]), levels) for shape in SHAPES]
    best = [resting_alpha(model, float(model.scales.mean())) for model in models]
    return {"frechet_alpha_least": min(best), "frechet_alpha_most": max(best)}


def _by_alpha(name: str, alphas: Array, values: Iterable[float | None]) -> dict[str, float | None]:
    return {f"{name}_a{alpha:g}": value for alpha, value in zip(alphas, values)}


def _over(value: float | None, unit: float) -> float | None:
    return None if value is None else value / unit


def _least(rows: list[list[float]]) -> float:
    return min(value for row in rows for value in row if not math.isnan(value))


def _median(values: list[float]) -> float:
    return float(np.median([value for value in values if math.isfinite(value)]))


def _arrivals(found: dict[str, Any]) -> list[float | None]:
    """The first recorded step at which each run is within :data:`NEAR_DATA` nats of the data, or None."""
    return [
        next((float(step) for step, value in zip(found["steps"], row) if value < NEAR_DATA), None)
        for row in found["distance"]
    ]


def _spread(steps: list[float | None]) -> float | None:
    """Largest over smallest number of steps, or None unless every run arrived later than its start."""
    known = [step for step in steps if step]
    return max(known) / min(known) if len(known) == len(steps) else None


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _plain(found: dict[str, Any]) -> dict[str, Any]:
    """Replaces NaN and infinity, which JSON does not have, by None."""

    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [plain(item) for item in value]
        return _finite(value) if isinstance(value, float) else value

    return {name: plain(value) for name, value in found.items()}
