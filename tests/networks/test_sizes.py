"""The papers' networks have the published numbers of parameters (built without memory, on the meta device)."""

from __future__ import annotations

import pytest
import torch

from sida.networks import build_network

DDPMPP = {"class": "EDMPrecond", "kwargs": {"model_type": "SongUNet", "img_channels": 3, "augment_dim": 9}}
EDM2 = {"XS": (128, 125), "S": (192, 280), "M": (256, 498), "L": (320, 777), "XL": (384, 1119), "XXL": (448, 1523)}


def millions(config, **kwargs):
    with torch.device("meta"):
        net = build_network({"class": config["class"], "kwargs": {**config["kwargs"], **kwargs}})
    return sum(p.numel() for p in net.parameters()) / 1e6


def test_ddpmpp_of_cifar10_and_ffhq():
    # Karras et al. 2022, table 7: 56 and 62 million.
    assert millions(DDPMPP, img_resolution=32, channel_mult=[2, 2, 2]) == pytest.approx(55.7, abs=0.1)
    assert millions(DDPMPP, img_resolution=64, channel_mult=[1, 2, 2, 2]) == pytest.approx(61.8, abs=0.1)


def test_adm_of_imagenet64():
    config = {"class": "EDMPrecond", "kwargs": {"img_channels": 3, "img_resolution": 64, "label_dim": 1000}}
    assert millions(config) == pytest.approx(296, abs=1)


@pytest.mark.parametrize("size", list(EDM2))
def test_edm2_of_imagenet512(size):
    channels, expected = EDM2[size]  # Karras et al. 2024, table 2
    kwargs = {"img_channels": 4, "img_resolution": 64, "label_dim": 1000, "model_channels": channels}
    assert millions({"class": "EDM2Precond", "kwargs": kwargs}) == pytest.approx(expected, rel=0.01)
