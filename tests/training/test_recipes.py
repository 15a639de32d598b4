"""``method: ...`` alone is the official recipe of a family; a method reads what it names; faults are one line each."""

import collections
import dataclasses
import inspect
import json
import sys
from typing import Any

import pytest
import torch

from sida.config.recipe import (
    METHOD_SETTINGS,
    OFFICIAL,
    Recipe,
    ResolvedConfig,
    RunConfig,
    StudentConfig,
    TeacherConfig,
)
from sida.config.roles import setting
from sida.config.settings import Fraction, type_hints
from sida.eval.features.inception import InceptionCleanExtractor
from sida.methods import METHODS, SID, distill
from sida.methods.distillation import student_digest
from sida.methods.method import Method, Parts
from sida.methods.registry import DistillConfig, resolve_recipe
from sida.methods.sid import SiDALoss, SiDLoss
from sida.networks import build_network, family_of
from sida.networks.file import load_network, save_network
from sida.sampling.guidance import GuidedDenoiser
from sida.training import train_teacher
from tests.near import assert_near, is_copy, relative_error
from tests.networks.made import random_network
from tests.plugins import needs
from tests.refused import command, refusal, refused
from tests.training.toy import DATASET, EDM2, NETWORK, TEACHER, iterate, student_trainer, vector

CPU = torch.device("cpu")
OPTIONS = {"gdd": {"backbones": ["digits"]}, "gdd-i": {"backbones": ["digits"]}, "fd-loss": {"judges": ["digits"]}}
KWARGS = EDM2["kwargs"]
TEACHERS = {
    "edm": NETWORK,
    "edm2": EDM2,
    "edm2-s": {**EDM2, "kwargs": {**KWARGS, "model_channels": 192, "channels_per_head": 64}},
    "headless": {**EDM2, "kwargs": {**KWARGS, "logvar_channels": None}},
    "ect": {**NETWORK, "class": "ECTPrecond"},
    "5 classes": {**NETWORK, "kwargs": {**NETWORK["kwargs"], "label_dim": 5}},
    "no classes": {**NETWORK, "kwargs": {**NETWORK["kwargs"], "label_dim": 0}},
}


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teachers")
    for name, network in TEACHERS.items():
        if name != "edm2-s":
            save_network(random_network(network["class"], network["kwargs"]), folder / f"{name}.safetensors", {})
    return lambda name: str(folder / f"{name}.safetensors")


def from_scratch():
    """Network of a method without a teacher; all of these are of plugins."""
    from plugins.meanflow.tests.test_training import UNET

    return UNET


def spec_of(teacher: str, method: str, /, **settings) -> dict[str, Any]:
    init = teacher if METHODS[method].start == "generator" else None
    needed = {"total_kimg": 0.032, "batch_size": 16, "lr": 1e-3, "init": init, "options": OPTIONS.get(method, {})}
    if METHODS[method].start == "scratch":
        return {"name": "x", "method": method, "dataset": DATASET, "network": from_scratch(), **needed, **settings}
    return {"name": "x", "method": method, "dataset": DATASET, "teacher": teacher, **needed, **settings}


def config_for(*given: str, **settings) -> DistillConfig:
    return DistillConfig(**spec_of(*given, **settings))


COMMON = {
    "lambda_sid": 100, "lambda_adv": 0.01, "lambda_fake_score": 1, "eps": 1e-8, "gamma": "edm", "t_max": 800,
    "init_sigma": 2.5, "ema_rampup_ratio": 0.05,
}  # fmt: skip
EDM_COMMON = COMMON | {
    "P_mean": -1.2, "P_std": 1.2, "logvar": False, "weight_norm": None, "ema_half_life_kimg": 500, "lambda_d": 1,
}  # fmt: skip
EDM2_COMMON = COMMON | {
    "P_mean": -0.4, "P_std": 1.0, "alpha": 1.0, "ema_half_life_kimg": 2000, "grad_clip_value": 0, "lambda_d": 100,
}  # fmt: skip
PHASES = {"warmup_kimg": 100, "adversarial_kimg": 200}
SIDA_EDM = {**EDM_COMMON, **PHASES, "loss": "SiDALoss", "alpha": 1.0, "grad_clip_value": 1}
SIDA_EDM2 = {**EDM2_COMMON, **PHASES, "loss": "EDM2SiDALoss", "logvar": True, "weight_norm": "pre_hook"}
SID_EDM2 = {**EDM2_COMMON, "loss": "EDM2SiDLoss", "logvar": True, "weight_norm": "in_forward", "warmup_kimg": 0}
RECIPES = {
    ("sid", "edm"): {**EDM_COMMON, "loss": "SiDLoss", "alpha": 1.2, "grad_clip_value": 0, "warmup_kimg": 0},
    ("sida", "edm"): SIDA_EDM,
    ("sid2a", "edm"): SIDA_EDM,
    ("sid", "edm2"): SID_EDM2,
    ("sida", "edm2"): SIDA_EDM2,
    ("sid2a", "edm2"): SIDA_EDM2,
    ("sid", "edm2-s"): SID_EDM2,
    ("sida", "edm2-s"): {**SIDA_EDM2, "logvar": False, "weight_norm": "off"},
}


@pytest.mark.parametrize(("method", "teacher"), RECIPES)
def test_method_alone_is_the_official_recipe(method, teacher):
    """The training scripts of mingyuanzhou/SiD, branches main (SiD) and sida."""
    network, official = TEACHERS[teacher], dict(RECIPES[method, teacher])
    assert METHODS[method].loss_of(family_of(network)).__name__ == official.pop("loss")
    resolved = resolve_recipe(config_for(teacher, method), network)
    assert {name: getattr(resolved, name) for name in official} == official
    # A setting wins, and a teacher may lack the head.
    assert resolve_recipe(config_for(teacher, method, alpha=1.1, grad_clip_value=2), network).alpha == 1.1
    assert not resolve_recipe(config_for(teacher, method), TEACHERS["headless"]).logvar


@pytest.mark.parametrize(
    ("teacher", "given", "norms"),
    [
        ("edm2", {}, ("off", "pre_hook")),
        ("edm2", {"weight_norm": "always", "fake_score_weight_norm": "in_forward"}, ("in_forward", "always")),
        ("edm", {}, (None, None)),
    ],
)
def test_settings_reach_losses_networks_and_steps(teachers, teacher, given, norms):
    values = {"alpha": 1.1, "P_mean": -0.5, "P_std": 0.7, "t_max": 700, "gamma": "snr", "lambda_d": 3, "lambda_adv": 2}
    values |= {"lambda_sid": 4, "lambda_fake_score": 5, "sigma_data": 0.4}
    steps = {"grad_clip_value": 2.0, "fake_score_lr": 1e-4, "warmup_kimg": 1, "adversarial_kimg": 7}
    trainer = student_trainer(config_for(teachers(teacher), "sida", **values, **steps, **given))
    assert {name: getattr(trainer.loss, name) for name in values} == values
    networks = (trainer.fake_score, trainer.generator)
    assert [(one.clip_value, one.lr) for one in networks] == [(2.0, 1e-4), (None, 1e-3)]
    assert tuple(getattr(one.net, "weight_norm", None) for one in networks) == norms
    assert (trainer.schedule.warmup_kimg, trainer.schedule.adversarial_kimg) == (1, 7)
    assert student_trainer(config_for(teachers(teacher), "sid")).schedule.adversarial_kimg is None


@pytest.mark.parametrize("mode", ["in_forward", "off"])
def test_forced_weight_normalisation_rewrites_what_is_trained(teachers, mode):
    network = student_trainer(config_for(teachers("edm2"), "sida", weight_norm=mode)).generator
    network.set_training(True)
    network.net(torch.randn(4, 1, 8, 8), torch.tensor(2.5), torch.eye(10)[:4])
    weight = network.net.unet.enc["8x8_block0"].conv_res0.weight.detach().flatten(1)
    norms = weight.norm(dim=1) / weight.shape[1] ** 0.5
    assert (relative_error(norms, torch.ones_like(norms)) < 0.01) == (mode == "in_forward")
    assert is_copy(vector(network.net), network.flat.vector)


def test_sid2a_starts_from_the_generator_and_its_fake_score_from_the_teacher(teachers, tmp_path):
    teacher, init = teachers("edm"), str(tmp_path / "generator.safetensors")
    save_network(random_network(NETWORK["class"], NETWORK["kwargs"], seed=1), init, {})
    trainer = student_trainer(config_for(teacher, "sid2a", init=init, dropout=0.0))
    scores, generators = (trainer.true_score, trainer.fake_score.net), (trainer.generator.net, trainer.ema.net)
    for source, nets in ((teacher, scores), (init, generators)):
        expected = vector(load_network(source)[0])
        assert all(is_copy(vector(net), expected) for net in nets)
    assert trainer.generator.net.init_config["kwargs"]["dropout"] == 0.0


@pytest.mark.parametrize("family", ["edm", "edm2"])
def test_guidance_changes_the_true_score_alone(teachers, family):
    """The guide is of another family or of the same one."""
    teacher, guide = teachers(family), teachers("no classes")
    trainer = student_trainer(config_for(teacher, "sida", guide=guide, guidance=2))
    phi, other = (load_network(path)[0].eval() for path in (teacher, guide))
    assert is_copy(trainer.generator.flat.vector, vector(phi))
    assert is_copy(trainer.fake_score.flat.vector, vector(phi))
    guided, given = trainer.true_score, (torch.randn(4, 1, 8, 8), torch.tensor(1.0), torch.eye(10)[:4])
    assert_near(guided(*given), GuidedDenoiser(phi, other, 2)(*given))
    assert not any(parameter.requires_grad for parameter in guided.parameters())
    assert not any(module.training for module in guided.modules())


@pytest.mark.parametrize(
    ("flag", "given", "device", "fp16"),
    [
        (True, None, "cuda", True), (False, None, "cuda", False), (False, True, "cuda", True),
        (True, False, "cuda", False), (True, None, "cpu", False),
    ],
)  # fmt: skip
def test_float16_is_the_teachers_unless_said_and_decides_eps(flag, given, device, fp16):
    network = {**NETWORK, "kwargs": {**NETWORK["kwargs"], "use_fp16": flag}}
    config = resolve_recipe(config_for("teacher", "sida", fp16=given, device=device), network)
    assert (config.fp16, config.eps) == (fp16, 1e-6 if fp16 else 1e-8)


def test_half_precision_of_a_network_that_computes_in_float32_is_one_line():
    refused(r"student\.half: ", resolve_recipe, config_for("teacher", "sida", half="bfloat16", device="cuda"), NETWORK)
    assert resolve_recipe(config_for("teacher", "sida", half="bfloat16", fp16=True, device="cuda"), NETWORK).fp16


def test_official_values_by_name_are_the_same_run():
    defaults = METHODS["sida"].official["edm2"] | {"alpha": 1.0, "P_mean": -0.4, "P_std": 1.0, "lambda_d": 100.0}
    resolved = lambda **given: resolve_recipe(config_for("t", "sida", **given), EDM2)
    assert resolved() == resolved(**defaults)
    digests = {student_digest(resolved(**given), "data", {}) for given in ({}, defaults, {"logvar": False})}
    assert len(digests) == 2


#: Settings that are read elsewhere: with a guide, with a variance head, where a new network is built.
ELSEWHERE = {"guidance", "logvar", "network"}
#: Settings that the distiller reads for every method; where a method has none, they change nothing.
OF_THE_DISTILLER = {"grad_clip_value", "kernels", "num_steps", "noise", "gradient", "step_levels"}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_reads_the_settings_that_it_names(name):
    read = set()

    class Watched(ResolvedConfig):
        def __getattribute__(self, key):
            read.add(key)
            return super().__getattribute__(key)

    method = METHODS[name]
    network = from_scratch() if method.start == "scratch" else NETWORK
    teacher, config = build_network(network), resolve_recipe(config_for("t", name), network)
    watched = Watched(**vars(config))
    read.clear()
    options = method.read_options(config.options, "options")
    parts = Parts(method, watched, options, family_of(network), teacher, teacher, torch.device("cpu"), "student")
    (method.trainer or Parts.distiller)(parts)
    known = METHOD_SETTINGS - ELSEWHERE
    assert method.settings & known <= read
    assert read & known - OF_THE_DISTILLER <= method.settings


def test_a_method_may_change_the_schedule():
    """As the rivals that raise the rate or have no SiD term beside theirs do."""
    config = resolve_recipe(config_for("t", "sida", warmup_kimg=0, adversarial_kimg=0), NETWORK)
    net = build_network(NETWORK)
    parts = Parts(METHODS["sida"], config, None, family_of(NETWORK), net, net, torch.device("cpu"), "student")
    plain, changed = parts.schedule(), parts.schedule(sid_share=0.25, lr_rampup_kimg=1.0)
    assert (plain.at(16).sid_weight, changed.at(16).sid_weight) == (0.5, 0.25)
    assert (plain.lr_factor(500), changed.lr_factor(500)) == (1, 0.5)


@dataclasses.dataclass(eq=False)
class SharedLoss(SiDLoss):
    """SiD's loss with a setting of its own."""

    share: Fraction = setting(0.5)


SHARED = dataclasses.replace(SID, name="shared", loss=SharedLoss, saw=SID.exposure)


@pytest.mark.parametrize(("options", "share"), [({}, 0.5), ({"share": 1}, 1.0)])
def test_a_setting_that_a_loss_alone_reads_is_one_field_of_the_loss(options, share):
    teacher, config = build_network(NETWORK), resolve_recipe(config_for("t", "sid"), NETWORK)
    read = SHARED.read_options(options, "options")
    loss = Parts(SHARED, config, read, family_of(NETWORK), teacher, teacher, CPU, "student").loss()
    assert (loss.share, loss.lambda_sid) == (share, config.lambda_sid)
    refused("options.share: must be between 0 and 1, got 2", SHARED.read_options, {"share": 2}, "options")
    # A method derived from this one has the settings of its own loss.
    derived = dataclasses.replace(SHARED, loss=SiDLoss, saw=SID.exposure)
    refused("options.share: unknown key", derived.read_options, {"share": 1}, "options")


def test_a_generator_has_the_configured_optimizer_with_what_its_method_adds():
    teacher, config = build_network(NETWORK), resolve_recipe(config_for("t", "sid", lr=0.5), NETWORK)
    parts = Parts(SID, config, SID.options(), family_of(NETWORK), teacher, teacher, CPU, "student")
    generator = parts.optimized(build_network(NETWORK), weight_decay=0.25)
    before = generator.flat.vector.clone()
    generator.step(1.0)
    assert_near(generator.flat.vector, before * (1 - 0.5 * 0.25))


def test_resolved_settings_have_their_type_without_null():
    names, resolved, null = (
        inspect.get_annotations(ResolvedConfig),
        type_hints(ResolvedConfig),
        type_hints(StudentConfig),
    )
    assert {name: resolved[name] | None for name in names} == {name: null[name] for name in names}
    assert OFFICIAL.keys() <= names.keys()


@needs("rivals")
def test_a_setting_that_options_read_is_taken():
    config_for("t", "dmd2", gamma="snr")
    config_for("t", "f-distill", gamma="snr", sigma_data=1.0, options={"weighted": True})
    config_for("t", "ect", sigma_data=1.0, options={"weighting": "edm"})


def test_a_custom_method_with_networks_of_its_own_names_what_it_reads():
    adversarial = dataclasses.replace(SID, name="own", loss=SiDALoss, saw=None)
    more = {"lambda_adv", "lambda_d", "adversarial_pool", "adversarial_kimg"}
    more |= {"discriminator_gamma", "discriminator_pixels"}
    assert adversarial.settings - SID.settings == more
    own = dataclasses.replace(SID, name="own", loss=None, reads=(), trainer=lambda parts: None, saw=None)
    config = config_for("t", "sid", gamma="snr")
    with pytest.raises(ValueError, match="gamma: method 'own' does not read gamma; remove it"):
        own.check(config)
    dataclasses.replace(own, reads=("gamma",), saw=None).check(config)
    dataclasses.replace(own, loss=SiDLoss, saw=None).check(config)


FEW = dataclasses.replace(SID, name="few", official={"edm": {}, "edm2": {}}, saw=None)


def test_official_values_of_ones_own_may_be_few_where_the_recipe_has_the_rest():
    config = lambda **more: config_for("t", "sid", **more, method=f"{__name__}:FEW")
    told = "student.method: 'few' has no default for init_sigma, ema_half_life_kimg with EDM networks; add it"
    refused(told, resolve_recipe, config(), NETWORK)
    made = resolve_recipe(config(init_sigma=2.5, ema_half_life_kimg=500.0), NETWORK)
    assert (made.alpha, made.logvar, made.weight_norm) == (1.2, False, None)


FAULTS = [
    ("sida", {"method": "sid2a"}, "--spec.init: sid2a starts from a distilled generator"),
    ("sida", {"init": "x"}, "--spec.init: 'sida' starts from the teacher; remove it"),
    ("sida", {"batch_gpu": 5}, "--spec.batch_gpu: must divide batch_size"),
    ("sida", {"evaluation": {"every_kimg": 1, "monitor": "eval:none"}}, "--spec.evaluation.monitor: "),
    ("sida", {"dataset": {**DATASET, "labels": False}}, "label_dim: 10, but data set 'digits'"),
    ("sida", {"total_kimg": 0.001}, "--spec.total_kimg: 0.001 is less than one batch"),
    ("sida", {"fp16": True}, "--spec.fp16: float16 needs device 'cuda'"),
    ("sida", {"half": "bfloat16"}, "half: has no effect without fp16"),
    pytest.param(
        "sida",
        {"kernels": "fused"},
        "kernels: 'fused' needs device 'cuda'; set kernels to torch",
        marks=needs("kernels"),
    ),
    # Families of networks
    ("sida", {"weight_norm": "off"}, "weight_norm: EDM networks do not have it"),
    ("sida", {"teacher": "headless", "logvar": True}, "has no log-variance head"),
    ("sida", {"teacher": "edm2", "augment": {"p": 0.1}}, "augment: EDM2 networks take no augmentation"),
    ("gdd", {"teacher": "ect"}, "starts from a network of class EDMPrecond, not ECTPrecond"),
    # Other networks
    ("sida", {"guidance": 1.5}, "--spec.guidance: 1.5 needs a guiding network; name one as guide"),
    ("sida", {"guide": "no classes"}, "--spec.guide: has no effect with a guidance of 1"),
    ("sida", {"guidance": 2, "guide": "5 classes"}, "label_dim: 10, but the guide has 5"),
    # Methods and their options
    ("sida", {"method": "tests.training.toy:TIMES"}, "sida.methods.method.Method; derive"),
    ("sid", {"options": {"weight": 1}}, "--spec.options.weight: unknown key"),
    ("gdd", {"options": {"backbones": []}}, "--spec.options.backbones: must name at least one"),
    ("dmd", {"options": {"generator_levels": [9, 1]}}, "--spec.options.generator_levels: the first number must not"),
    ("f-distill", {"options": {"noisy": False}}, "--spec.options.own_draws: f-distill needs"),
    ("f-distill", {"gamma": "snr", "sigma_data": 1}, "does not read gamma, sigma_data; remove it"),
    ("uni-instruct", {"options": {"divergence": "chi-square"}}, "--spec.options.divergence: the released code fails"),
    ("uni-instruct", {"options": {"ratio": "logits", "variance_reduction": True}}, "variance_reduction: applies to"),
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
    assert message in refusal(command, "distill", "--spec", json.dumps(spec), "--out", out)
    assert {path.name for path in out.rglob("*") if path.is_file()} <= {".lock"}


@needs("rivals")
def test_fd_loss_takes_images_without_classes(teachers):
    given = {"dataset": {**DATASET, "labels": False}, "options": {"judges": ["digits"], "population": 40}}
    trainer = student_trainer(config_for(teachers("no classes"), "fd-loss", **given))
    record = iterate(trainer, 0, [(torch.zeros(16, 1, 8, 8), torch.zeros(16, 0))])
    assert torch.isfinite(record.losses["fd"])


def test_a_judge_without_gradient_is_refused():
    refused("'inception_clean'.*has no gradient", InceptionCleanExtractor.check_gradient, InceptionCleanExtractor)


@needs("rivals", "meanflow")
def test_each_setting_reaches_the_training(teachers, tmp_path, monkeypatch):
    read = collections.defaultdict(set)

    def recorded(config, name):
        reader = sys._getframe(1)
        if reader.f_code is Recipe.generator_steps.fget.__code__:
            reader = reader.f_back
        module = reader.f_globals["__name__"]
        # Checks, digests and what resolves a recipe read settings that may have no effect.
        checking = module == "sida.methods.registry" or reader.f_code is student_digest.__code__
        if module.startswith(("sida.methods.", "sida.plugins.", "sida.training.")) and not checking:
            # The loop reads the settings of every training.
            for kind in (TeacherConfig, ResolvedConfig):
                if type(config) is RunConfig or isinstance(config, TeacherConfig) == (kind is TeacherConfig):
                    read[kind].add(name)
        return object.__getattribute__(config, name)

    monkeypatch.setattr(RunConfig, "__getattribute__", recorded, raising=False)
    monkeypatch.setattr(Method, "check", lambda method, config: None)
    few = {"total_kimg": 0.032}
    train_teacher({**TEACHER, **few}, tmp_path / "teacher")
    distill(spec_of(teachers("edm2"), "sida", **few), tmp_path / "sida")
    distill(spec_of(teachers("edm"), "dmd2", **few), tmp_path / "dmd2")
    distill(spec_of("", "meanflow", **few), tmp_path / "meanflow")
    for cls in (TeacherConfig, ResolvedConfig):
        assert {field.name for field in dataclasses.fields(cls)} - read[cls] == set()
