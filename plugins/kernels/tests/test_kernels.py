"""Each fused kernel against the operations of torch that it stands for, values and gradients, in float32."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sida.networks.edm2_unet import NORM_EPS, normalize
from sida.plugins.kernels import group_norm, pointwise
from sida.plugins.kernels.edm2_norms import pixel_norm, pixel_norm_silu, unit_rows
from sida.plugins.kernels.group_norm import Affine, norm_act
from sida.plugins.kernels.pointwise import concat, double, halve, scaled_silu
from sida.plugins.kernels.residual import fork, residual
from sida.training.optimizer import INFINITY_REPLACEMENT, Adam, guard_gradient
from tests.near import assert_near, same_integers
from tests.slow import quick_but

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
    assert_near(a, b)
    for one, other in zip(torch.autograd.grad(a, inputs, towards), torch.autograd.grad(b, inputs, towards)):
        assert_near(one, other)


#: Ways to normalise maps: most positions of a map in one kernel, and the least width of a part of a row of channels.
WAYS = {"one kernel": (10**9, 64), "passes": (0, 64), "passes over divided rows": (0, 4)}


def take(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    positions, narrowest = WAYS[way]
    monkeypatch.setattr(group_norm, "MAX_WHOLE_POSITIONS", positions)
    monkeypatch.setattr(pointwise, "_NARROWEST", narrowest)
    assert pointwise.tiles(1, 12)[0] == (1, 12 // narrowest or 1)


@pytest.fixture(params=["one kernel", "passes", pytest.param("passes over divided rows", marks=pytest.mark.slow)])
def way(request, monkeypatch):
    """All ways, whatever the size of the maps."""
    take(request.param, monkeypatch)


def wide(vector: Tensor) -> Tensor:
    """A value for each channel, for all positions."""
    return vector[..., None, None]


def group_norm_and_activation(groups: int) -> tuple[Callable[..., Any], Callable[..., Tensor]]:
    """By scale and shift of the result, a shift of the map, and another scale and shift, those that are given."""

    def plain(x: Tensor, gamma: Tensor, beta: Tensor, *rest: Tensor) -> Tensor:
        shift, *more = (wide(vector) for vector in rest) if rest else (0,)
        u = F.group_norm(x + shift, groups, gamma, beta, 1e-5)
        return F.silu(u * (1 + more[0]) + more[1] if more else u)

    return lambda x, *vectors: norm_act(x, Affine(*vectors), groups, 1e-5), plain


def scaled(x: Tensor, scale: Tensor) -> Tensor:
    return F.silu(x * wide(scale))


# Six channels a group: no power of two; a mean far from zero.
SHIFTED = leaf(2, 12, 4, 4, shift=5.0), leaf(12), leaf(12, seed=1)
#: Two kernels that also give the map back, by what they stand for, and inputs.
ACTIVATIONS = {
    "plain": (*group_norm_and_activation(2), *SHIFTED),
    "shift": (*group_norm_and_activation(2), *SHIFTED, leaf(2, 12, seed=2)),
    "scale and shift": (
        *group_norm_and_activation(2), *SHIFTED, leaf(1, 12, seed=2), leaf(2, 12, seed=3), leaf(2, 12, seed=4),
    ),
    # Several programs and looks; 24 × 24 positions of 24 channels take more than one tile.
    "groups of 8": (*group_norm_and_activation(5), leaf(2, 40, 6, 6, shift=2.0), leaf(40), leaf(40, seed=1)),
    "groups of 12": (*group_norm_and_activation(3), leaf(2, 36, 24, 24, shift=2.0), leaf(36), leaf(36, seed=1)),
    "groups of 24": (*group_norm_and_activation(4), leaf(2, 96, 3, 3, shift=2.0), leaf(96), leaf(96, seed=1)),
    "factors of each image": (scaled_silu, scaled, leaf(2, 12, 4, 4), leaf(2, 12)),
    "factors of all images": (scaled_silu, scaled, leaf(2, 12, 4, 4), leaf(1, 12)),
}  # fmt: skip


@pytest.mark.parametrize("name", quick_but({"groups of 12", "groups of 24", "scale and shift"}, ACTIVATIONS))
def test_activation_and_what_else_uses_its_map(name, way):
    """The gradient of another use is added in the same pass."""
    ours, plain, *inputs = ACTIVATIONS[name]
    agree(lambda *given: ours(*given)[0], plain, *inputs)
    # Of a wider map, as a decoder's gradient is.
    parts = lambda y, x: torch.cat([torch.zeros_like(x), y, x.square()], 1)
    agree(lambda *given: parts(*ours(*given)), lambda x, *rest: parts(plain(x, *rest), x), *inputs)


def test_all_ways_drop_the_same(monkeypatch):
    affine, results = Affine(leaf(12), leaf(12, seed=1)), []
    for way in WAYS:
        take(way, monkeypatch)
        torch.manual_seed(3)
        x = leaf(2, 12, 6, 6)
        results.append(torch.cat([norm_act(x, affine, 3, 1e-5, dropout=0.4)[0], scaled_silu(x, None, 0.4)[0]]))
    for one in results[1:]:
        assert same_integers(results[0] == 0, one == 0)
        assert_near(results[0], one)


@pytest.mark.parametrize("kind", ["norm_act", "scaled_silu"])
def test_a_map_of_which_only_the_other_use_has_a_gradient(kind):
    x = leaf(1, 8, 2, 2)
    norm = lambda: norm_act(x, Affine(leaf(8), leaf(8, seed=1)), 2, 1e-5)
    _, same = norm() if kind == "norm_act" else scaled_silu(x)
    (gradient,) = torch.autograd.grad(same.square().sum(), x)
    assert_near(gradient, 2 * x)


def test_group_norm_of_a_channel_without_spread_and_without_activation():
    x = torch.full((1, 8, 2, 2), 3.0, requires_grad=True, device=DEVICE)
    gamma, beta = leaf(8), leaf(8, seed=1)
    ours = norm_act(x, Affine(gamma, beta), 2, 1e-5, silu=False)[0]
    # a x + b with a = 1/sqrt(eps): some digits are lost here, in torch as well.
    assert_near(ours, F.group_norm(x, 2, gamma, beta, 1e-5), 5e-4)


@pytest.mark.parametrize("channels", [1, 8, 12])
def test_dropout_drops_its_share_and_passes_gradients_where_it_kept(channels):
    probability = 0.3
    x = leaf(2, channels, 64, 64)
    torch.manual_seed(3)
    y, _ = scaled_silu(x, None, probability)
    kept = y != 0
    assert abs(float(kept.float().mean()) - (1 - probability)) < 0.02
    assert_near(y[kept], (F.silu(x) / (1 - probability))[kept])
    (gradient,) = torch.autograd.grad(y.sum(), x)
    (whole,) = torch.autograd.grad(F.silu(x).sum() / (1 - probability), x)
    assert_near(gradient, torch.where(kept, whole, 0.0))


def test_dropout_of_neighbours_is_independent():
    affine = Affine(torch.ones(16, device=DEVICE), torch.full((16,), 9.0, device=DEVICE))
    kept = (norm_act(leaf(2, 16, 32, 48), affine, 4, 1e-5, dropout=0.5)[0] != 0).double() - 0.5
    rows = kept.permute(0, 2, 3, 1).reshape(2, -1, 16)
    # Neighbours in a tile and four at a time, in the next tile (512 positions) and in the other sample.
    for one, other in [*((rows[..., k:], rows[..., :-k]) for k in (1, 2, 3, 4, 8)),
                       *((rows[:, k:], rows[:, :-k]) for k in (1, 4, 512)), (rows[0], rows[1])]:  # fmt: skip
        assert abs(float((4 * one * other).mean())) < 5 / one.numel() ** 0.5


def residuals(share: float, skip: float, clip: float | None) -> tuple[Callable[..., Tensor], ...]:
    total = lambda h, x, bias: share * (h + wide(bias)) + skip * x
    plain = lambda *given: total(*given) if clip is None else total(*given).clamp(-clip, clip)
    return lambda *given: residual(*given, share=share, skip_share=skip, clip=clip), plain


ADDED = leaf(2, 12, 3, 4), part(2, 12, 3, 4), leaf(12)
JOINED = leaf(2, 8, 2, 2), part(2, 12, 2, 2)
#: A kernel, what it stands for, and inputs.
PAIRS = {
    "sum": (*residuals(0.7, 0.7, None), *ADDED),
    "clipped sum": (*residuals(1.0, 0.9, 0.8), *ADDED),
    "plain sum": (*residuals(1.0, 1.0, None), *ADDED),
    "parts": (concat, lambda a, b: torch.cat([a, b], 1), *JOINED),
    "scaled parts": (lambda a, b: concat(a, b, 0.5, 2.0), lambda a, b: torch.cat([0.5 * a, 2 * b], 1), *JOINED),
    "fork": (lambda x: concat(*fork(x)).square(), lambda x: torch.cat([x, x], 1).square(), JOINED[0]),
    "halve": (halve, lambda x: F.avg_pool2d(x, 2), leaf(2, 12, 4, 6)),
    "double": (double, lambda x: F.interpolate(x, scale_factor=2), part(2, 12, 2, 3)),
    "pixel norm": (lambda x: pixel_norm(x, NORM_EPS), lambda x: normalize(x, dim=1), leaf(5, 12)),
    "pixel norm and activation": (
        lambda x: torch.cat(pixel_norm_silu(x, NORM_EPS)),
        lambda x: torch.cat([normalize(x, dim=1), F.silu(normalize(x, dim=1))]),
        leaf(2, 12, 2, 3),
    ),
    "unit rows": (
        lambda weight, gain: unit_rows(weight, gain, NORM_EPS, torch.float32),
        lambda weight, gain: normalize(weight) * gain / 6,
        *(leaf(6, 4, 3, 3), leaf()),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_kernel_and_its_gradients(name, way):
    agree(*PAIRS[name])


def test_residual_sum_keeps_nan():
    h = torch.full((1, 2, 1, 1), float("nan"), device=DEVICE)
    assert residual(h, torch.zeros_like(h), clip=1.0).isnan().all()


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
        assert_near(norm.sqrt(), report.norm)
    assert_near(moved - vector, plain.vector - vector)
