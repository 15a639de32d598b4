"""What a distillation refuses before it begins: one line, at the setting, and no file."""

from __future__ import annotations

import pytest

from sida.methods import METHODS
from sida.networks import build_network
from sida.networks.file import save_network
from tests.training.toy import EDM2, NETWORK, STUDENT, of_method

OWN = "tests.training.own_methods"
DIGITS = {"backbones": ["digits"]}
OPTIONS = {"gdd": DIGITS}
#: Networks by the names that specs below have for their files.
NETWORKS = {
    "a VP network": {**NETWORK, "class": "VPPrecond"},
    "an EDM2 network": EDM2,
    "one without head": {**EDM2, "kwargs": {**EDM2["kwargs"], "logvar_channels": None}},
    "one of 5 classes": {**NETWORK, "kwargs": {**NETWORK["kwargs"], "label_dim": 5}},
    "one without classes": {**NETWORK, "kwargs": {**NETWORK["kwargs"], "label_dim": 0}},
}
FAULTS = [
    ("sida", {"method": "sid2a"}, "--spec.init: sid2a starts from a distilled generator"),
    ("sida", {"init": "x"}, "--spec.init: 'sida' starts from the teacher; remove it"),
    ("sida", {"batch_gpu": 5}, "--spec.batch_gpu: must divide batch_size"),
    ("sida", {"evaluation": {"every_kimg": 1, "monitor": "eval:none"}}, "--spec.evaluation.monitor: cannot import"),
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
    ("sida", {"teacher": "one without head", "logvar": True, "augment": None}, "has no log-variance head"),
    ("sida", {"teacher": "an EDM2 network", "augment": {"p": 0.1}}, "augment: EDM2 networks take no augmentation"),
    ("gdd", {"teacher": "a VP network"}, "starts from a network of class EDMPrecond, not VPPrecond"),
    # Other networks
    ("sida", {"guidance": 1.5}, "--spec.guidance: 1.5 needs a guiding network; name one as guide"),
    ("sida", {"guide": "one without classes"}, "--spec.guide: guides nothing with a guidance of 1"),
    ("sida", {"guidance": 2, "guide": "one of 5 classes"}, "label_dim: the guide's is 5, the guided network's 10"),
    # Methods and their options
    ("sida", {"method": f"{OWN}:NO_METHOD"}, "is no sida.methods.method.Method"),
    ("sid", {"options": {"weight": 1}}, "--spec.options: method 'sid' has no settings of its own"),
    ("gdd", {"options": {}}, "--spec.options.backbones: 'vgg16_bn' takes images of 3 channels, not 8×8, 1"),
    ("gdd", {"options": {"backbones": []}}, "--spec.options.backbones: must name at least one"),
    ("instance", {"device": "cuda", "kernels": "fused"}, "--spec.kernels: method 'instance' does not read kernels"),
    ("dmd", {"options": {"generator_levels": [9, 1]}}, "--spec.options.generator_levels: the first index must not"),
    ("dmd2", {"options": {"same_noise": True}}, "--spec.options.same_noise: needs"),
    ("dmd2", {"options": {"noisy": False, "own_draws": False}}, "--spec.options.noisy: generated images are judged"),
    ("f-distill", {"options": {"own_draws": True}}, "--spec.options.own_draws: f-distill weighs"),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Where the networks lie, by name."""
    folder = tmp_path_factory.mktemp("networks")
    for name, network in NETWORKS.items():
        save_network(build_network(network), folder / f"{name}.safetensors", {})
    return {name: str(folder / f"{name}.safetensors") for name in NETWORKS}


@pytest.mark.parametrize(("method", "change", "message"), FAULTS)
def test_a_fault_is_one_line_at_its_setting(refused, teacher, files, tmp_path, method, change, message):
    start = of_method(method if method in METHODS else "sid", {**STUDENT, "evaluation": None, "warmup_kimg": None})
    spec = {**start, "method": method, "teacher": teacher, "options": OPTIONS.get(method, {}), **change}
    assert message in refused({key: files.get(str(value), value) for key, value in spec.items()})
    assert {path.name for path in (tmp_path / "refused").rglob("*") if path.is_file()} <= {".lock"}
