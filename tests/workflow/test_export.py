"""`sida export --to hf`: the folder loads in diffusers, offline, and gives the images of `sida sample`."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import yaml

import sida
from eval.results.measurements import write_csv
from sida.files.atomic import sha256_file
from tests.eval.synthetic_output import write_preset
from tests.test_python import write_network
from workflow.cli import sida_main


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    preset = write_preset(folder / "results/demo")
    network = write_network(preset / "students/sida-a1.0/network.safetensors")
    digest = sha256_file(network)
    facts = {"run": "sida-a1.0", "method": "sida", "metric": "fd", "n": 100, "nfe": 1, "protocol": "digits"}
    facts |= {"settings": "frechet", "network_sha256": digest, "date": "2026-11-22", "origin": ""}
    others = {**facts, "run": "sid-a1.0", "network_sha256": "2" * 64}
    rows = [{**facts, "trial": trial, "value": 4.0 + trial} for trial in range(3)]
    write_csv(
        preset / "measurements.csv", [], [*rows, *({**others, "trial": t, "value": 98765.0 + t} for t in range(3))]
    )
    assert sida_main(["export", str(network.parent), "--to", "hf", str(folder / "hf"), "--license", "cc0-1.0"]) == 0
    return folder / "hf", network


def test_the_pipeline_gives_the_same_images_without_the_network(exported, monkeypatch, tmp_path):
    diffusers = pytest.importorskip("diffusers", reason="the extra 'latent' is not installed")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path))
    folder, network = exported
    load = diffusers.DiffusionPipeline.from_pretrained
    pipe = load(str(folder), custom_pipeline=str(folder), trust_remote_code=True)
    expected = sida.load(network).sample(16, seed=0).transpose(0, 2, 3, 1)
    assert np.array_equal(pipe(num_images=16, seed=0, output_type="np").images, expected)
    pictures = pipe(num_images=2, seed=3, class_labels=4).images
    assert np.array_equal(np.asarray(pictures[1]), sida.load(network).sample(2, seed=3, classes=4)[1, 0])
    with pytest.raises((ValueError, OSError)):
        load(str(folder), custom_pipeline=str(folder))


def test_the_card_has_the_measurements_of_this_very_file(exported):
    folder, network = exported
    _, head, text = (folder / "README.md").read_text().split("---\n", 2)
    card = yaml.safe_load(head)
    (result,) = card["model-index"][0]["results"]
    (metric,) = result["metrics"]
    assert (metric["type"], metric["value"], metric["args"]["std"], metric["args"]["trials"]) == ("fd", 5.0, 1.0, 3)
    assert card["license"] == "cc0-1.0"
    assert "| fd | 5 ± 1 | 3 | 100 |" in text
    assert sha256_file(network) in text
    assert "98765" not in text.split("## Measurements")[1].split("## Training")[0].replace("cc0", "")
    assert (folder / "samples.png").is_file()
    huggingface_hub = pytest.importorskip("huggingface_hub")
    (found,) = huggingface_hub.ModelCard.load(folder / "README.md").data.eval_results
    assert found.metric_value == 5.0


def test_an_unmeasured_network_says_so_and_nothing_is_overwritten(exported, tmp_path, capsys):
    _, network = exported
    shutil.copyfile(network, tmp_path / "alone.safetensors")
    command = ["export", str(tmp_path / "alone.safetensors"), "--to", "hf", str(tmp_path / "out")]
    assert sida_main(command) == 0
    assert "was not measured" in (tmp_path / "out/README.md").read_text()
    assert json.loads((tmp_path / "out/model_index.json").read_text())["_class_name"][1] == "OneStepPipeline"
    assert sida_main(command) == 1
    assert "exists already" in capsys.readouterr().err
