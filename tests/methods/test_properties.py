"""What the losses mean, on scores that can be written down: properties, switches, and what becomes of NaNs."""

from __future__ import annotations

import pytest
import torch

from sida.methods.sid import EDM2SiDALoss, EDM2SiDLoss, SiDALoss, SiDLoss, UniInstructLoss
from sida.noise import edm_weight, lognormal_sigma, score_weight
from sida.training.micro_batches import MicroBatch, finite_mask
from sida.training.teacher import EDMLoss
from tests.methods.loss_cases import Score, inputs

NAN = float("nan")
BAD = 2
LEVELS = torch.tensor([0.002, 0.1, 0.5, 1.0, 80.0], dtype=torch.float64)


def test_generator_logits_are_clamped_and_the_discriminators_are_not():
    loss, sure = SiDALoss(), Score(0.9, bias=-50.0)
    x, real, given = inputs()
    terms = loss.generator_loss(Score(0.9), sure, x.requires_grad_(), None, given)
    (gradient,) = torch.autograd.grad(terms.adversarial.sum(), sure.bias, allow_unused=True)
    assert gradient is None or gradient == 0
    loss.fake_score_loss(sure, x.detach(), None, real, draws=given).discriminator.sum().backward()
    assert sure.bias.grad < 0


def test_draws_default_to_torchs_generator():
    (x, _, _), score = inputs(), Score(0.5)
    run = lambda: SiDALoss().generator_loss(score, Score(0.7), x, None).sid
    torch.manual_seed(3)
    first = run()
    torch.manual_seed(3)
    assert torch.equal(first, run())
    assert not torch.equal(first, run())


def test_edm_loss_augments_with_the_pipes_labels():
    seen = {}

    class Net(Score):
        def forward(self, x, sigma, class_labels=None, *, augment_labels=None, **options):
            seen["labels"] = augment_labels
            return super().forward(x, sigma)

    flip = lambda x: (x.flip(3), torch.ones(len(x), 9))
    x, _, given = inputs()
    loss = EDMLoss()(Net(1.0), x, None, flip, given)
    sigma = lognormal_sigma(given["sigma_normal"], -1.2, 1.2)
    torch.testing.assert_close(loss, edm_weight(sigma, 0.5) * (sigma * given["noise"]) ** 2)
    assert seen["labels"].shape == (4, 9)


def test_edm_weight_is_snr_plus_constant():
    parts = score_weight(LEVELS, 0.5, "snr") + score_weight(LEVELS, 0.5, "constant")
    torch.testing.assert_close(edm_weight(LEVELS, 0.5), parts)
    assert torch.equal(score_weight(LEVELS, 0.5), edm_weight(LEVELS, 0.5))


def test_min_snr_is_snr_cut_at_five():
    snr, cut = score_weight(LEVELS, 0.5, "snr") * 0.25, score_weight(LEVELS, 0.5, "min-snr") * 0.25
    torch.testing.assert_close(cut, snr.clamp(max=5))
    assert bool((snr[:2] > 5).all())
    assert bool((snr[2:] < 5).all())


def test_gamma_weighs_both_terms_of_the_fake_score():
    (x, real, draws), gamma = inputs(), "min-snr"
    usual = SiDALoss().fake_score_loss(Score(pixels=True), x, None, real, draws=draws)
    other = SiDALoss(gamma=gamma).fake_score_loss(Score(pixels=True), x, None, real, draws=draws)
    sigma = SiDALoss().fake_score_sigma(draws)
    ratio = score_weight(sigma, 0.5, gamma) / edm_weight(sigma, 0.5)
    torch.testing.assert_close(other.denoising, usual.denoising * ratio)
    torch.testing.assert_close(other.discriminator, usual.discriminator * ratio)
    # The generator's own terms have no such weight.
    first, second = (
        loss.generator_loss(Score(pixels=True), Score(pixels=True), x, None, draws)
        for loss in (SiDALoss(), SiDALoss(gamma=gamma))
    )
    assert torch.equal(first.sid, second.sid)


def test_pooling_per_sample_agrees_with_the_batch_on_one_sample_only():
    x, real, draws = inputs(1)
    one = lambda pool: SiDALoss(pool=pool).fake_score_loss(Score(pixels=True), x, None, real, draws=draws).discriminator
    torch.testing.assert_close(one("sample"), one("batch"))
    x, real, draws = inputs(4)
    per_sample, pooled = (
        SiDALoss(pool=pool).fake_score_loss(Score(pixels=True), x, None, real, draws=draws).discriminator
        for pool in ("sample", "batch")
    )
    assert per_sample.shape == pooled.shape == (4, 1, 1, 1)
    weight = edm_weight(SiDALoss().fake_score_sigma(draws), 0.5)
    entropies = (per_sample / weight).detach()
    assert float(entropies.std()) > 0
    # The batch's scalar is the mean of the samples' own.
    torch.testing.assert_close(pooled / weight, entropies.mean().expand(4, 1, 1, 1))


def test_infinities_are_no_nan():
    values = torch.tensor([[1.0, 2.0], [float("inf"), float("-inf")], [NAN, 0.0]])
    batch = MicroBatch(values[:2], None)
    assert torch.equal(batch.whole(values[:2])[0], values[:2])
    assert batch.dropped == 0
    assert finite_mask(values, torch.zeros(3, 1)).tolist() == [True, True, False]


@pytest.mark.parametrize("loss", [SiDALoss(), UniInstructLoss(), UniInstructLoss(ratio="logits")])
def test_a_batch_of_nan_alone_leaves_no_sample(loss):
    images, _, draws = inputs()
    terms = loss.generator_loss(Score(), Score(0.7), images * NAN, None, draws)
    assert terms.nan_count == len(images)
    assert all(len(term) == 0 for _, term in terms.items())


LOSSES = [
    SiDLoss(),
    SiDALoss(),
    SiDALoss(pool="sample"),
    EDM2SiDALoss(),
    EDM2SiDLoss(),
    UniInstructLoss(ratio="logits"),
]


def calls(loss, where, keep=()):
    """Terms of both steps on images with a NaN at one place, or without that sample."""
    images, real, draws = inputs()
    chosen = [n for n in range(4) if n not in keep]
    images, real, draws = images[chosen], real[chosen], {name: value[chosen] for name, value in draws.items()}
    if not keep and where in ("images", "real"):
        {"images": images, "real": real}[where][BAD, 0, 0, 0] = NAN
    bad = {} if keep else {"logits": {"bad_logits": BAD}, "real logits": {"bad_logits": 4 + BAD}}.get(where, {})
    bad |= {"bad_logvar": BAD} if where == "logvar" and not keep else {}
    real = real if loss.uses_real_images else None
    yield loss.fake_score_loss(Score(**bad), images, None, real, draws=draws)
    if where not in ("real", "real logits"):
        yield loss.generator_loss(Score(), Score(0.7, **bad), images, None, draws)


@pytest.mark.parametrize("where", ["images", "real", "logits", "real logits", "logvar"])
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: f"{type(loss).__name__}-{getattr(loss, 'pool', '')}")
def test_a_sample_with_nan_is_left_out_of_all_terms(monkeypatch, loss, where):
    """Terms equal those without the sample; on a GPU, which would have to wait for a number, it stays as zeros."""
    read = {"images"} | ({"real", "logits", "real logits"} if loss.uses_real_images else set())
    if where not in read | ({"logvar"} if isinstance(loss, EDM2SiDLoss) else set()):
        pytest.skip("the loss does not read it")
    batch = isinstance(loss, SiDALoss) and not isinstance(loss, EDM2SiDLoss) and loss.pool == "batch"
    for waits in (True, False):
        monkeypatch.setattr("sida.training.micro_batches.ASYNC_DEVICES", set() if waits else {"cpu"})
        for step, (found, expected) in enumerate(zip(calls(loss, where), calls(loss, where, keep=(BAD,)))):
            pooled = step == 1 and batch
            if pooled and where == "logits":
                # The official generator of EDM networks pools the logits of all samples (fact 7).
                assert found.nan_count == 0
                assert bool(found.adversarial.isnan().all())
                continue
            assert int(found.nan_count) == 1
            for (name, term), (_, wanted) in zip(found.items(), expected.items()):
                if len(term) == 4:
                    assert not term[BAD].any(), name
                    term = torch.cat([term[:BAD], term[BAD + 1 :]])
                if not (pooled and name == "adversarial"):
                    torch.testing.assert_close(term, wanted)
