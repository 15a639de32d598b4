"""The Python front door: `sida.load`, `sida.eval.score` and `sida.eval.results.load` do what the commands do."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import sida
import sida.eval
from sida.config.lookup import ROOT
from tests.eval.metric_networks import write_network as write_moved
from tests.eval.synthetic_output import write_preset
from tests.near import same_bits
from tests.networks.made import SMALL
from tests.refused import command, refused

NETWORK = {"class": "EDMPrecond", "kwargs": {**SMALL, "label_dim": 10}}


def write_network(path: Path) -> Path:
    """A student of ten classes."""
    return Path(write_moved(path, NETWORK, std=0.2, method="sida", nimg=1000))


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return write_network(tmp_path_factory.mktemp("run") / "mine" / "network.safetensors")


def test_images_are_those_of_the_command(network, tmp_path):
    generator = sida.load(network, device="cpu")

    def drawn(*options):
        out = tmp_path / f"{len(options)}.npz"
        command("sample", "--network", network, "--device", "cpu", "--out", out, *options)
        return np.load(out)["arr_0"].transpose(0, 3, 1, 2)

    assert same_bits(generator.sample(100, seed=10), drawn("--seeds", "10-109"))
    expected = drawn("--seeds", "3,8,20", "--class-labels", "4")
    assert same_bits(generator.sample([3, 8, 20], classes=4), expected)
    assert same_bits(generator.sample(np.array([3, 8, 20]), classes=[4, 4, 4]), expected)


def test_a_score_is_that_of_the_command_for_a_generator_a_function_an_array_and_a_file(network):
    generator = sida.load(network.parent, device="cpu")
    settings = {"num_samples": 200, "trials": 2, "name": "x"}
    scores = [
        sida.eval.score(generator, "digits", **settings),
        sida.eval.score(lambda seeds: generator.sample(seeds, batch_size=250), "digits", **settings),
        sida.eval.score(generator.sample(400, batch_size=250), "digits", **settings),
    ]
    # Images of functions and files have no classes here, so one metric is missing there.
    assert scores[0].frame().index[0] == "fd"
    assert scores[1].frame().equals(scores[2].frame())
    options = ["--like", "main", "--num-samples", 200, "--trials", 2, "--name", "x"]
    printed = command("score", network.parent, *options)
    assert str(scores[0]) in printed
    assert f"One Step & x & {scores[0].latex().split(' & x & ')[1]}" in printed
    assert "| x |" in re.sub(" +", " ", scores[0].markdown())
    assert list(scores[0].trials().columns[:5]) == ["run", "method", "trial", "metric", "value"]


def test_faults_of_a_python_call_are_one_line(network, tmp_path):
    wrong = ({"count": "64"}, "'64'"), ({"count": [-3]}, "seeds from 0"), ({"count": [2.9]}, r"\[2\.9\]")
    for arguments, fault in (*wrong, ({"count": 1, "classes": 2.9}, r"2\.9")):
        refused(fault, sida.load(network).sample, **arguments)
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


def test_a_checkout_offers_the_former_name_of_eval_for_one_release():
    code = "import eval, eval.results as old, sida.eval; assert eval is sida.eval; print(old.__name__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "sida.eval.results\n"
    assert "import sida.eval" in done.stderr
