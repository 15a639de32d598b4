"""Properties of every architecture: exactness of partial decoding, independence of samples, modes, shapes."""

import copy

import pytest
import torch

from sida.errors import UserError
from sida.networks import build_network, checkpoint_blocks
from sida.networks.unet import attend
from tests.near import assert_near, relative_error, same_bits
from tests.networks.made import CONFIGS, config, random_network

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def make(name, **changes):
    return random_network(*config(name, **changes).values(), std=0.2)


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
def test_partial_decoding_is_exact(net):
    """Its gradients: tests/methods/test_recorded.py (``sida_fakescore_disc``), whose official code takes two passes."""
    data = batch(net)
    image, logits = evaluate(net, data, return_flag="encoder_decoder")
    assert (image.shape, logits.shape[:2]) == (data[0].shape, (5, 1))
    assert image.dtype == logits.dtype == torch.float32
    assert min(image.std(), logits.std()) > 0
    assert_near(image, evaluate(net, data))
    for decode in (1, 3, 5):
        part, same = evaluate(net, data, return_flag="encoder_decoder", decode=decode)
        assert_near(part, image[:decode])
        assert_near(same, logits)
    # The encoder's logits take no decoder.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unet_of(net), "dec", None)
        assert_near(logits, evaluate(net, data, return_flag="encoder"))


@torch.no_grad()
def test_inputs_in_other_forms(net):
    x, sigma, labels, augment = data = batch(net)
    image = evaluate(net, data)
    # Other types are computed in float32.
    whole = None if labels is None else labels.long()
    double = net(x.double(), sigma.double(), whole, augment_labels=None if augment is None else augment.double())
    assert double.dtype == torch.float32
    assert_near(double, image)
    # Zero augmentation labels are as good as none, also for a network without such labels.
    zeros = torch.zeros([5, 9]) if augment is None else torch.zeros_like(augment)
    assert_near(net(x, sigma, labels, augment_labels=zeros), net(x, sigma, labels))
    # One level and one row of labels are shared.
    row = None if labels is None else labels[:1]
    expected = net(x, torch.full([5], 0.7), None if labels is None else row.expand(5, -1))
    for shared in (0.7, torch.tensor(0.7), torch.tensor([0.7]), torch.full([5, 1, 1, 1], 0.7)):
        assert_near(net(x, shared, row), expected)
    part, _ = net(x, 0.7, row, return_flag="encoder_decoder", decode=2)
    assert_near(part, expected[:2])


@torch.no_grad()
@pytest.mark.parametrize("name", ["ddpmpp", "adm", "edm2"])
def test_dropout_acts_in_training_only(name):
    fixed = {"weight_norm": "off"} if name == "edm2" else {}
    net, plain = make(name, dropout=0.5, **fixed), make(name, dropout=0.0, **fixed)
    data = batch(net)
    assert_near(evaluate(net, data), evaluate(plain, data))
    assert relative_error(evaluate(net.train(), data), evaluate(plain, data)) > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("name", ["ddpmpp", "adm"])
def test_label_dropout_zeroes_labels_in_the_training_of_a_teacher(name):
    net = make(name, label_dropout=0.5, dropout=0.0)
    x, sigma, labels, _ = batch(net, 1)
    x, sigma, labels = x.expand(64, -1, -1, -1), sigma.expand(64), labels.expand(64, -1)
    with_label, without = net(x[:1], sigma[:1], labels[:1]), net(x[:1], sigma[:1])
    torch.manual_seed(0)
    assert_near(net.train()(x, sigma, labels), with_label.expand(64, -1, -1, -1))
    net.drops_labels = True
    images = net(x, sigma, labels)
    kept = (images - with_label).flatten(1).abs().amax(1) < 1e-4
    dropped = (images - without).flatten(1).abs().amax(1) < 1e-4
    assert bool((kept ^ dropped).all())
    assert 16 <= int(dropped.sum()) <= 48


@pytest.mark.parametrize("name", ["ddpmpp", "ncsnpp", "adm", "edm2"])
def test_a_new_network_is_in_training_mode_and_begins_at_the_skip_path(name):
    net = build_network(config(name))
    assert net.training
    x, sigma, labels, _ = batch(net)
    c_skip = net.coefficients(sigma.reshape(-1, 1, 1, 1))[0]
    with torch.no_grad():
        assert_near(net.eval()(x, sigma, labels), c_skip * x, 1e-3)


def test_initial_scales():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        song, adm = (build_network(config(name, model_channels=64)).model for name in ("ddpmpp", "adm"))
    xavier, kaiming = song.enc["4x4_block0"], adm.enc["4x4_block0"]
    variances = [
        (xavier.conv0, 2 / (9 * (64 + 128))), (xavier.qkv, 0.2 * 2 / (128 + 384)), (kaiming.conv0, 1 / 3 / (9 * 64)),
        (adm.map_label, 1),
    ]  # fmt: skip
    for layer, variance in variances:
        assert layer.weight.std().item() == pytest.approx(variance**0.5, rel=0.03 if variance < 1 else 0.1)
    for layer in (xavier.conv1, song.dec["8x8_aux_conv"]):
        assert 0 < layer.weight.abs().max() < 1e-5
    assert not any(tensor.any() for tensor in (xavier.conv0.bias, kaiming.conv1.weight, adm.out_conv.weight))
    assert kaiming.conv0.bias.any()


@torch.no_grad()
def test_half_precision(net, monkeypatch):
    """float16 is used on CUDA only, which a CPU pretends to be here; parameters, input and output stay float32."""
    half, seen, data = copy.deepcopy(net).to(DEVICE), [], tuple(None if v is None else v.to(DEVICE) for v in batch(net))
    unet_of(half).register_forward_pre_hook(lambda _, args: seen.append(args[0].dtype))
    half.use_fp16 = False
    full = evaluate(half, data, return_flag="encoder_decoder")
    half.use_fp16 = True
    if DEVICE == "cpu":
        assert_near(evaluate(half, data), full[0])
        monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda tensor: True))
    low = evaluate(half, data, return_flag="encoder_decoder")
    assert (seen[0], seen[-1]) == (torch.float32, torch.float16)
    assert {p.dtype for p in half.parameters()} == {torch.float32}
    for one, other in zip(low, full):
        assert one.dtype == torch.float32
        assert float((one - other).norm() / other.norm()) < 0.02


@pytest.mark.parametrize("side", [4, 17])
def test_attention_of_small_and_large_maps_equals_its_definition(side):
    """The order of channels: test_golden.py, whose maps are small."""
    heads = torch.randn([2, 3, 4, 3, side**2], generator=torch.Generator().manual_seed(0))
    query, key, value = heads.double().unbind(3)
    weight = (query.mT @ key / 4**0.5).softmax(dim=-1)
    assert_near(attend(heads), (value @ weight.mT).flatten(1, 2))


# Blocks that compute their activations again


def backward(net):
    """Gradients and weights afterwards, and bytes kept between the passes."""
    torch.manual_seed(5)
    kept = []
    pack = lambda tensor: kept.append(tensor.numel() * tensor.element_size()) or tensor
    x = torch.randn(4, 2, 8, 8, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = net(x, torch.rand(4, 1, 1, 1) + 0.1, torch.eye(3)[[0, 1, 2, 0]]).square().mean()
    loss.backward()
    gradients = [p.grad for p in net.parameters() if p.grad is not None]
    return [x.grad, *gradients, *net.parameters()], sum(kept)


@pytest.mark.parametrize("name", ["ddpmpp", "adm", "edm2"])
@pytest.mark.parametrize("frozen", [False, True])
def test_same_gradients_with_less_memory(name, frozen):
    net = make(name, dropout=0.3, num_blocks=4).train(not frozen).requires_grad_(not frozen)
    other = copy.deepcopy(net)
    checkpoint_blocks(other, "here")
    (plain, much), (again, little) = backward(net), backward(other)
    assert same_bits(plain, again)
    assert little < much / 2
    assert list(other.state_dict()) == list(net.state_dict())


def test_a_network_without_blocks_is_refused():
    with pytest.raises(UserError, match=r"spec\.checkpointing: Linear has no blocks"):
        checkpoint_blocks(torch.nn.Linear(1, 1), "spec.checkpointing")
