"""Guidance: one formula for samplers and students, and which network can guide which."""

from __future__ import annotations

import pytest
import torch

from sida.sampling import generate
from sida.sampling.samplers import GuidedDenoiser, check_guide_fits
from tests.refused import refused
from tests.sampling.test_generate import make

LABELS = torch.eye(4)


def case(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(seed)
    return torch.randn(4, 1, 8, 8, generator=source), torch.rand(4, 1, 1, 1, generator=source) + 0.1


@pytest.fixture(scope="module")
def networks():
    return [net.eval().requires_grad_(False) for net in (make(4), make(4, seed=1), make(0, seed=2))]


def test_one_is_the_network_and_zero_the_guide_to_the_last_bit(networks):
    net, guide, uncond = networks
    x, sigma = case()
    assert torch.equal(GuidedDenoiser(net, guide, 1)(x, sigma, LABELS), net(x, sigma, LABELS))
    assert torch.equal(GuidedDenoiser(net, guide, 0)(x, sigma, LABELS), guide(x, sigma, LABELS))
    # A guide without classes is not given any.
    assert torch.equal(GuidedDenoiser(net, uncond, 0)(x, sigma, LABELS), uncond(x, sigma))
    assert not torch.equal(GuidedDenoiser(net, guide, 2)(x, sigma, LABELS), net(x, sigma, LABELS))


def test_gradients_pass_both_networks(networks):
    net, guide, _ = networks
    x, sigma = case()
    along = lambda network: torch.autograd.grad(network(y := x.clone().requires_grad_(), sigma, LABELS).sum(), y)[0]
    expected = along(guide) + 1.7 * (along(net) - along(guide))
    torch.testing.assert_close(along(GuidedDenoiser(net, guide, 1.7)), expected, atol=1e-5, rtol=1e-5)


def test_a_guide_for_other_images_is_refused(networks):
    net, _, uncond = networks
    check_guide_fits(net, uncond, "guide")
    for place, call in (
        ("guide", lambda: check_guide_fits(net, make(3), "guide")),
        ("guiding network", lambda: generate(uncond, range(2), "heun:3,guidance=2", gnet=net)),
    ):
        assert refused("", call).place == f"{place}.label_dim"
