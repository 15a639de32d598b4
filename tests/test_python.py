"""The Python front door: `sida.load`, `eval.score` and `eval.results.load` do what the commands do."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import eval
import sida
from sida.cli.main import main
from sida.config.resources import ROOT
from tests.eval.metric_networks import write_network as random_network
from tests.eval.synthetic_output import write_preset
from tests.refused import refused
from workflow.cli import main as measure_main

UNET = {"model_type": "SongUNet", "img_resolution": 8, "img_channels": 1, "label_dim": 10, "model_channels": 8}
UNET |= {"channel_mult": [1], "num_blocks": 1, "attn_resolutions": []}


def write_network(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return Path(random_network(path, {"class": "EDMPrecond", "kwargs": UNET}, std=0.2, method="sida", nimg=1000))


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return write_network(tmp_path_factory.mktemp("run") / "mine" / "network.safetensors")


def test_images_are_those_of_the_command(network, tmp_path):
    generator = sida.load(network, device="cpu")
    command = ["sample", "--network", str(network), "--device", "cpu"]
    assert main([*command, "--seeds", "10-109", "--out", str(tmp_path / "a.npz")]) == 0
    drawn = np.load(tmp_path / "a.npz")["arr_0"].transpose(0, 3, 1, 2)
    assert np.array_equal(generator.sample(100, seed=10), drawn)
    assert main([*command, "--seeds", "3,8,20", "--class-labels", "4", "--out", str(tmp_path / "b.npz")]) == 0
    drawn = np.load(tmp_path / "b.npz")["arr_0"].transpose(0, 3, 1, 2)
    assert np.array_equal(generator.sample([3, 8, 20], classes=4), drawn)
    assert np.array_equal(generator.sample(np.array([3, 8, 20]), classes=[4, 4, 4]), drawn)


def test_a_wrong_number_of_images_is_one_line(network):
    wrong = ({"count": "64"}, "'64'"), ({"count": [-3]}, "negative"), ({"count": [2.9]}, r"\[2\.9\]")
    for arguments, fault in (*wrong, ({"count": 1, "classes": 2.9}, r"2\.9")):
        refused(fault, sida.load(network).sample, **arguments)


def test_a_score_is_that_of_the_command_for_a_generator_a_function_an_array_and_a_file(network, tmp_path, capsys):
    generator = sida.load(network.parent, device="cpu")
    settings = {"num_samples": 200, "trials": 2, "name": "x"}
    scores = [
        eval.score(generator, "digits", **settings),
        eval.score(lambda seeds: generator.sample(seeds, batch_size=250), "digits", **settings),
        eval.score(generator.sample(400, batch_size=250), "digits", **settings),
    ]
    # Images of functions and files have no classes here, so one metric is missing there.
    assert scores[0].frame().index[0] == "fd"
    assert scores[1].frame().equals(scores[2].frame())
    command = ["score", str(network.parent), "--like", "main", "--num-samples", "200", "--trials", "2"]
    assert measure_main([*command, "--name", "x"]) == 0
    printed = capsys.readouterr().out
    assert str(scores[0]) in printed
    assert f"One Step & x & {scores[0].latex().split(' & x & ')[1]}" in printed
    assert "| x |" in re.sub(" +", " ", scores[0].markdown())
    assert list(scores[0].trials().columns[:5]) == ["run", "method", "trial", "metric", "value"]


def test_faults_of_a_python_call_are_one_line(network, tmp_path):
    refused("--trials: must be at least 1", lambda: sida.score(sida.load(network), "digits", trials=0))
    with pytest.raises(TypeError, match="devise"):
        sida.score(sida.load(network), "digits", devise="cpu")
    for call in (sida.distill, sida.train_teacher):
        refused(r"spec\.yaml", call, str(tmp_path / "spec.yaml"))
    refused(r"network\.safetensors", sida.load, tmp_path)


def test_the_code_of_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_preset(tmp_path / "results/demo")
    write_network(tmp_path / "results/demo/students/sida-a1.0/network.safetensors")
    shutil.copytree(ROOT / "docs/examples", "docs/examples")
    names: dict[str, object] = {"__name__": __name__}
    for block in re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/python.md").read_text(), flags=re.M | re.S):
        exec(compile(block, "docs/python.md", "exec"), names)
    assert np.shape(names["images"]) == (4, 1, 8, 8)
    assert {"mean", "std"} <= set(names["table"].columns)
    assert not names["curve"].empty
    assert "FD ↓" in capsys.readouterr().out
