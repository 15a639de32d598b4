"""Losses of other one-step distillers on recorded networks and draws of their official code."""

import pytest
import torch

from sida.networks.discriminators import FakeScoreWithHeads
from sida.plugins.rivals.consistency import CDLoss, CDOptions, ECTLoss, ECTOptions
from sida.plugins.rivals.dmd import (
    DiffInstructLoss,
    DMD2Loss,
    DMD2Options,
    DMDLoss,
)
from sida.plugins.rivals.f_distill import FDistillLoss, FDistillOptions, divergence_weight
from sida.plugins.rivals.uni_instruct import UniInstructLoss, expansion_weight
from sida.sampling import one_step
from sida.training.batches import MicroBatch
from sida.training.schedule import Schedule
from tests.golden.vectors import agree, below, draw, draws, load_tensors
from tests.near import GRADIENT, assert_near
from tests.networks.made import recorded_network
from tests.slow import quick_but

PIXELS, BATCH = 3 * 16 * 16, 4


def recorded(name):
    return load_tensors(f"field/{name}")


def network(role, file="networks", cls="EDMPrecond"):
    arrays, info = recorded(file)
    # FastGen's networks have a head for the variance, too, which none of these losses reads.
    weights = {name: value for name, value in arrays.items() if ".logvar_linear." not in name}
    return recorded_network(weights, cls, info["constructor_kwargs"], f"{role}/")


def begin(arrays, init_sigma):
    """The student, its images and their labels."""
    student, labels = network("student"), arrays["in/labels"]
    images = one_step(student, draw(arrays, 0), labels, init_sigma)
    agree(arrays, out__images=images)
    return student, images, labels


def inputs(arrays, *names):
    return [arrays[f"in/{name}"] for name in names]


def uniform(indices, low, high):
    """The uniform draw that becomes these indices."""
    return ((indices.float() - low + 0.5) / (high - low + 1)).reshape(-1, 1, 1, 1)


def scalars(loss, terms):
    """Each term times its weight, as an official mean over the batch."""
    weights = loss.weights(PIXELS)
    return {name: term.sum() * weights[name] / BATCH for name, term in terms.items()}


def gradient(value, images):
    return torch.autograd.grad(value, images, retain_graph=True)[0]


def agree_at_images(arrays, images, **named):
    """Each value, and its gradient at the images, equals the recorded one times a weight."""
    for name, (value, weight) in named.items():
        assert_near(value, weight * arrays[f"out/{name}"], name=name)
        assert_near(gradient(value, images), weight * arrays[f"grad_images/{name}"], GRADIENT, name=name)


def agree_at_weights(value, arrays, info, limit=GRADIENT, **nets):
    """Gradients of a value at networks by their roles: some, and the norms of all; where it is not reached, zero.

    Rounding is that of the largest gradient, also in small ones.
    """
    value.backward()
    for role, net in nets.items():
        gradients = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
        if expected := below(arrays, f"grad_{role}/"):
            flat = [gradients.get(name, 0 * wanted).flatten() for name, wanted in expected.items()]
            wanted = torch.cat([gradient.flatten() for gradient in expected.values()])
            assert_near(torch.cat(flat), wanted, limit, name=role)
        names = info.get(f"grad_{role}_norm_names", info["grad_norm_names"])
        norms = [float(gradients[name].double().norm()) if name in gradients else 0.0 for name in names]
        assert_near(norms, arrays[f"grad_{role}_norm"], limit, name=role)


@pytest.mark.parametrize("name", ["di_generator", "di_generator_sigma2.5"])
def test_diff_instruct_generator(name):
    arrays, info = recorded(name)
    (student, images, labels), loss = begin(arrays, info["init_sigma"]), DiffInstructLoss()
    given = draws(arrays, sigma_normal=1, noise=2)
    terms = loss.generator_loss(network("teacher"), network("fake"), images, labels, given)
    value = scalars(loss, terms)["kl"]
    agree(arrays, out__loss=terms.kl)
    agree(arrays, GRADIENT, grad_images=gradient(value, images))
    agree_at_weights(value, arrays, info, student=student)


def test_diff_instruct_fake_score():
    arrays, info = recorded("di_fakescore")
    fake, (_, images, labels), loss = network("fake"), begin(arrays, info["init_sigma"]), DiffInstructLoss()
    terms = loss.fake_score_loss(fake, images.detach(), labels, draws=draws(arrays, sigma_normal=1, noise=2))
    agree(arrays, out__loss=terms.denoising)
    agree_at_weights(scalars(loss, terms)["denoising"], arrays, info, fake=fake)


@pytest.mark.parametrize("case", ["vsd0", "vsd1"])
def test_direction_of_matching(case):
    given = below(recorded("fastgen_plain")[0], f"{case}/")
    images = given["images"].requires_grad_()
    by = lambda name: lambda *_: given[name]
    factor = given.get("scale", torch.ones(BATCH)).view(-1, 1, 1, 1)
    batch = MicroBatch(images, None)
    direction = factor * DMDLoss().direction(by("teacher_x0"), by("fake_x0"), batch, images, images)
    value = (images - (images - direction).detach()).square().sum() / 2 / images.numel()
    agree(given, loss=value, grad_images=gradient(value, images))


# DMD2 of its own code: its networks, and one head on the fake score


def dmd2_score():
    score = FakeScoreWithHeads(network("fake", "dmd2_networks"), None, every_resolution=False)
    score.heads[0].load_state_dict(below(recorded("dmd2_networks")[0], "head/"))
    return score


def judged_by(arrays, **numbers):
    """Levels and noise with which images are judged, by the number of the level's draw."""
    given = {f"{whose}_t": uniform(draw(arrays, number), 0, 999) for whose, number in numbers.items()}
    return given | {f"{whose}_noise": draw(arrays, number + 1) for whose, number in numbers.items()}


@pytest.mark.parametrize("name", ["dmd2_generator", "dmd2_generator_clean"])
def test_dmd2_generator(name):
    arrays, info = recorded(name)
    loss = DMD2Loss(DMD2Options(noisy=info["diffusion_gan"], gan_weight=1.0))
    images, labels = inputs(arrays, "images", "labels")
    given = {"t": uniform(draw(arrays, 0), 20, 980), "noise": draw(arrays, 1)}
    given |= judged_by(arrays, fake=2) if info["diffusion_gan"] else {}
    assert set(loss.generator_draws()) == set(given)
    agree(arrays, out__sigma=loss.generator_sigma(given))
    nets = network("teacher", "dmd2_networks"), dmd2_score().eval()
    values = scalars(loss, loss.generator_loss(*nets, images.requires_grad_(), labels, given))
    agree_at_images(arrays, images, loss_dm=(values["kl"], 1), gen_cls_loss=(values["gan"], 1))


@pytest.mark.parametrize("name", ["dmd2_critic", "dmd2_critic_clean"])
def test_dmd2_critic(name):
    arrays, info = recorded(name)
    loss, score = DMD2Loss(DMD2Options(noisy=info["diffusion_gan"])), dmd2_score()
    given = {"noise": draw(arrays, 0), "t": uniform(draw(arrays, 1), 0, 999)}
    given |= judged_by(arrays, real=2, fake=4) if info["diffusion_gan"] else {}
    assert set(loss.fake_score_draws()) == set(given)
    images, labels, real = inputs(arrays, "images", "labels", "real_images")
    values = scalars(loss, loss.fake_score_loss(score, images, labels, real, draws=given))
    agree(arrays, out__loss_fake_mean=values["denoising"])
    agree(arrays, out__guidance_cls_loss=values["discriminator"] / info["cls_loss_weight"])
    agree_at_weights(sum(values.values()), arrays, info, fake=score.score, head=score.heads[0])


# DMD2 and f-distill of FastGen: heads on the frozen teacher, one noisy image for both terms; f-distill's own options


def teacher_score(arrays, every_resolution=True):
    """Teacher, fake score with heads, and the student's images with labels and the draws of both scores."""
    teacher, heads = network("teacher").requires_grad_(False), "disc" if every_resolution else "disc_bottleneck"
    score = FakeScoreWithHeads(network("fake"), teacher, every_resolution)
    score.heads.load_state_dict(below(recorded("networks")[0], f"{heads}/discriminator_heads."))
    student, images, labels = begin(arrays, 80.0)
    return teacher, score, student, (images, labels), {"t": uniform(draw(arrays, 1), 2, 998), "noise": draw(arrays, 2)}


def check_generator(arrays, info, student, loss, matching, *given):
    """Both terms and their sum: values, and gradients at the images and at the student."""
    values, gan_weight = scalars(loss, loss.generator_loss(*given)), info["gan_loss_weight_gen"]
    total, named = sum(values.values()), {matching: (values["kl"], 1), "gan_loss_gen": (values["gan"], gan_weight)}
    agree_at_images(arrays, given[2], total_loss=(total, 1), **named)
    agree_at_weights(total, arrays, info, student=student)


@pytest.mark.parametrize("name", ["", "_bottleneck", "_guided"])
def test_dmd2_generator_on_a_frozen_teacher(name):
    arrays, info = recorded(f"fastgen_dmd2_generator{name}")
    teacher, score, student, images, given = teacher_score(arrays, name != "_bottleneck")
    loss = DMD2Loss(FDistillOptions(gan_weight=info["gan_loss_weight_gen"]))
    assert list(loss.generator_draws()) == ["t", "noise"]

    def guided(x, sigma, labels):
        if info["guidance_scale"] is None:
            return teacher(x, sigma, labels)
        return teacher(x, sigma, 0 * labels).lerp(teacher(x, sigma, labels), info["guidance_scale"])

    check_generator(arrays, info, student, loss, "vsd_loss", guided, score, *images, given)


@pytest.mark.parametrize("name", ["", "_same_noise_r1", "_bottleneck_r1"])
def test_dmd2_critic_on_a_frozen_teacher(name):
    arrays, info = recorded(f"fastgen_dmd2_critic{name}")
    _, score, _, (images, labels), given = teacher_score(arrays, name != "_bottleneck_r1")
    same, r1 = info["gan_use_same_t_noise"], info["gan_r1_reg_weight"]
    loss = DMD2Loss(FDistillOptions(same_noise=same, r1_weight=r1, r1_alpha=info["gan_r1_reg_alpha"]))
    given |= {} if same else {"real_t": uniform(draw(arrays, 3), 2, 998), "real_noise": draw(arrays, 4)}
    given |= {"r1_noise": draw(arrays, 3 if same else 5)} if r1 else {}
    assert set(loss.fake_score_draws()) == set(given)
    terms = loss.fake_score_loss(score, images.detach(), labels, *inputs(arrays, "real_images"), draws=given)
    values = scalars(loss, terms)
    agree(arrays, out__fake_score_loss=values["denoising"], out__gan_loss_disc=values["discriminator"])
    agree(arrays, GRADIENT, out__total_loss=sum(values.values()))
    if r1:
        agree(arrays, GRADIENT, out__gan_loss_ar1=values["r1"] / r1)
    heads = torch.nn.ModuleDict({"discriminator_heads": score.heads})
    agree_at_weights(sum(values.values()), arrays, info, fake=score.score, disc=heads)


def test_f_distill_weights():
    arrays, info = recorded("fdistill_weights")
    for name in ("rkl", "kl", "js", "sf", "neyman", "sh", "jf"):
        agree(arrays, **{f"function/{name}": divergence_weight(arrays["function/ratio"], name)})
    for case, settings in info["cases"].items():
        options = FDistillOptions(
            divergence=settings["f_div"],
            decay=settings["ratio_ema_rate"],
            ratio_range=(settings["ratio_lower"], settings["ratio_upper"]),
            normalised=settings["ratio_normalization"],
        )
        loss = FDistillLoss(options, means=torch.ones(settings["bin_num"]))
        for call in range(3):
            logits, sigma = inputs(arrays, f"{call}/logits", f"{call}/sigma")
            weights = loss.image_weights(logits, sigma.float().view(-1, 1, 1, 1), MicroBatch(logits, None)).flatten()
            agree(arrays, **{f"{case}/{call}/h": weights})
            if settings["ratio_normalization"]:
                agree(arrays, **{f"{case}/{call}/bins": loss.means})


@pytest.mark.parametrize("divergence", ["kl", "js"])
def test_f_distill_generator(divergence):
    arrays, info = recorded(f"fdistill_generator_{divergence}")
    teacher, score, student, images, given = teacher_score(arrays)
    options = FDistillOptions(divergence=divergence, decay=info["f_distill"]["ratio_ema_rate"])
    loss = FDistillLoss(options, means=arrays["in/bins"].clone())
    check_generator(arrays, info, student, loss, "f_distill_loss", teacher, score, *images, given)
    agree(arrays, out__bins=loss.means)


# Consistency: ECT and CD


@pytest.mark.parametrize("name", ["stage0", "stage4", "q256", "huber", "const", "in64_stage1", "in64_stage3"])
def test_ect(name):
    arrays, info = recorded(f"ect_{name}")
    options = {key: info[key] for key in ("q", "k", "b", "c")} | ({"k": 0} if name == "const" else {})
    options |= {"weighting": "step" if info["weighting"] == "1/(t - r)" else "edm"}
    loss = ECTLoss(ECTOptions(**options), info["P_mean"], info["P_std"], 0.5, info["stage"])
    net, (labels, real) = network("student").train(), inputs(arrays, "labels", "real_images")
    value = loss(net, MicroBatch(real, labels, draws=draws(arrays, sigma_normal=0, noise=1)))["consistency"]
    agree(arrays, out__loss=value.flatten())
    agree_at_weights(value.sum() / BATCH, arrays, info, 1e-3, student=net)


def test_ects_default_levels_are_the_released_ones():
    _, info = recorded("ect_stage0")
    loss = ECTLoss()
    assert (loss.P_mean, loss.stage) == (info["P_mean"], info["stage"])
    assert loss.P_std == info["P_std"]


def test_ect_levels_and_coefficients():
    arrays, _ = recorded("ect_schedule")
    t, labels, net = arrays["t"], arrays["in/labels"], network("student", cls="ECTPrecond")
    for key in arrays:
        if key.startswith("r/"):
            q, stage = key.removeprefix("r/q").split("_stage")
            lower = ECTLoss(ECTOptions(q=float(q)), stage=int(stage)).lower_level(t)
            assert_near(lower, arrays[key], each=True, name=key)
    with torch.no_grad():
        for level in (0.003, 0.05, 0.821, 80.0):
            x = arrays[f"precond/{level}/x"]
            for mode in ("train", "eval"):
                agree(arrays, **{f"precond/{level}/D_{mode}": net.train(mode == "train")(x, level, labels)})
        agree(arrays, sample__one_step=one_step(net.eval(), arrays["sample/z"], labels, 80.0))


@pytest.mark.parametrize("name", ["l2_n18", "l1_n18", "l2_n40", "l2_n18_snr"])
def test_cd(name):
    (arrays, info), (schedule, _) = recorded(f"cd_{name}"), recorded("cm_schedule")
    # The recorded target is another network, as an average is.
    student, target = (network(role, cls="GDDPrecond") for role in ("student", "fake"))
    outputs, levels = iter((student, target)), info["num_scales"]
    options = CDOptions(levels=levels, distance=info["loss_norm"], weighting=info["weight_schedule"])
    loss = CDLoss(network("teacher"), options)
    pair = torch.stack(loss.pair((torch.arange(levels - 1) + 0.5) / (levels - 1)))
    expected = schedule[f"levels/n{levels}"]
    assert_near(pair, torch.stack([expected[:-1], expected[1:]]), each=True)
    given = {"t": uniform(draw(arrays, 1), 0, levels - 2), "noise": draw(arrays, 0)}
    labels, real = inputs(arrays, "labels", "real_images")
    value = loss(lambda *given: next(outputs)(*given), MicroBatch(real, labels, draws=given))["consistency"]
    agree(arrays, out__loss=value.flatten())
    agree_at_weights(value.sum() / BATCH, arrays, info, student=student)


# Uni-Instruct: recorded rounds of its released code, and its options

#: File of vectors, its case (none: the released code stops before its branch), divergence, settings of the loss.
ROUNDS = [
    ("warmup", "fkl/vr0", "forward-kl", {}),
    *[
        (name, f"{case}/vr{on}", divergence, {**settings, "variance_reduction": bool(on)})
        for name, case, divergence, settings in (
            ("forward_kl", "fkl", "forward-kl", {}),
            ("forward_kl_confident", "fkl", "forward-kl", {}),
            ("forward_clean", "clean", "forward-kl", {"lambda_adv": 0.0}),
            ("jeffrey_kl", "jeffrey", "jeffreys", {}),
            ("jeffrey_kl_clamped", "jeffrey", "jeffreys", {}),
        )
        for on in (0, 1)
    ],
    ("reverse_kl", "rkl", "reverse-kl", {"ratio": "logits"}),
    ("gan_only", "none", "forward-kl", {"lambda_sid": 0.0}),
    *((name, None, "forward-kl", {}) for name in ("chi_square", "jensen_shannon", "fdistill")),
]


@pytest.mark.parametrize(
    ("name", "case", "divergence", "settings"),
    quick_but({"forward_kl_confident", "jeffrey_kl_clamped", "forward_clean"}, ROUNDS),
)
def test_uni_instruct_generator(name, case, divergence, settings):
    arrays, info = recorded(f"uni_{name}")
    (student, images, labels), fake = begin(arrays, 2.5), network("fake")
    for key, value in info.get("added_to_fake", {}).items():
        fake.state_dict()[key].add_(value)
    loss = UniInstructLoss(divergence=divergence, t_max=info["tmax"], **settings)
    terms = loss.generator_loss(network("teacher"), fake, images, labels, draws(arrays, t=1, noise=2))
    agree(arrays, out__sid_sum_per_image=terms.sid.sum((1, 2, 3)))
    agree(arrays, out__gan_per_image=terms.adversarial.flatten() * PIXELS)
    if case is None:
        return
    if "ratio" not in settings and f"{case}/density_ratio" in arrays:
        ratio = loss.released_ratio(terms.adversarial * PIXELS)
        agree(arrays, 1e-4, **{f"{case}/density_ratio": ratio.flatten()})
    phase = Schedule(sid_share=0.0).at(info["images_seen_before_the_step"])
    value = sum(value * phase.weight(key) for key, value in scalars(loss, terms).items())
    # A confident discriminator has losses near 1, where the ratio's denominator cancels.
    limit = 1e-4 if name == "forward_kl_confident" else None
    agree(arrays, limit, **{f"{case}/scalar_backward": value})
    agree(arrays, GRADIENT, **{f"{case}/grad_images": gradient(value, images)})
    agree_at_weights(value, {"grad_student_norm": arrays[f"{case}/grad_student_norm"]}, info, student=student)


@pytest.mark.parametrize("case", ["fkl", "clean", "jeffrey"])
@pytest.mark.parametrize("losses", ["mixed", "sure", "usual"])
@pytest.mark.parametrize("on", [0, 1])
def test_uni_instruct_weights_of_given_losses(case, losses, on):
    divergence, (arrays, _) = "jeffreys" if case == "jeffrey" else "forward-kl", recorded("uni_weights")
    given, expected = below(arrays, f"{losses}/in/"), below(arrays, f"{losses}/{case}/vr{on}/")
    loss = UniInstructLoss(divergence=divergence, variance_reduction=bool(on))
    ratio = loss.released_ratio(given["gan_per_image"])
    sid = expansion_weight(ratio, divergence).view(-1, 1, 1, 1).expand_as(given["sid"]) * loss.lambda_sid
    agree(expected, 1e-9, density_ratio=ratio, d_sid=sid / len(ratio))


@pytest.mark.parametrize("name", ["critic", "critic_augment"])
def test_uni_instruct_fake_score_and_discriminator(name):
    arrays, info = recorded(f"uni_{name}")
    (_, images, labels), fake, loss = begin(arrays, 2.5), network("fake"), UniInstructLoss()
    augmented = [
        tuple(arrays[f"out/augmented_{side}{part}"] for part in ("", "_labels"))
        for side in ("fake", "real")
        if info["augment"]
    ]
    drawn = draws(arrays, sigma_normal=1, noise=16 if augmented else 2)
    given = (images.detach(), labels, *inputs(arrays, "real_images"))
    terms = loss.fake_score_loss(fake, *given, (lambda _: augmented.pop(0)) if augmented else None, drawn)
    agree(arrays, out__fake_score_per_image=terms.denoising.sum((1, 2, 3)))
    agree(arrays, out__discriminator_per_image=terms.discriminator.flatten())
    value = sum(scalars(loss, terms).values())
    agree(arrays, out__scalar_backward=value)
    agree_at_weights(value, arrays, info, fake=fake)


def test_uni_instruct_ratio_of_logits_has_mean_one_and_rises_with_the_logits():
    sid, logits = torch.ones(3, 1, 2, 2), torch.tensor([-30.0, 0.0, 1.0]).view(3, 1, 1, 1).expand(3, 1, 2, 2)
    for divergence in ("forward-kl", "jeffreys", "chi-square", "jensen-shannon"):
        loss = UniInstructLoss(divergence=divergence, ratio="logits")
        weighted = loss.further_terms(sid, sid, logits, MicroBatch(sid, None))["adversarial_sid"][:, 0, 0, 0]
        assert float(weighted.mean()) == pytest.approx(1)
        assert weighted[0] < weighted[1] < weighted[2]
        if divergence == "forward-kl":
            assert weighted[0] / weighted[1] == pytest.approx(0.1), "the smallest ratio"
