"""A method names the settings that it reads: those are read, and no others are accepted."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from sida.config.recipe import ADVERSARIAL_SETTINGS, SCORE_SETTINGS, ResolvedConfig
from sida.errors import UserError
from sida.methods import METHODS, SID
from sida.methods.distiller import LAMBDAS, Parts, method_trainer
from sida.methods.resolve import DistillConfig, resolve_recipe
from sida.networks import build_network, family_of
from tests.training.toy import DATASET, NETWORK

#: Settings that are read elsewhere: with a guide, with a variance head, where batches are made.
ELSEWHERE = {"guidance", "logvar", "real_source"}
#: Settings that the distiller reads for every method; where a method has none, they change nothing.
OF_THE_DISTILLER = {"grad_clip_value", *LAMBDAS}
OPTIONS = {"gdd": {"backbones": ["digits"]}, "gdd-i": {"backbones": ["digits"]}}


def config_of(method: str, **settings) -> DistillConfig:
    init = "x" if METHODS[method].start == "generator" else None
    options = OPTIONS.get(method, {})
    given = {"total_kimg": 1, "batch_size": 8, "lr": 1e-3, "dataset": DATASET, "teacher": "t", "options": options}
    return DistillConfig(**{"name": "x", "method": method, "init": init, **given, **settings})


@pytest.mark.parametrize("name", METHODS)
def test_a_method_reads_the_settings_that_it_names(name):
    read = set()

    class Watched(ResolvedConfig):
        def __getattribute__(self, key):
            read.add(key)
            return super().__getattribute__(key)

    teacher, method = build_network(NETWORK), METHODS[name]
    config = resolve_recipe(config_of(name), NETWORK)
    watched = Watched(**{field.name: getattr(config, field.name) for field in dataclasses.fields(config)})
    read.clear()
    options = method.read_options(config.options, "options")
    parts = Parts(method, watched, options, family_of(NETWORK), teacher, teacher, torch.device("cpu"), "student")
    method_trainer(parts)
    known = (SCORE_SETTINGS | ADVERSARIAL_SETTINGS) - ELSEWHERE
    assert method.settings & known <= read
    assert read & known - OF_THE_DISTILLER <= method.settings


@pytest.mark.parametrize(
    ("method", "settings", "unread"),
    [
        ("sid", {"lambda_adv": 1.0}, "lambda_adv"),
        ("gdd", {"gamma": "snr", "t_max": 500}, "gamma, t_max"),
        ("gdd-i", {"sigma_data": 1.0}, "sigma_data"),
        ("instance", {"alpha": 1.2, "augment": {"p": 0.1}}, "alpha, augment"),
        ("dmd2", {"augment": {"p": 0.1}}, "augment"),
        ("f-distill", {"augment": {"p": 0.1}}, "augment"),
    ],
)
def test_a_setting_that_a_method_does_not_read_is_refused(method, settings, unread):
    message = f"^{unread.split(',')[0]}: method '{method}' does not read {unread}; remove (it|them)$"
    with pytest.raises(ValueError, match=message):
        config_of(method, **settings)


def test_a_setting_that_options_leave_unread_is_refused():
    for method, options in {"f-distill": {}, "dmd2": {"weighted": False}}.items():
        with pytest.raises(ValueError, match=f"^gamma: method '{method}' does not read gamma with these options"):
            config_of(method, gamma="snr", options=options)
    config_of("dmd2", gamma="snr")
    config_of("f-distill", gamma="snr", options={"weighted": True})


def test_an_option_named_like_a_setting_is_refused_where_the_method_is_defined():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Options:
        lr: float = 0.0
        depth: int = 1

    with pytest.raises(UserError, match=r"^method 'own': options: lr: .*; rename"):
        dataclasses.replace(SID, name="own", options=Options)


def test_a_custom_method_with_networks_of_its_own_names_what_it_reads():
    own = dataclasses.replace(SID, name="own", trainer=lambda parts: None)
    config = config_of("sid", gamma="snr")
    with pytest.raises(ValueError, match="gamma: method 'own' does not read gamma; remove it"):
        own.check(config)
    dataclasses.replace(own, reads=frozenset({"gamma"})).check(config)
