"""Whole networks with fused kernels against the same networks without: outputs, logits, gradients, a training."""

from __future__ import annotations

import copy

import pytest
import torch

from sida.kernels.fused import use_fused_kernels
from sida.methods.sid import SiDALoss
from sida.training.iteration import Distiller
from sida.training.optimizer import FlatParameters
from sida.training.schedule import Schedule
from tests.networks.made import random_network
from tests.training.toy import iterate, recipe

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SMALL = {"img_resolution": 4, "num_blocks": 1, "channel_mult": [1, 2], "attn_resolutions": [2], "dropout": 0.0}
NETWORKS = {
    "DDPM++": ("EDMPrecond", {"model_type": "SongUNet", "img_channels": 3, "label_dim": 4, "model_channels": 4}),
    "NCSN++": (
        "EDMPrecond",
        {"model_type": "SongUNet", "img_channels": 3, "model_channels": 4, "embedding_type": "fourier",
         "encoder_type": "residual", "channel_mult_noise": 2, "resample_filter": [1, 3, 3, 1]},
    ),
    "ADM": (
        "EDMPrecond",
        {"model_type": "DhariwalUNet", "img_channels": 3, "label_dim": 4, "model_channels": 32,
         "channel_mult": [2], "attn_resolutions": [4]},
    ),
    "EDM2": (
        "EDM2Precond",
        {"img_channels": 4, "label_dim": 4, "model_channels": 64, "channel_mult": [1], "attn_resolutions": [4],
         "clip_act": 2.0, "weight_norm": "off"},
    ),
}  # fmt: skip
# Its heads have 64 channels, for which the interpreter takes its time.
NETWORKS["EDM2 without attention"] = (
    "EDM2Precond", {**NETWORKS["EDM2"][1], "model_channels": 16, "attn_resolutions": []}
)  # fmt: skip
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("ADM", "EDM2")]


def network(name: str, **more: object) -> torch.nn.Module:
    cls, kwargs = NETWORKS[name]
    return random_network(cls, {**SMALL, **kwargs, **more, "use_fp16": False}).to(DEVICE)


@pytest.mark.parametrize("name", ["DDPM++", "NCSN++", "EDM2 without attention", *SLOW])
def test_fused_network_computes_the_same(name):
    plain = network(name)
    fused = copy.deepcopy(plain)
    use_fused_kernels(fused)
    # As a network lays the parameters out.
    FlatParameters(fused, channels_last=True)
    shape = (2, plain.img_channels, 4, 4)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(DEVICE).requires_grad_()
    labels = torch.eye(4, device=DEVICE)[:2] if plain.label_dim else None
    outputs = [
        net(x, torch.tensor([0.5, 3.0], device=DEVICE), labels, return_flag="encoder_decoder") for net in (plain, fused)
    ]
    for one, other in zip(*outputs):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)
    gradients = [
        torch.autograd.grad([o.square().sum() for o in output], [x, *net.parameters()], allow_unused=True)
        for output, net in zip(outputs, (plain, fused))
    ]
    for one, other in zip(*gradients):
        assert (one is None) == (other is None)
        if one is not None and one.norm() > 0:
            assert float((other - one).norm() / one.norm()) < 1e-4
    assert fused.state_dict().keys() == plain.state_dict().keys()


def gradients(net, x, labels):
    """All gradients of a pass, with the same draws each time."""
    torch.manual_seed(3)
    output = net(x, torch.tensor([0.5, 3.0], device=DEVICE), labels)
    return torch.autograd.grad(output.square().sum(), [x, *net.parameters()], allow_unused=True)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("DDPM++", {"channel_mult": [1], "attn_resolutions": []}),
        pytest.param("DDPM++", {}, marks=pytest.mark.slow),
        pytest.param("EDM2", {}, marks=pytest.mark.slow),
    ],
)
def test_activations_made_again_give_the_same_gradients(name, size):
    plain = network(name, dropout=0.4, **size).train()
    recompute = copy.deepcopy(plain)
    use_fused_kernels(plain)
    use_fused_kernels(recompute, recompute=True)
    shape = (2, plain.img_channels, 4, 4)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(DEVICE).requires_grad_()
    labels = torch.eye(4, device=DEVICE)[:2]
    for one, other in zip(gradients(plain, x, labels), gradients(recompute, x, labels), strict=True):
        assert (one is None and other is None) or torch.equal(one, other)


def test_fused_training_takes_the_same_steps_and_its_state_fits_either():
    nets = [network("DDPM++", channel_mult=[1], attn_resolutions=[]) for _ in range(3)]
    for number, net in enumerate(nets):
        torch.manual_seed(number)
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.05)
    options = {"lr": 1e-3, "lambda_adv": 1.0, "grad_clip_value": 1.0, "seed": 1}
    schedule = Schedule(warmup_kimg=0, adversarial_kimg=0)
    make = lambda kernels: Distiller(*copy.deepcopy(nets), SiDALoss(), schedule, recipe(kernels=kernels, **options))
    plain, fused = make("torch"), make("fused")
    batch = (torch.randn(2, 3, 4, 4, device=DEVICE), torch.eye(4, device=DEVICE)[:2])
    records = [iterate(one, 2, [batch], [batch]) for one in (plain, fused)]
    for name, value in records[0].losses.items():
        torch.testing.assert_close(records[1].losses[name], value, rtol=2e-3, atol=1e-4)
    states = [one.state() for one in (plain, fused)]
    assert [(name, value.shape) for name, value in states[0].items()] == [
        (name, value.shape) for name, value in states[1].items()
    ]
    start = torch.cat([p.detach().flatten() for p in nets[1].parameters()])
    moved = states[0]["fake_score/parameters"] - start
    assert float((states[1]["fake_score/parameters"] - start - moved).norm() / moved.norm()) < 0.2
    # A state goes from one way of computing to the other.
    recompute = make("fused")
    recompute.load({name: value.clone() for name, value in states[0].items()})
    for name, value in recompute.state().items():
        assert torch.equal(value, states[0][name]), name
