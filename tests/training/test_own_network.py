"""A family of networks of one's own: trained, distilled and drawn from; no file makes foreign code run by naming it."""

from __future__ import annotations

import pytest
import torch

from docs.examples.flow import FlowPrecond
from sida.cli.main import main
from sida.config.plugins import ALLOW
from sida.errors import UserError
from sida.files.atomic import read_jsonl
from sida.files.tensors import read_tensors, write_tensors
from sida.methods import distill
from sida.networks import family_of
from sida.networks.file import load_network
from sida.training import train_teacher
from tests.training.toy import NETWORK, SID_STUDENT, TEACHER

FLOW = "docs.examples.flow:FlowPrecond"
KWARGS = {key: value for key, value in NETWORK["kwargs"].items() if key != "augment_dim"}
SPEC = {**TEACHER, "network": {"class": FLOW, "kwargs": KWARGS}, "total_kimg": 0.16, "augment": None}


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """As for a user who has allowed nothing."""
    monkeypatch.setenv(ALLOW, "")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return str(train_teacher(SPEC, tmp_path_factory.mktemp("flow")))


def test_exact_velocities_give_the_clean_image():
    sigma = torch.tensor([0.002, 0.5, 2.5, 80.0]).reshape(-1, 1, 1, 1)
    clean, noise = torch.randn(4, 1, 2, 2), torch.randn(4, 1, 2, 2)
    net = FlowPrecond(**KWARGS)
    c_skip, c_out, c_in, c_noise = net.coefficients(sigma)
    noisy = clean + sigma * noise
    assert torch.allclose(c_skip * noisy + c_out * (noise - clean), clean, atol=1e-4)
    assert torch.allclose(c_in * noisy, (1 - c_noise) * clean + c_noise * noise, atol=1e-5)


def test_own_family_is_distilled_and_drawn_from(teacher, tmp_path, monkeypatch):
    monkeypatch.setenv("SIDA_ALLOW_CODE", f"other:Net,{FLOW}")
    spec = {**SID_STUDENT, "teacher": teacher, "total_kimg": 0.16, "augment": None, "evaluation": None}
    path = distill({**spec, "warmup_kimg": 0.0}, tmp_path / "student")
    net, metadata = load_network(path)
    assert (metadata["network"]["class"], family_of(net).name) == (FLOW, "flow")
    # Default settings are those of the family that it is like: SiD's on EDM networks.
    assert set(read_jsonl(tmp_path / "student/train.jsonl")[-1]["losses"]) == {"sid", "denoising"}
    out = tmp_path / "images"
    for sampler in ("one_step", "heun:3"):
        grid = ["--sampler", sampler, "--grid", str(out / f"{sampler[:4]}.png"), "--grid-size", "2x2"]
        assert main(["sample", "--network", str(path), "--device", "cpu", *grid]) == 0
    assert len(list(out.iterdir())) == 2


def test_module_that_a_file_names_is_not_even_imported(teacher, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stranger.py").write_text("import pathlib\npathlib.Path('was-here').touch()\n")
    tensors, record = read_tensors(teacher)
    record["network"]["class"] = "stranger:Net"
    write_tensors("stranger.safetensors", tensors, record)
    with pytest.raises(UserError, match=f"'stranger:Net' is code from outside this package.*{ALLOW}=stranger"):
        load_network("stranger.safetensors")
    with pytest.raises(UserError, match="is code from outside"):
        distill({**SID_STUDENT, "teacher": "stranger.safetensors", "augment": None, "evaluation": None}, tmp_path / "x")
    assert main(["info", "stranger.safetensors"]) == 1
    assert main(["sample", "--network", "stranger.safetensors", "--grid", "g.png"]) == 1
    assert not (tmp_path / "was-here").exists()
