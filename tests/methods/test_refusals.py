"""Starts and settings that a method refuses, and its facts by the definition."""

import dataclasses

import pytest
import torch

from sida.config.families import FAMILIES
from sida.errors import SettingError, UserError
from sida.methods.gdd import GDD, GDDOptions, official_backbones
from sida.methods.levels import _INTERVALS, beta_at
from sida.methods.method import Passes, ScoreLoss
from sida.methods.registry import METHODS, DistillConfig
from sida.methods.sid import SIDA, EDM2SiDALoss, EDM2SiDLoss, SiDALoss, SiDLoss
from tests.near import assert_near
from tests.training.toy import DATASET, NETWORK

SPEC = {"name": "x", "dataset": DATASET, "total_kimg": 1, "batch_size": 16, "lr": 1e-4}
SCRATCH = dataclasses.replace(METHODS["sid"], name="new", start="scratch", reads=("network",), saw=None)
AS_TEACHER = dataclasses.replace(METHODS["sid"], name="own", start="teacher", saw=None)


@pytest.mark.parametrize(
    ("method", "given", "place", "told"),
    [
        (SCRATCH, {"teacher": "t", "network": NETWORK}, "teacher", "'new' has no teacher"),
        (SCRATCH, {}, "network", "is missing: 'new' trains a new one"),
        (SCRATCH, {"network": NETWORK, "init": "i"}, "init", "'new' starts from scratch"),
        (AS_TEACHER, {}, "teacher", "is missing: 'own' distils one"),
        (AS_TEACHER, {"teacher": "t", "init": "i"}, "init", "'own' starts from the teacher"),
        (METHODS["sid2a"], {"teacher": "t"}, "init", "sid2a starts from a distilled generator"),
        (
            AS_TEACHER,
            {"teacher": "t", "lambda_adv": 2.0, "lambda_d": 3.0},
            "lambda_adv",
            "does not read lambda_adv, lambda_d",
        ),
        (AS_TEACHER, {"teacher": "t", "level_distribution": "beta", "P_std": 1.0}, "P_std", "has no effect with"),
    ],
)
def test_a_start_that_does_not_fit_the_method_names_its_setting(method, given, place, told):
    made = DistillConfig(**SPEC, method="sid", teacher="t")
    for name, value in {"teacher": None, **given}.items():
        object.__setattr__(made, name, value)
    with pytest.raises(SettingError, match=told) as caught:
        method.check(made)
    assert caught.value.where == place


def test_starts_that_fit_are_taken():
    for method, given in (
        (SCRATCH, {"network": NETWORK}),
        (AS_TEACHER, {"teacher": "t"}),
        (METHODS["sid"], {"teacher": "t", "init": "i"}),
        (METHODS["sid2a"], {"teacher": "t", "init": "i"}),
    ):
        made = DistillConfig(**SPEC, method="sid", teacher="t")
        for name, value in {"teacher": None, **given}.items():
            object.__setattr__(made, name, value)
        method.check(made)


def test_a_family_without_official_settings_is_refused():
    method = dataclasses.replace(SIDA, official={}, saw=None)
    with pytest.raises(UserError, match="method 'sida' supports networks of , not of edm"):
        method.settings_of(FAMILIES["edm"], "where")


def test_a_loss_without_terms_of_its_own_has_none():
    loss = ScoreLoss()
    assert not loss.uses_real_images
    for name, arguments in (
        ("weights", (64,)), ("generator_sigma", ({},)), ("fake_score_sigma", ({},)), ("generator_terms", (None,) * 3),
    ):  # fmt: skip
        with pytest.raises(NotImplementedError):
            getattr(loss, name)(*arguments)


#: α, mean and deviation of ln σ, and weights of the terms at 64 values, by the official training scripts.
WEIGHTS = {
    SiDLoss: (1.2, -1.2, 1.2, {"sid": 100, "denoising": 1}),
    SiDALoss: (1.0, -1.2, 1.2, {"sid": 100, "denoising": 1, "adversarial": 0.01 * 64, "discriminator": 1}),
    EDM2SiDLoss: (1.0, -0.4, 1.0, {"sid": 100, "denoising": 1}),
    EDM2SiDALoss: (1.0, -0.4, 1.0, {"sid": 100, "denoising": 1, "adversarial": 0.01 * 64, "discriminator": 100}),
}


@pytest.mark.parametrize("cls", WEIGHTS)
def test_defaults_of_a_loss_are_those_of_the_official_scripts(cls):
    alpha, mean, std, weights = WEIGHTS[cls]
    loss = cls()
    assert (loss.alpha, loss.P_mean, loss.P_std, loss.t_max) == (alpha, mean, std, 800)
    assert loss.weights(64) == pytest.approx(weights)
    if issubclass(cls, SiDALoss):
        assert (loss.pool, loss.discriminator_pixels, loss.discriminator_gamma) == ("batch", False, None)
        assert cls(discriminator_pixels=True).weights(64)["discriminator"] == 64 * weights["discriminator"]
        assert cls.drops_logits == issubclass(cls, EDM2SiDLoss)
    if issubclass(cls, EDM2SiDLoss):
        assert loss.return_logvar


def test_networks_of_gdds_discriminator_are_given_or_those_of_the_size():
    assert [official_backbones(size)[0] for size in (32, 33)] == ["vgg16_bn", "deit_base_distilled"]
    default, own = GDDOptions(), GDDOptions(backbones=("vgg16_bn",))
    assert (default.form, default.r1_gamma, default.r1_interval, default.loss_images) == ("ns", 1e-4, 16, 64)
    assert len(default.loss_networks(32)) == 2
    assert own.loss_networks(32) == own.loss_networks(64) == default.loss_networks(32)[:1]
    assert len(own.assets(64)) == 1
    assert 0 < own.feature_gflop(64) == own.feature_gflop(32) < default.feature_gflop(32)
    assert default.loss_networks(64) != default.loss_networks(32)
    with pytest.raises(SettingError, match="must name at least one"):
        GDDOptions(backbones=())
    assert GDD.has_judges
    assert not SIDA.has_judges


def test_work_is_that_of_the_options_or_else_of_the_method():
    plain = dataclasses.make_dataclass("Plain", [])()
    of_options = dataclasses.make_dataclass("Own", [("fake_score_steps", int), ("passes", Passes)])(
        5, Passes(generator=2)
    )
    assert METHODS["sid"].work(plain) == (
        1,
        Passes(fake_score=4, fake_score_encoder=0, generator=7, generator_encoder=0),
    )
    assert METHODS["sid"].work(of_options) == (5, Passes(generator=2))


def test_times_move_with_the_images_in_one_place_of_memory():
    """A recorded CUDA graph reads the quantiles again, and a loss that was not begun is one at its start."""
    loss, draw = SiDLoss(level_distribution="beta", time_beta=(4.0, 1.5, 1.0)), torch.tensor([0.0, 0.5, 1.0]).double()
    unbegun = loss._time(draw)
    place = loss._quantiles.data_ptr()
    loss.begin(0)
    assert_near(loss._time(draw), unbegun)
    loss.begin(1000)
    assert loss._quantiles.data_ptr() == place
    assert loss._time(draw).tolist() == pytest.approx([0, 0.5, 1])  # uniform by now
    assert beta_at(1000, 4.0, 1.5, 1.0) == (1, 1)
    assert len(loss._quantiles) == _INTERVALS + 1
