"""Judges over timm: the input and the features of FD-Loss's wrapper and of CMMD, with re-made weights."""

import zlib

import numpy as np
import pytest
import timm
import torch

from sida.config.feature_networks import network_of
from sida.data.pictures import to_square
from sida.eval.features import EXTRACTORS, get_extractor
from sida.plugins.judges.judges import MAEFDr
from tests.golden.vectors import load
from tests.near import assert_near
from tests.refused import refused

JUDGES = [name for name, entry in EXTRACTORS.items() if entry.object.startswith("sida.plugins.judges.judges:")]
SMALL = {
    "vit": {"embed_dim": 32, "depth": 1, "num_heads": 2},
    "convnext": {"depths": (1, 1, 1, 1), "dims": (8, 8, 8, 16)},
}


@pytest.fixture
def small(monkeypatch):
    """The true architectures with a few narrow layers."""
    create = timm.create_model

    def smaller(name, **kwargs):
        return create(name, **kwargs, **SMALL[name.split("_")[0].rstrip("v2")])

    monkeypatch.setattr(timm, "create_model", smaller)


def sampled(tensor):
    """The recorded part of an input, by name."""
    rows = np.asarray(tensor, dtype=np.float64)
    stats = np.stack([rows.mean((1, 2)), rows.std((1, 2)), rows.min((1, 2)), rows.max((1, 2))])
    return {"grid": rows[:, 3::17, 3::17], "row": rows[:, rows.shape[1] // 3, ::3], "stats": stats}


@pytest.mark.parametrize("picture", [0, 1, 2, 3])
@pytest.mark.parametrize("name", JUDGES)
def test_a_picture_becomes_the_input_of_the_public_code(small, name, picture):
    from PIL import Image

    found, _ = load("measures/images")
    images = found[f"in/{picture}"]
    where = "cmmd_clip336" if name == "clip_cmmd" else f"fdloss_{name.removesuffix('_fdr')}"
    if name != "clip_cmmd":  # files of other sizes go through ADM's centre crop first
        square = to_square(Image.fromarray(images), "center-crop-dhariwal", 256, 3)
        images = np.asarray(square)
    given = torch.from_numpy(np.ascontiguousarray(images)).permute(2, 0, 1)[None]
    for part, value in sampled(get_extractor(name, weights="random").inputs(given)[0]).items():
        expected = found[f"out/{picture}/{where}/{part}"]
        assert value == pytest.approx(expected, abs=2e-5), part


@pytest.mark.parametrize("name", JUDGES)
def test_features_have_the_size_and_the_gradient_that_the_judge_says(small, name):
    extractor = get_extractor(name, weights="random")
    images = torch.randint(0, 256, (2, 1, 40, 40), dtype=torch.uint8)
    assert extractor(images).shape == (2, extractor.num_features)
    assert len(extractor.sha256) == 64
    if extractor.gradient:
        moved = images.float().requires_grad_()
        extractor.differentiable(moved)[:, 0].sum().backward()
        assert moved.grad.abs().sum() > 0
    assert network_of(name) in name


def test_weights_of_another_network_are_refused(small, tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "w.safetensors")
    refused("not the weights of 'mae_fdr'", get_extractor, "mae_fdr", weights=str(tmp_path / "w.safetensors"))
    refused("not the weights of 'mae_fdr'", get_extractor, "mae_fdr", weights=str(tmp_path / "none.safetensors"))
    net = timm.create_model(MAEFDr.model, num_classes=0)
    save_file(net.state_dict(), tmp_path / "right.safetensors")
    assert get_extractor("mae_fdr", weights=str(tmp_path / "right.safetensors")).num_features == 32


def refill(net):
    """Gives a network the weights of the recording, by the names of its parameters."""
    for name, parameter in net.named_parameters():
        shape = tuple(parameter.shape)
        z = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, np.float32)
        if any(word in name for word in ("pos_embed", "cls_token", "reg_token", "latent", "probe")):
            z = 0.02 * z
        elif len(shape) >= 2 and "grn" not in name:
            z = z / np.sqrt(np.prod(shape[1:]))
        else:
            z = 1 + 0.1 * z if name.endswith(("weight", "gamma")) else 0.1 * z
        parameter.data = torch.from_numpy(np.asarray(z, np.float32))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["convnext_fdr", "mae_fdr"])
def test_features_of_the_true_architectures(name):
    """Two of the five recorded networks; the others differ from MAE's in width and pooling, and take gigabytes."""
    found, _ = load("measures/fdloss")
    pictures, _ = load("measures/images")
    extractor = get_extractor(name, weights="random")
    refill(extractor._net)
    images = torch.from_numpy(pictures["in/3"]).permute(2, 0, 1)[None]
    features = extractor(images)[0].numpy()
    expected = found[f"out/{name.removesuffix('_fdr')}/3/first"]
    assert_near(features, expected, 2e-4)
