"""Whole networks with fused kernels against the same networks without: outputs, logits, gradients, a training.

Also the work that the blocks of a network share, and what frozen networks keep.
"""

import copy

import pytest
import torch
from torch.nn import functional as F

from sida.config.kernels import kernels_in, use_kernels
from sida.methods.sid import SiDALoss
from sida.networks import checkpoint_blocks
from sida.plugins.kernels import fused
from sida.plugins.kernels.fused import convert_frozen_weights
from sida.training.iteration import Distiller
from sida.training.optimizer import FlatParameters
from sida.training.schedule import Schedule
from tests.near import FLOAT32, GRADIENT, assert_near, is_copy, same_bits
from tests.networks.made import config, random_network
from tests.training.toy import iterate, recipe

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SMALL = {"img_resolution": 4, "attn_resolutions": [2], "model_channels": 4, "dropout": 0.0, "use_fp16": False}
ONE_LEVEL = {"channel_mult": [1], "attn_resolutions": []}
#: Changes to the architectures of tests/networks/made.py.
CHANGES = {
    "adm": {"model_channels": 32, "channel_mult": [2], "attn_resolutions": [4]},
    "edm2": {"channel_mult": [1], "attn_resolutions": [4], "clip_act": 2.0, "weight_norm": "off"},
}
#: Triton's interpreter takes seconds for a network; the quick tests run one of them, and each kernel alone.
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("ncsnpp", "edm2", "adm")]


def network(name: str, with_kernels: bool = False, seed: int = 0, **more: object) -> torch.nn.Module:
    net = random_network(*config(name, **{**SMALL, **CHANGES.get(name, {}), **more}).values(), seed).to(DEVICE)
    if with_kernels:
        use_kernels(fused, net)
    return net


def inputs(net: torch.nn.Module) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Two images, which take a gradient, their levels, and their labels."""
    shape = (2, net.img_channels, 4, 4)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(DEVICE).requires_grad_()
    labels = torch.eye(net.label_dim, device=DEVICE)[:2] if net.label_dim else None
    return x, torch.tensor([0.5, 3.0], device=DEVICE), labels


def with_gradients(net, one_level=False):
    """Image and logits of a pass with the same draws each time, and all gradients."""
    torch.manual_seed(3)
    x, sigma, labels = inputs(net)
    outputs = net(x, sigma[:1] if one_level else sigma, labels, return_flag="encoder_decoder")
    learns = [x, *(parameter for parameter in net.parameters() if parameter.requires_grad)]
    gradients = torch.autograd.grad([o.square().sum() for o in outputs], learns, allow_unused=True)
    return [output.detach() for output in outputs], gradients


def assert_all_near(ours, plain, bound=None):
    """Against the largest value of each, or a thousandth of the largest of all; the same ones are missing."""
    largest = max(float(other.abs().max()) for other in plain if other is not None)
    for one, other in zip(ours, plain, strict=True):
        assert (one is None) == (other is None)
        if other is not None:
            assert_near(one, other, bound, scale=max(float(other.abs().max()), largest / 1000))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddpmpp", *SLOW])
def test_fused_network_computes_the_same(name):
    plain, fused = network(name), network(name, True)
    # As a network lays the parameters out.
    FlatParameters(fused, channels_last=True)
    (outputs, gradients), (expected, wanted) = with_gradients(fused), with_gradients(plain)
    assert_all_near(outputs, expected)
    assert_all_near(gradients, wanted, 1e-4)
    assert fused.state_dict().keys() == plain.state_dict().keys()


@pytest.fixture
def half(monkeypatch):
    """Networks compute in half precision on this device, too."""
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda tensor: True))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddpmpp", "adm"])
def test_fused_network_in_half_precision(half, name):
    """Weights are converted together, and their gradients back; one level is shared by the images."""
    plain, fused = network(name, use_fp16=True), network(name, True, use_fp16=True)
    (outputs, gradients), (expected, wanted) = (with_gradients(net, True) for net in (fused, plain))
    assert_all_near(outputs, expected, 2e-2)
    assert_all_near(gradients, wanted, 5e-2)
    assert {gradient.dtype for gradient in gradients if gradient is not None} == {torch.float32}


@pytest.mark.slow
def test_fused_blocks_that_are_computed_again_give_the_same_gradients():
    plain = network("ddpmpp", dropout=0.4, **ONE_LEVEL).train()
    use_kernels(fused, plain)
    again = copy.deepcopy(plain)
    checkpoint_blocks(again, "here")
    assert same_bits(with_gradients(plain)[1], with_gradients(again)[1])


@pytest.mark.slow
def test_fused_training_takes_the_same_steps_and_its_state_fits_either():
    nets = [network("ddpmpp", seed=seed, **ONE_LEVEL) for seed in range(3)]
    options = {"lr": 1e-3, "lambda_adv": 1.0, "grad_clip_value": 1.0, "seed": 1}
    schedule = Schedule(warmup_kimg=0, adversarial_kimg=0)
    make = lambda kernels: Distiller(*copy.deepcopy(nets), SiDALoss(), schedule, recipe(kernels=kernels, **options))
    plain, fused = make("torch"), make("fused")
    batch = (torch.randn(2, 2, 4, 4, device=DEVICE), torch.eye(3, device=DEVICE)[:2])
    records = [iterate(one, 2, [batch]) for one in (plain, fused)]
    for name, value in records[0].losses.items():
        assert_near(records[1].losses[name], value, 2e-3)
    state, other = plain.state(), fused.state()
    assert [(name, value.shape) for name, value in state.items()] == [(n, value.shape) for n, value in other.items()]
    start = torch.cat([p.detach().flatten() for p in nets[1].parameters()])
    moved, also = (one["fake_score/parameters"] - start for one in (state, other))
    assert float((also - moved).norm() / moved.norm()) < 0.2
    # A state goes from one way of computing to the other.
    fresh = make("fused")
    fresh.load({name: value.clone() for name, value in state.items()})
    assert is_copy(fresh.state(), state)


def test_the_optimizer_of_fused_kernels_is_for_every_network():
    nets = [network("ddpmpp", seed=seed, **ONE_LEVEL) for seed in range(3)]
    for net in nets:
        net.fused = False
    schedule = Schedule(warmup_kimg=0, adversarial_kimg=0)
    batch = (torch.randn(2, 2, 4, 4, device=DEVICE), torch.eye(3, device=DEVICE)[:2])
    plain, fast = (
        Distiller(*copy.deepcopy(nets), SiDALoss(), schedule, recipe(kernels=kernels, lr=1e-3, seed=1))
        for kernels in ("torch", "fused")
    )
    records = [iterate(one, 2, [batch]) for one in (plain, fast)]
    assert "compute" not in {name for module in fast.generator.net.modules() for name in vars(module)}
    assert_near(records[1].grad_norms["fake_score"], records[0].grad_norms["fake_score"])
    for name, value in plain.state().items():
        assert_near(fast.state()[name], value, 2e-3, name=name)


@pytest.mark.slow
def test_gradients_of_two_passes_add_up():
    # Gradients that share memory would be added twice.
    net = network("ddpmpp", True, augment_dim=0, **ONE_LEVEL)
    net(*inputs(net)).square().sum().backward()
    first = [parameter.grad.clone() for parameter in net.parameters()]
    net(*inputs(net)).square().sum().backward()
    for parameter, gradient in zip(net.parameters(), first, strict=True):
        assert_near(parameter.grad, 2 * gradient)


@pytest.mark.slow
def test_a_frozen_network_gives_the_same_gradient_without_the_inputs_of_its_convolutions(monkeypatch):
    net, seen = network("ddpmpp", True, label_dim=0, **ONE_LEVEL), []
    x, sigma, _ = inputs(net)
    convolution = F.conv2d
    monkeypatch.setattr(F, "conv2d", lambda x, *rest, **more: seen.append(x) or convolution(x, *rest, **more))
    kept, gradients, places = [], [], set()
    for frozen in (False, True):
        net.requires_grad_(not frozen)
        seen.clear()
        places.clear()
        with torch.autograd.graph.saved_tensors_hooks(lambda t: places.add(t.data_ptr()) or t, lambda t: t):
            y = net(x, sigma)
        # The first and the last convolution are not in blocks.
        kept.append(sum(one.data_ptr() in places for one in seen[1:-1]))
        gradients += torch.autograd.grad(y.square().sum(), x)
    assert kept == [len(seen) - 2, 0]
    assert kept[0] > 0
    assert_near(*gradients, GRADIENT)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddpmpp", "edm2"])
def test_frozen_weights_in_half_precision_give_the_same_image(half, name):
    net = network(name, True, label_dim=0, use_fp16=True, channel_mult=[1]).requires_grad_(False)
    converted = copy.deepcopy(net)
    convert_frozen_weights(converted)
    block = getattr(converted, net.unet_name).dec["4x4_block0"]
    layers = (block.conv_res0, block.conv_res1) if name == "edm2" else (block.conv0, block.conv1)
    assert {layer.weight.dtype for layer in layers} == {torch.float16}
    (outputs, gradients), (expected, wanted) = with_gradients(converted), with_gradients(net)
    assert_all_near(outputs, expected, FLOAT32)
    assert_all_near(gradients, wanted, GRADIENT)


def test_fused_kernels_for_a_while_leave_a_network_as_it_was():
    net = network("ddpmpp")
    attributes = lambda: [dict(vars(module)) for module in net.modules()]
    before = attributes()
    with kernels_in(fused, net):
        within = attributes()
        assert within != before
        with kernels_in(fused, net):
            assert attributes() == within
        assert attributes() == within
    assert attributes() == before
