"""NaNs: a position of a batch leaves the losses when anything that is judged at it is NaN."""

from __future__ import annotations

import pytest
import torch

from sida.losses import EDM2SiDALoss, SiDALoss
from sida.losses.terms import dropped_count, finite_mask

BAD = 2
NAN = float("nan")


class Score(torch.nn.Module):
    """D(x) = x / 2, logits = mean level, u = 0.1; logits or u of one sample can be made NaN."""

    def __init__(self, bad_logits: int | None = None, bad_logvar: int | None = None):
        super().__init__()
        self.bad_logits, self.bad_logvar = bad_logits, bad_logvar

    def forward(
        self, x, sigma, class_labels=None, *, augment_labels=None, return_flag="decoder", decode=None,
        return_logvar=False,
    ):  # fmt: skip
        logits, logvar = x.mean((1, 2, 3), keepdim=True), torch.full((len(x), 1, 1, 1), 0.1)
        if self.bad_logits is not None:
            logits[self.bad_logits] = NAN
        if self.bad_logvar is not None:
            logvar[self.bad_logvar] = NAN
        outputs = [x[:decode] / 2]
        outputs += [logits] if return_flag == "encoder_decoder" else []
        outputs += [logvar] if return_logvar else []
        return outputs[0] if len(outputs) == 1 else tuple(outputs)


def batch(count: int = 4):
    source = torch.Generator().manual_seed(0)
    images, real, noise = (torch.randn(count, 1, 4, 4, generator=source) for _ in range(3))
    level = torch.randn(count, 1, 1, 1, generator=source)
    return images, real, {"sigma_normal": level, "noise": noise, "t": level.sigmoid()}


def without(sample: int, *tensors: torch.Tensor) -> list[torch.Tensor]:
    return [torch.cat([tensor[:sample], tensor[sample + 1 :]]) for tensor in tensors]


@pytest.mark.parametrize("pool", ["batch", "sample"])
@pytest.mark.parametrize("kind", [SiDALoss, EDM2SiDALoss])
def test_nan_in_a_real_image_drops_its_position(kind, pool):
    images, real, draws = batch()
    good_images, good_real, *good = without(BAD, images, real, *draws.values())
    expected = kind(pool=pool).fake_score_loss(Score(), good_images, None, good_real, draws=dict(zip(draws, good)))
    real[BAD, 0, 1, 3] = NAN
    terms = kind(pool=pool).fake_score_loss(Score(), images, None, real, draws=draws)
    assert terms.nan_count == 1
    for actual, wanted in zip(terms, expected):
        torch.testing.assert_close(actual, wanted)


@pytest.mark.parametrize("half", [0, 4], ids=["fake", "real"])
@pytest.mark.parametrize("kind", [SiDALoss, EDM2SiDALoss])
def test_nan_in_either_logit_drops_the_position(kind, half):
    images, real, draws = batch()
    terms = kind().fake_score_loss(Score(bad_logits=half + BAD), images, None, real, draws=draws)
    assert terms.nan_count == 1
    assert all(len(term) == 3 and bool(term.isfinite().all()) for term in terms)


@pytest.mark.parametrize("adversarial", [True, False])
def test_nan_in_the_log_variance_drops_the_position(adversarial):
    images, real, draws = batch()
    loss, score = EDM2SiDALoss(adversarial=adversarial), Score(bad_logvar=BAD)
    psi = loss.fake_score_loss(score, images, None, real if adversarial else None, draws=draws)
    theta = loss.generator_loss(Score(), score, images, None, draws)
    for terms in (psi, theta):
        assert terms.nan_count == 1
        present = [term for term in terms if term is not None]
        assert len(present) == 1 + adversarial
        assert all(len(term) == 3 and bool(term.isfinite().all()) for term in present)


def test_generators_mask_looks_at_the_logits_where_the_official_one_does():
    """In the EDM2 code it does; in the EDM code a NaN logit makes the pooled scalar NaN."""
    images, _, draws = batch()
    run = lambda loss: loss.generator_loss(Score(), Score(bad_logits=BAD), images, None, draws)
    for loss in (EDM2SiDALoss(), SiDALoss(pool="sample")):
        terms = run(loss)
        assert terms.nan_count == 1
        assert all(len(term) == 3 and bool(term.isfinite().all()) for term in terms)
    terms = run(SiDALoss())
    assert terms.nan_count == 0
    assert bool(terms.sid.isfinite().all())
    assert bool(terms.adversarial.isnan().all())
    # SiD on EDM2 networks has no use for logits.
    assert run(EDM2SiDALoss(adversarial=False)).nan_count == 0


def test_infinities_are_no_nan():
    values = torch.tensor([[1.0, 2.0], [float("inf"), float("-inf")], [NAN, 0.0]])
    assert dropped_count(finite_mask(values[:2])) == 0
    assert finite_mask(values, torch.zeros(3, 1)).tolist() == [True, True, False]
