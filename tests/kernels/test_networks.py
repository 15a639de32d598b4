"""Whole networks with fused kernels against the same networks without: outputs, logits, gradients, a training.

Also the work that the blocks of a network share, and what frozen networks keep.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional as F

from sida.kernels.fused import convert_frozen_weights, converted_parameters, part_inputs, use_fused_kernels
from sida.methods.sid import SiDALoss
from sida.networks import checkpoint_blocks
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


ONE_LEVEL = {"channel_mult": [1], "attn_resolutions": []}


def network(name: str, fused: bool = False, **more: object) -> torch.nn.Module:
    cls, kwargs = NETWORKS[name]
    net = random_network(cls, {**SMALL, **kwargs, "use_fp16": False, **more}).to(DEVICE)
    if fused:
        use_fused_kernels(net)
    return net


def images(net: torch.nn.Module) -> torch.Tensor:
    shape = (2, net.img_channels, 4, 4)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(DEVICE).requires_grad_()


def levels() -> torch.Tensor:
    return torch.tensor([0.5, 3.0], device=DEVICE)


def labels_of(net: torch.nn.Module) -> torch.Tensor | None:
    return torch.eye(4, device=DEVICE)[:2] if net.label_dim else None


@pytest.mark.parametrize("name", ["DDPM++", "NCSN++", "EDM2 without attention", *SLOW])
def test_fused_network_computes_the_same(name):
    plain = network(name)
    fused = copy.deepcopy(plain)
    use_fused_kernels(fused)
    # As a network lays the parameters out.
    FlatParameters(fused, channels_last=True)
    x = images(plain)
    outputs = [net(x, levels(), labels_of(net), return_flag="encoder_decoder") for net in (plain, fused)]
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


def gradients(net):
    """All gradients of a pass, with the same draws each time."""
    torch.manual_seed(3)
    x = images(net)
    output = net(x, levels(), labels_of(net))
    return torch.autograd.grad(output.square().sum(), [x, *net.parameters()], allow_unused=True)


def test_fused_blocks_that_are_computed_again_give_the_same_gradients():
    plain = network("DDPM++", True, dropout=0.4, **ONE_LEVEL).train()
    again = copy.deepcopy(plain)
    checkpoint_blocks(again, "here")
    for one, other in zip(gradients(plain), gradients(again), strict=True):
        assert (one is None and other is None) or torch.equal(one, other)


def test_fused_training_takes_the_same_steps_and_its_state_fits_either():
    nets = [network("DDPM++", **ONE_LEVEL) for _ in range(3)]
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
    other = make("fused")
    other.load({name: value.clone() for name, value in states[0].items()})
    for name, value in other.state().items():
        assert torch.equal(value, states[0][name]), name


@pytest.mark.parametrize(("kind", "rows"), [("DDPM++", 1), ("DDPM++", 2), ("ADM", 1)])
def test_parameters_prepared_together_are_those_of_each_layer(kind, rows):
    net = network(kind, True, model_channels=64, channel_mult=[1], attn_resolutions=[4])
    x = torch.empty(2, 3, 4, 4, dtype=torch.float16, device=DEVICE)
    emb = torch.randn(rows, net.model.map_layer1.weight.shape[0], device=DEVICE)
    blocks = [block for block in net.model.dec.values() if hasattr(block, "conv0")]
    given = part_inputs(net.model.dec, x, emb)
    ours, plain = [], []
    for block in blocks:
        weights = converted_parameters(block)
        vectors = [block.norm0.weight, block.norm0.bias, block.norm1.weight, block.norm1.bias]
        row = block.affine(emb) + (0 if block.adaptive_scale else block.conv0.bias)
        torch.testing.assert_close(given.rows[block], row.expand(2, -1), rtol=1e-5, atol=1e-6)
        ours += [*(given.prepared[p] for p in (*weights, *vectors)), given.rows[block]]
        plain += [*(weight.half() for weight in weights), *(vector.expand(2, -1) for vector in vectors)]
        plain.append(row.expand(2, -1))
        assert all(torch.equal(given.prepared[weight], weight.half()) for weight in weights)
    assert any(block.num_heads for block in blocks)
    towards = [torch.randn_like(tensor) for tensor in plain]
    parameters = [parameter for block in blocks for parameter in block.parameters()]
    one, other = (torch.autograd.grad(given, parameters, towards, allow_unused=True) for given in (ours, plain))
    exact = {parameter for block in blocks for parameter in converted_parameters(block)}
    for parameter, mine, theirs in zip(parameters, one, other):
        if mine is None or theirs is None:
            # Vectors that are prepared but not used above have a gradient of zeros.
            assert theirs is None
            assert mine is None or not mine.any()
        elif parameter in exact:
            assert torch.equal(mine, theirs)
            assert mine.dtype == torch.float32
        else:
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


def test_gradients_of_two_passes_add_up():
    # Gradients that share memory would be added twice.
    net = network("DDPM++", True, label_dim=0, **ONE_LEVEL)
    net(images(net), levels()).square().sum().backward()
    first = [parameter.grad.clone() for parameter in net.parameters()]
    net(images(net), levels()).square().sum().backward()
    for parameter, gradient in zip(net.parameters(), first, strict=True):
        torch.testing.assert_close(parameter.grad, 2 * gradient, rtol=1e-6, atol=0)


def with_kept(net: torch.nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, set[int]]:
    """Result of a pass, and where the tensors lie that it keeps for the backward pass."""
    kept: set[int] = set()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.add(t.data_ptr()) or t, lambda t: t):
        return net(x, levels()), kept


def test_a_frozen_network_gives_the_same_gradient_without_the_inputs_of_its_convolutions(monkeypatch):
    net, inputs = network("DDPM++", True, label_dim=0, **ONE_LEVEL), []
    x = images(net)
    convolution = F.conv2d
    monkeypatch.setattr(F, "conv2d", lambda x, *rest, **more: inputs.append(x) or convolution(x, *rest, **more))
    found = {}
    for frozen in (False, True):
        net.requires_grad_(not frozen)
        inputs.clear()
        y, kept = with_kept(net, x)
        # The first and the last convolution are not in blocks.
        found[frozen] = sum(one.data_ptr() in kept for one in inputs[1:-1])
        (found[frozen, "gradient"],) = torch.autograd.grad(y.square().sum(), x)
    assert found[False] == len(inputs) - 2 > 0
    assert found[True] == 0
    assert torch.equal(found[True, "gradient"], found[False, "gradient"])


@pytest.mark.parametrize("kind", ["DDPM++", "EDM2 without attention"])
def test_frozen_weights_in_half_precision_give_the_same_image(monkeypatch, kind):
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda tensor: True))
    net = network(kind, True, label_dim=0, use_fp16=True, **ONE_LEVEL).requires_grad_(False)
    converted = copy.deepcopy(net)
    convert_frozen_weights(converted)
    unet = converted.unet if hasattr(net, "unet") else converted.model
    block = next(block for block in unet.dec.values() if hasattr(block, "dropout"))
    halves = {name.partition(".")[0] for name, p in block.named_parameters() if p.dtype == torch.float16}
    names = {"conv_res0", "conv_res1"} if hasattr(net, "unet") else {"conv0", "conv1"}
    assert halves - {"skip", "qkv", "proj", "conv_skip"} == names
    found = []
    for one in (net, converted):
        x = images(net)
        y = one(x, levels())
        found.append((y, *torch.autograd.grad(y.square().sum(), x)))
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(*found, strict=True))
