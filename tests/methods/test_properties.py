"""What the losses mean, on scores that can be written down: properties, switches, and what becomes of NaNs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sida.methods.gdd import GDDLoss
from sida.methods.sid import EDM2SiDALoss, EDM2SiDLoss, SiDALoss, SiDLoss, UniInstructLoss
from sida.noise import edm_weight, lognormal_sigma, score_weight, sigma_of_t
from sida.training.micro_batches import MicroBatch, finite_mask
from sida.training.teacher import EDMLoss
from tests.methods.loss_cases import Score, inputs
from tests.networks.made import random_network
from tests.training.toy import EDM2

NAN = float("nan")
BAD = 2
LEVELS = torch.tensor([0.002, 0.1, 0.5, 1.0, 80.0], dtype=torch.float64)


@settings(deadline=None, max_examples=30)
@given(alpha=st.floats(0, 2), true=st.floats(-1, 1), fake=st.floats(-1, 1), seed=st.integers(0, 100))
def test_two_forms_of_the_sid_term_agree(alpha, true, fake, seed):
    """Equation 6 and algorithm 1 of SiDA print it differently (discrepancy 5)."""
    x, _, given = inputs(seed=seed)
    loss = SiDLoss(alpha=alpha)
    sigma = loss.generator_sigma(given)
    noisy = x + sigma * given["noise"]
    f_true, f_fake = true * noisy, fake * noisy
    delta = f_true - f_fake
    other = (1 - alpha) * delta**2 + delta * (f_fake - x)
    omega = (x - f_true).abs().mean((1, 2, 3), keepdim=True).clamp_min(1e-5)
    sid = loss.generator_loss(Score(true), Score(fake), x, None, given).sid
    torch.testing.assert_close(sid, other / omega, rtol=1e-4, atol=1e-5 * float((other / omega).abs().max()) + 1e-7)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), scale=st.floats(0.1, 3))
def test_a_generator_whose_scores_agree_has_no_gradient(seed, scale):
    x, _, given = inputs(seed=seed)
    x = (x * scale).requires_grad_()
    terms = SiDLoss().generator_loss(Score(0.5), Score(0.5), x, None, given)
    terms.sid.sum().backward()
    assert not terms.sid.any()
    assert not x.grad.any()


def test_adversarial_gradients_pull_apart_and_together():
    """The discriminator raises logits of real images; the generator raises those of its own (discrepancies 2, 3)."""
    loss, score = SiDALoss(), Score(0.9)
    x, real, given = inputs()
    x.requires_grad_()
    terms = loss.generator_loss(Score(0.9).requires_grad_(False), score.requires_grad_(False), x, None, given)
    terms.adversarial.sum().backward()
    assert (x.grad.sum((1, 2, 3)) < 0).all(), "descent must raise the generated images' logits"
    low, high = Score(0.9, bias=-3.0), Score(0.9, bias=3.0)
    for judge, sign in ((low, -1), (high, 1)):
        loss.fake_score_loss(judge, x.detach(), None, real, draws=given).discriminator.sum().backward()
        assert judge.bias.grad * sign > 0, "descent must bring a one-sided judge back to the middle"


def test_generator_logits_are_clamped_and_the_discriminators_are_not():
    loss, sure = SiDALoss(), Score(0.9, bias=-50.0)
    x, real, given = inputs()
    terms = loss.generator_loss(Score(0.9), sure, x.requires_grad_(), None, given)
    (gradient,) = torch.autograd.grad(terms.adversarial.sum(), sure.bias, allow_unused=True)
    assert gradient is None or gradient == 0
    loss.fake_score_loss(sure, x.detach(), None, real, draws=given).discriminator.sum().backward()
    assert sure.bias.grad < 0


@given(t=st.lists(st.floats(0, 1), min_size=2, max_size=20, unique=True))
def test_noise_level_grows_with_time(t):
    sigma = sigma_of_t(torch.tensor(sorted(t), dtype=torch.float64))
    assert (sigma[1:] >= sigma[:-1]).all()
    assert sigma.min() >= 0.002 * (1 - 1e-9)
    assert sigma.max() <= 80 * (1 + 1e-9)


@given(level=st.floats(1e-3, 1e3), sigma_data=st.floats(0.1, 2))
def test_weight_undoes_the_output_scale(level, sigma_data):
    """The weight is 1 / c_out² of EDM's preconditioning."""
    sigma = torch.tensor(level, dtype=torch.float64)
    c_out = sigma * sigma_data / (sigma**2 + sigma_data**2).sqrt()
    torch.testing.assert_close(edm_weight(sigma, sigma_data), 1 / c_out**2)


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


@pytest.mark.parametrize("gamma", ["snr", "constant", "min-snr"])
def test_gamma_weighs_both_terms_of_the_fake_score(gamma):
    x, real, draws = inputs()
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


def test_sid_on_edm2_networks_is_sida_without_the_adversarial_term():
    kwargs, source = EDM2["kwargs"], torch.Generator().manual_seed(1)
    net, other = (random_network("EDM2Precond", {**kwargs, "model_channels": n}) for n in (8, 16))
    x, noise = (torch.randn(3, 1, 8, 8, generator=source) for _ in range(2))
    draws = {"t": torch.rand(3, 1, 1, 1, generator=source), "noise": noise, "sigma_normal": torch.zeros(3, 1, 1, 1)}
    plain, both = EDM2SiDLoss(), EDM2SiDALoss()
    assert (plain.uses_real_images, both.uses_real_images) == (False, True)
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
        (lambda: GDDLoss("wgan"), "form: must be 'ns' or 'hinge'"),
    ],
)
def test_unknown_names_fail_at_once(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def without(sample: int, *tensors: torch.Tensor) -> list[torch.Tensor]:
    return [torch.cat([tensor[:sample], tensor[sample + 1 :]]) for tensor in tensors]


@pytest.mark.parametrize("pool", ["batch", "sample"])
@pytest.mark.parametrize("kind", [SiDALoss, EDM2SiDALoss])
def test_nan_in_a_real_image_drops_its_position(kind, pool):
    images, real, draws = inputs()
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
    images, real, draws = inputs()
    terms = kind().fake_score_loss(Score(bad_logits=half + BAD), images, None, real, draws=draws)
    assert terms.nan_count == 1
    assert all(len(term) == 3 and bool(term.isfinite().all()) for term in terms)


@pytest.mark.parametrize("adversarial", [True, False])
def test_nan_in_the_log_variance_drops_the_position(adversarial):
    images, real, draws = inputs()
    loss, score = EDM2SiDALoss() if adversarial else EDM2SiDLoss(), Score(bad_logvar=BAD)
    psi = loss.fake_score_loss(score, images, None, real if adversarial else None, draws=draws)
    theta = loss.generator_loss(Score(), score, images, None, draws)
    for terms in (psi, theta):
        assert terms.nan_count == 1
        present = [term for term in terms if term is not None]
        assert len(present) == 1 + adversarial
        assert all(len(term) == 3 and bool(term.isfinite().all()) for term in present)


def test_generators_mask_looks_at_the_logits_where_the_official_one_does():
    """In the EDM2 code it does; in the EDM code a NaN logit makes the pooled scalar NaN."""
    images, _, draws = inputs()
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
    assert run(EDM2SiDLoss()).nan_count == 0


def test_infinities_are_no_nan():
    values = torch.tensor([[1.0, 2.0], [float("inf"), float("-inf")], [NAN, 0.0]])
    batch = MicroBatch(values[:2], None)
    assert torch.equal(batch.whole(values[:2])[0], values[:2])
    assert batch.dropped == 0
    assert finite_mask(values, torch.zeros(3, 1)).tolist() == [True, True, False]


def test_a_device_that_must_not_wait_keeps_dropped_samples_as_zeros(monkeypatch):
    """Every term and mean equals those without the sample; a GPU would have to wait for their number."""
    images, real, draws = inputs()
    real[BAD, 0, 1, 3] = images[BAD, 0, 0, 0] = NAN
    for loss in (
        SiDLoss(),
        SiDALoss(),
        SiDALoss(pool="sample"),
        EDM2SiDALoss(),
        EDM2SiDLoss(),
        UniInstructLoss(ratio="logits"),
    ):
        found = []
        for waits in (True, False):
            monkeypatch.setattr("sida.training.micro_batches.ASYNC_DEVICES", set() if waits else {"cpu"})
            terms = loss.fake_score_loss(Score(), images, None, real if loss.uses_real_images else None, draws=draws)
            found.append((terms, loss.generator_loss(Score(), Score(0.7), images, None, draws)))
        for removed, zeroed in zip(*found):
            assert int(removed.nan_count) == int(zeroed.nan_count) == 1
            for (name, term), (_, kept) in zip(removed.items(), zeroed.items()):
                assert not kept[BAD].any(), name
                torch.testing.assert_close(torch.cat([kept[:BAD], kept[BAD + 1 :]]), term, equal_nan=True)
