"""Golden losses: the recorded networks and draws, and what is compared; scores that can be written down."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from tests.golden.vectors import relative_error

VALUE, GRADIENT = 1e-5, 2e-4


class Score(torch.nn.Module):
    """D(x) = slope · x, logits = bias + mean of the image (or its pixels), u = 0.1; both can be NaN at one place."""

    def __init__(
        self, slope: float = 0.5, bias: float = 0.0, *, pixels: bool = False, bad_logits=None, bad_logvar=None
    ) -> None:
        super().__init__()
        self.slope, self.bias = torch.nn.Parameter(torch.tensor(slope)), torch.nn.Parameter(torch.tensor(bias))
        self.pixels, self.bad_logits, self.bad_logvar = pixels, bad_logits, bad_logvar

    def forward(
        self, x, sigma, class_labels=None, augment_labels=None, return_flag="decoder", decode=None, return_logvar=False
    ):
        denoised, logvar = self.slope * x[:decode], torch.full((len(x), 1, 1, 1), 0.1)
        logits = self.bias + (x if self.pixels else x.mean((1, 2, 3), keepdim=True))
        for values, bad in ((logits, self.bad_logits), (logvar, self.bad_logvar)):
            if bad is not None:
                values[bad] = float("nan")
        outputs = {"decoder": [denoised], "encoder": [logits], "encoder_decoder": [denoised, logits]}[return_flag]
        outputs += [logvar] if return_logvar else []
        return outputs[0] if len(outputs) == 1 else tuple(outputs)


def inputs(count: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """Generated images, real ones, and draws."""
    source = torch.Generator().manual_seed(seed)
    images, real, noise = (torch.randn(count, 1, 4, 4, generator=source) for _ in range(3))
    level = torch.randn(count, 1, 1, 1, generator=source)
    return images, real, {"sigma_normal": level, "noise": noise, "t": level.sigmoid()}


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
