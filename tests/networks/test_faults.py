"""Wrong configurations and wrong inputs: one clear line that names the place."""

import pytest
import torch

from sida.networks import build_network
from tests.near import assert_near
from tests.networks.made import config
from tests.refused import refused


@pytest.mark.parametrize(
    ("name", "changes", "place", "word"),
    [
        ("ddpmpp", {"model_chanels": 3}, "kwargs.model_chanels", "did you mean 'model_channels'?"),
        ("ddpmpp", {"channel_mult": [1, "2"]}, "kwargs.channel_mult[1]", "integer"),
        ("ddpmpp", {"num_blocks": 0}, "kwargs.num_blocks", "between 1 and 64"),
        ("ddpmpp", {"sigma_data": float("inf")}, "kwargs.sigma_data", "finite"),
        ("ddpmpp", {"channel_mult": [1, 1, 1, 1, 1]}, "kwargs.img_resolution", "multiple of 16"),
        ("ddpmpp", {"model_channels": 37}, "kwargs.model_channels, channel_mult", "multiples of 4"),
        ("ddpmpp", {"half_dtype": "float64"}, "kwargs.half_dtype", "bfloat16"),
        ("adm", {"model_channels": 112}, "kwargs.model_channels, channel_mult", "of 64"),
        ("edm2", {"model_channels": 7}, "kwargs.model_channels, channel_mult", "of 4"),
        ("edm2", {"model_type": "SongUNet"}, "kwargs.model_type", "unknown key"),
        ("edm2", {"weight_norm": "sometimes"}, "kwargs.weight_norm", "off, in_forward, pre_hook, always"),
    ],
)
def test_bad_options(name, changes, place, word):
    error = refused("", build_network, config(name, **changes), where="here")
    assert error.where == f"here.{place}"
    assert word in str(error)


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (None, "here: .*'class' and 'kwargs'"),
        ({"class": "EDMPrecnd"}, r"here\.class: .*did you mean 'EDMPrecond'\?"),
        ({"class": "EDMPrecond", "kwargs": {"img_channels": 1}}, r"here\.kwargs\.img_resolution: .*missing"),
    ],
)
def test_bad_descriptions(bad, told):
    refused(told, build_network, bad, where="here")


def test_a_mode_that_does_not_exist_is_not_set():
    refused("did you mean 'always'", setattr, build_network(config("edm2")), "weight_norm", "alway")


X = torch.zeros(3, 2, 8, 8)


@pytest.mark.parametrize(
    ("inputs", "kwargs", "word"),
    [
        ((X[:, :1], 1.0), {}, "images"),
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
        build_network(config("ddpmpp"))(*inputs, **kwargs)


def test_labels_for_an_unconditional_network():
    net = build_network(config("ddpmpp", label_dim=0)).eval()
    with pytest.raises(ValueError, match="unconditional"):
        net(X, 1.0, torch.eye(3))
    assert_near(net(X, 1.0, torch.zeros(3, 0)), net(X, 1.0))
