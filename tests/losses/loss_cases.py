"""Golden losses: the recorded networks and draws, and what is compared."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from tests.golden.vectors import relative_error

VALUE, GRADIENT = 1e-5, 2e-4


def tensors(arrays: Mapping[str, np.ndarray], prefix: str = "") -> dict[str, torch.Tensor]:
    """Arrays below ``prefix`` as tensors, without it."""
    return {k[len(prefix) :]: torch.from_numpy(v) for k, v in arrays.items() if k.startswith(prefix)}


def draw(arrays: Mapping[str, np.ndarray], number: int) -> torch.Tensor:
    """The ``number``-th recorded draw."""
    (name,) = [key for key in arrays if key.startswith(f"draw/{number:02d}_")]
    return torch.from_numpy(arrays[name])


def draws(arrays: Mapping[str, np.ndarray], **numbers: int) -> dict[str, torch.Tensor]:
    """Named draws: ``draws(case, sigma_normal=1, noise=2)``."""
    return {name: draw(arrays, number) for name, number in numbers.items()}


def scaled_sum(per_element: torch.Tensor, scale: float, batch: int) -> torch.Tensor:
    """The official reduction: sum over everything, times the weight, divided by the nominal batch."""
    return per_element.sum() * (scale / batch)


def compare_gradients(net: torch.nn.Module, arrays: Mapping[str, np.ndarray], prefix: str) -> None:
    """All parameter gradients within tolerance; a parameter that is not reached has none or zero."""
    expected = {k[len(prefix) :]: v for k, v in arrays.items() if k.startswith(prefix)}
    assert expected
    for name, parameter in net.named_parameters():
        if name in expected:
            if parameter.grad is None:
                # Zero augment labels, which the official loop passes, give zero (after the guard also for NaN).
                assert name.endswith("map_augment.weight"), name
                assert not np.nan_to_num(expected[name]).any(), name
                continue
            actual = parameter.grad
            assert np.isnan(expected[name]).all() == torch.isnan(actual).all(), name
            if not np.isnan(expected[name]).any():
                assert relative_error(actual, expected[name]) < GRADIENT, name
        else:
            assert parameter.grad is None or not parameter.grad.any(), name
