"""Switches of a distillation: restarts, a stand-in for the data, EDM2 students, and the options of the losses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from sida.data import load_dataset
from sida.errors import UserError
from sida.files.atomic import read_jsonl, sha256_file
from sida.losses import EDM2SiDALoss
from sida.methods import distill
from sida.methods.distillation import GeneratedBatches, make_batches
from sida.methods.resolve import DistillConfig
from sida.networks import build_network
from sida.networks.checkpoint import load_network
from sida.training import train_teacher
from tests.training.toy import SID_STUDENT, STUDENT, TEACHER, of_method, student_trainer

CPU = torch.device("cpu")
SHORT = {**STUDENT, "total_kimg": 0.16, "warmup_kimg": 0.0, "adversarial_kimg": 0.0, "evaluation": None}
EDM2 = {
    "class": "EDM2Precond",
    "kwargs": {
        "img_resolution": 8, "img_channels": 1, "label_dim": 10, "use_fp16": False, "model_channels": 8,
        "channel_mult": [1], "num_blocks": 1, "attn_resolutions": [], "channels_per_head": 8, "logvar_channels": 8,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def student(teacher, tmp_path_factory):
    return str(distill({**SHORT, "teacher": teacher}, tmp_path_factory.mktemp("student")))


@pytest.fixture(scope="module")
def edm2_teacher(tmp_path_factory):
    spec = {**TEACHER, "network": EDM2, "total_kimg": 0.2, "lr": 1e-2, "augment": None, "P_mean": -0.4, "P_std": 1.0}
    return str(train_teacher(spec, tmp_path_factory.mktemp("edm2")))


def weights(path) -> torch.Tensor:
    net, _ = load_network(path)
    return torch.cat([parameter.detach().flatten() for parameter in net.parameters()])


def test_sid_restarts_from_a_generator_without_the_adversarial_term(tmp_path, teacher, student):
    spec = {
        **SID_STUDENT,
        "total_kimg": 0.16,
        "warmup_kimg": 0.0,
        "evaluation": None,
        "teacher": teacher,
        "init": student,
    }
    config = DistillConfig(**spec)
    distiller = student_trainer(config)
    assert torch.equal(distiller.generator.flat.vector, weights(student))
    assert torch.equal(distiller.fake_score.flat.vector, weights(teacher))
    distill(spec, tmp_path)
    assert set(read_jsonl(tmp_path / "train.jsonl")[-1]["losses"]) == {"denoising", "sid"}
    assert load_network(tmp_path / "network.safetensors")[1]["parents"]["init"] == sha256_file(student)


def test_stand_in_for_the_data_never_reads_an_image(tmp_path, teacher, student, monkeypatch):
    config = DistillConfig(**{**SHORT, "teacher": teacher, "real_source": student})
    dataset = load_dataset(config.dataset)
    monkeypatch.setattr(dataset, "images", None)
    batches = make_batches(config, dataset, CPU)
    first, second, again = batches("psi", 0), batches("psi", 16), batches("psi", 0)
    assert [len(images) for images, _ in first] == [8, 8]
    assert torch.equal(first[0][0], again[0][0])
    assert not torch.equal(first[0][0], second[0][0])
    # The bytes of stored images, and the labels of the data's own stream.
    images, labels = first[0]
    torch.testing.assert_close(((images + 1) * 127.5).round(), (images + 1) * 127.5, atol=1e-3, rtol=0)
    assert labels.sum() == len(labels)


def test_stand_in_for_the_data_keeps_its_weights(tmp_path):
    """One that normalises on each call would make a resumed run differ from an uninterrupted one."""
    config = DistillConfig(**{**SHORT, "teacher": "unused"})
    net = build_network({**EDM2, "kwargs": {**EDM2["kwargs"], "weight_norm": "always"}})
    batches = GeneratedBatches(make_batches(config, load_dataset(config.dataset), CPU), net, 2.5)
    seen = []
    for nimg in (0, 16):
        batches("psi", nimg)
        seen.append(torch.cat([parameter.flatten() for parameter in batches.net.parameters()]))
    assert torch.equal(*seen)


def test_stand_in_for_the_data_is_a_parent_and_changes_the_result(tmp_path, teacher, student):
    spec = {**SHORT, "teacher": teacher}
    distill({**spec, "real_source": student}, tmp_path / "control")
    assert load_network(tmp_path / "control/network.safetensors")[1]["parents"]["real_source"] == sha256_file(student)
    assert not torch.equal(weights(tmp_path / "control/network.safetensors"), weights(student))
    # The same generator at another path is the same run.
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(Path(student).read_bytes())
    distill({**spec, "real_source": str(copy)}, tmp_path / "moved")
    metadata = [load_network(tmp_path / name / "network.safetensors")[1] for name in ("control", "moved")]
    assert metadata[0] == metadata[1]


@pytest.mark.parametrize("method", ["sid", "sida"])
def test_edm2_students_learn(tmp_path, edm2_teacher, method):
    spec = {**of_method(method, SHORT), "teacher": edm2_teacher, "augment": None}
    config = DistillConfig(**spec)
    distiller = student_trainer(config)
    assert isinstance(distiller.loss, EDM2SiDALoss)
    assert (distiller.loss.P_mean, distiller.loss.P_std, distiller.loss.return_logvar) == (-0.4, 1.0, True)
    distill(spec, tmp_path)
    assert not torch.equal(weights(tmp_path / "network.safetensors"), weights(edm2_teacher))
    losses = set(read_jsonl(tmp_path / "train.jsonl")[-1]["losses"])
    assert losses == {"denoising", "sid"} | ({"discriminator", "adversarial"} if method == "sida" else set())


def test_forced_weight_normalisation_of_edm2_students(tmp_path, edm2_teacher):
    def norms(mode):
        folder = tmp_path / mode
        spec = {**SHORT, "teacher": edm2_teacher, "augment": None, "weight_norm": mode, "total_kimg": 0.2}
        distill({**spec, "snapshot_kimg": 0.2, "ema_half_life_kimg": 1e-6}, folder)
        net, metadata = load_network(folder / "network.safetensors")
        assert metadata["network"]["kwargs"]["weight_norm"] == mode
        weight = net.unet.enc["8x8_block0"].conv_res0.weight
        return weight.detach().flatten(1).norm(dim=1) / weight[0].numel() ** 0.5

    # One Adam step after the last normalisation is all that moves them away from 1.
    forced, free = norms("in_forward"), norms("off")
    assert float((forced - 1).abs().max()) < 0.01
    assert float((free - forced).abs().max()) > 1e-5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight_norm": "off"}, "weight_norm: EDM networks do not have it"),
        (
            {"method": "sid", "real_source": "x"},
            "adversarial_kimg: method 'sid' does not read",
        ),
        ({"real_source": "nowhere.safetensors"}, "real_source: no such file 'nowhere.safetensors'"),
        ({"real_source": "TEACHER"}, "must be a one-step generator"),
        ({"gamma": "edn"}, "gamma: must be one of edm, snr, constant, min-snr"),
        ({"teacher": "EDM2", "augment": {"p": 0.2}}, "augment: EDM2 networks take no augmentation"),
    ],
)
def test_bad_switch_is_one_line(tmp_path, teacher, edm2_teacher, change, message):
    paths = {"TEACHER": teacher, "EDM2": edm2_teacher}
    given = json.loads(json.dumps(change))
    spec = {**SHORT, "teacher": teacher, **{key: paths.get(str(value), value) for key, value in given.items()}}
    with pytest.raises(UserError) as caught:
        distill(spec, tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
