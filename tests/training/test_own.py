"""Methods and networks of one's own: what makes a run another one, and no code that runs because a file names it."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch

from docs.examples.flow import FlowPrecond
from sida.cli.main import main
from sida.config.plugins import ALLOW
from sida.config.settings import from_mapping
from sida.errors import UserError
from sida.files.atomic import read_jsonl
from sida.files.tensors import read_tensors, write_tensors
from sida.methods import SID, distill
from sida.methods.distillation import student_digest
from sida.methods.registry import DistillConfig, resolve_recipe
from sida.methods.sid import SiDLoss
from sida.networks import family_of
from sida.networks.file import load_network, read_metadata
from sida.training import TeacherConfig, train_teacher
from sida.training.run import teacher_digest
from tests.refused import refused
from tests.training.toy import NETWORK, SID_STUDENT, TEACHER

FLOW = "docs.examples.flow:FlowPrecond"
KWARGS = {key: value for key, value in NETWORK["kwargs"].items() if key != "augment_dim"}
SPEC = {**TEACHER, "network": {"class": FLOW, "kwargs": KWARGS}, "total_kimg": 0.16, "augment": None}
SHORT = {**SID_STUDENT, "total_kimg": 0.08, "warmup_kimg": 0.0, "evaluation": None}


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """As for a user who has allowed nothing but the methods here."""
    monkeypatch.setenv(ALLOW, __name__)


@pytest.fixture(scope="module")
def flow(tmp_path_factory):
    """A teacher of a family of one's own."""
    return str(train_teacher(SPEC, tmp_path_factory.mktemp("flow")))


def test_changed_source_is_another_run(tmp_path, teacher, monkeypatch):
    """Of a package any of its modules, the monitor's, and a network's; a module far from them changes nothing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(ALLOW, "own_package,own_monitor,own_flow")
    sources = {
        "own_package/__init__.py": "from own_package.inner.core import MINE\n",
        "own_package/inner/core.py": "import dataclasses\nfrom sida.methods import SID\n\n"
        "MINE = dataclasses.replace(SID, name='mine')\n",
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
        specs = {"package": {"method": "own_package:MINE"}, "watched": {"evaluation": watched}}
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
        "own_monitor.py": {"watched"},
        "own_factory.py": {"watched"},
        "own_flow.py": {"network"},
        "unasked.py": set(),
    }


@dataclasses.dataclass(eq=False)
class NoLevels(SiDLoss):
    """SiD without official noise levels of the fake score."""

    P_mean: float | None = None


FEW = dataclasses.replace(SID, name="few", loss=NoLevels, official={"edm": {}, "edm2": {}})


def test_official_values_of_ones_own_may_be_few_where_the_recipe_has_the_rest(teacher):
    network = read_metadata(teacher)["network"]
    config = lambda **more: DistillConfig(**{**SHORT, "teacher": teacher, "method": f"{__name__}:FEW", **more})
    message = "student.method: 'few' has no default for init_sigma, P_mean with EDM networks; add it"
    refused(re.escape(message), resolve_recipe, config(), network)
    rest = {"init_sigma": 2.5, "P_mean": -1.2}
    made = resolve_recipe(config(**rest), network)
    assert (made.alpha, made.logvar, made.weight_norm) == (1.2, False, None)


def test_exact_velocities_give_the_clean_image():
    sigma = torch.tensor([0.002, 0.5, 2.5, 80.0]).reshape(-1, 1, 1, 1)
    clean, noise = torch.randn(4, 1, 2, 2), torch.randn(4, 1, 2, 2)
    net = FlowPrecond(**KWARGS)
    c_skip, c_out, c_in, c_noise = net.coefficients(sigma)
    noisy = clean + sigma * noise
    assert torch.allclose(c_skip * noisy + c_out * (noise - clean), clean, atol=1e-4)
    assert torch.allclose(c_in * noisy, (1 - c_noise) * clean + c_noise * noise, atol=1e-5)


def test_own_family_is_distilled_and_drawn_from(flow, tmp_path, monkeypatch):
    monkeypatch.setenv(ALLOW, f"other:Net,{FLOW}")
    path = distill({**SHORT, "teacher": flow, "augment": None}, tmp_path / "student")
    net, metadata = load_network(path)
    assert (metadata["network"]["class"], family_of(net).name) == (FLOW, "flow")
    # Default settings are those of the family that it is like: SiD's on EDM networks.
    assert set(read_jsonl(tmp_path / "student/train.jsonl")[-1]["losses"]) == {"sid", "denoising"}
    out = tmp_path / "images"
    for sampler in ("one_step", "heun:3"):
        grid = ["--sampler", sampler, "--grid", str(out / f"{sampler[:4]}.png"), "--grid-size", "2x2"]
        assert main(["sample", "--network", str(path), "--device", "cpu", *grid]) == 0
    assert len(list(out.iterdir())) == 2


def test_module_that_a_file_names_is_not_even_imported(flow, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stranger.py").write_text("import pathlib\npathlib.Path('was-here').touch()\n")
    tensors, record = read_tensors(flow)
    record["network"]["class"] = "stranger:Net"
    write_tensors("stranger.safetensors", tensors, record)
    refused(f"'stranger:Net' is code from outside this package.*{ALLOW}=stranger", load_network, "stranger.safetensors")
    with pytest.raises(UserError, match="is code from outside"):
        distill({**SID_STUDENT, "teacher": "stranger.safetensors", "augment": None, "evaluation": None}, tmp_path / "x")
    assert not (tmp_path / "was-here").exists()
