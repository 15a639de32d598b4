"""What the losses mean, on scores that can be written down: properties, switches, and what becomes of NaNs."""

import pytest
import torch

from sida.methods.sid import EDM2SiDALoss, EDM2SiDLoss, SiDALoss, SiDLoss
from sida.noise import edm_weight, lognormal_sigma, score_weight
from sida.training.batches import MicroBatch, finite_mask
from sida.training.teacher import EDMLoss
from tests.near import assert_near, is_copy

NAN = float("nan")
BAD = 2
LEVELS = torch.tensor([0.002, 0.1, 0.5, 1.0, 80.0], dtype=torch.float64)


class Score(torch.nn.Module):
    """D(x) = slope · x, logits = bias + the pixels, u = 0.1; ``bad`` names the sample in which an output is NaN."""

    def __init__(self, slope: float = 0.5, bias: float = 0.0, **bad: int) -> None:
        super().__init__()
        self.slope, self.bias, self.bad = slope, torch.nn.Parameter(torch.tensor(bias)), bad

    def forward(
        self, x, sigma, class_labels=None, augment_labels=None, return_flag="decoder", decode=None, return_logvar=False
    ):
        found = {"logits": self.bias + x, "logvar": torch.full((len(x), 1, 1, 1), 0.1)}
        for name, sample in self.bad.items():
            found[name][sample] = NAN
        denoised = self.slope * x[:decode]
        outputs = {"decoder": [denoised], "encoder_decoder": [denoised, found["logits"]]}[return_flag]
        outputs += [found["logvar"]] if return_logvar else []
        return outputs[0] if len(outputs) == 1 else tuple(outputs)


def inputs(samples=range(4)):
    """Generated images, real ones, and draws, of these of four samples."""
    source = torch.Generator().manual_seed(0)
    images, real, noise = (torch.randn(4, 1, 4, 4, generator=source)[samples] for _ in range(3))
    level = torch.randn(4, 1, 1, 1, generator=source)[samples]
    return images, real, {"sigma_normal": level, "noise": noise, "t": level.sigmoid()}


def test_discriminators_logits_are_not_clamped():
    """Those of the generator's loss are: the golden case ``sida_generator_logit_clamp``."""
    (x, real, given), sure = inputs(), Score(0.9, bias=-50.0)
    SiDALoss().fake_score_loss(sure, x, None, real, draws=given).discriminator.sum().backward()
    assert sure.bias.grad < 0


def test_edm_loss_augments_with_the_pipes_labels():
    (x, _, given), seen = inputs(), []
    denoiser = lambda noisy, *_, augment_labels: seen.append(augment_labels.shape) or noisy
    loss = EDMLoss()(denoiser, x, None, lambda x: (x.flip(3), torch.ones(len(x), 9)), given)
    sigma = lognormal_sigma(given["sigma_normal"], -1.2, 1.2)
    assert_near(loss, edm_weight(sigma, 0.5) * (sigma * given["noise"]) ** 2)
    assert seen == [(4, 9)]


def test_weights_over_levels():
    """EDM's weight is that of the signal-to-noise ratio and a constant; ``min-snr`` cuts the ratio at five."""
    parts = score_weight(LEVELS, 0.5, "snr") + score_weight(LEVELS, 0.5, "constant")
    assert_near(score_weight(LEVELS, 0.5), parts)
    snr, cut = score_weight(LEVELS, 0.5, "snr") * 0.25, score_weight(LEVELS, 0.5, "min-snr") * 0.25
    assert_near(cut, snr.clamp(max=5))
    assert (snr > 5).tolist() == [True, True, False, False, False]


def test_an_image_that_the_teacher_leaves_as_it_is_has_the_smallest_divisor():
    """x = f_φ, so that the mean error is 0: (f_φ − f_ψ)((f_φ − x) − α (f_φ − f_ψ)) / 1e-5."""
    x, _, draws = inputs()
    (teacher, fake), flat = (lambda noisy, *_, shift=shift, **__: 0 * noisy + x + shift for shift in (0.0, 0.25)), 1e-5
    found = SiDLoss(alpha=1.2).generator_loss(teacher, fake, x, None, draws).sid
    assert_near(found, torch.full_like(x, -1.2 * 0.25**2 / flat))


def test_gamma_weighs_both_terms_of_the_fake_score_alone():
    x, real, draws = inputs()
    score, usual, other = Score(), SiDALoss(), SiDALoss(gamma="min-snr")
    sigma = usual.fake_score_sigma(draws)
    ratio = score_weight(sigma, 0.5, "min-snr") / score_weight(sigma, 0.5)
    one, two = (loss.fake_score_loss(score, x, None, real, draws=draws) for loss in (usual, other))
    assert_near(two.denoising, one.denoising * ratio)
    assert_near(two.discriminator, one.discriminator * ratio)
    one, two = (loss.generator_loss(score, score, x, None, draws) for loss in (usual, other))
    assert_near(two.sid, one.sid)


def test_pooling_over_the_batch_is_the_mean_of_pooling_per_sample():
    x, real, draws = inputs()
    weight = score_weight(SiDALoss().fake_score_sigma(draws), 0.5)
    each, pooled = (
        SiDALoss(pool=pool).fake_score_loss(Score(), x, None, real, draws=draws).discriminator / weight
        for pool in ("sample", "batch")
    )
    assert each.shape == (4, 1, 1, 1)
    assert each.std() > 0
    assert_near(pooled, each.mean().expand(4, 1, 1, 1))


def test_infinities_are_no_nan():
    values = torch.tensor([[1.0, 2.0], [float("inf"), float("-inf")], [NAN, 0.0]])
    batch = MicroBatch(values[:2], None)
    assert is_copy(batch.drop_nan(values[:2])[0], values[:2])
    assert batch.dropped == 0
    assert finite_mask(values, torch.zeros(3, 1)).tolist() == [True, True, False]


def test_a_term_without_samples_stays_where_others_lose_some_in_place(monkeypatch):
    monkeypatch.setattr("sida.training.batches.ASYNC_DEVICES", {"cpu"})
    batch = MicroBatch(torch.ones(2, 3), None, mask=torch.tensor([True, False]))
    terms = batch.finalize({"all": torch.tensor(5.0), "each": torch.full((2, 3), 7.0)})
    assert {name: term.tolist() for name, term in terms.items()} == {"all": 5.0, "each": [[7.0] * 3, [0.0] * 3]}


def test_a_batch_of_nan_alone_leaves_no_sample():
    leaves_no_sample_of_nan(SiDALoss())


def leaves_no_sample_of_nan(loss):
    """Checks a loss on images that are all NaN; draws that are not given are torch's."""
    images = inputs()[0] * NAN
    terms = loss.generator_loss(Score(), Score(0.7), images, None)
    assert terms.nan_count == len(images)
    assert all(len(term) == 0 for _, term in terms.items())


#: Arguments of a score whose output is NaN at one place.
OUTPUTS = {"logits": {"logits": BAD}, "real logits": {"logits": 4 + BAD}, "logvar": {"logvar": BAD}}


def both_steps(loss, where=None, samples=range(4)):
    """Terms of the fake score and, where it is met, of the generator, of some samples; with a NaN at one place."""
    (images, real, draws), bad = inputs(samples), OUTPUTS.get(where, {})
    if where in ("images", "real"):
        {"images": images, "real": real}[where][BAD, 0, 0, 0] = NAN
    real = real if loss.uses_real_images else None
    yield loss.fake_score_loss(Score(**bad), images, None, real, draws=draws)
    if where not in ("real", "real logits"):
        yield loss.generator_loss(Score(), Score(0.7, **bad), images, None, draws)


READ = {SiDLoss(): ("images",), EDM2SiDLoss(): ("images", "logvar"), EDM2SiDALoss(): ("images", "real", *OUTPUTS)}
READ |= dict.fromkeys((SiDALoss(), SiDALoss(pool="sample")), ("images", "real", "logits", "real logits"))


@pytest.mark.parametrize(
    ("loss", "where"),
    [(loss, where) for loss, read in READ.items() for where in read],
    ids=lambda value: value if isinstance(value, str) else f"{type(value).__name__}-{getattr(value, 'pool', '')}",
)
def test_a_sample_with_nan_is_left_out_of_all_terms(monkeypatch, loss, where):
    leaves_out_nan(loss, where, monkeypatch)


def leaves_out_nan(loss, where, monkeypatch):
    """Terms equal those without the sample; on a GPU, which would have to wait for a number, it stays as zeros."""
    others = [sample for sample in range(4) if sample != BAD]
    batch = isinstance(loss, SiDALoss) and not isinstance(loss, EDM2SiDLoss) and loss.pool == "batch"
    for waits in (True, False):
        monkeypatch.setattr("sida.training.batches.ASYNC_DEVICES", set() if waits else {"cpu"})
        for step, (found, expected) in enumerate(zip(both_steps(loss, where), both_steps(loss, samples=others))):
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
                    term = term[others]
                if not (pooled and name == "adversarial"):
                    assert_near(term, wanted)
