"""The drawer opens data set and decoder once, and only if a draw needs them."""

from __future__ import annotations

import pytest
import torch

import sida.sampling.drawer as module
from sida.data import load_dataset
from sida.errors import UserError
from sida.sampling import Drawer, Sampler, generate, read_sampler
from sida.sampling.samplers import draw_batch
from sida.sampling.seeds import SeedStreams
from tests.networks.made import SMALL, random_network

ONE_STEP = Sampler(kind="one_step")


def network(channels=1, seed=0):
    return random_network("EDMPrecond", {**SMALL, "img_channels": channels, "label_dim": 10}, seed)


@pytest.fixture(scope="module")
def digits():
    return load_dataset({"name": "digits", "kind": "digits"})


def drawn(drawer, *arguments, **options):
    return torch.cat([batch.images for batch in drawer.draw(*arguments, **options)])


def test_it_draws_what_generate_draws_and_opens_data_only_for_their_classes(digits):
    opened = []
    drawer = Drawer(ONE_STEP, network(), dataset=lambda: opened.append(1) or digits)
    uniform = torch.cat([batch.images for batch in generate(drawer.net, range(5), ONE_STEP, 2)])
    assert torch.equal(drawn(drawer, range(5), 2), uniform)
    assert (opened, drawer.nfe, drawer.label_dim) == ([], 1, 10)
    empirical = torch.cat([b.images for b in generate(drawer.net, range(5), ONE_STEP, 2, "empirical", digits)])
    assert torch.equal(drawn(drawer, range(5), 2, "empirical"), empirical)
    assert opened == [1]


def test_guidance_goes_through_the_guide():
    sampler = read_sampler("heun:3,guidance=2")
    net, guide = network(), network(seed=1)
    streams = SeedStreams([7])
    latents, labels = streams.randn((1, 8, 8)), torch.nn.functional.one_hot(torch.tensor([3]), 10).float()
    with torch.no_grad():
        expected = draw_batch(sampler, net, latents, labels, streams, guide)
    images = drawn(Drawer(sampler, net, guide), [7], 1, [3])
    assert torch.equal(images, (expected * 127.5 + 128).clamp(0, 255).to(torch.uint8))
    with pytest.raises(UserError, match="needs a guiding network"):
        Drawer(sampler, net).draw([7], 1)


def test_latents_are_decoded_by_a_decoder_that_is_opened_once(monkeypatch):
    opened = []

    def open_decoder(vae, device):
        opened.append((vae, device))
        return lambda latents: latents[:, :3].clamp(0, 1).mul(255).to(torch.uint8)

    monkeypatch.setattr(module, "open_decoder", open_decoder)
    drawer = Drawer(ONE_STEP, network(channels=4), vae="folder")
    assert drawer.draws_latents
    assert opened == []
    assert drawn(drawer, range(3), 2).shape == drawn(drawer, range(3), 3).shape == (3, 3, 8, 8)
    assert opened == [("folder", "cpu")]
    assert not Drawer(ONE_STEP, network()).draws_latents


def test_real_images_are_resampled_or_taken_by_place(digits):
    drawer = Drawer(Sampler(kind="data"), dataset=lambda: digits)
    assert drawn(drawer, range(4), 4).shape == (4, 1, 8, 8)
    assert torch.equal(drawer.real([5, 2]), digits.images([5, 2]))
    with pytest.raises(UserError, match="there is no data set"):
        Drawer(Sampler(kind="data")).real([0])
