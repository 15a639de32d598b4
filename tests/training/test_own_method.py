"""A method of one's own, named module:object: trained by the same loop, with its own terms, steps, networks, resume."""

from __future__ import annotations

import re

import pytest
import torch

from sida.config.plugins import ALLOW
from sida.config.settings import from_mapping
from sida.errors import UserError
from sida.files.atomic import read_jsonl
from sida.methods.distillation import student_digest
from sida.methods.registry import DistillConfig, resolve_recipe
from sida.networks.file import load_network, read_metadata
from sida.training import TeacherConfig
from sida.training.identity import teacher_digest
from tests.training.toy import NETWORK, SID_STUDENT, TEACHER

MATCHING = "docs.examples.matching:METHOD"
OWN = "tests.training.own_methods"
SHORT = {**SID_STUDENT, "total_kimg": 0.08, "warmup_kimg": 0.0, "evaluation": None}
LOSSES = {
    MATCHING: {"matching", "denoising"},
    f"{OWN}:JUDGED": {"sid", "denoising", "real_or_fake", "fooling"},
}


@pytest.mark.parametrize("method", LOSSES)
def test_method_of_ones_own_is_trained_and_goes_on_where_it_stopped(resumes, teacher, method):
    folder = resumes({**SHORT, "teacher": teacher, "method": method}, 48)
    assert set(read_jsonl(folder / "train.jsonl")[-1]["losses"]) == LOSSES[method]
    net, metadata = load_network(folder / "network.safetensors")
    assert metadata["method"] == method
    assert all(bool(parameter.isfinite().all()) for parameter in net.parameters())
    start, _ = load_network(teacher)
    assert any(not torch.equal(a, b) for a, b in zip(net.parameters(), start.parameters()))


def test_changed_source_is_another_run(tmp_path, teacher, monkeypatch):
    """Of a package any of its modules, the monitor's, and a network's; a module far from them changes nothing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(ALLOW, "own_package,own_monitor,own_single,own_flow")
    method = "import dataclasses\nfrom sida.methods import SID\n\nMINE = dataclasses.replace(SID, name='mine')\n"
    sources = {
        "own_package/__init__.py": "from own_package.inner.core import MINE\n",
        "own_package/inner/core.py": method,
        "own_single.py": method,
        "own_monitor.py": "from own_factory import make\n",
        "own_factory.py": "from tests.training.toy import make_monitor as make_ours\n\n\ndef make(**kwargs):\n"
        "    return make_ours(**kwargs)\n",
        "own_flow.py": "from docs.examples.flow import FlowPrecond\n\n\nclass Own(FlowPrecond):\n    pass\n",
        "unasked.py": "",
    }
    for name, text in sources.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    watched = {"every_kimg": 0.1, "monitor": "own_monitor:make", "kwargs": {"samples": 32}}

    def digests():
        specs = {"package": {"method": "own_package:MINE"}, "single": {"method": "own_single:MINE"}}
        specs["watched"] = {"method": "sid", "evaluation": watched}
        config = lambda spec: resolve_recipe(DistillConfig(**{**SHORT, "teacher": teacher, **spec}), network)
        found = {name: student_digest(config(spec), "data", {"teacher": "t"}) for name, spec in specs.items()}
        own = {**TEACHER, "network": {"class": "own_flow:Own", "kwargs": NETWORK["kwargs"]}}
        return {**found, "network": teacher_digest(from_mapping(TeacherConfig, own, "teacher"), "data")}

    network, changed = read_metadata(teacher)["network"], {}
    before = digests()
    for name, text in sources.items():
        (tmp_path / name).write_text(f"{text}# another line\n")
        after = digests()
        changed[name] = {key for key in before if after[key] != before[key]}
        before = after
    assert changed == {
        "own_package/__init__.py": {"package"},
        "own_package/inner/core.py": {"package"},
        "own_single.py": {"single"},
        "own_monitor.py": {"watched"},
        "own_factory.py": {"watched"},
        "own_flow.py": {"network"},
        "unasked.py": set(),
    }


def test_official_values_of_ones_own_may_be_few_where_the_recipe_has_the_rest(teacher):
    network = read_metadata(teacher)["network"]
    config = lambda **more: DistillConfig(**{**SHORT, "teacher": teacher, "method": f"{OWN}:FEW", **more})
    message = "student.method: 'few' has no default for init_sigma, P_mean with EDM networks; add it"
    with pytest.raises(UserError, match=re.escape(message)):
        resolve_recipe(config(), network)
    rest = {"init_sigma": 2.5, "P_mean": -1.2}
    made = resolve_recipe(config(**rest), network)
    assert (made.alpha, made.logvar, made.weight_norm) == (1.2, False, None)
