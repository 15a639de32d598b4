"""Properties of every architecture: exactness of partial decoding, independence of samples, modes, shapes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional as F

from sida.errors import UserError
from sida.networks import build_network
from sida.networks.edm_unet import Conv2d, Init
from sida.networks.unet import attend, checkpoint_blocks, split_heads
from tests.networks.made import random_network

SONG = {"img_resolution": 8, "img_channels": 2, "model_type": "SongUNet", "model_channels": 8, "channel_mult": [1, 2],
        "num_blocks": 1, "attn_resolutions": [4]}  # fmt: skip
NCSN = {**SONG, "embedding_type": "fourier", "channel_mult_noise": 2, "resample_filter": [1, 3, 3, 1]}
CONFIGS = {
    "ddpmpp": ("EDMPrecond", {**SONG, "label_dim": 3, "augment_dim": 9}),
    "ncsnpp": ("EDMPrecond", {**NCSN, "encoder_type": "residual", "augment_dim": 4}),
    "vp": ("VPPrecond", {**SONG, "label_dim": 3}),
    "ve": ("VEPrecond", {**NCSN, "encoder_type": "residual"}),
    "adm": (
        "EDMPrecond",
        {"img_resolution": 8, "img_channels": 2, "model_type": "DhariwalUNet", "model_channels": 64, "augment_dim": 9,
         "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [4], "label_dim": 3, "channel_mult_emb": 1},
    ),
    "edm2": (
        "EDM2Precond",
        {"img_resolution": 8, "img_channels": 2, "model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1,
         "attn_resolutions": [4], "channels_per_head": 4, "label_dim": 3, "logvar_channels": 8},
    ),
    "edm2_filter": (
        "EDM2Precond",
        {"img_resolution": 8, "img_channels": 2, "model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1,
         "attn_resolutions": [], "resample_filter": [1, 3, 3, 1], "clip_act": None, "weight_norm": "off",
         "channel_mult_noise": 2, "channel_mult_emb": 3},
    ),
}  # fmt: skip


def make(name, **changes):
    cls, kwargs = CONFIGS[name]
    return random_network(cls, {**kwargs, **changes}, std=0.2)


@pytest.fixture(scope="module", params=list(CONFIGS))
def net(request):
    return make(request.param)


def unet_of(net):
    return getattr(net, net.unet_name)


def batch(net, n=5, seed=0):
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn([n, net.img_channels, net.img_resolution, net.img_resolution], generator=rng)
    sigma = torch.rand([n], generator=rng) + 0.1
    labels = torch.eye(net.label_dim)[torch.arange(n) % net.label_dim] if net.label_dim else None
    width = unet_of(net).augment_dim
    augment = torch.rand([n, width], generator=rng) if width else None
    return x, sigma, labels, augment


def evaluate(net, data, rows=slice(None), **kwargs):
    x, sigma, labels, augment = (None if v is None else v[rows] for v in data)
    return net(x, sigma, labels, augment_labels=augment, **kwargs)


@torch.no_grad()
def test_flags_agree(net):
    data = batch(net)
    image, logits = evaluate(net, data, return_flag="encoder_decoder")
    assert torch.equal(image, evaluate(net, data))
    # The encoder's logits take no decoder.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unet_of(net), "dec", None)
        assert torch.equal(logits, evaluate(net, data, return_flag="encoder"))
    assert image.shape == data[0].shape
    assert image.dtype == logits.dtype == torch.float32
    assert logits.shape[:2] == (5, 1)
    assert image.std() > 0
    assert logits.std() > 0


@pytest.mark.parametrize("decode", [1, 3, 5])
@torch.no_grad()
def test_partial_decoding_is_exact(net, decode):
    data = batch(net)
    full, all_logits = evaluate(net, data, return_flag="encoder_decoder")
    part, logits = evaluate(net, data, return_flag="encoder_decoder", decode=decode)
    torch.testing.assert_close(part, full[:decode], rtol=1e-5, atol=2e-6)
    assert torch.equal(logits, all_logits)


def test_partial_decoding_has_the_gradients_of_two_passes(net):
    fake, real = batch(net, 3, seed=1), batch(net, 3, seed=2)
    joint = [None if a is None else torch.cat([a, b]) for a, b in zip(fake, real)]
    names, parameters = zip(*net.named_parameters())
    parameters = list(parameters)

    image, logits = evaluate(net, joint, return_flag="encoder_decoder", decode=3)
    one = torch.autograd.grad(image.square().mean() + logits.sin().mean(), parameters, allow_unused=True)
    image, fake_logits = evaluate(net, fake, return_flag="encoder_decoder")
    real_logits = evaluate(net, real, return_flag="encoder")
    total = image.square().mean() + (fake_logits.sin().mean() + real_logits.sin().mean()) / 2
    two = torch.autograd.grad(total, parameters, allow_unused=True)
    for name, a, b in zip(names, one, two):
        assert (a is None) == (b is None), name
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * float(b.abs().max()) + 1e-9, msg=name)


@torch.no_grad()
def test_one_sigma_and_one_label_row_are_shared(net):
    x, _, labels, augment = batch(net)
    row = None if labels is None else labels[:1]
    rows = None if labels is None else row.expand(5, -1)
    expected = net(x, torch.full([5], 0.7), rows, augment_labels=augment)
    for sigma in (0.7, torch.tensor(0.7), torch.tensor([0.7]), torch.full([5, 1, 1, 1], 0.7)):
        torch.testing.assert_close(net(x, sigma, row, augment_labels=augment), expected, rtol=1e-5, atol=2e-6)
    part, _ = net(x, 0.7, row, augment_labels=augment, return_flag="encoder_decoder", decode=2)
    torch.testing.assert_close(part, expected[:2], rtol=1e-5, atol=2e-6)


@torch.no_grad()
def test_zero_augment_labels_are_as_good_as_none(net):
    x, sigma, labels, augment = batch(net)
    zeros = torch.zeros([5, 9]) if augment is None else torch.zeros_like(augment)
    assert torch.equal(net(x, sigma, labels, augment_labels=zeros), net(x, sigma, labels))


@torch.no_grad()
@pytest.mark.parametrize("name", ["ddpmpp", "adm", "edm2"])
def test_dropout_acts_in_training_only(name):
    fixed = {"weight_norm": "off"} if name == "edm2" else {}
    net, plain = make(name, dropout=0.5, **fixed), make(name, dropout=0.0, **fixed)
    data = batch(net)
    assert torch.equal(evaluate(net, data), evaluate(plain, data))
    torch.manual_seed(0)
    first = evaluate(net.train(), data)
    second = evaluate(net, data)
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(evaluate(net, data), first)
    assert torch.equal(evaluate(plain.train(), data), evaluate(plain.eval(), data))


@torch.no_grad()
@pytest.mark.parametrize("name", ["ddpmpp", "adm"])
def test_label_dropout_zeroes_labels_in_training(name):
    net = make(name, label_dropout=0.5, dropout=0.0)
    x, sigma, labels, _ = batch(net, 1)
    x, sigma, labels = x.expand(64, -1, -1, -1), sigma.expand(64), labels.expand(64, -1)
    with_label, without = net(x[:1], sigma[:1], labels[:1]), net(x[:1], sigma[:1])
    torch.manual_seed(0)
    images = net.train()(x, sigma, labels)
    kept = (images - with_label).flatten(1).abs().amax(1) < 1e-4
    dropped = (images - without).flatten(1).abs().amax(1) < 1e-4
    assert bool((kept ^ dropped).all())
    assert 16 <= int(dropped.sum()) <= 48
    assert torch.allclose(net.eval()(x, sigma, labels), with_label.expand(64, -1, -1, -1), atol=1e-5)


@pytest.mark.parametrize("name", ["ddpmpp", "ncsnpp", "adm", "edm2"])
def test_initialisation_is_seeded_and_begins_at_the_skip_path(name):
    cls, kwargs = CONFIGS[name]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = build_network({"class": cls, "kwargs": kwargs})
        torch.manual_seed(1)
        again = build_network({"class": cls, "kwargs": kwargs})
    assert all(torch.equal(p, q) for p, q in zip(net.state_dict().values(), again.state_dict().values()))
    assert net.training
    x, sigma, labels, _ = batch(net)
    c_skip = net.coefficients(sigma.reshape(-1, 1, 1, 1))[0]
    with torch.no_grad():
        torch.testing.assert_close(net.eval()(x, sigma, labels), c_skip * x, rtol=1e-3, atol=1e-3)


def test_initial_scales():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        song = build_network({"class": "EDMPrecond", "kwargs": {**SONG, "model_channels": 64}}).model
        adm = build_network({"class": "EDMPrecond", "kwargs": CONFIGS["adm"][1]}).model
    block = song.enc["4x4_block0"]
    conv = block.conv0.weight  # Xavier: variance 2/(fan_in + fan_out)
    assert conv.std().item() == pytest.approx((2 / (9 * (64 + 128))) ** 0.5, rel=0.02)
    assert not block.conv0.bias.any()
    assert 0 < block.conv1.weight.abs().max() < 1e-5
    assert 0 < song.dec["8x8_aux_conv"].weight.abs().max() < 1e-5
    assert block.qkv.weight.std().item() == pytest.approx((0.2 * 2 / (128 + 384)) ** 0.5, rel=0.03)
    block = adm.enc["4x4_block0"]
    assert block.conv0.weight.std().item() == pytest.approx((1 / 3 / (9 * 64)) ** 0.5, rel=0.02)  # Kaiming, 1/3
    assert block.conv0.bias.any()
    assert not block.conv1.weight.any()
    assert not adm.out_conv.weight.any()
    assert adm.map_label.weight.std().item() == pytest.approx(1, rel=0.1)


def test_preconditioning_of_vp_and_ve():
    sigma = torch.tensor([0.01, 0.5, 3.0, 50.0])
    vp, ve = make("vp"), make("ve")
    torch.testing.assert_close(vp.sigma(vp.sigma_inv(sigma)), sigma, rtol=1e-4, atol=1e-5)
    assert vp.sigma_max == pytest.approx(152.17, abs=0.01)
    assert 0 < vp.sigma_min < 0.002
    assert vp.coefficients(torch.tensor(vp.sigma_max))[3].item() == pytest.approx(999, rel=1e-4)
    x = torch.zeros([1, 2, 8, 8])
    with torch.no_grad():
        raw = ve.model(x, (0.5 * sigma[2:3]).log())
        torch.testing.assert_close(ve(x, sigma[2:3]), 3 * raw)
    assert (ve.sigma_min, ve.sigma_max) == (0.02, 100)


@torch.no_grad()
def test_logvar_is_appended():
    net = make("edm2")
    data = batch(net)
    image, logits, logvar = evaluate(net, data, return_flag="encoder_decoder", decode=2, return_logvar=True)
    assert (image.shape[0], logits.shape[0], logvar.shape) == (2, 5, (5, 1, 1, 1))
    only_logits, same = evaluate(net, data, return_flag="encoder", return_logvar=True)
    assert torch.equal(only_logits, logits)
    assert torch.equal(same, logvar)
    assert evaluate(copy.deepcopy(net), data, return_logvar=True)[1].equal(logvar)


@torch.no_grad()
def test_half_precision(net):
    """float16 is used on CUDA only; the U-Net itself follows the dtype of its input, its parameters stay float32."""
    half = build_network({**net.init_config, "kwargs": {**net.init_config["kwargs"], "use_fp16": True}}).eval()
    half.load_state_dict(net.state_dict())
    x, sigma, labels, augment = data = batch(net)
    assert torch.equal(evaluate(half, data), evaluate(net, data))
    unet = unet_of(net)
    noise = sigma.log() / 4
    image, logits = unet(x, noise, labels, augment, return_flag="encoder_decoder")
    low, low_logits = unet(x.half(), noise, labels, augment, return_flag="encoder_decoder")
    assert (low.dtype, low_logits.dtype) == (torch.float16, torch.float32)
    assert {p.dtype for p in unet.parameters()} == {torch.float32}
    assert float((low.float() - image).norm() / image.norm()) < 0.01
    assert float((low_logits - logits).norm() / logits.norm()) < 0.01


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@torch.no_grad()
def test_half_precision_on_cuda(net):
    config = {**net.init_config, "kwargs": {**net.init_config["kwargs"], "use_fp16": True}}
    half = build_network(config).eval().cuda()
    half.load_state_dict(net.state_dict())
    data = tuple(None if v is None else v.cuda() for v in batch(net))
    seen = []
    unet_of(half).register_forward_pre_hook(lambda _, args: seen.append(args[0].dtype))
    low = evaluate(half, data)
    half.use_fp16 = False
    full = evaluate(half, data)
    assert seen == [torch.float16, torch.float32]
    assert low.dtype == full.dtype == torch.float32
    assert float((low - full).norm() / full.norm()) < 0.02


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("side", [4, 17])
def test_attention_of_small_and_large_maps_equals_its_definition(heads, side):
    torch_rng = torch.Generator().manual_seed(0)
    qkv = torch.randn([2, 3 * 8, side, side], generator=torch_rng)
    found = attend(split_heads(qkv, heads)).reshape(2, heads, 8 // heads, side**2)
    for n in range(2):
        for head in range(heads):
            q, k, v = (qkv[n, head * 24 // heads :][i : 24 // heads : 3].flatten(1) for i in range(3))
            weight = (q.T @ k / (8 // heads) ** 0.5).softmax(dim=1)
            torch.testing.assert_close(found[n, head], v @ weight.T, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("taps", [(1, 1), (1, 3, 3, 1), (1, 3, 5, 5, 3, 1)])
@pytest.mark.parametrize("kernel", [0, 1, 3])
@pytest.mark.parametrize("direction", ["up", "down"])
def test_resampling_convolution_equals_its_definition(taps, kernel, direction):
    """The short cuts (pooling, repetition, 1×1 before the filter, scaled weights) against filter, then convolution."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        conv = Conv2d(3, 5 if kernel else 3, kernel, Init(bias=1.0), direction, taps)
        x = torch.randn(2, 3, 6, 6)
    line = torch.tensor(taps, dtype=torch.float32) / sum(taps)
    filt = torch.outer(line, line).expand(3, 1, -1, -1)
    pad = (len(taps) - 1) // 2
    if direction == "up":
        expected = F.conv_transpose2d(x, filt * 4, stride=2, padding=pad, groups=3)
    else:
        expected = F.conv2d(x, filt, stride=2, padding=pad, groups=3)
    if kernel:
        expected = F.conv2d(expected, conv.weight, conv.bias, padding=kernel // 2) * 0.5
        torch.testing.assert_close(conv(x, 0.5), expected, rtol=1e-5, atol=1e-5)
    else:
        torch.testing.assert_close(conv(x), expected, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_inputs_of_other_types_are_computed_in_float32(net):
    data = batch(net)
    x, sigma, labels, augment = (None if v is None else v.double() for v in data)
    labels = None if labels is None else labels.long()
    image = net(x, sigma, labels, augment_labels=augment)
    assert image.dtype == torch.float32
    assert torch.equal(image, evaluate(net, data))


# Blocks that compute their activations again


CHECKPOINTED = {
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


@pytest.mark.parametrize("name", CHECKPOINTED)
@pytest.mark.parametrize("frozen", [False, True])
def test_same_gradients_with_less_memory(name, frozen):
    torch.manual_seed(0)
    net = build_network(CHECKPOINTED[name])
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
