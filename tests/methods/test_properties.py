"""What the losses mean, on scores that can be written down: properties, switches, and what becomes of NaNs."""

from __future__ import annotations

import pytest
import torch

from sida.methods.dmd import DMD2Loss, DMD2Options
from sida.methods.sid import EDM2SiDALoss, EDM2SiDLoss, SiDALoss, SiDLoss, UniInstructLoss
from sida.noise import complete_draws, edm_weight, lognormal_sigma, score_weight
from sida.training.batches import MicroBatch, finite_mask
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


def test_weights_over_levels():
    """EDM's weight is that of the signal-to-noise ratio and a constant; ``min-snr`` cuts the ratio at five."""
    parts = score_weight(LEVELS, 0.5, "snr") + score_weight(LEVELS, 0.5, "constant")
    torch.testing.assert_close(score_weight(LEVELS, 0.5), parts)
    snr, cut = score_weight(LEVELS, 0.5, "snr") * 0.25, score_weight(LEVELS, 0.5, "min-snr") * 0.25
    torch.testing.assert_close(cut, snr.clamp(max=5))
    assert (snr > 5).tolist() == [True, True, False, False, False]


def test_gamma_weighs_both_terms_of_the_fake_score_alone():
    x, real, draws = inputs()
    score, usual, other = Score(pixels=True), SiDALoss(), SiDALoss(gamma="min-snr")
    sigma = usual.fake_score_sigma(draws)
    ratio = score_weight(sigma, 0.5, "min-snr") / score_weight(sigma, 0.5)
    one, two = (loss.fake_score_loss(score, x, None, real, draws=draws) for loss in (usual, other))
    torch.testing.assert_close(two.denoising, one.denoising * ratio)
    torch.testing.assert_close(two.discriminator, one.discriminator * ratio)
    one, two = (loss.generator_loss(score, score, x, None, draws) for loss in (usual, other))
    assert torch.equal(one.sid, two.sid)


def test_pooling_over_the_batch_is_the_mean_of_pooling_per_sample():
    x, real, draws = inputs()
    weight = score_weight(SiDALoss().fake_score_sigma(draws), 0.5)
    each, pooled = (
        SiDALoss(pool=pool).fake_score_loss(Score(pixels=True), x, None, real, draws=draws).discriminator / weight
        for pool in ("sample", "batch")
    )
    assert each.shape == (4, 1, 1, 1)
    assert each.std() > 0
    torch.testing.assert_close(pooled, each.mean().expand(4, 1, 1, 1))


def test_real_images_of_dmd2_are_judged_by_the_draws_of_the_generated_ones_or_their_own():
    images, level = torch.zeros(2, 1, 4, 4), torch.ones(2, 1, 1, 1)
    for same, own, seen in ((0, 1, "real_"), (1, 1, "fake_"), (1, 0, "")):
        loss = DMD2Loss(DMD2Options(same_noise=bool(same), own_draws=bool(own)))
        draws = complete_draws(loss.fake_score_draws(), None, images)
        assert {f"{seen}t", f"{seen}noise"} <= draws.keys()
        judged, sigma = loss.judged(images, loss.seen[1], level, draws)
        assert torch.equal(judged, sigma * draws[f"{seen}noise"])
        assert torch.equal(sigma, level) == (seen == "")


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
        monkeypatch.setattr("sida.training.batches.ASYNC_DEVICES", set() if waits else {"cpu"})
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
