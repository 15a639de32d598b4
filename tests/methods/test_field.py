"""Losses of other one-step distillers on recorded networks and draws of their official code."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from sida.methods.consistency import CDLoss, CDOptions, ECTLoss, ECTOptions
from sida.methods.dmd import DiffInstructLoss, DMD2Loss, DMD2Options, DMDLoss
from sida.methods.f_distill import FDistillLoss, FDistillOptions, divergence_weight
from sida.networks import build_network
from sida.networks.discriminators import FakeScoreWithHeads
from sida.sampling import one_step
from sida.sampling.samplers import extrapolated
from sida.training.micro_batches import MicroBatch
from tests.golden.vectors import load, relative_error
from tests.methods.loss_cases import GRADIENT, VALUE, draw, tensors

#: DMD2's losses as FastGen has them: heads on the frozen teacher, one noisy image for both terms.
TEACHER_FORM = {
    "own_draws": False, "generator_levels": (2, 998), "fake_score_levels": (2, 998), "gan_weight": 1e-3,
    "discriminator_weight": 1.0, "weighted": False, "error_eps": 1e-6,
}  # fmt: skip
PIXELS, BATCH = 3 * 16 * 16, 4


@functools.cache
def recorded(name):
    return load(f"field/{name}")


@pytest.fixture
def network():
    def make(role, file="networks"):
        arrays, info = recorded(file)
        net = build_network({"class": "EDMPrecond", "kwargs": info["constructor_kwargs"]}).eval()
        state = {k: v for k, v in tensors(arrays, f"{role}/").items() if "logvar" not in k}
        net.load_state_dict(state, strict=False)
        assert set(net.state_dict()) <= set(state)
        return net

    return make


def uniform(indices, low, high):
    """The uniform draw that becomes these indices."""
    return ((indices.float() - low + 0.5) / (high - low + 1)).reshape(-1, 1, 1, 1)


def scalars(loss, terms):
    """Each term times its weight, as an official mean over the batch."""
    weights = loss.weights(PIXELS)
    return {name: term.sum() * weights[name] / BATCH for name, term in terms.items()}


def gradient(value, images):
    return torch.autograd.grad(value, images, retain_graph=True)[0]


def compare_norms(net, arrays, info, role="student"):
    """One norm per parameter, in the order of the list of names."""
    prefix = "" if role in ("student", "fake") else f"{role}_"
    norms = arrays[f"grad_{role}_norm"]
    names = info[f"grad_{prefix}norm_names"]
    found = {name: p.grad for name, p in net.named_parameters()}
    for name, expected in zip(names, norms, strict=True):
        given = found.get(name)
        actual = 0.0 if given is None else float(given.double().norm())
        assert abs(actual - expected) <= GRADIENT * max(expected, float(norms.max()) * 1e-3), name


@pytest.mark.parametrize("name", ["di_generator", "di_generator_sigma2.5"])
def test_diff_instruct_generator(network, name):
    arrays, info = recorded(name)
    student, labels = network("student"), torch.from_numpy(arrays["in/labels"])
    images = one_step(student, draw(arrays, 0), labels, info["init_sigma"])
    given = MicroBatch(images, labels, draws={"sigma_normal": draw(arrays, 1), "noise": draw(arrays, 2)})
    loss = DiffInstructLoss()
    terms = loss.generator_loss(network("teacher"), network("fake"), images, labels, given.draws)
    assert relative_error(terms.kl, arrays["out/loss"]) < VALUE
    value = scalars(loss, terms)["kl"]
    assert relative_error(gradient(value, images), arrays["grad_images"]) < GRADIENT
    value.backward()
    compare_norms(student, arrays, info)


def test_diff_instruct_fake_score(network):
    arrays, info = recorded("di_fakescore")
    student, fake, labels = network("student"), network("fake"), torch.from_numpy(arrays["in/labels"])
    with torch.no_grad():
        images = one_step(student, draw(arrays, 0), labels, info["init_sigma"])
    loss = DiffInstructLoss()
    draws = {"sigma_normal": draw(arrays, 1), "noise": draw(arrays, 2)}
    terms = loss.fake_score_loss(fake, images, labels, draws=draws)
    assert relative_error(terms.denoising, arrays["out/loss"]) < VALUE
    scalars(loss, terms)["denoising"].backward()
    compare_gradients_of_some(fake, arrays, "grad_fake/")
    compare_norms(fake, arrays, info, "fake")


def compare_gradients_of_some(net, arrays, prefix):
    expected = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
    found = dict(net.named_parameters())
    assert expected
    for name, value in expected.items():
        assert relative_error(found[name].grad, value) < GRADIENT, name


@pytest.mark.parametrize("case", ["vsd0", "vsd1"])
def test_direction_of_matching(case):
    arrays, _ = recorded("fastgen_plain")
    given = tensors(arrays, f"{case}/")
    images = given["images"].requires_grad_()
    by = lambda name: lambda *_: given[name]
    loss = DMDLoss()
    factor = given.get("scale", torch.ones(BATCH)).view(-1, 1, 1, 1)
    direction = factor * loss.direction(by("teacher_x0"), by("fake_x0"), MicroBatch(images, None), images, images)
    value = (images - (images - direction).detach()).square().sum() / 2 / images.numel()
    assert relative_error(value, given["loss"]) < VALUE
    assert relative_error(gradient(value, images), given["grad_images"]) < VALUE


def dmd2_score(network):
    arrays, _ = recorded("dmd2_networks")
    score = FakeScoreWithHeads(network("fake", "dmd2_networks"), None, every_resolution=False)
    score.heads[0].load_state_dict(tensors(arrays, "head/"))
    return score


@pytest.mark.parametrize("name", ["dmd2_generator", "dmd2_generator_clean"])
def test_dmd2_generator(network, name):
    arrays, info = recorded(name)
    loss = DMD2Loss(DMD2Options(noisy=info["diffusion_gan"], gan_weight=1.0))
    images = torch.from_numpy(arrays["in/images"]).requires_grad_()
    draws = {"t": uniform(draw(arrays, 0), 20, 980), "noise": draw(arrays, 1)}
    if info["diffusion_gan"]:
        draws |= {"fake_t": uniform(draw(arrays, 2), 0, 999), "fake_noise": draw(arrays, 3)}
    assert set(loss.generator_draws()) == set(draws)
    assert relative_error(loss.generator_sigma(draws), arrays["out/sigma"]) < VALUE
    given = MicroBatch(images, torch.from_numpy(arrays["in/labels"]), draws=draws)
    terms = loss.generator_loss(
        network("teacher", "dmd2_networks"), dmd2_score(network).eval(), images, given.class_labels, draws
    )
    values = scalars(loss, terms)
    for ours, theirs in (("kl", "loss_dm"), ("gan", "gen_cls_loss")):
        assert relative_error(values[ours], arrays[f"out/{theirs}"]) < VALUE
        assert relative_error(gradient(values[ours], images), arrays[f"grad_images/{theirs}"]) < GRADIENT


@pytest.mark.parametrize("name", ["dmd2_critic", "dmd2_critic_clean"])
def test_dmd2_critic(network, name):
    arrays, info = recorded(name)
    loss = DMD2Loss(DMD2Options(noisy=info["diffusion_gan"]))
    draws = {"noise": draw(arrays, 0), "t": uniform(draw(arrays, 1), 0, 999)}
    if info["diffusion_gan"]:
        draws |= {"real_t": uniform(draw(arrays, 2), 0, 999), "real_noise": draw(arrays, 3)}
        draws |= {"fake_t": uniform(draw(arrays, 4), 0, 999), "fake_noise": draw(arrays, 5)}
    assert set(loss.fake_score_draws()) == set(draws)
    score = dmd2_score(network)
    images, labels, real = (torch.from_numpy(arrays[f"in/{key}"]) for key in ("images", "labels", "real_images"))
    values = scalars(loss, loss.fake_score_loss(score, images, labels, real, draws=draws))
    assert relative_error(values["denoising"], arrays["out/loss_fake_mean"]) < VALUE
    assert relative_error(values["discriminator"], info["cls_loss_weight"] * arrays["out/guidance_cls_loss"]) < VALUE
    sum(values.values()).backward()
    compare_gradients_of_some(score.score, arrays, "grad_fake/")
    compare_norms(score.score, arrays, info, "fake")
    compare_gradients_of_some(score.heads[0], arrays, "grad_head/")


def teacher_score(network, every_resolution):
    arrays, _ = recorded("networks")
    teacher = network("teacher").requires_grad_(False)
    score = FakeScoreWithHeads(network("fake"), teacher, every_resolution)
    name = "disc" if every_resolution else "disc_bottleneck"
    state = tensors(arrays, f"{name}/discriminator_heads.")
    score.heads.load_state_dict(state)
    return teacher, score


def generator_round(network, arrays):
    student, labels = network("student"), torch.from_numpy(arrays["in/labels"])
    images = one_step(student, draw(arrays, 0), labels, 80.0)
    assert relative_error(images, arrays["out/images"]) < VALUE
    draws = {"t": uniform(draw(arrays, 1), 2, 998), "noise": draw(arrays, 2)}
    return student, MicroBatch(images, labels, draws=draws)


@pytest.mark.parametrize("name", ["", "_bottleneck", "_guided"])
def test_dmd2_generator_on_a_frozen_teacher(network, name):
    arrays, info = recorded(f"fastgen_dmd2_generator{name}")
    teacher, score = teacher_score(network, every_resolution=name != "_bottleneck")
    student, given = generator_round(network, arrays)
    loss = DMD2Loss(DMD2Options(**{**TEACHER_FORM, "gan_weight": info["gan_loss_weight_gen"]}))
    assert list(loss.generator_draws()) == ["t", "noise"]

    def guided(x, sigma, labels):
        if info["guidance_scale"] is None:
            return teacher(x, sigma, labels)
        return extrapolated(teacher(x, sigma, labels), teacher(x, sigma, 0 * labels), info["guidance_scale"])

    values = scalars(loss, loss.generator_loss(guided, score, given.images, given.class_labels, given.draws))
    check_generator(arrays, values, given.images, "vsd_loss", info["gan_loss_weight_gen"])
    sum(values.values()).backward()
    compare_norms(student, arrays, info)


def check_generator(arrays, values, images, matching, gan_weight):
    assert relative_error(values["kl"], arrays[f"out/{matching}"]) < VALUE
    assert relative_error(values["gan"], gan_weight * arrays["out/gan_loss_gen"]) < VALUE
    assert relative_error(sum(values.values()), arrays["out/total_loss"]) < VALUE
    assert relative_error(gradient(values["kl"], images), arrays[f"grad_images/{matching}"]) < GRADIENT
    expected = gan_weight * arrays["grad_images/gan_loss_gen"]
    assert relative_error(gradient(values["gan"], images), expected) < GRADIENT
    total = gradient(sum(values.values()), images)
    assert relative_error(total, arrays["grad_images/total_loss"]) < GRADIENT


@pytest.mark.parametrize("name", ["", "_same_noise_r1", "_bottleneck_r1"])
def test_dmd2_critic_on_a_frozen_teacher(network, name):
    arrays, info = recorded(f"fastgen_dmd2_critic{name}")
    _, score = teacher_score(network, every_resolution=name != "_bottleneck_r1")
    same = info["gan_use_same_t_noise"]
    penalty = {"r1_weight": info["gan_r1_reg_weight"], "r1_alpha": info["gan_r1_reg_alpha"]}
    loss = DMD2Loss(DMD2Options(**TEACHER_FORM, same_noise=same, **penalty))
    _, given = generator_round(network, arrays)
    draws, number = dict(given.draws), 3
    if not same:
        draws |= {"real_t": uniform(draw(arrays, 3), 2, 998), "real_noise": draw(arrays, 4)}
        number = 5
    if info["gan_r1_reg_weight"]:
        draws["r1_noise"] = draw(arrays, number)
    assert set(loss.fake_score_draws()) == set(draws)
    real = torch.from_numpy(arrays["in/real_images"])
    given.images = given.images.detach()
    terms = loss.fake_score_loss(score, given.images, given.class_labels, real, draws=draws)
    values = scalars(loss, terms)
    assert relative_error(values["denoising"], arrays["out/fake_score_loss"]) < VALUE
    assert relative_error(values["discriminator"], arrays["out/gan_loss_disc"]) < VALUE
    if info["gan_r1_reg_weight"]:
        expected = arrays["out/gan_loss_ar1"] * info["gan_r1_reg_weight"]
        assert relative_error(values["r1"], expected) < 5e-5
    assert relative_error(sum(values.values()), arrays["out/total_loss"]) < 5e-5
    sum(values.values()).backward()
    compare_gradients_of_some(score.score, arrays, "grad_fake/")
    compare_norms(score.score, arrays, info, "fake")
    compare_gradients_of_some(score.heads, arrays, "grad_disc/discriminator_heads.")


def test_f_distill_weights():
    arrays, info = recorded("fdistill_weights")
    for name in ("rkl", "kl", "js", "sf", "neyman", "sh", "jf"):
        ratio = torch.from_numpy(arrays["function/ratio"])
        assert relative_error(divergence_weight(ratio, name), arrays[f"function/{name}"]) < VALUE
    for case, settings in info["cases"].items():
        options = FDistillOptions(
            divergence=settings["f_div"],
            decay=settings["ratio_ema_rate"],
            ratio_range=(settings["ratio_lower"], settings["ratio_upper"]),
            normalised=settings["ratio_normalization"],
        )
        loss = FDistillLoss(options, means=torch.ones(settings["bin_num"]))
        for call in range(3):
            logits = torch.from_numpy(arrays[f"in/{call}/logits"])
            sigma = torch.from_numpy(arrays[f"in/{call}/sigma"]).float().view(-1, 1, 1, 1)
            weights = loss.image_weights(logits, sigma, MicroBatch(logits, None)).flatten()
            assert relative_error(weights, arrays[f"{case}/{call}/h"]) < VALUE, case
            if settings["ratio_normalization"]:
                assert relative_error(loss.means, arrays[f"{case}/{call}/bins"]) < VALUE, case


@pytest.mark.parametrize("divergence", ["kl", "js"])
def test_f_distill_generator(network, divergence):
    arrays, info = recorded(f"fdistill_generator_{divergence}")
    teacher, score = teacher_score(network, every_resolution=True)
    student, given = generator_round(network, arrays)
    means = torch.from_numpy(arrays["in/bins"].copy())
    decay = info["f_distill"]["ratio_ema_rate"]
    assert FDistillOptions(**TEACHER_FORM) == FDistillOptions()
    loss = FDistillLoss(FDistillOptions(**TEACHER_FORM, divergence=divergence, decay=decay), means=means)
    values = scalars(loss, loss.generator_loss(teacher, score, given.images, given.class_labels, given.draws))
    check_generator(arrays, values, given.images, "f_distill_loss", info["gan_loss_weight_gen"])
    assert relative_error(means, arrays["out/bins"]) < VALUE
    sum(values.values()).backward()
    compare_norms(student, arrays, info)


ECT = ["stage0", "stage4", "q256", "huber", "const", "in64_stage1", "in64_stage3"]


def ect_loss(P_mean=-1.1, P_std=2.0, stage=0, **options):
    return ECTLoss(ECTOptions(**options), P_mean, P_std, 0.5, stage)


@pytest.mark.parametrize("name", ECT)
def test_ect(network, name):
    arrays, info = recorded(f"ect_{name}")
    net, (labels, real) = network("student"), (torch.from_numpy(arrays[f"in/{k}"]) for k in ("labels", "real_images"))
    given = {name: info[name] for name in ("P_mean", "P_std", "q", "k", "b", "c", "stage")}
    given |= {"weighting": "step" if info["weighting"] == "1/(t - r)" else "edm"} | (
        {"k": 0} if name == "const" else {}
    )
    draws = {"sigma_normal": draw(arrays, 0), "noise": draw(arrays, 1)}
    value = ect_loss(**given)(net.train(), MicroBatch(real, labels, draws=draws))["consistency"]
    assert relative_error(value.flatten(), arrays["out/loss"]) < VALUE
    (value.sum() / BATCH).backward()
    found = dict(net.named_parameters())
    for key, expected in arrays.items():
        if key.startswith("grad_student/"):
            assert relative_error(found[key.removeprefix("grad_student/")].grad, expected) < 1e-3, key


def test_ect_levels():
    arrays, _ = recorded("ect_schedule")
    t = torch.from_numpy(arrays["t"])
    for key in arrays:
        if key.startswith("r/"):
            q, stage = key.removeprefix("r/q").split("_stage")
            loss = ect_loss(q=float(q), stage=int(stage))
            assert np.allclose(loss.lower_level(t).numpy(), arrays[key], rtol=1e-6, atol=1e-9), key


def test_ect_coefficients(network):
    arrays, _ = recorded("ect_schedule")
    teacher = network("student")
    net = build_network({"class": "ECTPrecond", "kwargs": teacher.init_config["kwargs"]})
    net.load_state_dict(teacher.state_dict())
    labels = torch.from_numpy(arrays["in/labels"])
    with torch.no_grad():
        for level in (0.003, 0.05, 0.821, 80.0):
            x = torch.from_numpy(arrays[f"precond/{level}/x"])
            for mode in ("train", "eval"):
                denoised = net.train(mode == "train")(x, level, labels)
                assert relative_error(denoised, arrays[f"precond/{level}/D_{mode}"]) < VALUE, (level, mode)
        image = one_step(net.eval(), torch.from_numpy(arrays["sample/z"]), labels, 80.0)
    assert relative_error(image, arrays["sample/one_step"].astype(np.float32)) < VALUE


@pytest.mark.parametrize("name", ["cd_l2_n18", "cd_l1_n18", "cd_l2_n40", "cd_l2_n18_snr"])
def test_cd(network, name):
    arrays, info = recorded(name)
    config = {"class": "GDDPrecond", "kwargs": network("student").init_config["kwargs"]}
    student, target = build_network(config), build_network(config)
    for net, role in ((student, "student"), (target, "fake")):
        net.load_state_dict(network(role).state_dict())
    # The recorded target is another network, as an average is.
    outputs = iter((student, target))
    levels = info["num_scales"]
    options = CDOptions(levels=levels, distance=info["loss_norm"], weighting=info["weight_schedule"])
    loss = CDLoss(network("teacher"), options)
    draws = {"t": (draw(arrays, 1).float().reshape(-1, 1, 1, 1) + 0.5) / (levels - 1), "noise": draw(arrays, 0)}
    labels, real = (torch.from_numpy(arrays[f"in/{key}"]) for key in ("labels", "real_images"))
    value = loss(lambda *given: next(outputs)(*given), MicroBatch(real, labels, draws=draws))["consistency"]
    assert relative_error(value.flatten(), arrays["out/loss"]) < VALUE
    (value.sum() / BATCH).backward()
    compare_norms(student, arrays, info)


@pytest.mark.parametrize("levels", [18, 40])
def test_cd_levels(levels):
    arrays, _ = recorded("cm_schedule")
    t, r = CDLoss(None, CDOptions(levels=levels)).pair((torch.arange(levels - 1) + 0.5) / (levels - 1))
    assert np.allclose(t.numpy(), arrays[f"levels/n{levels}"][:-1], rtol=1e-5)
    assert np.allclose(r.numpy(), arrays[f"levels/n{levels}"][1:], rtol=1e-5)
