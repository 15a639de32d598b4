"""TrigFlow's networks: numbers of the official code, files of its pickles, refusals of its samplers."""

import copy
import functools
import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from sida.networks import family_of
from sida.networks.file import load_network
from sida.sampling import Drawer, Sampler, one_step
from sida.sampling.generate import draw_batch
from sida.sampling.streams import SeedStreams
from tests.files.made_pickles import MARK, write_genuine
from tests.forks import run_anew
from tests.near import assert_near, is_copy, same_integers
from tests.networks.made import random_network, recorded_network
from tests.refused import command, refused

GOLDEN = Path(__file__).parent / "golden"
#: Recorded networks, and the classes of their parts in the authors' files.
NAMES = {
    "edm2": {"TrigFlowBlock": "Block", "MPPositional": "PositionalEmbedding"},
    "ddpmpp": {"TrigFlowSongBlock": "UNetBlock", "TrigFlowSongUNet": "TrigFlowDDPMPPUNet"},
}


@functools.cache
def recorded(name):
    """A recorded network, its arrays and its arguments; float16 arrays are exact."""
    info = json.loads((GOLDEN / f"{name}.json").read_text())
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as file:
        arrays = {key: torch.from_numpy(file[key]) for key in file.files}
    arrays = {key: value.float() if value.dtype == torch.float16 else value for key, value in arrays.items()}
    return recorded_network(arrays, info["class"], info["kwargs"]), arrays, info


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_outputs_equal_those_of_the_official_network(name):
    net, arrays, _ = recorded(name)
    x, t, labels = (arrays[f"in/{key}"] for key in ("x_t", "t", "class_labels"))
    assert_near(net.raw(x / 0.5, t, labels), arrays["out/F"])
    assert_near(net.raw(x / 0.5, torch.stack([t, arrays["in/end"]], 1), labels), arrays["out/segment_F"])
    image, logvar = net(arrays["in/x_sigma"], arrays["in/sigma"], labels, return_logvar=True)
    assert_near(image, arrays["out/D"])
    assert_near(logvar, arrays["out/logvar"])
    if net.augment_dim:
        assert_near(net.unet(x / 0.5, t, labels, arrays["in/augment_labels"]), arrays["out/F_augmented"])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("kind", "steps"), [("consistency", 1), ("consistency", 2), ("segments", 2), ("segments", 4)])
@torch.no_grad()
def test_images_of_seeds_equal_those_of_the_official_samplers(name, kind, steps):
    """With noise, classes and fresh noise of a seed from one generator."""
    net, arrays, info = recorded(name)
    streams = SeedStreams(info["seeds"])
    noise, classes = streams.randn((3, 8, 8)), streams.randint(3)
    assert same_integers(classes, arrays["sample/classes"])
    assert_near(noise, arrays["sample/noise"])
    images = draw_batch(Sampler(kind=kind, num_steps=steps), net, noise, torch.eye(3)[classes], streams)
    assert_near(images, arrays[f"sample/{kind}{steps}"])


@torch.no_grad()
def test_one_consistency_step_is_a_step_of_a_generator_from_the_same_level():
    net, arrays, _ = recorded("ddpmpp")
    images = one_step(net, arrays["sample/noise"], torch.eye(3)[arrays["sample/classes"]], 80.0)
    assert_near(images, arrays["sample/consistency1"])


@torch.no_grad()
@pytest.mark.parametrize("sigma_data", [0.5, 0.8, 1.25])
def test_the_middle_level_of_consistency_steps_is_of_the_networks_data(sigma_data):
    kwargs = {**recorded("edm2")[2]["kwargs"], "sigma_data": sigma_data}
    net, levels = random_network("TrigFlowPrecond", kwargs), []
    net.register_forward_pre_hook(lambda _, inputs: levels.append(float(torch.as_tensor(inputs[1]).max())))
    list(Drawer(Sampler(kind="consistency", num_steps=3), net).draw([0, 1], 2))
    assert levels == pytest.approx([80, *[sigma_data * 1.9647596572486523] * 2])


@pytest.mark.parametrize("module", ["samplers", "networks"])
def test_modules_can_be_imported_first(module):
    run_anew(importlib.import_module, f"sida.plugins.trigflow.{module}")


@pytest.mark.parametrize("name", NAMES)
def test_files_in_the_layout_of_the_authors_are_read_shown_and_drawn_from(name, tmp_path, monkeypatch):
    """In half precision, as snapshots are; frequencies are then the rounded ones, as in the official code."""
    monkeypatch.chdir(tmp_path)
    net, _, info = recorded(name)
    net = copy.deepcopy(net).half()
    path = write_genuine("n.pkl", net, info["kwargs"], renamed=NAMES[name])
    assert json.loads(command("info", path, "--json"))["network"]["class"] == info["class"]
    assert command("convert", path, "out.safetensors").split()[-1] == info["class"]
    read, metadata = load_network("out.safetensors")
    assert metadata["network"]["kwargs"].items() >= info["kwargs"].items()
    assert is_copy(read.state_dict(), {name: value.float() for name, value in net.state_dict().items()})
    command("sample", "--network", path, "--sampler", "segments:2", "--seeds", "0-3", "--out", "images.npz")
    with np.load("images.npz") as file:
        assert file["arr_0"].shape == (4, 8, 8, 3)
    assert not Path(MARK).exists()


def test_a_network_without_segments_is_refused_by_their_sampler():
    kwargs = {**recorded("edm2")[2]["kwargs"], "segment_conditioning": False}
    drawer = Drawer(Sampler(kind="segments"), random_network("TrigFlowPrecond", kwargs))
    refused("sampler.kind: 'segments' needs.*use consistency", lambda: list(drawer.draw([0], 1)))


def test_defaults_follow_the_class_and_half_precision_is_the_class_s():
    nets = [recorded(name)[0] for name in NAMES]
    assert [family_of(net).name for net in nets] == [family_of(net.init_config).name for net in nets]
    assert [net.half_dtype for net in nets] == [torch.bfloat16, torch.float16]
    nets[0].half_dtype = torch.float16
    assert nets[0].init_config["kwargs"]["half_dtype"] == "float16"
    nets[0].half_dtype = torch.bfloat16
    assert "half_dtype" not in nets[0].init_config["kwargs"]
