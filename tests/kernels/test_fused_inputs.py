"""Work that the fused blocks of a network share: conversions, embeddings and sums, and what frozen networks keep."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional as F

from sida.kernels.fused import convert_frozen_weights, converted_parameters, part_inputs, use_fused_kernels
from tests.networks.made import random_network

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def network(kind: str = "SongUNet", **more: object) -> torch.nn.Module:
    """A network with fused kernels: of EDM2, or of EDM with a U-Net of this kind."""
    kwargs = {"img_resolution": 4, "channel_mult": [1], "num_blocks": 1, "attn_resolutions": []}
    if kind == "EDM2":
        kwargs |= {"img_channels": 4, "model_channels": 16, "weight_norm": "off"}
    else:
        kwargs |= {"img_channels": 3, "model_channels": 4, "model_type": kind, "dropout": 0.0, "use_fp16": False}
    net = random_network("EDM2Precond" if kind == "EDM2" else "EDMPrecond", {**kwargs, **more}).to(DEVICE)
    use_fused_kernels(net)
    return net


def images(channels: int = 3) -> torch.Tensor:
    return torch.randn(2, channels, 4, 4, generator=torch.Generator().manual_seed(1)).to(DEVICE).requires_grad_()


@pytest.mark.parametrize(("kind", "rows"), [("SongUNet", 1), ("SongUNet", 2), ("DhariwalUNet", 1)])
def test_parameters_prepared_together_are_those_of_each_layer(kind, rows):
    net = network(kind, model_channels=64, attn_resolutions=[4])
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
    net = network()
    sigma = torch.tensor([0.5, 3.0], device=DEVICE)
    net(images(), sigma).square().sum().backward()
    first = [parameter.grad.clone() for parameter in net.parameters()]
    net(images(), sigma).square().sum().backward()
    for parameter, gradient in zip(net.parameters(), first, strict=True):
        torch.testing.assert_close(parameter.grad, 2 * gradient, rtol=1e-6, atol=0)


def with_kept(net: torch.nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, set[int]]:
    """Result of a pass, and where the tensors lie that it keeps for the backward pass."""
    kept: set[int] = set()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.add(t.data_ptr()) or t, lambda t: t):
        return net(x, torch.tensor([0.5, 3.0], device=DEVICE)), kept


def test_a_frozen_network_gives_the_same_gradient_without_the_inputs_of_its_convolutions(monkeypatch):
    net, x, inputs = network(), images(), []
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


@pytest.mark.parametrize("kind", ["SongUNet", "EDM2"])
def test_frozen_weights_in_half_precision_give_the_same_image(monkeypatch, kind):
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda tensor: True))
    net = network(kind, use_fp16=True).requires_grad_(False)
    converted = copy.deepcopy(net)
    convert_frozen_weights(converted)
    unet = converted.unet if kind == "EDM2" else converted.model
    block = next(block for block in unet.dec.values() if hasattr(block, "dropout"))
    halves = {name.partition(".")[0] for name, p in block.named_parameters() if p.dtype == torch.float16}
    names = {"conv_res0", "conv_res1"} if kind == "EDM2" else {"conv0", "conv1"}
    assert halves - {"skip", "qkv", "proj", "conv_skip"} == names
    gradients = []
    for one in (net, converted):
        x = images(net.img_channels)
        y = one(x, torch.tensor([0.5, 3.0], device=DEVICE))
        gradients.append((y, *torch.autograd.grad(y.square().sum(), x)))
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(*gradients, strict=True))
