"""What the losses mean, on scores that can be written down."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sida.errors import UserError
from sida.losses import EDMLoss, GDDLoss, SiDALoss, SiDLoss
from sida.losses.terms import edm_weight, lognormal_sigma, sigma_of_t
from sida.methods import Distiller
from sida.training import Schedule
from tests.training.toy import recipe


class Score(torch.nn.Module):
    """D(x) = slope · x, logits = bias + level of the image."""

    def __init__(self, slope: float, bias: float = 0.0):
        super().__init__()
        self.slope, self.bias = torch.nn.Parameter(torch.tensor(slope)), torch.nn.Parameter(torch.tensor(bias))

    def forward(self, x, sigma, class_labels=None, *, augment_labels=None, return_flag="decoder", decode=None):
        denoised = self.slope * (x if decode is None else x[:decode])
        logits = self.bias + x.mean((1, 2, 3), keepdim=True)
        return {"decoder": denoised, "encoder": logits, "encoder_decoder": (denoised, logits)}[return_flag]


def images(seed: int, count: int = 4) -> torch.Tensor:
    return torch.randn(count, 1, 4, 4, generator=torch.Generator().manual_seed(seed))


def given_draws(seed: int, count: int = 4) -> dict[str, torch.Tensor]:
    source = torch.Generator().manual_seed(seed + 100)
    return {
        "t": torch.rand(count, 1, 1, 1, generator=source),
        "sigma_normal": torch.randn(count, 1, 1, 1, generator=source),
        "noise": torch.randn(count, 1, 4, 4, generator=source),
    }


@settings(deadline=None, max_examples=30)
@given(
    alpha=st.floats(0, 2),
    true=st.floats(-1, 1),
    fake=st.floats(-1, 1),
    seed=st.integers(0, 100),
)
def test_two_forms_of_the_sid_term_agree(alpha, true, fake, seed):
    """Equation 6 and algorithm 1 of SiDA print it differently (discrepancy 5)."""
    x, given = images(seed), given_draws(seed)
    loss = SiDLoss(alpha=alpha)
    sigma = loss.generator_sigma(x, given)
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
    x = (images(seed) * scale).requires_grad_()
    terms = SiDLoss().generator_loss(Score(0.5), Score(0.5), x, None, given_draws(seed))
    terms.sid.sum().backward()
    assert not terms.sid.any()
    assert not x.grad.any()


def test_adversarial_gradients_pull_apart_and_together():
    """The discriminator raises logits of real images; the generator raises those of its own (discrepancies 2, 3)."""
    loss, score = SiDALoss(), Score(0.9)
    x, real = images(0).requires_grad_(), images(1)
    terms = loss.generator_loss(Score(0.9).requires_grad_(False), score.requires_grad_(False), x, None, given_draws(0))
    terms.adversarial.sum().backward()
    assert (x.grad.sum((1, 2, 3)) < 0).all(), "descent must raise the generated images' logits"
    low, high = Score(0.9, bias=-3.0), Score(0.9, bias=3.0)
    for judge, sign in ((low, -1), (high, 1)):
        loss.fake_score_loss(judge, x.detach(), None, real, draws=given_draws(0)).discriminator.sum().backward()
        assert judge.bias.grad * sign > 0, "descent must bring a one-sided judge back to the middle"


def test_generator_logits_are_clamped_and_the_discriminators_are_not():
    loss, sure = SiDALoss(), Score(0.9, bias=-50.0)
    x = images(0).requires_grad_()
    terms = loss.generator_loss(Score(0.9), sure, x, None, given_draws(0))
    (gradient,) = torch.autograd.grad(terms.adversarial.sum(), sure.bias, allow_unused=True)
    assert gradient is None or gradient == 0
    loss.fake_score_loss(sure, x.detach(), None, images(1), draws=given_draws(0)).discriminator.sum().backward()
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
    x, score = images(0), Score(0.5)
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
    x, given = images(0), given_draws(0)
    loss = EDMLoss()(Net(1.0), x, None, flip, given)
    sigma = lognormal_sigma(given["sigma_normal"], -1.2, 1.2)
    torch.testing.assert_close(loss, edm_weight(sigma, 0.5) * (sigma * given["noise"]) ** 2)
    assert seen["labels"].shape == (4, 9)


def test_terms_are_a_pair():
    sid, adversarial = SiDALoss().generator_loss(Score(0.5), Score(0.7), images(0), None)
    assert sid.shape == (4, 1, 4, 4)
    assert adversarial.shape == (4, 1, 1, 1)
    denoising, discriminator = SiDLoss().fake_score_loss(Score(0.5), images(0), None, images(1))
    assert denoising.shape == (4, 1, 4, 4)
    assert discriminator is None


def test_gdd_says_what_it_needs():
    net = torch.nn.Linear(1, 1)
    with pytest.raises(UserError, match="loss: GDDLoss has no fake score, which this loop trains; take SiDLoss"):
        Distiller(net, net, net, GDDLoss(), Schedule(), recipe(lr=1e-4))
    with pytest.raises(ValueError, match="form: must be 'ns' or 'hinge'"):
        GDDLoss("wgan")
    with pytest.raises(ValueError, match="needs real images"):
        GDDLoss().fake_score_loss(lambda x, labels: [x], images(0), None)
