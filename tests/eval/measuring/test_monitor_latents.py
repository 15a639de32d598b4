"""In-training evaluation of latent networks: decoded images, every metric of the protocol, its selection."""

import io
import json
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from eval.features import get_extractor
from eval.features.registry import extract
from eval.figures import load_figure_layout
from eval.figures.samples import draw_grid
from eval.measuring.measure import Measurer
from sida.config.resources import find
from sida.data import LatentDecoder, load_dataset
from sida.files.atomic import read_jsonl
from sida.methods import distill
from sida.networks import build_network
from sida.networks.checkpoint import load_network, save_network
from sida.networks.file import read_metadata
from sida.sampling import generate
from tests.eval.metric_networks import write_hub, write_inception
from tests.training.toy import STUDENT

SHORT = {**STUDENT, "total_kimg": 0.032, "batch_gpu": None, "warmup_kimg": 0, "adversarial_kimg": 0, "augment": None}


class StandInVae:
    """First three channels as colours, each pixel 4 × 4."""

    def decode(self, x):
        return SimpleNamespace(sample=(x[:, :3] / 4 + 0.5).repeat_interleave(4, 2).repeat_interleave(4, 3))


@pytest.fixture
def latents(tmp_path):
    """A data set of moments with classes, and an EDM2 teacher for it."""
    rng = np.random.default_rng(0)
    names = [f"00000/img-mean-std-{i:08d}.npy" for i in range(40)]
    with zipfile.ZipFile(tmp_path / "latents.zip", "w") as file:
        for name in names:
            stream = io.BytesIO()
            np.save(stream, np.abs(rng.normal(size=(8, 4, 4))).astype(np.float32))
            file.writestr(name, stream.getvalue())
        labels = [[name, i % 4] for i, name in enumerate(names)]
        file.writestr("dataset.json", json.dumps({"labels": labels}))
    kwargs = {"img_resolution": 4, "img_channels": 4, "label_dim": 4, "use_fp16": False, "model_channels": 8}
    kwargs |= {"channel_mult": [1], "num_blocks": 1, "attn_resolutions": [], "channels_per_head": 8}
    config = {"class": "EDM2Precond", "kwargs": {**kwargs, "logvar_channels": 8}}
    torch.manual_seed(0)
    net = build_network(config)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    save_network(net, tmp_path / "teacher.safetensors", {"network": config, "method": "test"})
    return {"name": "l", "kind": "zip", "path": str(tmp_path / "latents.zip"), "channels": 8, "resolution": 4}


def references(folder, options, images):
    """Statistics of the extractors in published form."""
    files = {}
    for key, name in (("edm2_fid", "inception"), ("edm2_dino", "dinov2")):
        features = extract(images, {name: get_extractor(name, **options[name])})[name].features.double().numpy()
        np.savez(folder / f"{key}.npz", mu=features.mean(0), sigma=np.cov(features, rowvar=False))
        files[key] = str(folder / f"{key}.npz")
    return files


@pytest.mark.parametrize("selection", ["fid", "fd_dinov2"])
def test_edm2_students_are_judged_by_decoded_images(latents, tmp_path, monkeypatch, selection):
    monkeypatch.setattr("sida.sampling.drawer.open_decoder", lambda vae, device: LatentDecoder(StandInVae()))
    protocol = yaml.safe_load(find("protocols", "imagenet512").read_text()) | {"selection": selection}
    score = {"key": "is", "kind": "inception_score", "extractor": "inception", "splits": 4}
    protocol["metrics"] = [*protocol["metrics"], score]
    protocol["watch"] = [*protocol["watch"], "is"]
    options = {
        "inception": {"path": str(write_inception(tmp_path / "inception.pt"))},
        "dinov2": {"repository": str(write_hub(tmp_path / "hub")), "weights": "hub"},
    }
    teacher = str(tmp_path / "teacher.safetensors")
    net, _ = load_network(teacher)
    seeds, data = range(1 << 31, (1 << 31) + 32), load_dataset(latents)
    samples = next(generate(net, seeds, "one_step", 32, "empirical", data, decode=LatentDecoder(StandInVae())))
    assert samples.images.shape == (32, 3, 16, 16)
    kwargs = {"dataset": latents, "protocol": protocol, "num_samples": 32, "extractors": options}
    # The references are the decoded images of the start itself, so its distances are 0.
    kwargs["references"] = references(tmp_path, options, samples.images)
    evaluation = {"every_kimg": 0.016, "monitor": "eval.measuring.monitor:make_monitor", "kwargs": kwargs}
    spec = {**SHORT, "dataset": latents, "teacher": teacher, "evaluation": evaluation}
    path = distill(spec, tmp_path / "run")
    records = read_jsonl(tmp_path / "run" / "evaluations.jsonl")
    assert [record["nimg"] for record in records] == [0, 16, 32]
    assert all({"fid", "is", "fd_dinov2"} <= set(record) for record in records)
    assert records[0]["is"] > 1
    assert max(records[0]["fid"], records[0]["fd_dinov2"]) < 1e-4
    best = min(records, key=lambda record: record[selection])
    metadata = read_metadata(path)
    assert (metadata["nimg"], metadata[selection]) == (best["nimg"], best[selection])


def test_real_latents_are_decoded_for_measurements_and_pictures(latents, tmp_path, monkeypatch):
    monkeypatch.setattr("sida.sampling.networks.load_vae", lambda path, device: StandInVae())
    spec = {"run": "data", "method": "data", "sampler": {"kind": "data"}, "protocol": "imagenet512", "dataset": latents}
    batch = next(Measurer({**spec, "vae": "here"}).source.batches(range(6), 6))
    assert (batch.images.dtype, tuple(batch.images.shape)) == (torch.uint8, (6, 3, 16, 16))
    (tmp_path / "l.yaml").write_text("kind: samples\nrows: 4\ncolumns: 3\npanels: [{where: {run: data}}]\n")
    grid = draw_grid(load_figure_layout(tmp_path / "l.yaml"), {**spec, "vae": "here"}, "real")
    assert tuple(grid.images.shape) == (12, 3, 16, 16)
    assert grid.classes == [place // 3 for place in range(12)]
