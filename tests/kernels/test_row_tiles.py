"""Rows of channels that are divided among several tiles give what one tile gives."""

from __future__ import annotations

import pytest
import torch

from sida.kernels import unavailable_reason

if unavailable_reason() is not None:
    pytest.skip(str(unavailable_reason()), allow_module_level=True)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def leaf(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE).requires_grad_()


def kernels(x: torch.Tensor, other: torch.Tensor, vector: torch.Tensor, rows: torch.Tensor) -> list[torch.Tensor]:
    """Results of all kernels that divide rows."""
    from sida.kernels.activation import scaled_silu
    from sida.kernels.concat import concat
    from sida.kernels.group_norm import Affine, norm_act
    from sida.kernels.resample import double, halve
    from sida.kernels.residual import ResidualFactors, residual

    torch.manual_seed(3)
    shares = ResidualFactors(0.7, 0.7)
    return [
        residual(x, other, vector, shares, 2 * vector),
        concat(x, other, 0.5, 2.0),
        *scaled_silu(x, rows, 0.4),
        *norm_act(x, Affine(vector, 3 * vector, rows), 3, 1e-5, dropout=0.4),
        double(x),
        halve(x),
    ]


def test_divided_rows_give_the_same(monkeypatch):
    from sida.kernels import elements as maps
    from sida.kernels import group_norm

    assert maps.tile_size(192)[1::2] == (64, 3)
    assert maps.tile_size(384)[1::2] == (128, 3)
    assert maps.tile_size(256)[1::2] == (256, 1)
    monkeypatch.setattr(group_norm, "MAX_WHOLE_POSITIONS", 0)
    leaves = [leaf(2, 12, 4, 4), leaf(2, 12, 4, 4, seed=1), leaf(12, seed=2), leaf(2, 12, seed=3)]
    found = []
    for narrowest, tiles in ((64, 1), (4, 3)):
        monkeypatch.setattr(maps, "_NARROWEST", narrowest)
        assert maps.tile_size(12)[3] == tiles
        results = kernels(*leaves)
        found.append(([*results], torch.autograd.grad([y.square().sum() for y in results], leaves)))
    for one, other in zip(*(values for values, _ in found), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-6, atol=1e-7)
    for one, other in zip(*(gradients for _, gradients in found), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-5)
