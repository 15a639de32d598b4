"""Backbones of ImageNet at their true size, with random weights: shapes, and one step of the whole discriminator."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from sida.config.families import BACKBONES, LARGE, SMALL, official_backbones
from sida.errors import UserError
from sida.methods.gdd import GDDLoss
from sida.networks.backbones import make_backbone
from sida.networks.discriminators import ProjectedDiscriminator
from sida.training.optimizer import OptimizedNetwork

pytestmark = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="needs timm")
WIDTHS = {
    "vgg16_bn": [(128, 112), (256, 56), (512, 28), (512, 14)],
    "efficientnet_lite0": [(24, 56), (40, 28), (112, 14), (320, 7)],
    "deit_base_distilled": [(96, 56), (192, 28), (384, 14), (768, 7)],
}


@pytest.fixture(scope="module")
def backbones():
    torch.manual_seed(0)
    made = {}

    def get(name):
        if name not in made:
            made[name] = make_backbone(name, "random", 3, 32)
        return made[name]

    return get


@pytest.mark.parametrize(
    "name", ["vgg16_bn", *(pytest.param(name, marks=pytest.mark.slow) for name in list(WIDTHS)[1:])]
)
def test_maps_halve_from_one_to_the_next(backbones, name):
    net = backbones(name)
    with torch.inference_mode():
        maps = net(torch.zeros(1, 3, 32, 32))
    assert [(x.shape[1], x.shape[2]) for x in maps] == WIDTHS[name]
    assert not any(parameter.requires_grad for parameter in backbones(name).parameters())


def test_official_pairs():
    assert (official_backbones(32), official_backbones(64)) == (SMALL, LARGE)
    assert {*SMALL, *LARGE} == {name for name, asset in BACKBONES.items() if asset}


@pytest.mark.slow
@pytest.mark.parametrize(("resolution", "label_dim"), [(32, 10), (64, 0)])
def test_whole_discriminator_takes_a_step_at_true_size(backbones, resolution, label_dim):
    torch.manual_seed(1)
    names = official_backbones(resolution)
    judge = OptimizedNetwork(ProjectedDiscriminator([backbones(name) for name in names], label_dim), 1e-4, (0.0, 0.99))
    images = torch.rand(1, 3, resolution, resolution) * 2 - 1
    labels = torch.eye(10)[:1] if label_dim else None
    loss, before = GDDLoss(r1_gamma=1.0), judge.flat.vector.clone()
    judge.train()
    seen = []

    def judged(*given):
        seen.append(judge.net(*given))
        return seen[-1]

    # The penalty goes twice through the backbones.
    loss.r1_penalty(judged, images, labels).mean().backward()
    loss.generator_loss(judged, images.flip(3), labels).backward()
    report = judge.step()
    assert report.norm > 0
    assert report.replaced == 0
    assert not torch.equal(judge.flat.vector, before)
    # Maps of 7 × 7 give 4 × 4 patches for each of four heads; VGG's are twice as wide, 14 × 14 and 11 × 11.
    patches = {"vgg16_bn": 4 * 121, "efficientnet_lite0": 4 * 16, "deit_base_distilled": 4 * 16}
    assert [x.shape for x in seen[0]] == [(1, patches[name]) for name in names]
    # A state holds the heads, their moments and little more; nothing of the backbones.
    heads = sum(p.numel() for p in judge.net.heads.parameters())
    assert 2 * heads <= sum(value.numel() for value in judge.state().values()) < 2.01 * heads


def test_weights_of_another_network_are_one_line(backbones, tmp_path, monkeypatch):
    from safetensors.torch import save_file

    path = tmp_path / "other.safetensors"
    save_file({"conv_stem.weight": torch.zeros(1)}, path)
    monkeypatch.setattr("sida.networks.backbones.fetch", lambda asset: path)
    with pytest.raises(UserError, match=r"does not hold this backbone's weights .*; fetch it again"):
        make_backbone("efficientnet_lite0", "published", 3, 32)


def test_published_weights_are_read_from_their_files(tmp_path, monkeypatch):
    """A network saved as its publishers save it, under the names of torchvision and timm, gives its own maps."""
    import timm
    from safetensors.torch import save_file
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
    monkeypatch.setattr("sida.networks.backbones.fetch", lambda asset: files[asset])
    with torch.no_grad():
        large = torch.nn.functional.interpolate(images, 224, mode="bilinear")
        made = make_backbone("efficientnet_lite0", "published", 3, 32)(images)
        stem = lite.eval().bn1(lite.conv_stem(large))
        assert torch.allclose(made[-1], lite.blocks(stem), atol=1e-4)
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        made = make_backbone("vgg16_bn", "published", 3, 32)(images)
        expected = vgg.eval().features[:43]((((large + 1) / 2) - mean) / std)
        assert torch.allclose(made[-1], expected, atol=1e-4 * float(expected.abs().max()))
