"""Transformers as teachers and students, with each discriminator, and the label dropout that belongs to teachers."""

import math

import pytest
import torch

from sida.files.atomic import read_jsonl
from sida.methods import distill
from sida.networks.file import load_network
from sida.plugins.transformers.networks import SiTPrecond
from sida.training import train_teacher
from sida.workflow.cli import main
from tests.near import is_copy
from tests.refused import refused
from tests.training.toy import STUDENT, TEACHER, of_method

KWARGS = {
    "img_resolution": 8, "img_channels": 1, "label_dim": 10, "hidden_size": 16, "depth": 2, "num_heads": 2,
    "label_dropout": 0.5,
}  # fmt: skip
SPEC = {**TEACHER, "network": {"class": "SiTPrecond", "kwargs": KWARGS}, "total_kimg": 0.08, "augment": None}


@pytest.fixture
def dropping(monkeypatch):
    """Whether each evaluation with gradients dropped labels."""
    found, original = [], SiTPrecond.classes_of

    def watched(net, class_labels, samples):
        classes = original(net, class_labels, samples)
        if torch.is_grad_enabled():
            found.append(bool((classes == net.label_dim).any()))
        return classes

    monkeypatch.setattr(SiTPrecond, "classes_of", watched)
    return found


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return str(train_teacher(SPEC, tmp_path_factory.mktemp("teacher")))


def test_a_teacher_drops_labels(tmp_path, dropping):
    train_teacher(SPEC, tmp_path)
    assert all(dropping)


SHORT = {**STUDENT, "augment": None, "evaluation": None, "total_kimg": 0.04, "warmup_kimg": 0.0}


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("sid", {}),
        ("sida", {"encoder_depth": 2}),
        ("sida", {"logits": "tokens"}),
        pytest.param("dmd2", {"feature_blocks": [2]}, marks=pytest.mark.slow),
        pytest.param("f-distill", {"feature_blocks": [1, 2]}, marks=pytest.mark.slow),
    ],
)
def test_a_student_drops_none(method, options, teacher, tmp_path, dropping):
    """With each discriminator, which the student's file records."""
    path = distill({**of_method(method, SHORT), "teacher": teacher, "network_options": options}, tmp_path)
    assert dropping
    assert not any(dropping)
    net, metadata = load_network(path)
    assert metadata["network"]["class"] == "SiTPrecond"
    assert {name: metadata["network"]["kwargs"][name] for name in options} == options
    assert is_copy(net.pos_embed, load_network(teacher)[0].pos_embed)
    losses = read_jsonl(tmp_path / "train.jsonl")[-1]["losses"]
    assert all(map(math.isfinite, losses.values()))
    for sampler in ("one_step", "heun:3"):
        out = str(tmp_path / f"{sampler[:4]}.npz")
        assert main(["sample", "--network", str(path), "--device", "cpu", "--sampler", sampler, "--out", out]) == 0


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"encoder_depth": 3}, r"student\.network_options\.encoder_depth: 3 of 2 blocks"),
        ({"logits": "heads"}, r"student\.network_options\.logits: .*tokens"),
        ({"depth": 3}, r"student\.network_options\.depth: .*encoder_depth.*remove it"),
    ],
)
def test_a_discriminator_that_there_is_not_is_refused_before_the_run(options, told, teacher, tmp_path):
    refused(told, distill, {**SHORT, "teacher": teacher, "network_options": options}, tmp_path)
    assert not (tmp_path / "state").exists()


def test_a_teacher_without_augmentation_labels_takes_no_augmentation(tmp_path):
    refused(
        r"teacher\.augment: Flow networks take no augmentation",
        train_teacher,
        {**SPEC, "augment": {"p": 0.2}},
        tmp_path,
    )
    assert not list(tmp_path.rglob("*.safetensors"))
