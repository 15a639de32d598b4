"""Wrong configurations and wrong inputs: one clear line that names the place."""

from __future__ import annotations

import pytest
import torch

from sida.networks import build_network
from tests.networks import made
from tests.refused import refused

SMALL = {**made.SMALL, "augment_dim": 9}


def config(cls="EDMPrecond", **changes):
    return {"class": cls, "kwargs": {**SMALL, **changes}}


def edm2(**changes):
    sizes = {"img_resolution": 8, "img_channels": 1, "model_channels": 8, "channel_mult": [1], "num_blocks": 1}
    return {"class": "EDM2Precond", "kwargs": {**sizes, **changes}}


@pytest.mark.parametrize(
    ("bad", "place", "word"),
    [
        (None, "here", "'class' and 'kwargs'"),
        (config("EDMPrecnd"), "here.class", "did you mean 'EDMPrecond'?"),
        ({"class": "EDMPrecond", "kwargs": {"img_channels": 1}}, "here.kwargs.img_resolution", "missing"),
        (config(model_chanels=3), "here.kwargs.model_chanels", "did you mean 'model_channels'?"),
        (config(channel_mult=[1, "2"]), "here.kwargs.channel_mult[1]", "integer"),
        (config(num_blocks=0), "here.kwargs.num_blocks", "between 1 and 64"),
        (config(sigma_data=float("inf")), "here.kwargs.sigma_data", "finite"),
        (config(channel_mult=[1, 1, 1, 1, 1]), "here.kwargs.img_resolution", "multiple of 16"),
        (config(model_channels=37), "here.kwargs.model_channels, channel_mult", "multiples of 4"),
        (config(model_type="DhariwalUNet", model_channels=224), "here.kwargs.model_channels, channel_mult", "of 64"),
        (edm2(model_channels=200), "here.kwargs.model_channels, channel_mult", "of 64"),
        (config(half_dtype="float64"), "here.kwargs.half_dtype", "bfloat16"),
        (config("EDM2Precond"), "here.kwargs.model_type", "unknown key"),
        (edm2(weight_norm="sometimes"), "here.kwargs.weight_norm", "off, in_forward, pre_hook, always"),
    ],
)
def test_bad_configurations(bad, place, word):
    error = refused("", build_network, bad, where="here")
    assert error.place == place
    assert word in str(error)


def test_a_mode_that_does_not_exist_is_not_set():
    refused("did you mean 'always'", setattr, build_network(edm2()), "weight_norm", "alway")


X = torch.zeros(3, 1, 8, 8)


@pytest.mark.parametrize(
    ("inputs", "kwargs", "word"),
    [
        ((torch.zeros(3, 2, 8, 8), 1.0), {}, "images"),
        ((X, torch.ones(2)), {}, "sigma"),
        ((X, 1.0, torch.tensor([0, 1, 1])), {}, "class_labels"),
        ((X, 1.0), {"augment_labels": torch.zeros(3, 8)}, "augment_labels"),
        ((X, 1.0), {"return_flag": "both"}, "return_flag"),
        ((X, 1.0), {"decode": 1}, "encoder_decoder"),
        ((X, 1.0), {"return_logvar": True}, "log-variance"),
    ],
)
def test_bad_inputs(inputs, kwargs, word):
    with pytest.raises(ValueError, match=word):
        build_network(config())(*inputs, **kwargs)


def test_labels_for_an_unconditional_network():
    net = build_network(config(label_dim=0)).eval()
    x = torch.zeros(2, 1, 8, 8)
    with pytest.raises(ValueError, match="unconditional"):
        net(x, 1.0, torch.eye(2))
    with torch.no_grad():
        assert torch.equal(net(x, 1.0, torch.zeros(2, 0)), net(x, 1.0))
