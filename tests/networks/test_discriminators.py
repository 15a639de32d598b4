"""Parts of GDD's discriminator: frozen backbones, mixing, heads; and one step of it at its true size."""

import copy
import importlib.util
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch.utils.flop_counter import FlopCounterMode

from sida.config.feature_networks import BACKBONES
from sida.data import load_dataset
from sida.data.load import shuffled_digits
from sida.eval.features import get_extractor
from sida.files.tensors import read_tensors
from sida.methods.gdd import GDDLoss, official_backbones
from sida.networks.discriminators import (
    VGG16BN,
    DeiTBaseDistilled,
    DigitsBackbone,
    EfficientNetLite0,
    Mixing,
    ProjectedDiscriminator,
    make_backbone,
)
from sida.training.optimizer import OptimizedNetwork
from tests.near import assert_near, is_copy, relative_error, same_bits
from tests.plugins import needs
from tests.refused import refused
from tools.train_digits import DigitsTraining, split


@pytest.fixture(scope="module")
def data():
    return load_dataset({"name": "digits", "kind": "digits"})


def digits_discriminator(label_dim=10):
    torch.manual_seed(0)
    return ProjectedDiscriminator([make_backbone("digits", 1, 8)], label_dim)


def test_digits_backbone_shares_no_training_image_with_the_measuring_network(data):
    _, metadata = read_tensors(DigitsBackbone.weights)
    train, others = shuffled_digits().split([metadata["settings"]["images"], 1797 - metadata["settings"]["images"]])
    _, held_out = split(DigitsTraining())
    assert sorted(train.tolist()) == sorted(held_out.tolist())
    assert metadata["dataset_sha256"] == data.sha256
    net = make_backbone("digits", 1, 8)
    with torch.inference_mode():
        logits = net.classifier(net(data.network_input(data.images(others)))[-1])
    accuracy = (logits.argmax(1) == data.class_indices[others]).double().mean().item()
    assert accuracy == pytest.approx(metadata["other_accuracy"], abs=1e-3)
    assert accuracy > 0.95


def test_measured_own_features_are_those_of_the_discriminator(data):
    images = data.images(range(20))
    features = get_extractor("digits_backbone")(images)
    expected = make_backbone("digits", 1, 8)(data.network_input(images))[-1]
    assert_near(features, expected.flatten(1))
    refused("must have shape", get_extractor("digits_backbone"), images.repeat(1, 3, 1, 1))


def test_mixing_is_across_channels_and_from_coarse_to_fine():
    maps = [torch.randn(2, 3, 8, 8), torch.randn(2, 5, 4, 4), torch.randn(2, 7, 2, 2)]
    mixing = Mixing((3, 5, 7), 4)
    mixed = mixing(maps)
    assert [tuple(x.shape[1:]) for x in mixed] == [(4, 16, 16), (4, 8, 8), (8, 4, 4)]
    assert mixing.channels == [4, 4, 8]
    assert not any(parameter.requires_grad for parameter in mixing.parameters())
    coarse = mixing([maps[0], maps[1], maps[2] + 1])
    assert all(relative_error(a, b) > 1e-3 for a, b in zip(mixed, coarse))
    fine = mixing([maps[0] + 1, maps[1], maps[2]])
    assert [same_bits(a, b) for a, b in zip(mixed, fine)] == [False, True, True]


def test_heads_learn_and_frozen_parts_follow_the_module_and_never_change(data):
    """Logits and gradients in numbers: tests/training/test_gdd.py; projections begin with unit weights, as there."""
    net = digits_discriminator().double().train()
    assert {name.partition(".")[0] for name, _ in net.named_parameters()} == {"heads"}
    assert {name.partition(".")[0] for name in net.state_dict()} == {"heads"}
    for head in net.heads[0]:
        assert head.projection.weight.std().item() == pytest.approx(1, abs=0.02)
        assert not head.projection.bias.any()
    before = copy.deepcopy([part.state_dict() for part in net._frozen])
    images, labels = data.network_input(data.images(range(6))).double(), data.labels(torch.arange(6)).double()
    (logits,) = net(images.requires_grad_(), labels)
    # Three heads end in maps of 4 × 4 and judge patches of 2 × 2.
    assert (logits.shape, logits.dtype) == ((6, 3 * 3 * 3), torch.float64)
    assert digits_discriminator(0)(images.float(), None)[0].shape == logits.shape
    logits.square().mean().backward()
    assert images.grad.flatten(1).norm(dim=1).min() > 0
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in net.heads.parameters())
    for part, state in zip(net._frozen, before):
        assert all(p.grad is None for p in part.parameters())
        assert not any(module.training for module in part.modules())
        assert is_copy(part.state_dict(), state)


@needs("judges")
@pytest.mark.parametrize(
    ("name", "channels", "size", "fitting"),
    [
        ("vgg16_bn", 1, 8, "digits or lite0_package"),
        ("digits", 3, 32, "vgg16_bn or efficientnet_lite0"),
        ("digits", 1, 16, "lite0_package"),
        ("vgg16_bn", 1, 28, "lite0_package or clothes"),
    ],
)
def test_a_backbone_that_does_not_fit_names_those_that_do(name, channels, size, fitting):
    refused(rf"options\.backbones: .*these name {fitting}", make_backbone, name, channels, size)


@pytest.mark.parametrize("name", ["vgg16_bn", "efficientnet_lite0"])
def test_missing_package_is_one_line(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setitem(sys.modules, "torchvision.models.vgg", None)
    refused("is not installed; make setup", make_backbone, name, 3, 32)


# Backbones of ImageNet at their true size, with random weights

needs_timm = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="needs timm")
CLASSES = {"vgg16_bn": VGG16BN, "efficientnet_lite0": EfficientNetLite0, "deit_base_distilled": DeiTBaseDistilled}
#: Channels and sizes of the maps.
MAPS = {
    "vgg16_bn": [(128, 112), (256, 56), (512, 28), (512, 14)],
    "efficientnet_lite0": [(24, 56), (40, 28), (112, 14), (320, 7)],
    "deit_base_distilled": [(96, 56), (192, 28), (384, 14), (768, 7)],
}


def sizes(maps):
    return [(x.shape[1], x.shape[2]) for x in maps]


@needs_timm
@pytest.mark.slow
@pytest.mark.parametrize(("resolution", "label_dim"), [(32, 10), (64, 0)])
def test_whole_discriminator_takes_a_step_at_true_size(resolution, label_dim):
    torch.manual_seed(1)
    names = official_backbones(resolution)
    backbones = [CLASSES[name]().eval().requires_grad_(False) for name in names]
    images = torch.rand(1, 3, resolution, resolution) * 2 - 1
    for name, net in zip(names, backbones):
        assert sizes(net(images)) == MAPS[name]
    judge = OptimizedNetwork(ProjectedDiscriminator(backbones, label_dim), 1e-4, (0.0, 0.99), 1e-8)
    labels = torch.eye(10)[:1] if label_dim else None
    loss, before = GDDLoss(r1_gamma=1.0), judge.flat.vector.clone()
    judge.set_training(True)
    # The penalty goes twice through the backbones.
    loss.r1_penalty(judge.net, images, labels).mean().backward()
    loss.generator_loss(judge.net, images.flip(3), labels).backward()
    report = judge.step(1.0)
    assert report.norm > 0
    assert report.replaced == 0
    assert not is_copy(judge.flat.vector, before)
    # Maps of 7 × 7 give 4 × 4 patches for each of four heads; VGG's are twice as wide, 14 × 14 and 11 × 11.
    patches = {"vgg16_bn": 4 * 121, "efficientnet_lite0": 4 * 16, "deit_base_distilled": 4 * 16}
    assert [x.shape for x in judge.net(images, labels)] == [(1, patches[name]) for name in names]


@needs_timm
@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in BACKBONES if name != "lite0_package"])
def test_plans_have_the_operations_of_each_backbone(name):
    entry = BACKBONES[name]
    cls = entry.load()
    channels, side, loss = cls.image_channels or 3, cls.resolution or 32, GDDLoss()
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        judge = ProjectedDiscriminator([cls().eval().requires_grad_(False)], 10)
        images, labels = torch.empty(1, channels, side, side), torch.empty(1, 10)
        loss.discriminator_loss(judge, images, images, labels).backward()
        loss.generator_loss(judge.requires_grad_(False), images.requires_grad_(), labels).backward()
    assert counter.get_total_flops() / 1e9 == pytest.approx(entry.gflop, rel=0.02)


@needs_timm
def test_weights_of_another_network_are_one_line(tmp_path, monkeypatch):
    path = tmp_path / "other.safetensors"
    save_file({"conv_stem.weight": torch.zeros(1)}, path)
    monkeypatch.setattr("sida.networks.discriminators.fetch", lambda asset: path)
    told = "does not hold this backbone's weights .*; fetch it again"
    refused(told, make_backbone, "efficientnet_lite0", 3, 32)


@needs_timm
def test_published_weights_are_read_from_their_files(tmp_path, monkeypatch):
    """A network saved as its publishers save it, under the names of torchvision and timm, gives its own maps."""
    import timm
    from torchvision.models.vgg import cfgs, make_layers

    torch.manual_seed(2)
    images = torch.rand(1, 3, 32, 32) * 2 - 1
    lite = timm.create_model("tf_efficientnet_lite0")
    vgg = torch.nn.Module()
    vgg.features = make_layers(cfgs["D"], batch_norm=True)
    files = {"backbone-vgg16-bn": tmp_path / "v.pth", "backbone-efficientnet-lite0": tmp_path / "l.safetensors"}
    # The published file is older than the counters of batches.
    torch.save({k: v for k, v in vgg.state_dict().items() if "num_batches" not in k}, files["backbone-vgg16-bn"])
    save_file(lite.state_dict(), files["backbone-efficientnet-lite0"])
    monkeypatch.setattr("sida.networks.discriminators.fetch", lambda asset: files[asset])
    with torch.no_grad():
        large = torch.nn.functional.interpolate(images, 224, mode="bilinear")
        made = make_backbone("efficientnet_lite0", 3, 32)(images)
        stem = lite.eval().bn1(lite.conv_stem(large))
        assert sizes(made) == MAPS["efficientnet_lite0"]
        assert_near(made[-1], lite.blocks(stem))
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        made = make_backbone("vgg16_bn", 3, 32)(images)
        expected = vgg.eval().features[:43]((((large + 1) / 2) - mean) / std)
        assert sizes(made) == MAPS["vgg16_bn"]
        assert_near(made[-1], expected)
