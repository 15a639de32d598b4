"""The loop body against a step-by-step baseline, and its order, scales and guards."""

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import official_order
from benchmarks.official_order import Plain, use_plain_blocks
from sida.methods.sid import SiDALoss, SiDLoss
from sida.networks.body import blocks_of
from sida.training.iteration import Distiller
from sida.training.optimizer import Adam, FlatParameters, OptimizedNetwork, RAdam, guard_gradient
from sida.training.schedule import Schedule
from tests.near import assert_near, is_copy
from tests.networks.made import SMALL, random_network, recorded_network
from tests.training.toy import assert_same_training, iterate, recipe, vector

LR = 1e-4


@pytest.fixture(scope="module")
def networks(golden):
    arrays, info = golden("losses_edm/networks")
    kwargs = info["constructor_kwargs"]
    nets = [recorded_network(arrays, "EDMPrecond", kwargs, f"{role}/") for role in ("phi", "psi", "G")]
    return lambda: copy.deepcopy(nets)


def batch(size: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(seed)
    labels = torch.eye(3)[torch.randint(3, (size,), generator=source)]
    return torch.randn(size, 3, 8, 8, generator=source) * 0.5, labels


def test_iterations_equal_the_plain_ones(networks):
    schedule = Schedule(warmup_kimg=0.004, adversarial_kimg=0.012)
    options = {"lr": LR, "lambda_adv": 10.0, "lambda_d": 5.0, "grad_clip_value": 1.0, "seed": 3}
    loss = SiDALoss(lambda_adv=10.0, lambda_d=5.0)
    ours = Distiller(*networks(), loss, schedule, recipe(ema_half_life_kimg=0.1, ema_rampup_ratio=0.5, **options))
    plain = Plain(*networks(), schedule, ema_half_life=100, ema_rampup_ratio=0.5, **options)
    nimg, steps = 0, 6
    initial = vector(ours.generator.net)
    for step in range(steps):
        real, like = batch(4, 2 * step), batch(4, 2 * step + 1)
        record, expected = iterate(ours, nimg, [real], [like]), plain.iteration(nimg, real, like)
        for name, value in record.losses.items():
            assert float(value) == pytest.approx(float(expected[name]), rel=2e-3), (step, name)
        # Held back at 0 and 4 images; then SiD alone up to 12; then both.
        held_back = nimg <= 4
        assert ("sid" in record.losses) == (not held_back)
        assert is_copy(vector(ours.generator.net), initial) == held_back
        nimg += 4
    assert_same_training(ours.fake_score.net, plain.fake_score, steps, LR)
    assert_same_training(ours.generator.net, plain.generator, steps, LR)
    assert_same_training(ours.ema.net, plain.ema, steps, LR)


@pytest.mark.parametrize("kind", [{}, {"model_type": "DhariwalUNet", "model_channels": 64}], ids=["DDPM++", "ADM"])
def test_plain_blocks_run_and_compute_the_same(kind, monkeypatch):
    run, plain_block = [], official_order._plain_block
    watched = lambda block, *given: run.append(block) or plain_block(block, *given)
    monkeypatch.setattr(official_order, "_plain_block", watched)
    suite, plain = (random_network("EDMPrecond", {**SMALL, "channel_mult": [1, 2], **kind}) for _ in range(2))
    use_plain_blocks(plain)
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert_near(plain(x, 0.5), suite(x, 0.5))
    assert run == blocks_of(plain)


def test_rounds_add_up_but_for_the_adversarial_scalar(networks):
    """Their size changes rounding only; but that scalar is a mean over one round (discrepancy 20)."""
    real, like = batch(8, 0), batch(8, 1)
    cut = lambda pair: list(zip(pair[0].split([4, 2, 2]), pair[1].split([4, 2, 2])))
    for loss, adversarial_kimg in ((SiDLoss(), None), (SiDALoss(), 0)):
        whole, parts = (Distiller(*networks(), loss, Schedule(0, adversarial_kimg), recipe(lr=LR)) for _ in range(2))
        one, other = iterate(whole, 0, [real], [like]), iterate(parts, 0, cut(real), cut(like))
        assert one.samples == other.samples == 16
        same = {
            name: float(other.losses[name]) == pytest.approx(float(one.losses[name]), rel=1e-5) for name in one.losses
        }
        if loss.uses_real_images:
            assert (same["denoising"], same["discriminator"]) == (True, False)
        else:
            assert same == {"denoising": True, "sid": True}
            for name, norm in one.grad_norms.items():
                assert float(other.grad_norms[name]) == pytest.approx(float(norm), rel=1e-4)
            assert_same_training(whole.generator.net, parts.generator.net, 1, LR)


def test_norms_of_terms_are_those_of_their_own_trainings_and_change_no_number(networks):
    def iterated(tick_kimg, **weights):
        distiller = Distiller(*networks(), SiDALoss(**weights), Schedule(0, 0), recipe(lr=LR, tick_kimg=tick_kimg))
        return distiller, iterate(distiller, 12, [batch(4, 0)], [batch(4, 1)])

    (measured, record), (plain, without) = iterated(0.012, lambda_adv=10.0), iterated(1, lambda_adv=10.0)
    assert_same_training(measured.generator.net, plain.generator.net, 1, LR)
    assert without.term_norms == {}
    for term, others in {"sid": {"lambda_adv": 0.0}, "adversarial": {"lambda_adv": 10.0, "lambda_sid": 0.0}}.items():
        alone = iterated(1, **others)[1].grad_norms["generator"]
        assert float(record.term_norms[term]) == pytest.approx(float(alone), rel=1e-3)


def test_teacher_never_changes_and_modes_are_the_official_ones(networks, monkeypatch):
    seen, loss, nets = [], SiDALoss(), networks()

    def watched(name, terms):
        def watching(*given):
            modes = [(net.training, *{p.requires_grad for p in net.parameters()}) for net in nets]
            seen.append((name, *modes, given[-1].images.requires_grad))
            return terms(*given)

        return watching

    for name in ("fake_score_terms", "generator_terms"):
        monkeypatch.setattr(loss, name, watched(name, getattr(loss, name)))
    distiller = Distiller(*nets, loss, Schedule(0, 0), recipe(lr=LR))
    teacher = vector(distiller.true_score)
    iterate(distiller, 0, [batch(4, 0)], [batch(4, 1)])
    frozen, trained = (False, False), (True, True)
    assert seen == [
        ("fake_score_terms", frozen, trained, frozen, False),
        ("generator_terms", frozen, frozen, trained, True),
    ]
    assert is_copy(vector(distiller.true_score), teacher)
    assert all(p.grad is None for net in nets[:2] for p in net.parameters())


NUMBERS = st.floats(-(2.0**100), 2.0**100, width=32) | st.sampled_from([math.nan, math.inf, -math.inf])


@given(st.lists(NUMBERS, min_size=1, max_size=20), st.sampled_from([None, 0.5, 1.0]), st.sampled_from([1e5, 0.0]))
def test_guard_follows_the_official_rule(values, clip, infinity):
    gradient = torch.tensor(values)
    expected = torch.nan_to_num(gradient, nan=0, posinf=infinity, neginf=-infinity)
    if clip is not None:
        expected = expected.clamp(-clip, clip)
    bad = int((~torch.isfinite(gradient)).sum())
    report = guard_gradient(gradient, clip, infinity)
    assert is_copy(gradient, expected)
    assert int(report.replaced) == bad


@pytest.mark.parametrize("betas", [(0.0, 0.999), (0.9, 0.99)])
@pytest.mark.parametrize(
    ("name", "optimizer", "decay", "clip_norm"),
    [("Adam", Adam, {}, None), ("RAdam", RAdam, {}, None), ("AdamW", Adam, {"weight_decay": 0.1}, 0.5)],
)
def test_optimizers_equal_torchs(name, optimizer, decay, clip_norm, betas):
    net, other = torch.nn.Linear(7, 5), torch.nn.Linear(7, 5)
    other.load_state_dict(net.state_dict())
    ours = OptimizedNetwork(net, 1e-2, betas, 1e-8, optimizer=optimizer, clip_norm=clip_norm, **decay)
    theirs = getattr(torch.optim, name)(other.parameters(), 1e-2, betas, **decay)
    source = torch.Generator().manual_seed(0)
    for step in range(20):
        for one, two in zip(net.parameters(), other.parameters(), strict=True):
            one.grad = torch.randn(one.shape, generator=source) * 10.0 ** (step % 5 - 2)
            two.grad = one.grad.clone()
        norm = torch.nn.utils.clip_grad_norm_(other.parameters(), clip_norm or math.inf)
        theirs.param_groups[0]["lr"] = 1e-2 / (step + 1)
        theirs.step()
        assert float(ours.step(1 / (step + 1)).norm) == pytest.approx(float(norm), rel=1e-5)
    assert_near(vector(net), vector(other))


@pytest.mark.parametrize("recorded", [(True, True), (True, False), (False, True), (False, False)])
def test_gradients_of_recorded_and_of_eager_micro_batches_add_up(recorded):
    """A recorded micro-batch brings a vector, an eager one leaves its gradient in the parameters."""
    net = torch.nn.Linear(7, 5)
    gradients = [torch.full((40,), 3.0), torch.full((40,), 4.0)]
    network = OptimizedNetwork(net, 1e-2, (0.0, 0.999), 1e-8, optimizer=Adam)
    for gradient, as_vector in zip(gradients, recorded):
        if as_vector:
            network.add_gradient(gradient)
            continue
        for p, part in zip(net.parameters(), gradient.split([35, 5]), strict=True):
            p.grad = part.view_as(p) if p.grad is None else p.grad + part.view_as(p)
    assert float(network.step(1.0).norm) == pytest.approx(math.sqrt(40) * 7)
    # Nothing stays for the next step.
    network.add_gradient(gradients[0])
    assert float(network.step(1.0).norm) == pytest.approx(math.sqrt(40) * 3)


def test_kernels_in_channels_last_order_have_the_values_and_the_state_of_plain_ones():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 2, (4, 5)), torch.nn.BatchNorm2d(2), torch.nn.Linear(2, 3))
    other, before = copy.deepcopy(net), copy.deepcopy(net.state_dict())
    plain, last = FlatParameters(net), FlatParameters(other, channels_last=True)
    assert other[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert is_copy(other.state_dict(), before)
    assert not is_copy(plain.vector, last.vector)
    assert is_copy(last.portable(last.vector), plain.vector)
    assert is_copy(last.arranged(plain.vector), last.vector)
    for flat in (plain, last):
        sum((number * p**2).sum() for number, p in enumerate(flat.parameters, 1)).backward()
    assert_near(last.portable(last.gradient()), plain.gradient())
    changed = {name: value + 1 for name, value in plain.state().items()}
    for flat in (plain, last):
        flat.load(changed)
    assert is_copy(net.state_dict(), other.state_dict())
    assert_near(net[0].weight, before["0.weight"] + 1)


def test_adam_keeps_a_mean_of_gradients_only_if_it_has_one():
    vector = torch.zeros(3)
    assert [Adam(vector, betas, 1e-8).mean is None for betas in ((0.0, 0.99), (0.9, 0.99))] == [True, False]
