"""Networks of one's own, and no code that runs because a file names it (methods: test_recipes.py)."""

import pytest
import torch

from docs.examples.flow import FlowPrecond
from sida.config.lookup import ALLOW
from sida.files.atomic import read_jsonl
from sida.files.tensors import read_tensors, write_tensors
from sida.methods import distill
from sida.networks import family_of
from sida.networks.file import load_network
from sida.training import train_teacher
from tests.refused import refused
from tests.training.toy import NETWORK, SID_STUDENT, TEACHER
from workflow.cli import main

FLOW = "docs.examples.flow:FlowPrecond"
KWARGS = {key: value for key, value in NETWORK["kwargs"].items() if key != "augment_dim"}
SPEC = {**TEACHER, "network": {"class": FLOW, "kwargs": KWARGS}, "total_kimg": 0.16, "augment": None}
SHORT = {**SID_STUDENT, "total_kimg": 0.08, "warmup_kimg": 0.0, "evaluation": None}


@pytest.fixture(scope="module")
def flow(tmp_path_factory):
    """A teacher of a family of one's own."""
    return str(train_teacher(SPEC, tmp_path_factory.mktemp("flow")))


def test_exact_velocities_give_the_clean_image():
    sigma = torch.tensor([0.002, 0.5, 2.5, 80.0]).reshape(-1, 1, 1, 1)
    clean, noise = torch.randn(2, 4, 1, 2, 2)
    c_skip, c_out, c_in, c_noise = FlowPrecond(**KWARGS).coefficients(sigma)
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
    for sampler in ("one_step", "heun:3"):
        grid = ["--grid", str(tmp_path / f"{sampler[:4]}.png"), "--grid-size", "2x2"]
        assert main(["sample", "--network", str(path), "--device", "cpu", "--sampler", sampler, *grid]) == 0
    assert len(list(tmp_path.glob("*.png"))) == 2


def test_module_that_a_file_names_is_not_even_imported(flow, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(ALLOW, "")
    (tmp_path / "stranger.py").write_text("import pathlib\npathlib.Path('was-here').touch()\n")
    tensors, record = read_tensors(flow)
    record["network"]["class"] = "stranger:Net"
    write_tensors("stranger.safetensors", tensors, record)
    told, spec = f"'stranger:Net' is code from outside this package.*{ALLOW}=stranger", {**SHORT, "augment": None}
    refused(told, load_network, "stranger.safetensors")
    refused(told, distill, {**spec, "teacher": "stranger.safetensors"}, tmp_path / "x")
    assert not (tmp_path / "was-here").exists()
