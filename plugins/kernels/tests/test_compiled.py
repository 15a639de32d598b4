"""Compiled blocks against the same blocks without: bits, gradients, copies, a training; each block is one graph.

The backend ``aot_eager`` traces and differentiates as inductor does, and then runs torch's own operations.
"""

import copy

import pytest
import torch
from torch._dynamo.utils import counters

from sida.config.kernels import kernels_in, use_kernels
from sida.methods.sid import SiDALoss
from sida.networks import checkpoint_blocks
from sida.networks.body import blocks_of
from sida.networks.precond import store_half
from sida.plugins.kernels import compiled
from sida.training.iteration import Distiller
from sida.training.schedule import Schedule
from tests.near import assert_near, is_copy, same_bits
from tests.networks.made import config, random_network
from tests.plugins import needs
from tests.training.toy import iterate, recipe

SIT = {"img_resolution": 4, "img_channels": 2, "label_dim": 3, "hidden_size": 16, "depth": 2, "num_heads": 2}
SMALL = {"img_resolution": 4, "channel_mult": [1], "attn_resolutions": [], "dropout": 0.3}


@pytest.fixture(autouse=True)
def _traced_only(monkeypatch):
    monkeypatch.setattr(compiled, "COMPILER", {"backend": "aot_eager"})
    monkeypatch.setattr(compiled, "_told", 0.0)
    limits = torch._dynamo.config.patch(recompile_limit=8, accumulated_recompile_limit=256)
    with limits, torch._functorch.config.patch(donated_buffer=True):
        yield
    compiled.compiled.cache_clear()
    torch._dynamo.reset()
    counters.clear()


def network(name, seed=0, **more):
    if name == "transformer":
        return random_network("SiTPrecond", {**SIT, **more}, seed)
    return random_network(*config(name, **SMALL, **more).values(), seed)


def compiled_copy(net):
    other = copy.deepcopy(net)
    assert use_kernels(compiled, other)
    return other


def with_gradients(net):
    """Image and logits with the same draws each time, and all gradients."""
    torch.manual_seed(3)
    x = torch.randn(2, 2, 4, 4, requires_grad=True)
    outputs = net(x, torch.tensor([0.5, 3.0]), torch.eye(3)[:2], return_flag="encoder_decoder")
    learns = [x, *(parameter for parameter in net.parameters() if parameter.requires_grad)]
    gradients = torch.autograd.grad([output.square().sum() for output in outputs], learns, allow_unused=True)
    given = [gradient.flatten() for gradient in gradients if gradient is not None]
    return torch.cat([output.detach().flatten() for output in outputs]), torch.cat(given)


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param("transformer", marks=needs("transformers")), "ddpmpp", "adm", "edm2"])
def test_each_block_is_one_graph_with_the_same_bits_and_near_gradients(name):
    net = network(name).train()
    other = compiled_copy(net)
    assert other.state_dict().keys() == net.state_dict().keys()
    if name == "transformer":
        checkpoint_blocks(other, "here")
    (outputs, gradient), (expected, wanted) = with_gradients(other), with_gradients(net)
    assert same_bits(outputs, expected)
    assert float((gradient - wanted).norm() / wanted.norm()) < 1e-6
    assert is_copy(other.state_dict(), net.state_dict())
    frames = counters["frames"]
    assert 0 < frames["ok"] == frames["total"]
    assert not counters["graph_break"]


@needs("transformers")
def test_a_copy_computes_with_its_own_weights_and_blocks_of_a_class_share_a_graph():
    net = compiled_copy(network("transformer"))
    other = copy.deepcopy(net)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(2)
    plain = network("transformer")
    plain.load_state_dict(other.state_dict())
    assert same_bits(with_gradients(other)[0], with_gradients(plain)[0])
    assert same_bits(with_gradients(net)[0], with_gradients(network("transformer"))[0])
    assert counters["frames"]["total"] == 1
    plain = network("transformer")
    with kernels_in(compiled, plain):
        assert all("compute" in vars(block) for block in blocks_of(plain))
    assert not any("compute" in vars(block) for block in blocks_of(plain))


def test_recomputed_blocks_that_normalise_their_weights_are_not_compiled():
    net = network("edm2")
    checkpoint_blocks(net, "here")
    assert not compiled.replacements(net)
    net.weight_norm = "off"
    assert len(compiled.replacements(net)) == len(blocks_of(net))


@pytest.mark.slow
@needs("transformers")
@pytest.mark.parametrize(("half", "bound"), [(False, 1e-5), (True, 1e-3)])
def test_compiled_training_has_the_losses_of_a_plain_one_and_its_state_fits_either(half, bound, monkeypatch, capsys):
    if half:
        monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda tensor: True))
    nets = [network("transformer", seed, use_fp16=half, half_dtype="bfloat16") for seed in range(3)]
    schedule = Schedule(warmup_kimg=0, adversarial_kimg=0)

    def make(kernels):
        config = recipe(kernels=kernels, lr=1e-5, lambda_adv=1.0, seed=1, fp16=half)
        return Distiller(*copy.deepcopy(nets), SiDALoss(), schedule, config)

    plain, other = make("torch"), make("compiled")
    weight = other.true_score.blocks[0].mlp.fc1.weight
    assert weight.dtype == (torch.bfloat16 if half else torch.float32)
    for nimg in (0, 4, 8):
        torch.manual_seed(nimg)
        batches = [(torch.randn(2, 2, 4, 4), torch.eye(3)[:2]) for _ in range(2)]
        record, told = iterate(plain, nimg, batches), capsys.readouterr().err
        again, line = iterate(other, nimg, batches), capsys.readouterr().err
        assert "compiled" not in told
        assert nimg or "kernels: torch compiled blocks for " in line
        for name, value in record.losses.items():
            assert_near(again.losses[name], value, bound, name=name)
    state = other.state()
    assert [(name, value.shape) for name, value in plain.state().items()] == [(n, v.shape) for n, v in state.items()]
    fresh = make("torch")
    fresh.load({name: value.clone() for name, value in state.items()})
    assert is_copy(fresh.state(), state)
    iterate(fresh, 12, batches)


@needs("transformers")
def test_a_frozen_transformer_in_half_precision_gives_the_same_bits(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda tensor: True))
    net = network("transformer", use_fp16=True, half_dtype="bfloat16").requires_grad_(False)
    stored = copy.deepcopy(net)
    store_half(stored)
    assert {parameter.dtype for parameter in blocks_of(stored)[0].parameters()} == {torch.bfloat16}
    assert stored.final_layer.linear.weight.dtype == torch.float32
    assert all(map(same_bits, with_gradients(stored), with_gradients(net)))
