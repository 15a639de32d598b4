"""Losses of SiD and SiDA, and EDM2's denoising loss, on recorded networks and draws of the official code."""

from __future__ import annotations

import copy
import functools

import numpy as np
import pytest
import torch

from sida.data import AugmentPipe
from sida.methods.sid import EDM2SiDALoss, SiDALoss, SiDLoss
from sida.networks import build_network
from sida.sampling import one_step
from sida.training.teacher import EDMLoss
from tests.golden.vectors import GOLDEN, load, relative_error
from tests.methods.loss_cases import GRADIENT, VALUE, compare_gradients, draw, draws, scaled_sum, tensors


def cases(role):
    """Recorded cases of a role, as ``family/name``."""
    files = sorted(GOLDEN.glob(f"losses_*/*_{role}*.npz"))
    return [f"{path.parent.name.removeprefix('losses_')}/{path.stem}" for path in files]


GENERATOR_CASES, FAKE_SCORE_CASES = cases("generator"), cases("fakescore")


@functools.cache
def recorded_networks(family):
    arrays, info = load(f"losses_{family}/networks")
    nets, kwargs = {}, info["constructor_kwargs"] | ({"weight_norm": "off"} if family == "edm2" else {})
    for role in ("phi", "psi", "G"):
        # EDM2's generators have no logvar head; the others carry one whether it is used or not.
        head = {"logvar_channels": None if role == "G" else info["logvar_channels"]} if family == "edm2" else {}
        kind = "EDM2Precond" if family == "edm2" else "EDMPrecond"
        nets[role] = build_network({"class": kind, "kwargs": kwargs | head}).eval()
        nets[role].load_state_dict(tensors(arrays, f"{role}/"))
    return nets


def networks(family):
    """Fresh copies of φ, ψ and G."""
    phi, psi, generator = copy.deepcopy(recorded_networks(family)).values()
    return phi.requires_grad_(False), psi, generator


def make_loss(name, info):
    """The loss of a case, with the settings that were recorded."""
    names = {"alpha": "alpha", "tmax": "t_max", "P_mean": "P_mean", "P_std": "P_std", "return_logvar": "return_logvar"}
    given = {ours: info[theirs] for theirs, ours in names.items() if theirs in info}
    if name.startswith("edm2/"):
        return EDM2SiDALoss(**given)
    return (SiDALoss if name.startswith("edm/sida") else SiDLoss)(**given)


def check(actual, expected):
    nan = np.isnan(expected)
    assert np.array_equal(nan, torch.isnan(actual).numpy())
    if not nan.any():
        assert relative_error(actual, expected) < VALUE


@pytest.mark.parametrize("name", GENERATOR_CASES)
def test_generator(name):
    case, info = load(f"losses_{name}")
    phi, psi, generator = networks(name.split("/")[0])
    psi.requires_grad_(False)
    generator.train()
    if info.get("psi_modification"):
        weight, factor = info["psi_modification"].split(" multiplied by ")
        psi.state_dict()[weight].mul_(float(factor))
    if info.get("G_forced_weight_norm"):
        generator.weight_norm = "pre_hook"
    batch, labels, loss = info["batch"], torch.from_numpy(case["in/labels"]), make_loss(name, info)
    given = draws(case, t=1, noise=2)
    check(loss.generator_sigma(given), case["out/sigma"])
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
    if "out/loss_gan" in case:
        check(terms.adversarial, case["out/loss_gan"])
        adversarial = scaled_sum(terms.adversarial * images[0].numel(), info["lsg_gan"], batch)
        check(adversarial, case["out/scalar_gan"])
        if info["backward"] == "0.5*sid + 0.5*gan":
            total = 0.5 * sid + 0.5 * adversarial
    assert (terms.adversarial is None) == (not loss.uses_real_images)
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
    if info.get("augment") is None:
        return None
    pipe = AugmentPipe(**info["augment"])
    numbers = sorted(int(key.split("/")[1][:2]) for key in case if key.startswith("draw/"))
    calls = iter([numbers[2:16], numbers[17:]])
    return lambda images: pipe(images, draws=[draw(case, n) for n in next(calls)])


@pytest.mark.parametrize("name", FAKE_SCORE_CASES)
def test_fake_score(name):
    case, info = load(f"losses_{name}")
    _, psi, generator = networks(name.split("/")[0])
    psi.train()
    batch, labels, loss = info["batch"], torch.from_numpy(case["in/labels"]), make_loss(name, info)
    with torch.no_grad():
        images = one_step(generator, draw(case, 0), labels)
    if info["nan_in_sample"] is not None:
        images[info["nan_in_sample"]] = float("nan")
    else:
        check(images, case["out/images"])
    real = torch.from_numpy(case["in/real_images"]) if "in/real_images" in case else None
    given = draws(case, sigma_normal=1, noise=16 if info.get("augment") else 2)
    check(loss.fake_score_sigma(given), case["out/sigma"])
    terms = loss.fake_score_loss(psi, images, labels, real, recorded_augment(case, info), given)
    assert terms.nan_count == (info["nan_in_sample"] is not None)
    check(terms.denoising, case["out/loss"])
    total = scaled_sum(terms.denoising, info["ls"], batch)
    check(total, case["out/scalar_fake"])
    assert (terms.discriminator is None) == ("out/loss_D" not in case)
    if terms.discriminator is not None:
        check(terms.discriminator, case["out/loss_D"])
        discriminator = scaled_sum(terms.discriminator, info["lsd"], batch)
        check(discriminator, case["out/scalar_D"])
        total = total + discriminator
    total.backward()
    compare_gradients(psi, case, "grad_psi/")


def test_teachers_loss_of_edm2():
    case, info = load("losses_edm2/edm2_plain_loss")
    _, psi, generator = networks("edm2")
    with torch.no_grad():
        images = one_step(generator, draw(case, 0), torch.from_numpy(case["in/labels"]))
    check(images, case["out/images"])
    loss = EDMLoss(info["P_mean"], info["P_std"], return_logvar=info["return_logvar"])
    value = loss(psi.train(), images, torch.from_numpy(case["in/labels"]), None, draws(case, sigma_normal=1, noise=2))
    check(value, case["out/loss"])
    total = scaled_sum(value, info["ls"], info["batch"])
    check(total, case["out/scalar_fake"])
    total.backward()
    compare_gradients(psi, case, "grad_psi/")
