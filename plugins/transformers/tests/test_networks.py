"""Transformers: the official networks' numbers, discriminators, label dropout, precision, published sizes."""

import copy
import math

import pytest
import torch

from sida.errors import UserError
from sida.networks import build_network, checkpoint_blocks
from sida.networks.file import network_class
from sida.plugins.transformers.networks import SiTPrecond
from sida.plugins.transformers.states import SIZES
from sida.plugins.transformers.steps import NoiseSteps, linear_betas
from sida.training.teacher import VelocityLoss
from tests.golden.vectors import below, load_tensors
from tests.near import assert_near, same_bits

#: Recorded networks and the suite's classes.
RECORDED = {"sit_sigma": "SiTPrecond", "sit_plain": "SiTPrecond", "repa": "REPAPrecond", "dit_sigma": "DiTPrecond"}
#: SiT's network of the recorded loss and samplers.
TRAINED = {"sit_train_net": "SiTPrecond"}
#: A transformer of 8×8 images that is built in milliseconds.
SMALL = {
    "img_resolution": 8, "img_channels": 4, "label_dim": 7, "hidden_size": 48, "depth": 3, "num_heads": 4,
}  # fmt: skip


def recorded(name, **changes):
    """A recorded network in evaluation mode, and the vectors."""
    arrays, info = load_tensors(f"sit/{name}")
    official = info["kwargs"]
    kwargs = {**SMALL, **{key: official[key] for key in ("hidden_size", "depth", "num_heads", "patch_size")}}
    kwargs |= {"label_dim": official["num_classes"], "learn_sigma": official.get("learn_sigma", False), **changes}
    net = build_network({"class": (RECORDED | TRAINED)[name], "kwargs": kwargs})
    state = below(arrays, "param/")
    net.load_state_dict({key: value for key, value in state.items() if not key.startswith("projectors.")})
    return net.eval(), arrays


def one_hot(net, classes):
    """Labels; that of no class is a row of zeros."""
    return torch.eye(net.label_dim + 1)[classes][:, :-1]


def random_net(cls="SiTPrecond", **changes):
    """A network whose parameters are all normal, in evaluation mode."""
    torch.manual_seed(0)
    net = build_network({"class": cls, "kwargs": {**SMALL, **changes}})
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return net.eval()


def batch(net, n=5):
    rng = torch.Generator().manual_seed(1)
    labels = one_hot(net, torch.arange(n) % (net.label_dim + 1))
    return torch.randn(n, 4, 8, 8, generator=rng), torch.rand(n, generator=rng) * 3 + 0.1, labels


@pytest.mark.parametrize("name", RECORDED | TRAINED)
def test_outputs_equal_those_of_the_official_networks(name):
    net, arrays = recorded(name)
    raw = net.body(arrays["in/x"], arrays["in/t"].float(), one_hot(net, arrays["in/y"]), None, "decoder", None)
    expected = arrays["out/eps_and_variance"][:, :4] if name == "dit_sigma" else arrays["out/velocity"]
    assert_near(raw, expected)


@pytest.mark.parametrize("name", ["sit_sigma", "sit_plain", *TRAINED])
def test_denoised_images_and_gradients_equal_the_official_ones(name):
    net, arrays = recorded(name)
    labels = one_hot(net, arrays["in/y"])
    assert_near(net(arrays["in/x_edm"], arrays["in/sigma"], labels), arrays["out/denoised"])
    x = arrays["in/x"].clone().requires_grad_()
    velocity = net.body(x, arrays["in/t"], labels, None, "decoder", None)
    (velocity * torch.linspace(0.5, 1.5, velocity.numel()).reshape(velocity.shape)).sum().backward()
    assert_near(x.grad, arrays["grad/in_x"])
    _, info = load_tensors(f"sit/{name}")
    found = dict(net.named_parameters())
    norms = torch.stack([found[key].grad.norm() for key in info["grad_norm_names"]])
    assert_near(norms, arrays["grad_norm"])


@pytest.mark.parametrize("name", ["sit_sigma", "sit_plain", "dit_sigma", *TRAINED])
def test_maps_of_blocks_are_the_official_tokens(name):
    net, arrays = recorded(name, feature_blocks=[1, 2, 3], encoder_depth=2)
    given = arrays["in/x"], arrays["in/t"].float(), one_hot(net, arrays["in/y"]), None
    for number, found in enumerate(net.body(*given, "features", None)):
        assert_near(found.flatten(2).transpose(1, 2), arrays[f"out/tokens_{number}"])
    expected = arrays["out/tokens_1"].mean(2).reshape(5, 1, 4, 4)
    assert_near(net.body(*given, "encoder", None), expected)


@pytest.mark.parametrize("name", ["sit_sigma", "sit_plain", "dit_sigma", *TRAINED])
def test_guided_outputs_equal_the_official_ones(name):
    """On the first three channels, and without a class on the second half of the batch."""
    net, arrays = recorded(name)
    x, t, y = (arrays[f"in/guided_{key}"] for key in "xty")
    half = torch.cat([x[: len(x) // 2]] * 2)
    raw = net.body(half, t.float(), one_hot(net, y), None, "decoder", None)
    with_class, without = raw.chunk(2)
    guided = with_class.clone()
    guided[:, :3] = without[:, :3] + 1.5 * (with_class - without)[:, :3]
    assert_near(guided, arrays["out/guided_1.5"][: len(x) // 2, :4])


@pytest.mark.parametrize(("cls", "sign"), [("SiTPrecond", 1), ("REPAPrecond", -1)])
def test_exact_velocities_give_the_clean_image(cls, sign):
    sigma = torch.tensor([0.002, 0.5, 2.5, 80.0]).reshape(-1, 1, 1, 1)
    clean, noise = torch.randn(2, 4, 1, 2, 2)
    c_skip, c_out, c_in, c_noise = network_class({"class": cls}).coefficients(None, sigma)
    noisy, share = clean + sigma * noise, c_noise if sign > 0 else 1 - c_noise
    assert_near(c_skip * noisy + c_out * sign * (clean - noise), clean)
    assert_near(c_in * noisy, share * clean + (1 - share) * noise)


def test_steps_of_levels():
    """Each step's level has its number; between two, the straight line in ln σ or the nearer one."""
    betas = linear_betas(1000, 1e-4, 0.02)
    kept = (1 - betas).cumprod(0)
    levels = ((1 - kept) / kept).sqrt()
    steps, nearest = NoiseSteps(betas), NoiseSteps(betas, "nearest")
    assert (steps.sigma_min, steps.sigma_max) == pytest.approx((0.0100, 157.4), rel=1e-3)
    assert_near(steps(levels.float()), torch.arange(1000.0))
    assert_near(nearest(levels.float()), torch.arange(1000.0))
    between = (levels[400] ** 0.75 * levels[401] ** 0.25).float()
    assert steps(between).item() == pytest.approx(400.25, abs=1e-3)
    assert nearest(between).item() == 400
    assert steps(torch.tensor([0.0, 1e-9, 1e9, math.inf])).tolist() == [0, 0, 999, 999]


@pytest.mark.parametrize("logits", ["maps", "tokens"])
@pytest.mark.parametrize("cls", ["SiTPrecond", "DiTPrecond"])
@torch.no_grad()
def test_partial_passes_are_exact(cls, logits):
    net = random_net(cls, logits=logits, encoder_depth=1)
    x, sigma, labels = batch(net)
    image, judged = net(x, sigma, labels), net(x, sigma, labels, return_flag="encoder")
    assert judged.shape == ((5, 1, 4, 4) if logits == "maps" else (5, 48, 1, 1))
    both = net(x, sigma, labels, return_flag="encoder_decoder")
    few = net(x, sigma, labels, return_flag="encoder_decoder", decode=2)
    assert_near(both[0], image)
    assert_near(both[1], judged)
    assert_near(few[0], image[:2])
    assert_near(few[1], judged)
    shared = net(x, 0.7, labels[:1], return_flag="encoder_decoder", decode=2)
    assert_near(shared[0], net(x, 0.7, labels[:1].expand(5, -1))[:2])


@pytest.mark.parametrize(("depth", "expected"), [(1, 1), (3, 2), (4, 2), (5, 3)])
def test_the_encoder_is_half_of_the_blocks_and_the_middle_one(depth, expected):
    assert random_net(depth=depth).encoder_blocks == expected


def test_encoder_runs_no_block_behind_it():
    net = random_net(encoder_depth=1, feature_blocks=[1, 2])
    net.blocks[2].compute = None
    x, sigma, labels = batch(net)
    assert [tuple(one.shape) for one in net(x, sigma, labels, return_flag="features")] == [(5, 48, 4, 4)] * 2
    net.blocks[1].compute = None
    net(x, sigma, labels, return_flag="encoder")
    with pytest.raises(TypeError):
        net(x, sigma, labels)


@torch.no_grad()
def test_labels_are_dropped_in_the_training_of_a_teacher_alone():
    net = random_net(label_dropout=0.5)
    x, sigma, labels = torch.ones(64, 4, 8, 8), 1.0, torch.eye(7)[[0] * 64]
    known, unknown = net(x[:1], sigma, labels[:1]), net(x[:1], sigma)
    assert_near(net.train()(x, sigma, labels), known.expand(64, -1, -1, -1))
    net.drops_labels = True
    assert_near(net.eval()(x, sigma, labels), known.expand(64, -1, -1, -1))
    drawn = net.train()(x, sigma, labels)
    dropped = (drawn - unknown).abs().amax((1, 2, 3)) < 1e-4
    assert 16 <= dropped.sum() <= 48
    assert_near(drawn[~dropped], known.expand(int((~dropped).sum()), -1, -1, -1))


def test_recomputed_blocks_have_the_same_gradients():
    net = random_net().train()
    other = copy.deepcopy(net)
    checkpoint_blocks(other, "here")
    x, sigma, labels = batch(net)
    for one in (net, other):
        one(x, sigma, labels).square().mean().backward()
    assert same_bits(*([parameter.grad for parameter in one.parameters()] for one in (net, other)))


@torch.no_grad()
def test_half_precision_is_near():
    net = random_net(logits="tokens")
    x, _, labels = batch(net)
    given = torch.full((5,), 0.5), labels, None, "encoder_decoder", None
    exact, half = net.body(x, *given), net.body(x.bfloat16(), *given)
    assert (half[0].dtype, half[1].dtype) == (torch.bfloat16, torch.float32)
    for one, two in zip(exact, half):
        assert_near(two.float(), one, 0.2)


def test_a_new_network_predicts_zero_and_has_the_official_positions():
    net = build_network({"class": "SiTPrecond", "kwargs": SMALL})
    _, arrays = recorded("sit_plain")
    assert_near(net.pos_embed, arrays["param/pos_embed"])
    x, _, labels = batch(net)
    assert not net.body(x, torch.rand(5), labels, None, "decoder", None).any()
    assert "pos_embed" not in dict(net.named_parameters())


@pytest.mark.parametrize(
    ("cls", "size", "sigma", "numbers"),
    [
        ("SiTPrecond", "XL", True, 675_129_632),
        ("DiTPrecond", "XL", True, 675_129_632),
        ("SiTPrecond", "B", False, None),
    ],
)
def test_published_sizes(cls, size, sigma, numbers):
    depth, width, heads = SIZES[size]
    kwargs = {"img_resolution": 32, "img_channels": 4, "label_dim": 1000, "learn_sigma": sigma}
    kwargs |= {"depth": depth, "hidden_size": width, "num_heads": heads}
    with torch.device("meta"):
        state = build_network({"class": cls, "kwargs": kwargs}).state_dict()
    count = sum(tensor.numel() for tensor in state.values())
    # DiT, table 4: 130 million for B/2.
    assert count == numbers if numbers else count == pytest.approx(130e6, rel=0.01)
    assert len(state) == 10 * depth + 12


@pytest.mark.parametrize(
    ("changes", "place", "remedy"),
    [
        ({"img_resolution": 9}, "kwargs.img_resolution", "use one of 2"),
        ({"num_heads": 5}, "kwargs.hidden_size", "use one of 5"),
        ({"encoder_depth": 4}, "kwargs.encoder_depth", "take fewer"),
        ({"feature_blocks": [2, 1]}, "kwargs.feature_blocks", "ascending"),
        ({"feature_blocks": [4]}, "kwargs.feature_blocks", "from 1 to 3"),
        ({"logits": "token"}, "kwargs.logits", "tokens"),
        ({"beta_start": 0.1}, "kwargs.beta_start, beta_end", "rise"),
        ({"beta_end": 0.99}, "kwargs.beta_end", "lower it"),
    ],
)
def test_settings_that_do_not_fit_are_one_line(changes, place, remedy):
    with pytest.raises(UserError, match=place) as error:
        build_network({"class": "DiTPrecond", "kwargs": {**SMALL, **changes}})
    assert remedy in str(error.value)


def test_description_builds_the_same_network():
    net = random_net("DiTPrecond", feature_blocks=[1, 3])
    again = build_network(net.init_config)
    again.load_state_dict(net.state_dict())
    x, sigma, labels = batch(net)
    assert again.init_config == net.init_config
    assert_near(again.eval()(x, sigma, labels), net(x, sigma, labels))
    assert isinstance(random_net(), SiTPrecond)


def test_the_gradient_of_the_velocity_loss_equals_sits():
    """Of SiT's network and the mean over batch and elements; norms of the parameters in the recorded order."""
    net, _ = recorded("sit_train_net")
    arrays, _ = load_tensors("sit/sit_train")
    draws = {"t": 1 - arrays["draw/t"].reshape(-1, 1, 1, 1), "noise": arrays["draw/noise"]}
    VelocityLoss()(net, arrays["in/x1"], one_hot(net, arrays["in/y"]), draws=draws).mean().backward()
    names = load_tensors("sit/sit_train_net")[1]["grad_norm_names"]
    gradients = dict(net.named_parameters())
    found = torch.tensor([float(gradients[name].grad.norm()) for name in names])
    assert_near(found, arrays["grad_norm"])
