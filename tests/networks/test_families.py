"""Families of networks: their differences, which sampling, methods and measuring read, and their published sizes."""

import dataclasses

import pytest
import torch

from sida.config.families import EDM, EDM2, EDM2_LATENTS, EDM2_S, FAMILIES, check_images
from sida.config.samplers import Sampler
from sida.errors import UserError
from sida.methods import SID
from sida.networks import build_network, family_of
from sida.networks.described import registered_family
from sida.networks.file import NETWORKS
from sida.sampling import Drawer
from sida.sampling.generate import draw_batch
from sida.sampling.streams import SeedStreams
from tests.networks.made import config
from tests.refused import refused


def test_family_of_a_description():
    """EDM2's is that of its size S by default, and where the channels say so."""
    for cls in ("EDMPrecond", "GDDPrecond", "ECTPrecond"):
        assert family_of({**config("ddpmpp"), "class": cls}) is EDM
    assert family_of(config("edm2")) is EDM2
    assert family_of(config("edm2", model_channels=192)) is EDM2_S
    assert family_of({"class": "EDM2Precond", "kwargs": {"img_resolution": 64, "img_channels": 4}}) is EDM2_S


@pytest.mark.parametrize("name", sorted({name for family in FAMILIES.values() for name in family.classes}))
def test_a_family_knows_its_classes_as_their_code_does(name):
    """Presets are checked by the families alone, since the code imports torch."""
    cls, images = NETWORKS[name], {"img_resolution": 32, "img_channels": 4}
    family = registered_family({"class": name, "kwargs": images})
    assert family is cls.family_of(images)
    fields = cls.options_of(images)
    decisive = {key: fields[key][-1] for key in ("dropout", "label_dropout", "null_label") if key in fields}
    assert family.options == decisive
    assert all(fields[key][-1] == value for key, value in family.sizes.items())


@pytest.mark.parametrize("name", ["ddpmpp", "edm2"])
def test_a_network_draws_latents_if_it_has_as_many_channels_as_the_decoder(name):
    assert Drawer(Sampler(kind="one_step"), build_network(config(name, img_channels=4))).latents is EDM2_LATENTS
    assert Drawer(Sampler(kind="one_step"), build_network(config(name))).latents is None


@pytest.mark.parametrize(("name", "dtype", "draws"), [("ddpmpp", torch.float64, 4), ("edm2", torch.float32, 1)])
@torch.no_grad()
def test_heun_has_the_precision_and_the_noise_of_the_original_tool(name, dtype, draws, monkeypatch):
    net, streams, counted = build_network(config(name)).eval(), SeedStreams([0]), []
    original = SeedStreams.randn_like
    monkeypatch.setattr(SeedStreams, "randn_like", lambda self, x: counted.append(x) or original(self, x))
    # Fresh noise is added at the first of four levels alone.
    sampler = Sampler(kind="heun", num_steps=4, S_churn=1, S_min=70)
    drawn = lambda sampler: draw_batch(sampler, net, streams.randn((2, 8, 8)), None, streams)
    assert drawn(sampler).dtype == dtype
    assert len(counted) == draws
    assert drawn(dataclasses.replace(sampler, dtype="float32")).dtype == torch.float32


def test_methods_take_the_settings_of_the_family_that_one_is_like():
    own = dataclasses.replace(EDM2, name="mine", like="edm2")
    assert SID.settings_of(own, "x") == SID.settings_of(EDM2, "x") != SID.settings_of(EDM, "x")
    with pytest.raises(UserError, match=r"t\.safetensors: method 'sid' supports networks of edm, edm2, not of alone"):
        SID.settings_of(dataclasses.replace(EDM, name="alone"), "teacher: t.safetensors")


#: Karras et al. 2024, table 2; EDM's sizes are those of the papers' preset (tests/workflow/test_smoke.py).
MILLIONS = {128: 125, 192: 280, 256: 498, 320: 777, 384: 1119, 448: 1523}


@pytest.mark.parametrize(("channels", "millions"), MILLIONS.items())
def test_edm2_networks_have_the_published_numbers_of_parameters(channels, millions):
    kwargs = {"img_resolution": 64, "img_channels": 4, "label_dim": 1000, "model_channels": channels}
    with torch.device("meta"):
        net = build_network({"class": "EDM2Precond", "kwargs": kwargs})
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(millions, rel=0.01)


def test_classes_that_the_pictures_lack_are_made_of_folders():
    """A data set of kind ``folder`` takes classes from dataset.json alone."""
    refused(
        "label_dim: 3, but a set has 0; .*sida data prepare", check_images, {"label_dim": 3}, {"label_dim": 0}, "a set"
    )
