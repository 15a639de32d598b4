"""The line between a teacher's weights and its student's: what is computed on it, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from eval.measuring.protocol import load_protocol
from eval.results.analyses import read_analysis
from sida.config.resources import ROOT
from sida.losses import EDMLoss
from sida.networks import build_network
from sida.networks.checkpoint import load_network, save_network
from studies.miniature.barrier import barrier, line_points
from tests.training.toy import DATASET, NETWORK
from workflow.cli import eval_main as main

SAMPLER = {"sampler": {"kind": "one_step", "init_sigma": 80.0}}


def toy(path, seed, kwargs=None, cls="EDMPrecond", metadata=None):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = build_network({"class": cls, "kwargs": {**NETWORK["kwargs"], **(kwargs or {})}})
        for value in net.parameters():
            # Networks start with layers of zeros, through which nothing would be seen.
            value.data += 0.05 * torch.randn(value.shape)
    save_network(net, path, metadata or {})
    return str(path)


@pytest.fixture
def spec(tmp_path):
    teacher = toy(tmp_path / "teacher.safetensors", 0)
    student = toy(tmp_path / "student.safetensors", 1, cls="GDDPrecond", metadata=SAMPLER)
    common = {"dataset": DATASET, "protocol": load_protocol("digits").content(), "threads": 1}
    function = {"analysis": "barriers", "function": f"{ROOT}/studies/miniature/barrier.py:LINE"}
    options = {"points": 3, "num_samples": 300, "passes": 1}
    return {
        "run": "x",
        "method": "gdd",
        "teacher": teacher,
        "network": student,
        "options": options,
        **function,
        **common,
    }


def run(spec, out):
    return main(["analyse", "--spec", json.dumps(spec), "--out", str(out)])


def test_curves_are_the_losses_of_weights_on_the_line(tmp_path, spec, capsys):
    assert run(spec, tmp_path / "x.json") == 0
    found = read_analysis(tmp_path / "x.json")
    assert found["curves"]["t"] == [0.0, 0.5, 1.0]
    assert "fd" in capsys.readouterr().out
    # A network in the middle, made by hand, has at its own end what the line has in its middle.
    ends = [load_network(spec[name])[0] for name in ("teacher", "network")]
    state = {name: (value + ends[1].state_dict()[name]) / 2 for name, value in ends[0].state_dict().items()}
    for name, net in zip(("teacher", "network"), ends):
        net.load_state_dict(state)
        save_network(net, tmp_path / f"middle-{name}.safetensors", SAMPLER)
    middle = {name: str(tmp_path / f"middle-{name}.safetensors") for name in ("teacher", "network")}
    assert run({**spec, **middle}, tmp_path / "y.json") == 0
    again = read_analysis(tmp_path / "y.json")
    for name in ("denoising", "fd"):
        assert again["curves"][name] == pytest.approx([found["curves"][name][1]] * 3, rel=1e-5)
        assert again["facts"][f"{name}_barrier"] == pytest.approx(0, abs=1e-3 * found["curves"][name][1])
        assert found["facts"][f"{name}_barrier"] == barrier(found["curves"][name])


def test_denoising_is_the_loss_of_training(tmp_path, spec):
    """To the noise of one draw for each image: the same weight, levels and preconditioning, per pixel."""
    from sida.data import load_dataset

    run(spec, tmp_path / "x.json")
    net, _ = load_network(spec["teacher"])
    data = load_dataset(DATASET)
    indices = np.arange(len(data))
    images, labels = data.images(indices).float() / 127.5 - 1, data.labels(indices)
    with torch.no_grad():
        drawn = [float(EDMLoss()(net, images, labels).mean()) for _ in range(20)]
    value = read_analysis(tmp_path / "x.json")["curves"]["denoising"][0]
    assert min(drawn) * 0.9 < value < max(drawn) * 1.1


def test_a_line_is_the_same_again(tmp_path, spec):
    for name in ("x", "y"):
        run(spec, tmp_path / f"{name}.json")
    assert read_analysis(tmp_path / "x.json")["curves"] == read_analysis(tmp_path / "y.json")["curves"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"options": {"points": 2}}, "--spec.options.points: must be between 3 and 1001, got 2"),
        ({"options": {"pionts": 3}}, "pionts: unknown key (did you mean 'points'?)"),
        ({"network": "teacher"}, "is no one-step generator; give a student's network"),
        ({"network": "none.safetensors"}, "none.safetensors"),
        ({"network": "wide"}, "has other weights than"),
        ({"protocol": {"fd": "no"}}, "protocol"),
    ],
)
def test_fault_is_one_line_and_nothing_is_written(tmp_path, spec, change, message, capsys):
    if change.get("network") == "teacher":
        change = {"network": spec["teacher"]}
    elif change.get("network") == "wide":
        wide = {"model_channels": 8}
        change = {"network": toy(tmp_path / "wide.safetensors", 1, wide, metadata=SAMPLER)}
    assert run({**spec, **change}, tmp_path / "x.json") == 1
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error
    assert not (tmp_path / "x.json").exists()


def test_barrier_is_what_lies_above_the_chord_inside():
    assert line_points(5) == [0, 0.25, 0.5, 0.75, 1]
    assert barrier([1.0, 2.0, 3.0]) == 0
    assert barrier([1.0, 4.0, 3.0]) == 2
    # Convex: below its chord everywhere, least so beside an end.
    values = [t**2 for t in line_points(5)]
    assert barrier(values) == pytest.approx(0.25**2 - 0.25)
    # A rise above the chord that stays below an end counts.
    assert barrier([10.0, 9.0, 8.0, 1.0]) == pytest.approx(4.0)
