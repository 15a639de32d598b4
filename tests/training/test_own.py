"""Networks of one's own, and no code that runs because a file names it (methods: test_recipes.py)."""

import math

import pytest
import torch

from docs.examples.flow import FlowPrecond
from sida.config.lookup import ALLOW
from sida.config.settings import from_mapping
from sida.files.atomic import read_jsonl
from sida.files.tensors import read_tensors, write_tensors
from sida.methods import distill
from sida.methods.registry import DistillConfig, resolve_recipe
from sida.networks import family_of
from sida.networks.file import load_network
from sida.training import train_teacher
from sida.workflow.cli import main
from tests.near import assert_near
from tests.refused import refused
from tests.training.toy import NETWORK, SID_STUDENT, STUDENT, TEACHER, of_method

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
    assert_near(c_skip * noisy + c_out * (noise - clean), clean)
    assert_near(c_in * noisy, (1 - c_noise) * clean + c_noise * noise)


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


MIXER = "docs.examples.mixer:MixerPrecond"
BODY = {"class": MIXER, "kwargs": {"img_resolution": 8, "img_channels": 1, "label_dim": 10, "width": 8}}


@pytest.fixture(scope="module")
def mixer(tmp_path_factory):
    """A teacher with a body of its own, that recomputes its blocks."""
    spec = {**TEACHER, "network": BODY, "total_kimg": 0.08, "augment": None, "checkpointing": True}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ALLOW, MIXER)
        return str(train_teacher(spec, tmp_path_factory.mktemp("mixer")))


@pytest.mark.parametrize("method", ["sida", "dmd2", "f-distill"])
def test_own_body_is_distilled_with_its_discriminator(mixer, tmp_path, method):
    spec = of_method(method, {**STUDENT, "augment": None, "evaluation": None, "total_kimg": 0.04, "warmup_kimg": 0.0})
    path = distill({**spec, "teacher": mixer, "checkpointing": True}, tmp_path)
    assert load_network(path)[1]["network"] == load_network(mixer)[1]["network"]
    losses = read_jsonl(tmp_path / "train.jsonl")[-1]["losses"]
    assert len(losses) >= 3
    assert all(map(math.isfinite, losses.values()))
    assert main(["sample", "--network", str(path), "--device", "cpu", "--out", str(tmp_path / "x.npz")]) == 0


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"augment": {"p": 0.2}}, "augment: Custom networks take no augmentation"),
        ({"dropout": 0.1}, f"dropout: {MIXER} does not have it"),
    ],
)
def test_own_body_without_a_setting_refuses_it_before_the_run(mixer, setting, told):
    config = from_mapping(DistillConfig, {**SHORT, "augment": None, "teacher": mixer, **setting}, "student")
    refused(told, resolve_recipe, config, BODY, "student")


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
