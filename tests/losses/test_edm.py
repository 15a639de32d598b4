"""SiD and SiDA losses on the recorded EDM networks."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from sida.losses import EDMLoss, SiDALoss, SiDLoss
from sida.networks import build_network
from sida.sampling import one_step
from tests.golden.vectors import relative_error
from tests.losses.loss_cases import GRADIENT, VALUE, compare_gradients, draw, draws, scaled_sum, tensors

GENERATOR_CASES = [
    "sid_generator_alpha1.0_tmax600",
    "sid_generator_alpha1.2",
    "sid_generator_nan",
    "sida_generator_logit_clamp",
    "sida_generator_nan",
    "sida_generator_phase_half_half",
    "sida_generator_phase_sid_only",
]
FAKE_SCORE_CASES = [
    "sid_fakescore",
    "sid_fakescore_augment",
    "sida_fakescore_disc",
    "sida_fakescore_disc_augment",
    "sida_fakescore_disc_lsd100",
    "sida_fakescore_disc_nan",
]


@pytest.fixture(scope="module")
def networks(golden):
    arrays, info = golden("losses_edm/networks")
    nets = {}
    for role in ("phi", "psi", "G"):
        nets[role] = build_network({"class": "EDMPrecond", "kwargs": info["constructor_kwargs"]}).eval()
        nets[role].load_state_dict(tensors(arrays, f"{role}/"))

    def fresh():
        copies = copy.deepcopy(nets)
        copies["phi"].requires_grad_(False)
        return copies["phi"], copies["psi"], copies["G"]

    return fresh


def check(actual: torch.Tensor, expected: np.ndarray) -> None:
    if np.isnan(expected).any():
        assert np.array_equal(np.isnan(expected), torch.isnan(actual).numpy())
    else:
        assert relative_error(actual, expected) < VALUE


@pytest.mark.parametrize("name", GENERATOR_CASES)
def test_generator(golden, networks, name):
    case, info = golden(f"losses_edm/{name}")
    phi, psi, generator = networks()
    psi.requires_grad_(False)
    generator.train()
    if info["psi_modification"]:
        weight, factor = info["psi_modification"].split(" multiplied by ")
        psi.state_dict()[weight].mul_(float(factor))
    batch, labels = info["batch"], torch.from_numpy(case["in/labels"])
    kind = SiDALoss if name.startswith("sida") else SiDLoss
    loss = kind(alpha=info["alpha"], t_max=info["tmax"])
    given = draws(case, t=1, noise=2)
    check(loss.generator_sigma(torch.empty(batch, 3, 8, 8), given), case["out/sigma"])

    images = one_step(generator, draw(case, 0), labels)
    check(images, case["out/images"])
    if info["nan_in_sample"] is not None:
        given["noise"] = given["noise"].clone()
        given["noise"][info["nan_in_sample"]] = float("nan")
    images.retain_grad()
    terms = loss.generator_loss(phi, psi, images, labels, given)
    assert terms.nan_count == (info["nan_in_sample"] is not None)
    check(terms.sid, case["out/loss"])
    total = sid = scaled_sum(terms.sid, info["lsg"], batch)
    check(sid, case["out/scalar_sid"])
    if kind is SiDALoss:
        check(terms.adversarial, case["out/loss_gan"])
        adversarial = scaled_sum(terms.adversarial * images[0].numel(), info["lsg_gan"], batch)
        check(adversarial, case["out/scalar_gan"])
        if info["backward"] == "0.5*sid + 0.5*gan":
            total = 0.5 * sid + 0.5 * adversarial
    else:
        assert terms.adversarial is None
    check(total, case["out/scalar_backward"])
    total.backward()
    expected = case["grad_images"]
    nan = np.isnan(expected)
    assert np.array_equal(nan, torch.isnan(images.grad).numpy())
    if not nan.all():
        assert relative_error(images.grad[torch.from_numpy(~nan)], expected[~nan]) < GRADIENT
    compare_gradients(generator, case, "grad_G/")
    assert all(p.grad is None for p in (*phi.parameters(), *psi.parameters()))


def recorded_augment(case, info):
    """The recorded pipe, first for the fakes and then for the reals, each with its own draws."""
    if info["augment"] is None:
        return None
    from sida.data import AugmentPipe

    pipe = AugmentPipe(**info["augment"])
    numbers = sorted(int(key.split("/")[1][:2]) for key in case if key.startswith("draw/"))
    calls = iter([numbers[2:16], numbers[17:]])
    return lambda images: pipe(images, draws=[draw(case, n) for n in next(calls)])


@pytest.mark.parametrize("name", FAKE_SCORE_CASES)
def test_fake_score(golden, networks, name):
    case, info = golden(f"losses_edm/{name}")
    _, psi, generator = networks()
    psi.train()
    batch, labels = info["batch"], torch.from_numpy(case["in/labels"])
    with torch.no_grad():
        images = one_step(generator, draw(case, 0), labels)
    if info["nan_in_sample"] is not None:
        images[info["nan_in_sample"]] = float("nan")
    check(images, case["out/images"]) if info["nan_in_sample"] is None else None
    adversarial = name.startswith("sida")
    loss = SiDALoss() if adversarial else SiDLoss()
    real = torch.from_numpy(case["in/real_images"]) if adversarial else None
    given = draws(case, sigma_normal=1, noise=16 if info["augment"] else 2)
    check(loss.fake_score_sigma(images, given), case["out/sigma"])
    terms = loss.fake_score_loss(psi, images, labels, real, recorded_augment(case, info), given)
    assert terms.nan_count == (info["nan_in_sample"] is not None)
    check(terms.denoising, case["out/loss"])
    total = scaled_sum(terms.denoising, info["ls"], batch)
    check(total, case["out/scalar_fake"])
    if adversarial:
        check(terms.discriminator, case["out/loss_D"])
        discriminator = scaled_sum(terms.discriminator, info["lsd"], batch)
        check(discriminator, case["out/scalar_D"])
        total = total + discriminator
    else:
        assert terms.discriminator is None
    total.backward()
    compare_gradients(psi, case, "grad_psi/")


def test_edm_loss_has_the_face_of_the_distillation_losses(golden, networks):
    """The teacher's loss on generated images is SiD's loss of the fake score."""
    case, _ = golden("losses_edm/sid_fakescore")
    _, psi, _ = networks()
    images, labels = torch.from_numpy(case["out/images"]), torch.from_numpy(case["in/labels"])
    denoising, discriminator = EDMLoss().fake_score_loss(
        psi, images, labels, draws=draws(case, sigma_normal=1, noise=2)
    )
    check(denoising, case["out/loss"])
    assert discriminator is None
