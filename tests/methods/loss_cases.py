"""Golden losses: the recorded draws, and what is compared; scores that can be written down."""

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


def check(actual: torch.Tensor, expected: np.ndarray, limit: float = VALUE) -> None:
    """The values agree, and the same ones are NaN."""
    wrong = np.isnan(expected)
    assert np.array_equal(wrong, torch.isnan(actual).numpy())
    if not wrong.all():
        assert relative_error(actual.detach().numpy()[~wrong], expected[~wrong]) < limit


def compare_gradients(net: torch.nn.Module, arrays: Mapping[str, np.ndarray], prefix: str) -> None:
    """All parameter gradients within tolerance; a parameter that is not reached has none or zero."""
    expected = tensors(arrays, prefix)
    assert expected
    for name, parameter in net.named_parameters():
        gradient = parameter.grad
        if name not in expected:
            assert gradient is None or not gradient.any(), name
        elif gradient is None:
            # Zero augment labels, which the official loop passes, give zero (after the guard also for NaN).
            assert name.endswith("map_augment.weight"), name
            assert not expected[name].nan_to_num().any(), name
        else:
            check(gradient, expected[name].numpy(), GRADIENT)
