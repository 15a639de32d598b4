"""Switches of a distillation: restarts, a stand-in for the data, EDM2 students, SiDA's discriminator."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sida.data import load_dataset
from sida.files.atomic import read_jsonl, sha256_file
from sida.machine import prepare_process
from sida.methods import distill
from sida.methods.distillation import GeneratedBatches, make_batches, student_digest
from sida.methods.registry import DistillConfig, resolve_recipe
from sida.networks import build_network
from sida.networks.file import load_network, save_network
from sida.training import train_teacher
from tests.training.toy import EDM2, NETWORK, STUDENT, TEACHER, of_method, student_trainer
from workflow.planning.steps import student_cost

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


OTHERS = ("separate", "teacher")
BRIEF = {**SHORT, "total_kimg": 0.08}


def spec_of(teacher, chosen, **more):
    return {**BRIEF, "teacher": teacher, "options": {"discriminator": chosen} if chosen else {}, **more}


def after_one_iteration(teacher, chosen, **more):
    """Weights of the fake score alone, and of the whole optimized network, after one iteration."""
    prepare_process(1)
    trainer = student_trainer(spec_of(teacher, chosen, augment=None, dropout=0, batch_gpu=None, **more))
    source = torch.Generator().manual_seed(1)
    real = torch.rand(16, 1, 8, 8, generator=source) * 2 - 1
    labels = torch.eye(10)[torch.randint(10, (16,), generator=source)]
    trainer.batches = lambda stream, nimg, with_images: [(real, labels)]
    trainer.iteration(0)
    whole = trainer.networks["fake_score"].net
    return getattr(whole, "score", whole).state_dict(), whole.state_dict()


@pytest.mark.parametrize(("chosen", "alone"), [("joint", False), ("separate", True), ("teacher", True)])
def test_the_discriminator_moves_the_fake_score_only_where_both_are_one(teacher, chosen, alone):
    (score, _), (strong, _) = (after_one_iteration(teacher, chosen, lambda_d=weight) for weight in (0.0, 100.0))
    assert all(torch.equal(score[name], strong[name]) for name in score) == alone


def test_a_separate_discriminator_learns_and_a_frozen_teacher_does_not(teacher):
    start = load_network(teacher)[0].state_dict()
    _, separate = after_one_iteration(teacher, "separate")
    judging = {key.removeprefix("discriminator."): value for key, value in separate.items() if "discriminator" in key}
    assert judging.keys() == start.keys()
    moved = [name for name in start if not torch.equal(start[name], judging[name])]
    assert any(name.startswith("model.enc.") for name in moved)
    assert not any(name.startswith("model.dec.") for name in moved)
    _, headed = after_one_iteration(teacher, "teacher")
    assert {key.split(".")[1] for key in headed if key.startswith("discriminator.")} == {"head"}


@pytest.mark.parametrize("chosen", OTHERS)
def test_runs_resume_bit_by_bit(resumes, teacher, chosen):
    logs = read_jsonl(resumes(spec_of(teacher, chosen), 48) / "train.jsonl")
    assert {name for record in logs for name in record["losses"]} == {
        "sid", "adversarial", "denoising", "discriminator"
    }  # fmt: skip
    assert all(record["nan_count"] == record["bad_gradients"] == 0 for record in logs)


def test_the_papers_discriminator_keeps_digests_and_plans_grow_with_the_others(teacher):
    configs = {name: DistillConfig(**spec_of(teacher, name)) for name in ("", "joint", *OTHERS)}
    digests = {name: student_digest(config, "", {}) for name, config in configs.items()}
    assert digests[""] == digests["joint"]
    assert len(set(digests.values())) == 3
    work = {
        name: student_cost(resolve_recipe(config, NETWORK, "x"), NETWORK).operations for name, config in configs.items()
    }
    assert work[""] == work["joint"] < work["teacher"] < work["separate"]


def test_networks_with_a_variance_head_have_the_papers_alone(tmp_path, refused):
    save_network(build_network(EDM2), tmp_path / "edm2.safetensors", {})
    spec = spec_of(str(tmp_path / "edm2.safetensors"), "separate", augment=None)
    assert "options.discriminator: 'separate' is for networks without variance head" in refused(spec)
