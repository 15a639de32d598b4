"""Uni-Instruct's losses on recorded rounds of its released code, and its options."""

from __future__ import annotations

import pytest
import torch

from sida.config.settings import from_mapping
from sida.errors import UserError
from sida.methods.sid import UniInstructLoss, UniInstructOptions, expansion_weight
from sida.sampling import one_step
from sida.training import MicroBatch, Schedule
from tests.golden.vectors import relative_error
from tests.methods.loss_cases import GRADIENT, VALUE, draw, tensors
from tests.methods.test_field import BATCH, PIXELS, compare_norms, gradient, network, recorded  # noqa: F401

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


def generator_round(network, name, loss):  # noqa: F811
    """Student, images and terms of a recorded round; S and L of each image equal the recorded ones."""
    arrays, info = recorded(f"uni_{name}")
    student, fake, labels = network("student"), network("fake"), torch.from_numpy(arrays["in/labels"])
    for key, value in info.get("added_to_fake", {}).items():
        fake.state_dict()[key].add_(value)
    images = one_step(student, draw(arrays, 0), labels, 2.5)
    draws = {"t": draw(arrays, 1).float(), "noise": draw(arrays, 2)}
    loss.t_max = info["tmax"]
    terms = loss.generator_loss(network("teacher"), fake, images, labels, draws)
    assert relative_error(terms.sid.sum((1, 2, 3)), arrays["out/sid_sum_per_image"]) < VALUE
    assert relative_error(terms.adversarial.flatten() * PIXELS, arrays["out/gan_per_image"]) < VALUE
    return arrays, info, student, images, terms


@pytest.mark.parametrize(("name", "case", "divergence", "lambdas", "settings"), ROUNDS)
def test_generator(network, name, case, divergence, lambdas, settings):  # noqa: F811
    loss = UniInstructLoss(divergence=divergence, **settings, **lambdas)
    arrays, info, student, images, terms = generator_round(network, name, loss)
    if settings.get("ratio", "released") == "released" and f"{case}/density_ratio" in arrays:
        ratio = loss.released_ratio(terms.adversarial * PIXELS)
        assert relative_error(ratio.flatten(), arrays[f"{case}/density_ratio"]) < 10 * VALUE
    phase = Schedule(sid_share=0.0).at(info["images_seen_before_the_step"])
    weights = loss.weights(PIXELS)
    value = sum(term.sum() * weights[key] * phase.weight(key) / BATCH for key, term in terms.items())
    # A confident discriminator has losses near 1, where the ratio's denominator cancels.
    limit = 10 if name == "forward_kl_confident" else 1
    assert relative_error(value, arrays[f"{case}/scalar_backward"]) < limit * VALUE
    assert relative_error(gradient(value, images), arrays[f"{case}/grad_images"]) < GRADIENT
    value.backward()
    compare_norms(student, {"grad_student_norm": arrays[f"{case}/grad_student_norm"]}, info)


@pytest.mark.parametrize("name", ["chi_square", "jensen_shannon", "fdistill"])
def test_terms_before_a_branch_that_stops(network, name):  # noqa: F811
    generator_round(network, name, UniInstructLoss())


@pytest.mark.parametrize("case", ["fkl", "clean", "jeffrey"])
@pytest.mark.parametrize("losses", ["mixed", "sure", "usual"])
@pytest.mark.parametrize("on", [0, 1])
def test_weights_of_given_losses(case, losses, on):
    divergence = {"jeffrey": "jeffreys"}.get(case, "forward-kl")
    arrays = recorded("uni_weights")[0]
    given, expected = tensors(arrays, f"{losses}/in/"), tensors(arrays, f"{losses}/{case}/vr{on}/")
    loss = UniInstructLoss(divergence=divergence, variance_reduction=bool(on))
    ratio = loss.released_ratio(given["gan_per_image"])
    assert relative_error(ratio, expected["density_ratio"]) < 1e-9
    sid = expansion_weight(ratio, divergence).view(-1, 1, 1, 1).expand_as(given["sid"]) * loss.lambda_sid
    assert relative_error(sid / len(ratio), expected["d_sid"]) < 1e-9


@pytest.mark.parametrize("name", ["critic", "critic_augment"])
def test_fake_score_and_discriminator(network, name):  # noqa: F811
    arrays, info = recorded(f"uni_{name}")
    student, fake, labels = network("student"), network("fake"), torch.from_numpy(arrays["in/labels"])
    with torch.no_grad():
        images = one_step(student, draw(arrays, 0), labels, 2.5)
    augmented = [
        tuple(torch.from_numpy(arrays[f"out/augmented_{side}{part}"]) for part in ("", "_labels"))
        for side in ("fake", "real")
        if info["augment"]
    ]
    shape = arrays["out/images"].shape
    (noise,) = [key for key in arrays if key > "draw/01" and key.startswith("draw/") and arrays[key].shape == shape]
    draws = {"sigma_normal": draw(arrays, 1), "noise": torch.from_numpy(arrays[noise])}
    given = (images, labels, torch.from_numpy(arrays["in/real_images"]))
    loss = UniInstructLoss()
    terms = loss.fake_score_loss(fake, *given, (lambda _: augmented.pop(0)) if augmented else None, draws)
    assert relative_error(terms.denoising.sum((1, 2, 3)), arrays["out/fake_score_per_image"]) < VALUE
    assert relative_error(terms.discriminator.flatten(), arrays["out/discriminator_per_image"]) < VALUE
    weights = loss.weights(PIXELS)
    value = sum(term.sum() * weights[key] / BATCH for key, term in terms.items())
    assert relative_error(value, arrays["out/scalar_backward"]) < VALUE
    value.backward()
    names = {**info, "grad_fake_norm_names": info["grad_norm_names"]}
    compare_norms(fake, arrays, names, "fake")


def test_ratio_of_logits_has_mean_one_and_rises_with_the_logits():
    sid, logits = torch.ones(3, 1, 2, 2), torch.tensor([-30.0, 0.0, 1.0]).view(3, 1, 1, 1).expand(3, 1, 2, 2)
    for divergence in ("forward-kl", "jeffreys", "chi-square", "jensen-shannon"):
        loss = UniInstructLoss(divergence=divergence, ratio="logits")
        weighted = loss.further_terms(sid, sid, logits, MicroBatch(sid, None))["weighted_sid"][:, 0, 0, 0]
        assert float(weighted.mean()) == pytest.approx(1)
        assert weighted[0] < weighted[1] < weighted[2]
    forward = UniInstructLoss(ratio="logits").further_terms(sid, sid, logits, MicroBatch(sid, None))["weighted_sid"][
        :, 0, 0, 0
    ]
    assert forward[0] / forward[1] == pytest.approx(0.1), "the smallest ratio"


@pytest.mark.parametrize(
    ("options", "key", "remedy"),
    [
        ({"divergence": "chi-square"}, "divergence", "ratio to logits"),
        ({"ratio": "logits", "variance_reduction": True}, "variance_reduction", "remove it"),
    ],
)
def test_options_that_nothing_reads_are_refused(options, key, remedy):
    with pytest.raises(UserError) as error:
        from_mapping(UniInstructOptions, options, "recipe.options")
    assert str(error.value).startswith(f"recipe.options.{key}")
    assert remedy in str(error.value)
