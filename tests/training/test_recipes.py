"""``method: ...`` alone is the official recipe of a family; a method reads what it names; faults are one line each."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from sida.config.recipe import METHOD_SETTINGS, ResolvedConfig
from sida.methods import METHODS, SID
from sida.methods.distillation import student_digest
from sida.methods.method import Parts
from sida.methods.registry import DistillConfig, resolve_recipe
from sida.methods.sid import SiDALoss, SiDLoss
from sida.networks import build_network, family_of
from sida.networks.file import save_network
from tests.refused import command, refusal, refused
from tests.training.toy import DATASET, EDM2, NETWORK, as_json, student_trainer

CPU = torch.device("cpu")
LAMBDAS = ("lambda_sid", "lambda_adv", "lambda_d", "lambda_fake_score")
OPTIONS = {"gdd": {"backbones": ["digits"]}, "gdd-i": {"backbones": ["digits"]}, "fd-loss": {"judges": ["digits"]}}
KWARGS = EDM2["kwargs"]
TEACHERS = {
    "edm": NETWORK,
    "edm2": EDM2,
    "edm2-s": {**EDM2, "kwargs": {**KWARGS, "model_channels": 192, "channels_per_head": 64}},
    "headless": {**EDM2, "kwargs": {**KWARGS, "logvar_channels": None}},
    "vp": {**NETWORK, "class": "VPPrecond"},
    "5 classes": {**NETWORK, "kwargs": {**NETWORK["kwargs"], "label_dim": 5}},
    "no classes": {**NETWORK, "kwargs": {**NETWORK["kwargs"], "label_dim": 0}},
}


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teachers")
    for name, network in TEACHERS.items():
        torch.manual_seed(0)
        save_network(build_network(network), folder / f"{name}.safetensors", {})
    return lambda name: str(folder / f"{name}.safetensors")


def spec_of(teacher: str, method: str, /, **settings) -> dict[str, Any]:
    init = teacher if METHODS[method].start == "generator" else None
    needed = {"total_kimg": 0.064, "batch_size": 16, "lr": 1e-3, "init": init, "options": OPTIONS.get(method, {})}
    return {"name": "x", "method": method, "dataset": DATASET, "teacher": teacher, **needed, **settings}


def config_for(*given: str, **settings) -> DistillConfig:
    return DistillConfig(**spec_of(*given, **settings))


def recipe(config: DistillConfig) -> dict[str, object]:
    """What a run would really do."""
    distiller = student_trainer(config)
    loss, nets = distiller.loss, (distiller.fake_score.net, distiller.generator.net)
    return {
        "loss": type(loss).__name__, "real": loss.uses_real_images, "alpha": loss.alpha,
        "sigma": (loss.P_mean, loss.P_std), "logvar": getattr(loss, "return_logvar", None),
        "phases": (distiller.schedule.warmup_kimg, distiller.schedule.adversarial_kimg),
        "weights": tuple(getattr(distiller.recipe, name) for name in LAMBDAS),
        "clip": (distiller.fake_score.clip_value, distiller.generator.clip_value),
        "norm": tuple(getattr(net, "weight_norm", None) for net in nets),
        "ema": (distiller.recipe.ema_half_life_kimg, distiller.recipe.ema_rampup_ratio),
        "eps": distiller.generator.adam.eps,
        "gamma": loss.gamma, "t_max": loss.t_max, "init_sigma": distiller.recipe.init_sigma,
    }  # fmt: skip


COMMON = {"eps": 1e-8, "gamma": "edm", "t_max": 800, "init_sigma": 2.5}
EDM_COMMON = {**COMMON, "sigma": (-1.2, 1.2), "logvar": None, "norm": (None, None), "ema": (500, 0.05)}
EDM2_COMMON = {**COMMON, "sigma": (-0.4, 1.0), "loss": "EDM2SiDALoss", "alpha": 1.0, "ema": (2000, 0.05)}
SIDA_EDM = {
    **EDM_COMMON, "loss": "SiDALoss", "real": True, "alpha": 1.0, "phases": (100, 200), "weights": (100, 0.01, 1, 1),
    "clip": (1, None),
}  # fmt: skip
SIDA_EDM2 = {
    **EDM2_COMMON, "real": True, "phases": (100, 200), "weights": (100, 0.01, 100, 1), "clip": (None, None),
    "logvar": True, "norm": ("off", "pre_hook"),
}  # fmt: skip
# SiD reads no λ_adv and λ_d.
SID_EDM2 = {
    **SIDA_EDM2,
    "loss": "EDM2SiDLoss",
    "real": False,
    "phases": (0, None),
    "norm": ("in_forward", "in_forward"),
}
RECIPES = {
    ("sid", "edm"): {
        **EDM_COMMON, "loss": "SiDLoss", "real": False, "alpha": 1.2, "phases": (0, None), "weights": (100, 0.01, 1, 1),
        "clip": (None, None),
    },
    ("sida", "edm"): SIDA_EDM,
    ("sid2a", "edm"): SIDA_EDM,
    ("sid", "edm2"): SID_EDM2,
    ("sida", "edm2"): SIDA_EDM2,
    ("sid2a", "edm2"): SIDA_EDM2,
    ("sid", "edm2-s"): SID_EDM2,
    ("sida", "edm2-s"): {**SIDA_EDM2, "logvar": False, "norm": ("off", "off")},
}  # fmt: skip


@pytest.mark.parametrize(("method", "family"), RECIPES)
def test_method_alone_is_the_official_recipe(teachers, method, family):
    """The training scripts of mingyuanzhou/SiD, branches main (SiD) and sida."""
    assert recipe(config_for(teachers(family), method)) == RECIPES[method, family]


def test_a_setting_wins_over_the_official_value_and_a_teacher_may_lack_the_head(teachers):
    given = {"alpha": 1.1, "P_mean": -0.5, "grad_clip_value": 2.0, "weight_norm": "always", "logvar": False}
    changed = {"alpha": 1.1, "sigma": (-0.5, 1.0), "clip": (2.0, None), "norm": ("off", "always"), "logvar": False}
    assert recipe(config_for(teachers("edm2"), "sida", **given)) == {**SIDA_EDM2, **changed}
    assert recipe(config_for(teachers("edm"), "sida", grad_clip_value=0)) == {**SIDA_EDM, "clip": (None, None)}
    assert recipe(config_for(teachers("headless"), "sida")) == {**SIDA_EDM2, "logvar": False}


@pytest.mark.parametrize(
    ("flag", "given", "device", "expected"),
    [
        (True, None, "cuda", (True, 1e-6)),
        (False, None, "cuda", (False, 1e-8)),
        (False, True, "cuda", (True, 1e-6)),
        (True, False, "cuda", (False, 1e-8)),
        (True, None, "cpu", (False, 1e-8)),
    ],
)
def test_float16_is_the_teachers_unless_said_and_decides_eps(flag, given, device, expected):
    network = {**NETWORK, "kwargs": {**NETWORK["kwargs"], "use_fp16": flag}}
    config = resolve_recipe(config_for("teacher", "sida", fp16=given, device=device), network)
    assert (config.fp16, config.eps) == expected


def test_half_precision_of_a_network_that_computes_in_float32_is_one_line():
    refused(r"student\.half: ", resolve_recipe, config_for("teacher", "sida", half="bfloat16", device="cuda"), NETWORK)
    assert resolve_recipe(config_for("teacher", "sida", half="bfloat16", fp16=True, device="cuda"), NETWORK).fp16


def test_official_values_by_name_are_the_same_run():
    defaults = METHODS["sida"].official["edm2"] | {"alpha": 1.0, "P_mean": -0.4, "P_std": 1.0, "lambda_d": 100.0}
    short, long, other = (config_for("t", "sida", **given) for given in ({}, defaults, {"logvar": False}))
    assert resolve_recipe(short, EDM2) == resolve_recipe(long, EDM2)
    digest = lambda config: student_digest(resolve_recipe(config, EDM2), "data", {})
    assert digest(short) == digest(long) != digest(other)


#: Settings that are read elsewhere: with a guide, with a variance head, where batches are made.
ELSEWHERE = {"guidance", "logvar"}
#: Settings that the distiller reads for every method; where a method has none, they change nothing.
OF_THE_DISTILLER = {"grad_clip_value"}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_reads_the_settings_that_it_names(name):
    read = set()

    class Watched(ResolvedConfig):
        def __getattribute__(self, key):
            read.add(key)
            return super().__getattribute__(key)

    teacher, method = build_network(NETWORK), METHODS[name]
    config = resolve_recipe(config_for("t", name), NETWORK)
    watched = Watched(**{field.name: getattr(config, field.name) for field in dataclasses.fields(config)})
    read.clear()
    options = method.read_options(config.options, "options")
    parts = Parts(method, watched, options, family_of(NETWORK), teacher, teacher, torch.device("cpu"), "student")
    parts.trainer()
    known = METHOD_SETTINGS - ELSEWHERE
    assert method.settings & known <= read
    assert read & known - OF_THE_DISTILLER <= method.settings


def test_a_setting_that_options_read_is_taken():
    config_for("t", "dmd2", gamma="snr")
    config_for("t", "f-distill", gamma="snr", sigma_data=1.0, options={"weighted": True})
    config_for("t", "ect", sigma_data=1.0, options={"weighting": "edm"})


def test_an_adversarial_term_has_a_beginning():
    own = dataclasses.replace(SID, name="own", loss=SiDALoss)
    assert own.settings - SID.settings == {"lambda_adv", "lambda_d", "adversarial_pool", "adversarial_kimg"}


def test_a_custom_method_with_networks_of_its_own_names_what_it_reads():
    own = dataclasses.replace(SID, name="own", loss=None, reads=(), trainer=lambda parts: None)
    config = config_for("t", "sid", gamma="snr")
    with pytest.raises(ValueError, match="gamma: method 'own' does not read gamma; remove it"):
        own.check(config)
    dataclasses.replace(own, reads=("gamma",)).check(config)
    dataclasses.replace(own, loss=SiDLoss).check(config)


FAULTS = [
    ("sida", {"method": "sid2a"}, "--spec.init: sid2a starts from a distilled generator"),
    ("sida", {"init": "x"}, "--spec.init: 'sida' starts from the teacher; remove it"),
    ("sida", {"batch_gpu": 5}, "--spec.batch_gpu: must divide batch_size"),
    ("sida", {"evaluation": {"every_kimg": 1, "monitor": "eval:none"}}, "--spec.evaluation.monitor: "),
    (
        "sida",
        {"dataset": {"name": "digits", "kind": "digits", "labels": False}},
        "label_dim: 10, but data set 'digits'",
    ),
    ("sida", {"total_kimg": 0.001}, "--spec.total_kimg: 0.001 is less than one batch"),
    ("sida", {"fp16": True}, "--spec.fp16: float16 needs device 'cuda'"),
    ("sida", {"half": "bfloat16"}, "half: says which half precision, and there is none without fp16"),
    ("sida", {"kernels": "fused"}, "kernels: 'fused' needs device 'cuda'; set kernels to torch"),
    ("sida", {"recompute": True}, "recompute: is for kernels 'fused'; without them take checkpointing"),
    # Families of networks
    ("sida", {"weight_norm": "off"}, "weight_norm: EDM networks do not have it"),
    ("sida", {"teacher": "headless", "logvar": True}, "has no log-variance head"),
    ("sida", {"teacher": "edm2", "augment": {"p": 0.1}}, "augment: EDM2 networks take no augmentation"),
    ("gdd", {"teacher": "vp"}, "starts from a network of class EDMPrecond, not VPPrecond"),
    # Other networks
    ("sida", {"guidance": 1.5}, "--spec.guidance: 1.5 needs a guiding network; name one as guide"),
    ("sida", {"guide": "no classes"}, "--spec.guide: guides nothing with a guidance of 1"),
    ("sida", {"guidance": 2, "guide": "5 classes"}, "label_dim: 10, but the guide has 5"),
    # Methods and their options
    ("sida", {"method": "tests.training.toy:TIMES"}, "is no sida.methods.method.Method"),
    ("sid", {"options": {"weight": 1}}, "--spec.options.weight: unknown key"),
    ("gdd", {"options": {}}, "--spec.options.backbones: 'vgg16_bn' takes images of 3 channels, not 8×8, 1"),
    ("gdd", {"options": {"backbones": []}}, "--spec.options.backbones: must name at least one"),
    ("instance", {"device": "cuda", "kernels": "fused"}, "--spec.kernels: method 'instance' does not read kernels"),
    ("dmd", {"options": {"generator_levels": [9, 1]}}, "--spec.options.generator_levels: the first number must not"),
    ("f-distill", {"options": {"noisy": False}}, "--spec.options.own_draws: f-distill weighs"),
    ("f-distill", {"options": {"ratio_range": [20, 0.1]}}, "--spec.options.ratio_range: the first number must not"),
    ("f-distill", {"gamma": "snr", "sigma_data": 1}, "does not read gamma, sigma_data; remove it"),
    ("ect", {"sigma_data": 1}, "--spec.sigma_data: method 'ect' does not read sigma_data"),
    ("uni-instruct", {"options": {"divergence": "chi-square"}}, "--spec.options.divergence: the released code ends"),
    ("uni-instruct", {"options": {"ratio": "logits", "variance_reduction": True}}, "variance_reduction: is of the"),
    ("realuid", {"options": {"uid_alpha": 1.0, "uid_beta": 0.9}}, "--spec.options.uid_beta: must be 1"),
    ("fd-loss", {"batch_gpu": 8}, "--spec.batch_gpu: "),
    ("fd-loss", {"options": {"judges": ["digits"], "statistics": "queue", "population": 12}}, "take 16"),
]


@pytest.mark.parametrize(("method", "change", "message"), FAULTS)
def test_a_fault_is_one_line_at_its_setting_and_leaves_no_file(teachers, tmp_path, method, change, message):
    spec = {**spec_of(teachers("edm"), method), **change}
    for key in ("teacher", "guide"):
        if spec.get(key) in TEACHERS:
            spec[key] = teachers(spec[key])
    out = tmp_path / "refused"
    assert message in refusal(command, "distill", "--spec", as_json(spec), "--out", out)
    assert {path.name for path in out.rglob("*") if path.is_file()} <= {".lock"}


def test_a_judge_without_gradient_is_refused():
    from eval.features.inception import InceptionCleanExtractor

    refused("'inception_clean'.*has no gradient", InceptionCleanExtractor.check_gradient, InceptionCleanExtractor)
