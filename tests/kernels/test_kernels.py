"""Each fused kernel against the operations of torch that it stands for, values and gradients, in float32."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sida.kernels import group_norm, pointwise
from sida.kernels.edm2_norms import pixel_norm, pixel_norm_silu, unit_rows
from sida.kernels.group_norm import Affine, norm_act
from sida.kernels.pointwise import concat, double, halve, scaled_silu
from sida.kernels.residual import fork, residual
from sida.networks.edm2_unet import NORM_EPS, MPConv, normalize
from sida.training.optimizer import INFINITY_REPLACEMENT, Adam, guard_gradient

TOLERANCE = 2e-6
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def leaf(*shape: int, seed: int = 0, shift: float = 0.0) -> Tensor:
    source = torch.Generator().manual_seed(sum(shape) + seed)
    return (torch.randn(shape, generator=source) + shift).to(DEVICE).requires_grad_()


def part(n: int, c: int, height: int, width: int) -> Tensor:
    """A map that is a part of a wider one."""
    return leaf(n, height, width, c + 3, seed=7).detach().permute(0, 3, 1, 2)[:, :c].requires_grad_()


def agree(ours: Callable[..., Tensor], plain: Callable[..., Tensor], *inputs: Tensor) -> None:
    a, b = ours(*inputs), plain(*inputs)
    towards = torch.randn(b.shape, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    close(a, b)
    for one, other in zip(torch.autograd.grad(a, inputs, towards), torch.autograd.grad(b, inputs, towards)):
        close(one, other)


def close(one: Tensor, other: Tensor) -> None:
    assert one.shape == other.shape
    assert float((one - other).detach().norm()) <= TOLERANCE * float(other.detach().norm()) + 1e-12


@pytest.fixture(params=["one kernel", "passes"])
def normalising(request, monkeypatch):
    """Both ways in which maps are normalised, whatever their size."""
    monkeypatch.setattr(group_norm, "MAX_WHOLE_POSITIONS", 10**9 if request.param == "one kernel" else 0)


@pytest.mark.parametrize("kind", ["plain", "shift", "scale and shift"])
def test_group_norm_and_activation(kind, normalising):
    # Six channels a group: no power of two; a mean far from zero.
    n, c, groups = 2, 12, 2
    x, gamma, beta = leaf(n, c, 4, 4, shift=5.0), leaf(c), leaf(c, seed=1)
    before = {"plain": [], "shift": [leaf(n, c, seed=2)], "scale and shift": [leaf(1, c, seed=2)]}[kind]
    more = [leaf(n, c, seed=3), leaf(n, c, seed=4)] if kind == "scale and shift" else []

    def plain(x, gamma, beta, *rest):
        wide = [v[:, :, None, None] for v in rest]
        u = F.group_norm(x + wide[0] if wide else x, groups, gamma, beta, 1e-5)
        return F.silu(u * (1 + wide[1]) + wide[2] if len(wide) > 1 else u)

    agree(lambda x, *v: norm_act(x, Affine(*v), groups, 1e-5)[0], plain, x, gamma, beta, *before, *more)


@pytest.mark.parametrize(("c", "groups", "height"), [(40, 5, 6), (36, 3, 24), (96, 4, 3)])
def test_group_norm_of_several_programs_and_looks(c, groups, height, normalising):
    # Groups of 8, 12 and 24; 24 × 24 positions of 24 channels take more than one tile.
    plain = lambda x, *v: F.silu(F.group_norm(x, groups, *v, 1e-5))
    x = leaf(2, c, height, height, shift=2.0)
    agree(lambda x, *v: norm_act(x, Affine(*v), groups, 1e-5)[0], plain, x, leaf(c), leaf(c, seed=1))


def test_both_ways_of_normalising_drop_the_same(monkeypatch):
    affine, results = group_norm.Affine(leaf(40), leaf(40, seed=1)), []
    for limit in (0, 10**9):
        monkeypatch.setattr(group_norm, "MAX_WHOLE_POSITIONS", limit)
        torch.manual_seed(3)
        results.append(group_norm.norm_act(leaf(2, 40, 6, 6), affine, 5, 1e-5, dropout=0.4)[0])
    assert torch.equal(results[0] == 0, results[1] == 0)
    close(*results)


@pytest.mark.parametrize("kind", ["norm_act", "scaled_silu"])
def test_what_else_uses_a_map_adds_its_gradient_in_the_same_pass(kind, normalising):
    gamma, beta, scale = leaf(12), leaf(12, seed=1), leaf(2, 12, seed=2)

    def ours(x, *vectors):
        y, x = norm_act(x, Affine(*vectors), 2, 1e-5) if len(vectors) == 2 else scaled_silu(x, *vectors)
        # Of a wider map, as a decoder's gradient is.
        return torch.cat([torch.zeros_like(x), y, x.square()], 1)

    def plain(x, *vectors):
        normed = lambda: F.silu(F.group_norm(x, 2, *vectors, 1e-5))
        y = normed() if len(vectors) == 2 else F.silu(x * vectors[0][:, :, None, None])
        return torch.cat([torch.zeros_like(x), y, x.square()], 1)

    agree(ours, plain, leaf(2, 12, 4, 4), *((gamma, beta) if kind == "norm_act" else (scale,)))


@pytest.mark.parametrize("kind", ["norm_act", "scaled_silu"])
def test_a_map_of_which_only_the_other_use_has_a_gradient(kind):
    x = leaf(1, 8, 2, 2)
    norm = lambda: norm_act(x, Affine(leaf(8), leaf(8, seed=1)), 2, 1e-5)
    _, same = norm() if kind == "norm_act" else scaled_silu(x)
    (gradient,) = torch.autograd.grad(same.square().sum(), x)
    assert torch.equal(gradient, 2 * x)


def test_group_norm_of_a_channel_without_spread_and_without_activation():
    x = torch.full((1, 8, 2, 2), 3.0, requires_grad=True, device=DEVICE)
    gamma, beta = leaf(8), leaf(8, seed=1)
    ours = norm_act(x, Affine(gamma, beta), 2, 1e-5, silu=False)[0]
    # a x + b with a = 1/sqrt(eps): some digits are lost here, in torch as well.
    torch.testing.assert_close(ours, F.group_norm(x, 2, gamma, beta, 1e-5), rtol=0, atol=5e-4)


@pytest.mark.parametrize("channels", [1, 8, 12])
def test_dropout_drops_its_share_and_passes_gradients_where_it_kept(channels):
    probability = 0.3
    x = leaf(2, channels, 64, 64)
    torch.manual_seed(3)
    y, _ = scaled_silu(x, None, probability)
    kept = y != 0
    assert abs(float(kept.float().mean()) - (1 - probability)) < 0.02
    torch.testing.assert_close(y[kept], (F.silu(x) / (1 - probability))[kept])
    (gradient,) = torch.autograd.grad(y.sum(), x)
    (whole,) = torch.autograd.grad(F.silu(x).sum() / (1 - probability), x)
    torch.testing.assert_close(gradient, torch.where(kept, whole, 0.0))
    torch.manual_seed(3)
    assert torch.equal(y, scaled_silu(x, None, probability)[0])


def test_dropout_of_neighbours_is_independent():
    affine = Affine(torch.ones(16, device=DEVICE), torch.full((16,), 9.0, device=DEVICE))
    kept = (norm_act(leaf(2, 16, 32, 48), affine, 4, 1e-5, dropout=0.5)[0] != 0).double() - 0.5
    rows = kept.permute(0, 2, 3, 1).reshape(2, -1, 16)
    # Neighbours in a tile and four at a time, in the next tile (512 positions) and in the other sample.
    for one, other in [*((rows[..., k:], rows[..., :-k]) for k in (1, 2, 3, 4, 8)),
                       *((rows[:, k:], rows[:, :-k]) for k in (1, 4, 512)), (rows[0], rows[1])]:  # fmt: skip
        assert abs(float((4 * one * other).mean())) < 5 / one.numel() ** 0.5


def test_activation_with_a_factor_per_channel():
    plain = lambda x, scale: F.silu(x * scale[:, :, None, None])
    ours = lambda x, scale: scaled_silu(x, scale)[0]
    agree(ours, plain, leaf(2, 6, 4, 4), leaf(2, 6))
    agree(ours, plain, leaf(2, 6, 4, 4), leaf(1, 6))


@pytest.mark.parametrize(("branch", "skip", "clip"), [(0.7, 0.7, None), (1.0, 0.9, 0.8), (1.0, 1.0, None)])
def test_residual_sum(branch, skip, clip):
    def plain(h, x, bias):
        total = branch * (h + bias[:, None, None]) + skip * x
        return total if clip is None else total.clamp(-clip, clip)

    shares = {"share": branch, "skip_share": skip, "clip": clip}
    agree(lambda h, x, b: residual(h, x, b, **shares), plain, leaf(2, 6, 3, 4), part(2, 6, 3, 4), leaf(6))


def test_residual_sum_keeps_nan():
    h = torch.full((1, 2, 1, 1), float("nan"), device=DEVICE)
    assert residual(h, torch.zeros_like(h), clip=1.0).isnan().all()


def test_concatenation_and_fork():
    a, b = leaf(2, 4, 2, 2), part(2, 6, 2, 2)
    agree(lambda a, b: concat(a, b, 0.5, 2.0), lambda a, b: torch.cat([0.5 * a, 2 * b], 1), a, b)
    agree(concat, lambda a, b: torch.cat([a, b], 1), a, b)

    def both_ways(x):
        one, other = fork(x)
        return concat(one, other).square()

    agree(both_ways, lambda x: torch.cat([x, x], 1).square(), a)


def test_halving_and_doubling():
    agree(halve, lambda x: F.avg_pool2d(x, 2), leaf(2, 6, 4, 6))
    agree(double, lambda x: F.interpolate(x, scale_factor=2), part(2, 6, 2, 3))


def test_pixel_norm():
    agree(lambda x: pixel_norm(x, NORM_EPS), lambda x: normalize(x, dim=1), leaf(5, 12))
    x = leaf(2, 12, 2, 3)
    agree(lambda x: torch.cat(pixel_norm_silu(x, NORM_EPS)), lambda x: torch.cat(_with_silu(normalize(x, dim=1))), x)


def _with_silu(y):
    return y, F.silu(y)


def test_unit_rows():
    conv = MPConv(4, 6, 3).to(DEVICE)
    conv.weight_norm = "off"
    plain = lambda weight, gain: _weights(conv, weight, gain)
    agree(lambda weight, gain: unit_rows(weight, gain, NORM_EPS, torch.float32), plain, leaf(6, 4, 3, 3), leaf())


def _weights(conv, weight, gain):
    del conv.weight
    conv.weight = weight
    return conv.effective_weight(gain)


@pytest.mark.parametrize("betas", [(0.0, 0.999), (0.9, 0.99)])
def test_guard_and_step(betas):
    vector, gradient = leaf(5000).detach(), leaf(5000, seed=1).detach()
    gradient[3], gradient[5], gradient[6] = float("nan"), float("inf"), -float("inf")
    plain, moved = Adam(vector.clone(), betas, 1e-8), vector.clone()
    mean, square = torch.zeros_like(vector) if betas[0] else None, torch.zeros_like(vector)
    for count in (1, 2, 3):
        guarded = gradient.clone()
        report = guard_gradient(guarded, 1.0)
        plain.step(guarded, 1e-2)
        norm, wrong = pointwise.gradient_norm(gradient, INFINITY_REPLACEMENT)
        pointwise.adam_step(moved, gradient, mean, square, 1e-2, betas, 1e-8, count, INFINITY_REPLACEMENT, 1.0)
        assert int(wrong) == int(report.replaced) == 3
        torch.testing.assert_close(norm.sqrt(), report.norm)
    close(moved - vector, plain.vector - vector)


def of_divided_rows(x: Tensor, other: Tensor, vector: Tensor, rows: Tensor) -> list[Tensor]:
    """Results of all kernels that divide rows."""
    torch.manual_seed(3)
    return [
        residual(x, other, vector, 2 * vector, share=0.7, skip_share=0.7),
        concat(x, other, 0.5, 2.0),
        *scaled_silu(x, rows, 0.4),
        *norm_act(x, Affine(vector, 3 * vector, rows), 3, 1e-5, dropout=0.4),
        double(x),
        halve(x),
    ]


def test_divided_rows_give_the_same(monkeypatch):
    for channels, width, parts in ((192, 64, 3), (384, 128, 3), (256, 256, 1)):
        grid, sizes = pointwise.tiles(1, channels)
        assert (sizes["WIDTH"], grid) == (width, (1, parts))
    monkeypatch.setattr(group_norm, "MAX_WHOLE_POSITIONS", 0)
    leaves = [leaf(2, 12, 4, 4), leaf(2, 12, 4, 4, seed=1), leaf(12, seed=2), leaf(2, 12, seed=3)]
    found = []
    for narrowest, parts in ((64, 1), (4, 3)):
        monkeypatch.setattr(pointwise, "_NARROWEST", narrowest)
        assert pointwise.tiles(1, 12)[0] == (1, parts)
        results = of_divided_rows(*leaves)
        found.append(([*results], torch.autograd.grad([y.square().sum() for y in results], leaves)))
    for one, other in zip(*(values for values, _ in found), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-6, atol=1e-7)
    for one, other in zip(*(gradients for _, gradients in found), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-5)
