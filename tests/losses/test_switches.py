"""Switches of the losses: the weight γ, pooling of the logits, and SiD on EDM2 networks."""

from __future__ import annotations

import pytest
import torch

from sida.losses import EDM2SiDALoss, SiDALoss, SiDLoss, edm_weight, score_weight
from sida.networks import build_network

SIGMA = torch.tensor([0.002, 0.1, 0.5, 1.0, 80.0], dtype=torch.float64)


class Judge(torch.nn.Module):
    """A score whose logits are the pixels, so that samples differ."""

    def forward(self, x, sigma, class_labels=None, augment_labels=None, return_flag="decoder", decode=None):
        denoised = 0.5 * x[:decode]
        return (denoised, x) if return_flag == "encoder_decoder" else denoised


def inputs(count: int = 4):
    source = torch.Generator().manual_seed(0)
    shape = (count, 1, 4, 4)
    x, real, noise = (torch.randn(shape, generator=source) for _ in range(3))
    level = torch.randn(count, 1, 1, 1, generator=source)
    return x, real, {"sigma_normal": level, "noise": noise, "t": level.sigmoid()}


def test_edm_weight_is_snr_plus_constant():
    parts = score_weight(SIGMA, 0.5, "snr") + score_weight(SIGMA, 0.5, "constant")
    torch.testing.assert_close(edm_weight(SIGMA, 0.5), parts)
    assert torch.equal(score_weight(SIGMA, 0.5), edm_weight(SIGMA, 0.5))


def test_min_snr_is_snr_cut_at_five():
    snr, cut = score_weight(SIGMA, 0.5, "snr") * 0.25, score_weight(SIGMA, 0.5, "min-snr") * 0.25
    torch.testing.assert_close(cut, snr.clamp(max=5))
    assert bool((snr[:2] > 5).all())
    assert bool((snr[2:] < 5).all())


@pytest.mark.parametrize("gamma", ["snr", "constant", "min-snr"])
def test_gamma_weighs_both_terms_of_the_fake_score(gamma):
    x, real, draws = inputs()
    usual = SiDALoss().fake_score_loss(Judge(), x, None, real, draws=draws)
    other = SiDALoss(gamma=gamma).fake_score_loss(Judge(), x, None, real, draws=draws)
    sigma = SiDALoss().fake_score_sigma(x, draws)
    ratio = score_weight(sigma, 0.5, gamma) / edm_weight(sigma, 0.5)
    torch.testing.assert_close(other.denoising, usual.denoising * ratio)
    torch.testing.assert_close(other.discriminator, usual.discriminator * ratio)
    # The generator's own terms have no such weight.
    first, second = (
        loss.generator_loss(Judge(), Judge(), x, None, draws) for loss in (SiDALoss(), SiDALoss(gamma=gamma))
    )
    assert torch.equal(first.sid, second.sid)


def test_pooling_per_sample_agrees_with_the_batch_on_one_sample_only():
    x, real, draws = inputs(1)
    one = lambda pool: SiDALoss(pool=pool).fake_score_loss(Judge(), x, None, real, draws=draws).discriminator
    torch.testing.assert_close(one("sample"), one("batch"))
    x, real, draws = inputs(4)
    per_sample, pooled = (
        SiDALoss(pool=pool).fake_score_loss(Judge(), x, None, real, draws=draws).discriminator
        for pool in ("sample", "batch")
    )
    assert per_sample.shape == pooled.shape == (4, 1, 1, 1)
    weight = edm_weight(SiDALoss().fake_score_sigma(x, draws), 0.5)
    entropies = per_sample / weight
    assert float(entropies.std()) > 0
    # The batch's scalar is the mean of the samples' own.
    torch.testing.assert_close(pooled / weight, entropies.mean().expand(4, 1, 1, 1))


def test_pooling_per_sample_keeps_other_samples_of_a_batch_with_nan():
    x, _, draws = inputs(4)
    x[1] = torch.nan
    terms = SiDALoss(pool="sample").generator_loss(Judge(), Judge(), x, None, draws)
    assert terms.nan_count == 1
    assert terms.adversarial.shape == (3, 1, 1, 1)
    assert bool(terms.adversarial.isfinite().all())
    # The paper's scalar pools the sample's logits too.
    assert bool(SiDALoss().generator_loss(Judge(), Judge(), x, None, draws).adversarial.isnan().all())


def edm2_network(**changes):
    kwargs = {
        "img_resolution": 8, "img_channels": 1, "label_dim": 0, "use_fp16": False, "model_channels": 8,
        "channel_mult": [1], "num_blocks": 1, "attn_resolutions": [], "channels_per_head": 8, "logvar_channels": 8,
    }  # fmt: skip
    torch.manual_seed(0)
    net = build_network({"class": "EDM2Precond", "kwargs": {**kwargs, **changes}}).eval()
    # A fresh network has gains of zero: its image would not depend on its weights.
    torch.nn.init.constant_(net.unet.out_gain, 1.0)
    return net


def test_sid_on_edm2_networks_is_sida_without_the_adversarial_term():
    net, source = edm2_network(), torch.Generator().manual_seed(1)
    x, noise = (torch.randn(3, 1, 8, 8, generator=source) for _ in range(2))
    draws = {"t": torch.rand(3, 1, 1, 1, generator=source), "noise": noise, "sigma_normal": torch.zeros(3, 1, 1, 1)}
    plain, both = EDM2SiDALoss(adversarial=False), EDM2SiDALoss()
    assert (plain.uses_real_images, both.uses_real_images) == (False, True)
    other = edm2_network(model_channels=16)
    with torch.no_grad():
        terms, reference = (loss.generator_loss(other, net, x, None, draws) for loss in (plain, both))
        assert terms.adversarial is None
        assert reference.adversarial is not None
        assert torch.equal(terms.sid, reference.sid)
        alone = plain.fake_score_loss(net, x, None, None, draws=draws)
        together = both.fake_score_loss(net, x, None, noise, draws=draws)
    assert alone.discriminator is None
    assert together.discriminator is not None
    torch.testing.assert_close(alone.denoising, together.denoising)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SiDLoss(gamma="edn"), "gamma: must be one of edm, snr, constant, min-snr, got 'edn'"),
        (lambda: SiDALoss(pool="image"), "pool: must be one of batch, sample, got 'image'"),
    ],
)
def test_unknown_names_fail_at_once(make, message):
    with pytest.raises(ValueError, match=message):
        make()
