"""The released path in small: checkpoints in the genuine layout on a local server become pictures."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from sida.cli.main import main
from sida.networks import build_network
from tests.assets.fault_server import write_registry
from tests.unpickle.genuine import MARK, write_genuine

KWARGS = {
    "img_resolution": 8, "img_channels": 3, "label_dim": 4, "model_type": "SongUNet", "model_channels": 8,
    "channel_mult": [1], "num_blocks": 1, "attn_resolutions": [], "augment_dim": 9,
}  # fmt: skip


@pytest.fixture
def released(site, tmp_path, monkeypatch):
    """A one-step generator of SiDA and its teacher, published on a server that breaks the first connection."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SIDA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SIDA_ASSETS", str(tmp_path / "assets.tsv"))
    torch.manual_seed(0)
    net = build_network({"class": "EDMPrecond", "kwargs": KWARGS})
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape))
    names = {"EDMPrecond": "EDMPrecond_EncoderDecoder", "SongUNet": "SongUNet_EncoderDecoder"}
    kwargs = {**KWARGS, "model_type": "SongUNet_EncoderDecoder"}
    files = {
        "student": write_genuine(tmp_path / "student.pkl", net, kwargs, renamed=names),
        "teacher": write_genuine(tmp_path / "teacher.pkl", net),
    }
    rows = []
    for name, path in files.items():
        url = site.add(path.name, path.read_bytes(), faults=[("cut", 12_345)])
        rows.append({"id": name, "kind": "network", "url": url, "target": path.name})
    write_registry(tmp_path / "assets.tsv", *rows)
    yield net.eval()
    assert not (tmp_path / MARK).exists()


def test_from_download_to_grids(released, tmp_path, capsys):
    assert main(["assets", "fetch", "student", "teacher", "--quiet"]) == 0
    for name in ("student", "teacher"):
        assert main(["convert", name, f"{name}.safetensors", "--method", "sida"]) == 0
    common = ["--grid-size", "4x3", "--seeds", "0-11", "--device", "cpu", "--threads", "1"]
    assert main(["sample", "--network", "student.safetensors", "--grid", "one.png", *common]) == 0
    assert main(["sample", "--network", "student", "--grid", "two.png", *common]) == 0
    assert main(["sample", "--network", "teacher.safetensors", "--sampler", "heun:4", "--grid", "t.png", *common]) == 0
    one, two, teacher = (np.asarray(Image.open(tmp_path / name)) for name in ("one.png", "two.png", "t.png"))
    np.testing.assert_array_equal(one, two)
    assert one.shape == teacher.shape == (32, 24, 3)
    assert one.std() > 1
    assert (one != teacher).any()
    capsys.readouterr()
    assert main(["info", "student.safetensors", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["origin"]["url"].endswith("/student.pkl")
    assert facts["origin"]["class"] == "EDMPrecond_EncoderDecoder"
