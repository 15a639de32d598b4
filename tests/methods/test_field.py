"""Losses of other one-step distillers on recorded networks and draws of their official code."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from sida.methods.consistency import CDLoss, CDOptions, ECTLoss, ECTOptions
from sida.methods.dmd import (
    DiffInstructLoss,
    DMD2Loss,
    DMD2Options,
    DMDLoss,
    FDistillLoss,
    FDistillOptions,
    divergence_weight,
)
from sida.methods.sid import UniInstructLoss, expansion_weight
from sida.networks import build_network
from sida.networks.discriminators import FakeScoreWithHeads
from sida.sampling import one_step
from sida.sampling.samplers import extrapolated
from sida.training.batches import MicroBatch
from sida.training.schedule import Schedule
from tests.golden.vectors import load, relative_error
from tests.methods.loss_cases import GRADIENT, VALUE, draw, draws, tensors

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


def agree(arrays, limit=VALUE, **named):
    """Each value equals the array of its name, ``__`` standing for ``/``."""
    for name, value in named.items():
        assert relative_error(value, arrays[name.replace("__", "/")]) < limit, name


def labels_of(arrays):
    return torch.from_numpy(arrays["in/labels"])


def compare_some(net, arrays, prefix, limit=GRADIENT):
    """The gradients below a prefix, of some parameters."""
    expected, found = tensors(arrays, prefix), dict(net.named_parameters())
    assert expected
    for name, value in expected.items():
        assert relative_error(found[name].grad, value) < limit, name


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
    student, labels, loss = network("student"), labels_of(arrays), DiffInstructLoss()
    images = one_step(student, draw(arrays, 0), labels, info["init_sigma"])
    terms = loss.generator_loss(
        network("teacher"), network("fake"), images, labels, draws(arrays, sigma_normal=1, noise=2)
    )
    value = scalars(loss, terms)["kl"]
    agree(arrays, out__loss=terms.kl)
    agree(arrays, GRADIENT, grad_images=gradient(value, images))
    value.backward()
    compare_norms(student, arrays, info)


def test_diff_instruct_fake_score(network):
    arrays, info = recorded("di_fakescore")
    fake, labels, loss = network("fake"), labels_of(arrays), DiffInstructLoss()
    with torch.no_grad():
        images = one_step(network("student"), draw(arrays, 0), labels, info["init_sigma"])
    terms = loss.fake_score_loss(fake, images, labels, draws=draws(arrays, sigma_normal=1, noise=2))
    agree(arrays, out__loss=terms.denoising)
    scalars(loss, terms)["denoising"].backward()
    compare_some(fake, arrays, "grad_fake/")
    compare_norms(fake, arrays, info, "fake")


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
    agree(given, loss=value, grad_images=gradient(value, images))


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
    given = {"t": uniform(draw(arrays, 0), 20, 980), "noise": draw(arrays, 1)}
    if info["diffusion_gan"]:
        given |= {"fake_t": uniform(draw(arrays, 2), 0, 999), "fake_noise": draw(arrays, 3)}
    assert set(loss.generator_draws()) == set(given)
    agree(arrays, out__sigma=loss.generator_sigma(given))
    terms = loss.generator_loss(
        network("teacher", "dmd2_networks"), dmd2_score(network).eval(), images, labels_of(arrays), given
    )
    values = scalars(loss, terms)
    for ours, theirs in (("kl", "loss_dm"), ("gan", "gen_cls_loss")):
        agree(arrays, **{f"out/{theirs}": values[ours]})
        agree(arrays, GRADIENT, **{f"grad_images/{theirs}": gradient(values[ours], images)})


@pytest.mark.parametrize("name", ["dmd2_critic", "dmd2_critic_clean"])
def test_dmd2_critic(network, name):
    arrays, info = recorded(name)
    loss = DMD2Loss(DMD2Options(noisy=info["diffusion_gan"]))
    given = {"noise": draw(arrays, 0), "t": uniform(draw(arrays, 1), 0, 999)}
    if info["diffusion_gan"]:
        given |= {"real_t": uniform(draw(arrays, 2), 0, 999), "real_noise": draw(arrays, 3)}
        given |= {"fake_t": uniform(draw(arrays, 4), 0, 999), "fake_noise": draw(arrays, 5)}
    assert set(loss.fake_score_draws()) == set(given)
    score = dmd2_score(network)
    images, labels, real = (torch.from_numpy(arrays[f"in/{key}"]) for key in ("images", "labels", "real_images"))
    values = scalars(loss, loss.fake_score_loss(score, images, labels, real, draws=given))
    agree(arrays, out__loss_fake_mean=values["denoising"])
    assert relative_error(values["discriminator"], info["cls_loss_weight"] * arrays["out/guidance_cls_loss"]) < VALUE
    sum(values.values()).backward()
    compare_some(score.score, arrays, "grad_fake/")
    compare_norms(score.score, arrays, info, "fake")
    compare_some(score.heads[0], arrays, "grad_head/")


def teacher_score(network, every_resolution):
    arrays, _ = recorded("networks")
    teacher = network("teacher").requires_grad_(False)
    score = FakeScoreWithHeads(network("fake"), teacher, every_resolution)
    name = "disc" if every_resolution else "disc_bottleneck"
    state = tensors(arrays, f"{name}/discriminator_heads.")
    score.heads.load_state_dict(state)
    return teacher, score


def generator_round(network, arrays):
    student, labels = network("student"), labels_of(arrays)
    images = one_step(student, draw(arrays, 0), labels, 80.0)
    agree(arrays, out__images=images)
    return student, MicroBatch(images, labels, draws={"t": uniform(draw(arrays, 1), 2, 998), "noise": draw(arrays, 2)})


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
    total = sum(values.values())
    given = {matching: (values["kl"], 1), "gan_loss_gen": (values["gan"], gan_weight), "total_loss": (total, 1)}
    for name, (value, weight) in given.items():
        assert relative_error(value, weight * arrays[f"out/{name}"]) < VALUE
        assert relative_error(gradient(value, images), weight * arrays[f"grad_images/{name}"]) < GRADIENT


@pytest.mark.parametrize("name", ["", "_same_noise_r1", "_bottleneck_r1"])
def test_dmd2_critic_on_a_frozen_teacher(network, name):
    arrays, info = recorded(f"fastgen_dmd2_critic{name}")
    _, score = teacher_score(network, every_resolution=name != "_bottleneck_r1")
    same = info["gan_use_same_t_noise"]
    penalty = {"r1_weight": info["gan_r1_reg_weight"], "r1_alpha": info["gan_r1_reg_alpha"]}
    loss = DMD2Loss(DMD2Options(**TEACHER_FORM, same_noise=same, **penalty))
    _, given = generator_round(network, arrays)
    if not same:
        given.draws |= {"real_t": uniform(draw(arrays, 3), 2, 998), "real_noise": draw(arrays, 4)}
    if info["gan_r1_reg_weight"]:
        given.draws["r1_noise"] = draw(arrays, 3 if same else 5)
    assert set(loss.fake_score_draws()) == set(given.draws)
    real, images = torch.from_numpy(arrays["in/real_images"]), given.images.detach()
    values = scalars(loss, loss.fake_score_loss(score, images, given.class_labels, real, draws=given.draws))
    agree(arrays, out__fake_score_loss=values["denoising"], out__gan_loss_disc=values["discriminator"])
    if info["gan_r1_reg_weight"]:
        expected = arrays["out/gan_loss_ar1"] * info["gan_r1_reg_weight"]
        assert relative_error(values["r1"], expected) < 5e-5
    agree(arrays, 5e-5, out__total_loss=sum(values.values()))
    sum(values.values()).backward()
    compare_some(score.score, arrays, "grad_fake/")
    compare_norms(score.score, arrays, info, "fake")
    compare_some(score.heads, arrays, "grad_disc/discriminator_heads.")


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
    agree(arrays, out__bins=means)
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
    batch = MicroBatch(real, labels, draws=draws(arrays, sigma_normal=0, noise=1))
    value = ect_loss(**given)(net.train(), batch)["consistency"]
    agree(arrays, out__loss=value.flatten())
    (value.sum() / BATCH).backward()
    compare_some(net, arrays, "grad_student/", 1e-3)


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
    labels = labels_of(arrays)
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
    given = {"t": (draw(arrays, 1).float().reshape(-1, 1, 1, 1) + 0.5) / (levels - 1), "noise": draw(arrays, 0)}
    labels, real = (torch.from_numpy(arrays[f"in/{key}"]) for key in ("labels", "real_images"))
    value = loss(lambda *given: next(outputs)(*given), MicroBatch(real, labels, draws=given))["consistency"]
    agree(arrays, out__loss=value.flatten())
    (value.sum() / BATCH).backward()
    compare_norms(student, arrays, info)


@pytest.mark.parametrize("levels", [18, 40])
def test_cd_levels(levels):
    arrays, _ = recorded("cm_schedule")
    t, r = CDLoss(None, CDOptions(levels=levels)).pair((torch.arange(levels - 1) + 0.5) / (levels - 1))
    assert np.allclose(t.numpy(), arrays[f"levels/n{levels}"][:-1], rtol=1e-5)
    assert np.allclose(r.numpy(), arrays[f"levels/n{levels}"][1:], rtol=1e-5)


# Uni-Instruct: recorded rounds of its released code, and its options

#: File of vectors, its case, divergence, and further facts: weights that differ, settings of the loss.
ROUNDS = [
    ("warmup", "fkl/vr0", "forward-kl", {}, {}),
    *[
        (name, f"{case}/vr{on}", divergence, lambdas, {"variance_reduction": bool(on)})
        for name, case, divergence, lambdas in (
            ("forward_kl", "fkl", "forward-kl", {}),
            ("forward_kl_confident", "fkl", "forward-kl", {}),
            ("forward_clean", "clean", "forward-kl", {"lambda_adv": 0.0}),
            ("jeffrey_kl", "jeffrey", "jeffreys", {}),
            ("jeffrey_kl_clamped", "jeffrey", "jeffreys", {}),
        )
        for on in (0, 1)
    ],
    ("reverse_kl", "rkl", "reverse-kl", {}, {"ratio": "logits"}),
    ("gan_only", "none", "forward-kl", {"lambda_sid": 0.0}, {}),
]  # fmt: skip


def uni_round(network, name, loss):
    """Student, images and terms of a recorded round; S and L of each image equal the recorded ones."""
    arrays, info = recorded(f"uni_{name}")
    student, fake, labels = network("student"), network("fake"), labels_of(arrays)
    for key, value in info.get("added_to_fake", {}).items():
        fake.state_dict()[key].add_(value)
    images = one_step(student, draw(arrays, 0), labels, 2.5)
    loss.t_max, given = info["tmax"], {"t": draw(arrays, 1).float(), "noise": draw(arrays, 2)}
    terms = loss.generator_loss(network("teacher"), fake, images, labels, given)
    agree(arrays, out__sid_sum_per_image=terms.sid.sum((1, 2, 3)))
    agree(arrays, out__gan_per_image=terms.adversarial.flatten() * PIXELS)
    return arrays, info, student, images, terms


@pytest.mark.parametrize(("name", "case", "divergence", "lambdas", "settings"), ROUNDS)
def test_uni_instruct_generator(network, name, case, divergence, lambdas, settings):
    loss = UniInstructLoss(divergence=divergence, **settings, **lambdas)
    arrays, info, student, images, terms = uni_round(network, name, loss)
    if settings.get("ratio", "released") == "released" and f"{case}/density_ratio" in arrays:
        ratio = loss.released_ratio(terms.adversarial * PIXELS)
        agree(arrays, 10 * VALUE, **{f"{case}/density_ratio": ratio.flatten()})
    phase = Schedule(sid_share=0.0).at(info["images_seen_before_the_step"])
    weights = loss.weights(PIXELS)
    value = sum(term.sum() * weights[key] * phase.weight(key) / BATCH for key, term in terms.items())
    # A confident discriminator has losses near 1, where the ratio's denominator cancels.
    limit = 10 if name == "forward_kl_confident" else 1
    agree(arrays, limit * VALUE, **{f"{case}/scalar_backward": value})
    agree(arrays, GRADIENT, **{f"{case}/grad_images": gradient(value, images)})
    value.backward()
    compare_norms(student, {"grad_student_norm": arrays[f"{case}/grad_student_norm"]}, info)


@pytest.mark.parametrize("name", ["chi_square", "jensen_shannon", "fdistill"])
def test_uni_instruct_terms_before_a_branch_that_stops(network, name):
    uni_round(network, name, UniInstructLoss())


@pytest.mark.parametrize("case", ["fkl", "clean", "jeffrey"])
@pytest.mark.parametrize("losses", ["mixed", "sure", "usual"])
@pytest.mark.parametrize("on", [0, 1])
def test_uni_instruct_weights_of_given_losses(case, losses, on):
    divergence = {"jeffrey": "jeffreys"}.get(case, "forward-kl")
    arrays = recorded("uni_weights")[0]
    given, expected = tensors(arrays, f"{losses}/in/"), tensors(arrays, f"{losses}/{case}/vr{on}/")
    loss = UniInstructLoss(divergence=divergence, variance_reduction=bool(on))
    ratio = loss.released_ratio(given["gan_per_image"])
    sid = expansion_weight(ratio, divergence).view(-1, 1, 1, 1).expand_as(given["sid"]) * loss.lambda_sid
    agree(expected, 1e-9, density_ratio=ratio, d_sid=sid / len(ratio))


@pytest.mark.parametrize("name", ["critic", "critic_augment"])
def test_uni_instruct_fake_score_and_discriminator(network, name):
    arrays, info = recorded(f"uni_{name}")
    student, fake, labels = network("student"), network("fake"), labels_of(arrays)
    with torch.no_grad():
        images = one_step(student, draw(arrays, 0), labels, 2.5)
    augmented = [
        tuple(torch.from_numpy(arrays[f"out/augmented_{side}{part}"]) for part in ("", "_labels"))
        for side in ("fake", "real")
        if info["augment"]
    ]
    shape = arrays["out/images"].shape
    (noise,) = [key for key in arrays if key > "draw/01" and key.startswith("draw/") and arrays[key].shape == shape]
    loss, drawn = UniInstructLoss(), {"sigma_normal": draw(arrays, 1), "noise": torch.from_numpy(arrays[noise])}
    given = (images, labels, torch.from_numpy(arrays["in/real_images"]))
    terms = loss.fake_score_loss(fake, *given, (lambda _: augmented.pop(0)) if augmented else None, drawn)
    agree(arrays, out__fake_score_per_image=terms.denoising.sum((1, 2, 3)))
    agree(arrays, out__discriminator_per_image=terms.discriminator.flatten())
    value = sum(scalars(loss, terms).values())
    agree(arrays, out__scalar_backward=value)
    value.backward()
    names = {**info, "grad_fake_norm_names": info["grad_norm_names"]}
    compare_norms(fake, arrays, names, "fake")


def test_uni_instruct_ratio_of_logits_has_mean_one_and_rises_with_the_logits():
    sid, logits = torch.ones(3, 1, 2, 2), torch.tensor([-30.0, 0.0, 1.0]).view(3, 1, 1, 1).expand(3, 1, 2, 2)
    for divergence in ("forward-kl", "jeffreys", "chi-square", "jensen-shannon"):
        loss = UniInstructLoss(divergence=divergence, ratio="logits")
        weighted = loss.further_terms(sid, sid, logits, MicroBatch(sid, None))["weighted_sid"][:, 0, 0, 0]
        assert float(weighted.mean()) == pytest.approx(1)
        assert weighted[0] < weighted[1] < weighted[2]
        if divergence == "forward-kl":
            assert weighted[0] / weighted[1] == pytest.approx(0.1), "the smallest ratio"
