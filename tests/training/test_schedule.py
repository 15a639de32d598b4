"""Schedules against the golden tables and their properties."""

import dataclasses

import pytest
import torch

from sida.noise import sigma_of_t
from sida.training import averages
from sida.training.optimizer import ema_beta, ema_half_life
from sida.training.schedule import Schedule, linear_decay, teacher_learning_rate
from tests.near import assert_near


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


@pytest.mark.parametrize(
    ("rampup", "factors"), [(0.0, [1, 1, 1, 0.55, 0.1]), (10.0, [0, 0.5, 1, 0.55, 0.1])], ids=["at once", "rising"]
)
def test_rates_rise_stay_and_fall(rampup, factors):
    schedule = Schedule(0, None, total_kimg=40, lr_decay_start=0.5, lr_final=0.1, lr_rampup_kimg=rampup)
    assert [schedule.lr_factor(nimg) for nimg in (0, 5_000, 20_000, 30_000, 40_000)] == pytest.approx(factors)
    unlimited = dataclasses.replace(schedule, total_kimg=None)
    assert [unlimited.lr_factor(nimg) for nimg in (20_000, 10**6)] == [1, 1]


def test_ema_equals_the_official_one(golden):
    table, info = golden("schedules/ema")
    for case, settings in info.items():
        if not case.startswith("bs"):
            continue
        half_life, ratio = settings["ema_halflife_kimg"] * 1000, settings["ema_rampup_ratio"]
        nimg = table[f"{case}/nimg_before_step"].tolist()
        half_lives = [ema_half_life(n, half_life, ratio) for n in nimg]
        assert_near(half_lives, table[f"{case}/halflife_nimg"], each=True)
        betas = [ema_beta(n, settings["batch_size"], half_life, ratio) for n in nimg]
        assert_near(betas, table[f"{case}/beta"], each=True)
    assert any(case.startswith("bs") for case in info)


def test_noise_level_of_time(golden):
    table, _ = golden("schedules/sid_sigma_of_t")
    sigma = sigma_of_t(torch.from_numpy(table["t"]).float() / 1000)
    assert_near(sigma, table["sigma_f32"], each=True)
    exact = sigma_of_t(torch.from_numpy(table["t"]).double() / 1000)
    assert_near(exact, table["sigma_f64_formula"], each=True)
    for t_max in (400, 600, 800, 1000):
        sigma = sigma_of_t(torch.from_numpy(table["u"]) * t_max / 1000)
        assert_near(sigma, table[f"sigma_f32_tmax{t_max}"], each=True)


def test_learning_rates_of_published_teachers(golden):
    table, _ = golden("schedules/edm_learning_rate")
    rates = [teacher_learning_rate(n, 512, 10e-4, 10e6, 0) for n in table["nimg"]]
    assert_near(rates, table["edm_teacher_lr10e4_rampup10000k"], each=True)
    table, info = golden("schedules/edm2_learning_rate")
    for case, s in info.items():
        given = s["batch_size"], s["ref_lr"], s["rampup_Mimg"] * 1e6, s["ref_batches"]
        rates = [teacher_learning_rate(n, *given) for n in table["nimg"]]
        assert_near(rates, table[case], each=True)


def test_power_function_averages(golden):
    table, _ = golden("schedules/edm2_power_function_ema")
    assert_near(averages.std_to_exponent(table["stds"]), table["std_to_exp"], each=True)
    betas = [[float(averages.power_beta(s, n, 2048)) for n in table["beta_nimg"]] for s in table["stds"]]
    assert_near(betas, table["beta"], each=True)
    coefficients = averages.posthoc_coefficients(table["in_ofs"], table["in_std"], table["out_ofs"], table["out_std"])
    assert_near(coefficients, table["posthoc_coefficients"], 1e-8)


@pytest.mark.parametrize(("progress", "expected"), [(0, 1), (0.5, 1), (0.75, 0.55), (1, 0.1), (1.2, 0.1)])
def test_decay(progress, expected):
    assert linear_decay(progress, 0.5, 0.1) == pytest.approx(expected)
    assert linear_decay(progress, 1.0, 0.1) == 1
