"""EDM2's denoising loss and SiDA's losses on the recorded EDM2 networks."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from sida.losses import EDM2SiDALoss, EDMLoss
from sida.networks import build_network
from tests.golden.vectors import relative_error
from tests.losses.loss_cases import GRADIENT, VALUE, compare_gradients, draw, draws, scaled_sum, tensors

GENERATOR_CASES = [
    "sid_generator_logvar",
    "sid_generator_nologvar",
    "sida_generator_forced_norm_G",
    "sida_generator_logvar_half",
    "sida_generator_nan",
    "sida_generator_nologvar_sid_only",
]
FAKE_SCORE_CASES = [
    "sid_fakescore_logvar",
    "sid_fakescore_nologvar",
    "sida_fakescore_disc_logvar",
    "sida_fakescore_disc_nan",
    "sida_fakescore_disc_nologvar",
    "edm2_plain_loss",
]


@pytest.fixture(scope="module")
def networks(golden):
    arrays, info = golden("losses_edm2/networks")
    kwargs = {**info["constructor_kwargs"], "weight_norm": "off"}
    nets = {}
    for role in ("phi", "psi", "G"):
        # Generators have no logvar head; the others carry one whether it is used or not.
        channels = None if role == "G" else info["logvar_channels"]
        net = build_network({"class": "EDM2Precond", "kwargs": {**kwargs, "logvar_channels": channels}}).eval()
        net.load_state_dict(tensors(arrays, f"{role}/"))
        nets[role] = net

    def fresh():
        copies = copy.deepcopy(nets)
        copies["phi"].requires_grad_(False)
        return copies["phi"], copies["psi"], copies["G"]

    return fresh


def generate(net, case, labels):
    return net(2.5 * draw(case, 0), torch.full((len(labels), 1, 1, 1), 2.5), labels)


@pytest.mark.parametrize("name", GENERATOR_CASES)
def test_generator(golden, networks, name):
    case, info = golden(f"losses_edm2/{name}")
    phi, psi, generator = networks()
    psi.requires_grad_(False)
    generator.train()
    if info["G_forced_weight_norm"]:
        generator.weight_norm = "pre_hook"
    batch, labels = info["batch"], torch.from_numpy(case["in/labels"])
    loss = EDM2SiDALoss(info["alpha"], info["tmax"], return_logvar=info["return_logvar"])
    given = draws(case, t=1, noise=2)
    images = generate(generator, case, labels)
    assert relative_error(images, case["out/images"]) < VALUE
    if info["nan_in_sample"] is not None:
        given["noise"] = given["noise"].clone()
        given["noise"][info["nan_in_sample"]] = float("nan")
    images.retain_grad()
    terms = loss.generator_loss(phi, psi, images, labels, given)
    assert terms.nan_count == (info["nan_in_sample"] is not None)
    assert relative_error(terms.sid, case["out/loss"]) < VALUE
    sid = total = scaled_sum(terms.sid, info["lsg"], batch)
    assert relative_error(sid, case["out/scalar_sid"]) < VALUE
    if "out/loss_gan" in case:
        assert relative_error(terms.adversarial, case["out/loss_gan"]) < VALUE
        adversarial = scaled_sum(terms.adversarial * images[0].numel(), info["lsg_gan"], batch)
        assert relative_error(adversarial, case["out/scalar_gan"]) < VALUE
        if info["backward"] == "0.5*sid + 0.5*gan":
            total = 0.5 * sid + 0.5 * adversarial
    assert relative_error(total, case["out/scalar_backward"]) < VALUE
    total.backward()
    expected = case["grad_images"]
    nan = np.isnan(expected)
    assert np.array_equal(nan, torch.isnan(images.grad).numpy())
    assert relative_error(images.grad[torch.from_numpy(~nan)], expected[~nan]) < GRADIENT
    compare_gradients(generator, case, "grad_G/")


@pytest.mark.parametrize("name", FAKE_SCORE_CASES)
def test_fake_score(golden, networks, name):
    case, info = golden(f"losses_edm2/{name}")
    _, psi, generator = networks()
    psi.train()
    batch, labels = info["batch"], torch.from_numpy(case["in/labels"])
    with torch.no_grad():
        images = generate(generator.eval(), case, labels)
    if info["nan_in_sample"] is not None:
        images[info["nan_in_sample"]] = float("nan")
    given = draws(case, sigma_normal=1, noise=2)
    if name == "edm2_plain_loss":
        loss = EDMLoss(info["P_mean"], info["P_std"], return_logvar=info["return_logvar"])
        denoising, discriminator = loss(psi, images, labels, draws=given), None
    else:
        loss = EDM2SiDALoss(P_mean=info["P_mean"], P_std=info["P_std"], return_logvar=info["return_logvar"])
        real = torch.from_numpy(case["in/real_images"]) if "in/real_images" in case else None
        terms = loss.fake_score_loss(psi, images, labels, real, draws=given)
        denoising, discriminator = terms
        assert terms.nan_count == (info["nan_in_sample"] is not None)
    assert relative_error(denoising, case["out/loss"]) < VALUE
    total = scaled_sum(denoising, info["ls"], batch)
    assert relative_error(total, case["out/scalar_fake"]) < VALUE
    assert (discriminator is None) == ("out/loss_D" not in case)
    if discriminator is not None:
        assert relative_error(discriminator, case["out/loss_D"]) < VALUE
        scaled = scaled_sum(discriminator, info["lsd"], batch)
        assert relative_error(scaled, case["out/scalar_D"]) < VALUE
        total = total + scaled
    total.backward()
    compare_gradients(psi, case, "grad_psi/")
