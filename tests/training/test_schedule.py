"""Schedules against the golden tables and their properties."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sida.noise import sigma_of_t
from sida.training import averages
from sida.training.averages import ema_beta, ema_half_life
from sida.training.schedule import Schedule, linear_decay, teacher_learning_rate


def test_phases_equal_the_official_ones(golden):
    table, info = golden("schedules/sida_loss_phases")
    thresholds = info["thresholds"]
    sida = Schedule(thresholds["g_step"] / 1000, thresholds["gan_in_g"] / 1000)
    sid = Schedule(warmup_kimg=0, adversarial_kimg=None)
    for i, nimg in enumerate(table["nimg_before_step"].tolist()):
        for name, schedule in (("sida", sida), ("sid", sid)):
            phase = schedule.at(nimg)
            assert phase.update_generator == table[f"{name}_generator_optimizer_steps"][i], (name, nimg)
            if phase.update_generator:
                assert phase.sid_weight == table[f"{name}_weight_sid"][i], (name, nimg)
                assert phase.adversarial_weight == table[f"{name}_weight_gan"][i], (name, nimg)


def test_ema_equals_the_official_one(golden):
    table, info = golden("schedules/ema")
    for case, settings in info.items():
        if not case.startswith("bs"):
            continue
        half_life, ratio = settings["ema_halflife_kimg"] * 1000, settings["ema_rampup_ratio"]
        nimg = table[f"{case}/nimg_before_step"].tolist()
        np.testing.assert_allclose(
            [ema_half_life(n, half_life, ratio) for n in nimg], table[f"{case}/halflife_nimg"], rtol=1e-12
        )
        betas = [ema_beta(n, settings["batch_size"], half_life, ratio) for n in nimg]
        np.testing.assert_allclose(betas, table[f"{case}/beta"], rtol=1e-12)
    assert any(case.startswith("bs") for case in info)


def test_noise_level_of_time(golden):
    table, _ = golden("schedules/sid_sigma_of_t")
    sigma = sigma_of_t(torch.from_numpy(table["t"]).float() / 1000)
    np.testing.assert_allclose(sigma, table["sigma_f32"], rtol=1e-6)
    exact = sigma_of_t(torch.from_numpy(table["t"]).double() / 1000)
    np.testing.assert_allclose(exact, table["sigma_f64_formula"], rtol=1e-12)
    for t_max in (400, 600, 800, 1000):
        sigma = sigma_of_t(torch.from_numpy(table["u"]) * t_max / 1000)
        np.testing.assert_allclose(sigma, table[f"sigma_f32_tmax{t_max}"], rtol=1e-6)


def test_learning_rates_of_published_teachers(golden):
    table, _ = golden("schedules/edm_learning_rate")
    rates = [teacher_learning_rate(n, 512, 10e-4, 10e6, 0) for n in table["nimg"]]
    np.testing.assert_allclose(rates, table["edm_teacher_lr10e4_rampup10000k"], rtol=1e-12)
    table, info = golden("schedules/edm2_learning_rate")
    for case, s in info.items():
        rates = [
            teacher_learning_rate(n, s["batch_size"], s["ref_lr"], s["rampup_Mimg"] * 1e6, s["ref_batches"])
            for n in table["nimg"]
        ]
        np.testing.assert_allclose(rates, table[case], rtol=1e-12)


def test_power_function_averages(golden):
    table, _ = golden("schedules/edm2_power_function_ema")
    np.testing.assert_allclose(averages.std_to_exponent(table["stds"]), table["std_to_exp"], rtol=1e-12)
    betas = [[float(averages.power_beta(s, n, 2048)) for n in table["beta_nimg"]] for s in table["stds"]]
    np.testing.assert_allclose(betas, table["beta"], rtol=1e-12)
    coefficients = averages.posthoc_coefficients(table["in_ofs"], table["in_std"], table["out_ofs"], table["out_std"])
    assert np.abs(coefficients - table["posthoc_coefficients"]).max() < 1e-8 * np.abs(coefficients).max()


@given(
    nimg=st.integers(0, 10**9),
    batch=st.integers(1, 10**5),
    half_life=st.floats(1e-3, 1e9),
    ratio=st.none() | st.floats(0, 1),
)
def test_beta_is_a_weight(nimg, batch, half_life, ratio):
    assert 0 <= ema_beta(nimg, batch, half_life, ratio) <= 1


@given(
    warmup=st.floats(0, 300),
    adversarial=st.none() | st.floats(0, 300),
    images=st.lists(st.integers(0, 400_000), min_size=2, max_size=10),
)
def test_phases_only_move_forward(warmup, adversarial, images):
    schedule = Schedule(warmup, adversarial, total_kimg=400, lr_decay_start=0.5, lr_final=0.1)
    phases = [schedule.at(n) for n in sorted(images)]
    for before, after in itertools.pairwise(phases):
        assert before.update_generator <= after.update_generator
        assert before.adversarial_weight <= after.adversarial_weight
        assert before.sid_weight >= after.sid_weight
        assert before.lr_factor >= after.lr_factor >= 0.1 - 1e-12
    assert all(p.sid_weight + p.adversarial_weight == 1 for p in phases)


@pytest.mark.parametrize(("progress", "expected"), [(0, 1), (0.5, 1), (0.75, 0.55), (1, 0.1), (1.2, 0.1)])
def test_decay(progress, expected):
    assert linear_decay(progress, 0.5, 0.1) == pytest.approx(expected)
    assert linear_decay(progress, 1.0, 0.1) == 1


@given(std=st.floats(0.01, 0.28))
def test_the_exponent_gives_the_profile_its_deviation(std):
    gamma = float(averages.std_to_exponent(std))
    mean, square = (gamma + 1) / (gamma + 2), (gamma + 1) / (gamma + 3)
    assert math.sqrt(square - mean**2) == pytest.approx(std, rel=1e-6)


@given(
    images=st.lists(st.integers(0, 10**8), min_size=2, max_size=10),
    rampup=st.floats(1, 1e7),
    ref_batches=st.floats(1, 1e5),
    batch=st.integers(1, 4096),
)
def test_teachers_rates_rise_and_then_fall(images, rampup, ref_batches, batch):
    rate = lambda n, *more: teacher_learning_rate(n, batch, 1e-3, *more)
    images = sorted(images)
    assert [rate(n, 0, 0) for n in images] == [1e-3] * len(images)
    rising, falling = ([rate(n, *more) for n in images] for more in ((rampup, 0), (0, ref_batches)))
    assert rising == sorted(rising)
    assert falling == sorted(falling, reverse=True)
    assert rate(0, rampup, ref_batches) == 0
    assert all(rate(n, rampup, ref_batches) <= 1e-3 for n in images)
    # Four times the reference: half the rate.
    assert teacher_learning_rate(4 * 1000 * batch, batch, 1e-3, 0, 1000) == pytest.approx(5e-4)
