"""Wrong configurations and wrong inputs: one clear line that names the place."""

from __future__ import annotations

import pytest
import torch

from sida.errors import UserError
from sida.networks import DhariwalUNet, EDM2Precond, EDMPrecond, SongUNet, build_network

SMALL = {"img_resolution": 8, "img_channels": 1, "label_dim": 2, "augment_dim": 9, "model_type": "SongUNet",
         "model_channels": 4, "channel_mult": [1], "num_blocks": 1, "attn_resolutions": []}  # fmt: skip


def config(cls="EDMPrecond", **changes):
    return {"class": cls, "kwargs": {**SMALL, **changes}}


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (None, "'class' and 'kwargs'"),
        ({"kwargs": {}}, "'class' and 'kwargs'"),
        ({"class": "EDMPrecond", "kwarg": {}}, "'class' and 'kwargs'"),
        (
            {"class": "EDMPrecnd", "kwargs": SMALL},
            "here.class: no network 'EDMPrecnd' (did you mean 'EDMPrecond'?)",
        ),
        ({"class": "ResNet", "kwargs": SMALL}, "(known: DhariwalUNet, "),
        ({"class": "EDMPrecond", "kwargs": [1]}, "here.kwargs: must be a mapping"),
        ({"class": "EDMPrecond", "kwargs": {"img_channels": 1}}, "img_resolution: is missing"),
        (config(model_chanels=3), "here.kwargs.model_chanels: unknown key (did you mean 'model_channels'?)"),
        (config(zzz=3), "(known: attn_resolutions, augment_dim, "),
        (config(model_type="SongNet"), "here.kwargs.model_type: unknown network 'SongNet'"),
        (config(model_channels="32"), "here.kwargs.model_channels: must be an integer"),
        (config(channel_mult=2), "here.kwargs.channel_mult: must be a list"),
        (config(channel_mult=[1, "2"]), "here.kwargs.channel_mult[1]: must be an integer"),
        (config(channel_mult=[]), "channel_mult: must have at least one level"),
        (config(channel_mult=[1, 0]), "channel_mult: must be at least 1"),
        (config(num_blocks=0), "num_blocks: must be at least 1"),
        (config(label_dim=-1), "label_dim: must be at least 0"),
        (config(dropout=1.0), "dropout: must be in [0, 1)"),
        (config(encoder_type="standart"), "encoder_type: must be one of standard, skip, residual"),
        (config(channel_mult=[1, 1, 1, 1, 1]), "img_resolution: 8 cannot be halved 4 times"),
        (config(model_channels=37), "37 feature channels"),
        (config("DhariwalUNet"), "unknown key"),
        (config("EDM2Precond"), "unknown key"),
    ],
)
def test_bad_configurations(bad, words):
    with pytest.raises(UserError) as error:
        build_network(bad, where="here")
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_weight_norm_switch():
    kwargs = {"img_resolution": 8, "img_channels": 1, "model_channels": 8, "channel_mult": [1], "num_blocks": 1}
    for bad, words in [
        ({"weight_norm": "sometimes"}, "must be one of off, in_forward, pre_hook, always"),
        ({"use_gan": True}, "both 'use_gan' and 'force_normalization'"),
        ({"use_gan": True, "force_normalization": True, "weight_norm": "off"}, "either 'weight_norm'"),
    ]:
        with pytest.raises(UserError, match="kwargs") as error:
            build_network({"class": "EDM2Precond", "kwargs": {**kwargs, **bad}})
        assert words in str(error.value)
    net = EDM2Precond(**kwargs)
    with pytest.raises(UserError, match="did you mean 'always'"):
        net.weight_norm = "alway"


def test_constructors_check_too():
    with pytest.raises(UserError, match=r"EDMPrecond\.model_chanels: unknown key"):
        EDMPrecond(8, 1, model_type="SongUNet", model_chanels=4)
    with pytest.raises(UserError, match=r"SongUNet\.embedding_type"):
        SongUNet(8, 1, 1, embedding_type="none")
    with pytest.raises(UserError, match="cannot be halved"):
        DhariwalUNet(12, 3, 3)


def test_sida_spelling_of_the_unets():
    net = build_network(config(model_type="SongUNet_EncoderDecoder"))
    assert net.init_config["kwargs"]["model_type"] == "SongUNet"


@pytest.mark.parametrize(
    ("inputs", "kwargs", "words"),
    [
        ((torch.zeros(3, 2, 8, 8), 1.0), {}, r"images must have shape \(N, 1, 8, 8\), got \(3, 2, 8, 8\)"),
        ((torch.zeros(3, 1, 16, 16), 1.0), {}, "images must have shape"),
        ((torch.zeros(1, 8, 8), 1.0), {}, "images must have shape"),
        ((torch.zeros(3, 1, 8, 8), torch.ones(2)), {}, "sigma must have one value or one per image"),
        ((torch.zeros(3, 1, 8, 8), 1.0, torch.zeros(3, 5)), {}, r"class_labels must have shape \(3, 2\), got \(3, 5\)"),
        ((torch.zeros(3, 1, 8, 8), 1.0, torch.zeros(2, 2)), {}, "class_labels"),
        ((torch.zeros(3, 1, 8, 8), 1.0, torch.tensor([0, 1, 1])), {}, "class_labels"),
        (
            (torch.zeros(3, 1, 8, 8), 1.0),
            {"augment_labels": torch.zeros(3, 8)},
            r"augment_labels must have shape \(3, 9\)",
        ),
        ((torch.zeros(3, 1, 8, 8), 1.0), {"return_flag": "both"}, "return_flag must be one of"),
        ((torch.zeros(3, 1, 8, 8), 1.0), {"decode": 1}, "encoder_decoder"),
        ((torch.zeros(3, 1, 8, 8), 1.0), {"decode": 4, "return_flag": "encoder_decoder"}, "decode=4"),
        ((torch.zeros(3, 1, 8, 8), 1.0), {"return_logvar": True}, "log-variance"),
    ],
)
def test_bad_inputs(inputs, kwargs, words):
    with pytest.raises(ValueError, match=words):
        build_network(config())(*inputs, **kwargs)


def test_labels_for_an_unconditional_network():
    net = build_network(config(label_dim=0)).eval()
    x = torch.zeros(2, 1, 8, 8)
    with pytest.raises(ValueError, match="unconditional"):
        net(x, 1.0, torch.eye(2))
    with torch.no_grad():
        assert torch.equal(net(x, 1.0, torch.zeros(2, 0)), net(x, 1.0))
