"""Switches of a distillation: restarts, and EDM2 students."""

from __future__ import annotations

import pytest
import torch

from sida.files.atomic import read_jsonl, sha256_file
from sida.methods import distill
from sida.networks.file import load_network
from sida.training import train_teacher
from tests.training.toy import EDM2, STUDENT, TEACHER, of_method, student_trainer

CPU = torch.device("cpu")
SHORT = {**STUDENT, "total_kimg": 0.16, "warmup_kimg": 0.0, "adversarial_kimg": 0.0, "evaluation": None}


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
    spec = {**of_method("sid", SHORT), "teacher": teacher, "init": student}
    distiller = student_trainer(spec)
    assert torch.equal(distiller.generator.flat.vector, weights(student))
    assert torch.equal(distiller.fake_score.flat.vector, weights(teacher))
    distill(spec, tmp_path)
    assert set(read_jsonl(tmp_path / "train.jsonl")[-1]["losses"]) == {"denoising", "sid"}
    assert load_network(tmp_path / "network.safetensors")[1]["parents"]["init"] == sha256_file(student)


@pytest.mark.parametrize("method", ["sid", "sida"])
def test_edm2_students_learn(tmp_path, edm2_teacher, method):
    spec = {**of_method(method, SHORT), "teacher": edm2_teacher, "augment": None}
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
