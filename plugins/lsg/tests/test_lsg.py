"""Guidance of the fake score: the official losses on a tiny U-Net, SiD where nothing is guided, and trainings."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from sida.methods.sid import SiDLoss
from sida.networks.edm_unet import SongUNet
from sida.networks.file import save_network
from sida.plugins.lsg.lsg import LSGLoss, guided
from sida.sampling.guidance import GuidedDenoiser
from tests.golden.vectors import agree, below, load_tensors
from tests.near import assert_near, is_copy
from tests.networks.made import random_network
from tests.refused import refused
from tests.training.toy import (
    COMMON,
    NETWORK,
    assert_same_training,
    iterate,
    of_method,
    resumes,
    student_trainer,
)

#: Bound of float64 against the official code, whose U-Net gets its step as float64 here.
EXACT = 1e-9
ARRAYS, INFO = load_tensors(str(Path(__file__).parent / "golden" / "official"))
GUIDED = {"guidance": 1.5, "guide": "null"}


class Recorded(nn.Module):
    """The recorded U-Net, which predicts noise at a step of the schedule, as a denoiser at the step's level."""

    def __init__(self, role, steps, labelled=True):
        super().__init__()
        self.net = SongUNet(**INFO["unet"])
        self.net.load_state_dict(below(ARRAYS, f"{role}/"))
        self.double().eval()
        self.steps, self.label_dim = steps, 4 * labelled

    def forward(self, y, sigma, class_labels=None, augment_labels=None):
        steps = self.steps.double().repeat(len(y) // len(self.steps)) / 1000
        labels = torch.zeros(len(y), 4).double() if class_labels is None else class_labels
        return y - sigma * self.net(y / (1 + sigma**2).sqrt(), steps, labels)


class OfRecord(LSGLoss):
    """With the official levels."""

    def generator_sigma(self, draws):
        return draws["t"]

    fake_score_sigma = generator_sigma


def recorded(case, step):
    """The recorded arrays of a step, its images, labels and draws, and the loss with its settings."""
    given, settings = below(ARRAYS, f"{case}/{step}/"), dict(INFO["cases"][case])
    # The official loss of noise is a denoising loss with weight 1/σ².
    loss = OfRecord(guidance=settings.pop("kappa_4"), gamma="snr", **settings)
    sigma = given["sigma"].view(-1, 1, 1, 1)
    draws = {"t": sigma, "sigma_normal": sigma, "noise": given["noise"]}
    return given, (given["images"].clone().requires_grad_(), given["labels"].double(), draws), loss


@pytest.mark.parametrize("case", INFO["cases"])
def test_the_fake_scores_loss_is_the_official_one(case):
    given, (x, labels, draws), loss = recorded(case, "psi")
    # The official code drops a class before it draws the image.
    assert (labels.sum(1) == 0).any() == (case != "plain")
    psi = Recorded("psi", given["timesteps"])
    value = loss.fake_score_loss(psi, x.detach(), labels, draws=draws).denoising.sum() / len(x)
    value.backward()
    gradients = {f"grad/{name}": p.grad for name, p in psi.net.named_parameters() if f"grad/{name}" in given}
    norms = torch.stack([parameter.grad.norm() for parameter in psi.parameters()])
    assert len(gradients) > 10
    agree(given, EXACT, loss=value, grad_norms=norms)
    # Terms of gradients cancel: kernels without AVX2 differ by 1.3e-7.
    agree(given, 1e-6, **gradients)


@pytest.mark.parametrize("case", INFO["cases"])
def test_the_generators_loss_is_the_official_one(case):
    given, (x, labels, draws), loss = recorded(case, "G")
    phi, unlabelled = (Recorded("phi", given["timesteps"], labelled) for labelled in (True, False))
    true_score, psi = GuidedDenoiser(phi, unlabelled, loss.guidance), Recorded("psi", given["timesteps"])
    value = loss.generator_loss(true_score, psi, x, labels, draws=draws).sid.sum() / len(x)
    agree(given, EXACT, loss=value, grad_images=torch.autograd.grad(value, x)[0])


def test_gradients_are_those_of_the_losses():
    """By finite differences; a divisor without a gradient is left out."""
    given, (x, labels, draws), loss = recorded("guided", "G")
    loss = dataclasses.replace(loss, score_weight="snr")
    phi, psi = (Recorded(role, given["timesteps"][:1]) for role in ("phi", "psi"))
    draws = {name: value[:1] for name, value in draws.items()}
    value = lambda x: loss.generator_loss(phi, psi, x, labels[:1], draws=draws).sid.sum()
    assert torch.autograd.gradcheck(value, x[:1].detach().requires_grad_(), fast_mode=True)


def test_without_guidance_the_losses_are_sids():
    given, (x, labels, draws), _ = recorded("guided", "G")
    draws = {**draws, "t": torch.rand(len(x), 1, 1, 1)}
    nets = [Recorded(role, given["timesteps"]) for role in ("phi", "psi")]
    for ours, sid in ((LSGLoss(), SiDLoss(alpha=1.0)), (LSGLoss(alpha=1.2, label_dropout=0.0), SiDLoss())):
        assert_near(
            ours.generator_loss(*nets, x, labels, draws=draws).sid,
            sid.generator_loss(*nets, x, labels, draws=draws).sid,
        )
        ours, sid = (loss.fake_score_loss(nets[1], x, labels, draws=draws).denoising for loss in (ours, sid))
        assert_near(ours, sid)


def spec_of(teacher, **more):
    return {**of_method("lsg", COMMON), "teacher": teacher, **more}


def test_a_training_without_guidance_is_sids(teacher):
    batch, trainers = (torch.zeros(16, 1, 8, 8), torch.eye(10)[torch.arange(16) % 10]), []
    for method, more in (("lsg", {}), ("sid", {"ema_half_life_kimg": 50.0})):
        trainer = student_trainer({**of_method(method, COMMON), "teacher": teacher, "alpha": 1.0, **more})
        for nimg in (0, 16):
            iterate(trainer, nimg, [batch])
        trainers.append(trainer)
    for one, other in zip(*(trainer.networks.values() for trainer in trainers), strict=True):
        assert_same_training(one.net, other.net, steps=2)


@pytest.mark.parametrize(
    ("more", "share"),
    [
        (GUIDED, 0.1),
        ({"options": {"kappa_1": 1.5}}, 0.1),
        ({}, 0.0),
        ({"options": {"kappa_1": 1.0, "kappa_2": 1.0}, **GUIDED}, 0.0),
        ({"options": {"label_dropout": 0.5}}, 0.5),
    ],
)
def test_a_class_is_dropped_before_its_image_is_drawn(teacher, more, share):
    trainer, labels = student_trainer(spec_of(teacher, batch_gpu=None, **more)), torch.eye(10)[torch.arange(16) % 10]
    seen, drawn = {}, []
    trainer.generator.net.register_forward_pre_hook(lambda _, inputs: drawn.append(inputs[2]))
    trainer.steps = [
        dataclasses.replace(step, loss=lambda batch, step=step: (seen.update({step.name: batch}), step.loss(batch))[1])
        for step in trainer.steps
    ]
    draws = {"psi": [{"drop": torch.linspace(0, 1, 16).view(16, 1, 1, 1)}]}
    iterate(trainer, 0, [(torch.zeros(16, 1, 8, 8), labels)], draws=draws)
    of_fake_score = seen["fake_score"].class_labels
    assert int((of_fake_score.sum(1) == 0).sum()) == int((torch.linspace(0, 1, 16) < share).sum())
    assert is_copy(drawn[0], of_fake_score)
    assert is_copy(seen["generator"].class_labels, labels)


@pytest.mark.slow
@pytest.mark.parametrize("more", [{"augment": {"p": 0.2}, **GUIDED}])
def test_run_resumes_bit_by_bit(tmp_path, teacher, monkeypatch, more):
    resumes(spec_of(teacher, **more), {"sid", "denoising"}, tmp_path, monkeypatch)


@pytest.mark.parametrize("kwargs", [{"label_dim": 0}, {"label_dropout": 0.0}])
@pytest.mark.parametrize("kappa", ["kappa_1", "kappa_2"])
def test_a_teacher_without_a_null_label_is_refused(tmp_path, kwargs, kappa):
    file = tmp_path / "net.safetensors"
    save_network(random_network(NETWORK["class"], {**NETWORK["kwargs"], **kwargs}), file, {})
    data = {"dataset": {**COMMON["dataset"], "labels": False}} if kwargs.get("label_dim") == 0 else {}
    message = "teacher: kappa_1 and kappa_2 other than 1 need a teacher with a null label.*label_dropout"
    refused(message, student_trainer, spec_of(str(file), options={kappa: 2.0}, **data))


def test_both_halves_of_a_guided_pass_have_the_augmentation_labels():
    calls, images = [], torch.randn(3, 1, 2, 2)

    def net(noisy, sigma, class_labels, augment_labels):
        calls.append((class_labels, augment_labels))
        return noisy

    labels, augment_labels = torch.eye(4)[:3], torch.randn(3, 9)
    guided(net, 1.5)(images, torch.ones(3, 1, 1, 1), labels, augment_labels)
    ((classes, augmented),) = calls
    assert is_copy(classes, torch.cat([torch.zeros_like(labels), labels]))
    assert is_copy(augmented, torch.cat([augment_labels, augment_labels]))
