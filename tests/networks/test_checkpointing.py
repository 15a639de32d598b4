"""Blocks that compute their activations again give the same gradients and keep less."""

from __future__ import annotations

import copy

import pytest
import torch

from sida.errors import UserError
from sida.networks import build_network
from sida.networks.unet import checkpoint_blocks
from tests.networks.test_properties import CONFIGS

NETWORKS = {
    name: {"class": CONFIGS[name][0], "kwargs": {**CONFIGS[name][1], "dropout": 0.3, "num_blocks": 4}}
    for name in ("ddpmpp", "adm", "edm2")
}


def backward(net):
    """Gradients, weights afterwards, and bytes kept between the passes."""
    torch.manual_seed(5)
    kept = []

    def pack(tensor):
        kept.append(tensor.numel() * tensor.element_size())
        return tensor

    x = torch.randn(4, 2, 8, 8, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = net(x, torch.rand(4, 1, 1, 1) + 0.1, torch.eye(3)[[0, 1, 2, 0]]).square().mean()
    loss.backward()
    gradients = [x.grad, *(p.grad for p in net.parameters() if p.grad is not None)]
    return gradients, [p.detach().clone() for p in net.parameters()], sum(kept)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("frozen", [False, True])
def test_same_gradients_with_less_memory(name, frozen):
    torch.manual_seed(0)
    net = build_network(NETWORKS[name])
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    net.train(not frozen).requires_grad_(not frozen)
    other = copy.deepcopy(net)
    checkpoint_blocks(other, "here")
    (plain, weights, much), (again, other_weights, little) = backward(net), backward(other)
    assert len(plain) == len(again) > 0
    assert all(torch.equal(one, two) for one, two in zip(plain, again))
    assert all(torch.equal(one, two) for one, two in zip(weights, other_weights))
    assert little < much / 2
    assert list(other.state_dict()) == list(net.state_dict())


def test_a_network_without_blocks_is_refused():
    with pytest.raises(UserError, match=r"spec\.checkpointing: Linear has no U-Net blocks"):
        checkpoint_blocks(torch.nn.Linear(1, 1), "spec.checkpointing")
