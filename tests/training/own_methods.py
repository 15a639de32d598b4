"""Methods with networks of their own: a discriminator beside the fake score, and one in its place."""

from __future__ import annotations

import dataclasses

import torch

from sida.config.recipe import SCORE_SETTINGS
from sida.losses import GDDLoss, MicroBatch, SiDLoss, Terms
from sida.machine import derive_seed
from sida.methods import SID
from sida.methods.distiller import make_score_distiller
from sida.training.iteration import OptimizerStep
from sida.training.optimizer import OptimizedNetwork
from sida.training.student_trainer import StudentTrainer


class Judge(torch.nn.Module):
    """Logits of images; counts what it has judged, which a resumed run must remember."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(1, 8, 3, 2, 1), torch.nn.LeakyReLU(0.2), torch.nn.Conv2d(8, 1, 3, 2, 1)
        )
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, images, class_labels=None):
        if self.training:
            self.seen += len(images)
        # The judgement depends on the count, so that a run that forgot it would end elsewhere.
        return [self.layers(images) * (1 + self.seen % 7 / 10)]


LOSS = GDDLoss("ns", r1_gamma=0.1)


def judge_player(parts) -> OptimizerStep:
    torch.manual_seed(derive_seed(parts.config.seed, "discriminator"))
    judge = OptimizedNetwork(Judge(), 2 * parts.config.lr, betas=(0.5, 0.99), eps=1e-8)

    def loss(given: MicroBatch) -> Terms:
        value = LOSS.fake_score_loss(judge.call, given.images, given.class_labels, given.real_images).discriminator
        return Terms({"real_or_fake": value * len(given.images)})

    return OptimizerStep(
        "discriminator", judge, loss, lambda pixels: {"real_or_fake": 1.0}, "discriminator", real_images=True
    )


class JudgedLoss(SiDLoss):
    """SiD, and what a discriminator says."""

    def __init__(self, judge: OptimizedNetwork, **settings) -> None:
        super().__init__(**settings)
        self.judge = judge

    def weights(self, settings, pixels):
        return {**super().weights(settings, pixels), "fooling": 0.1 * pixels}

    def generator_loss(self, true_score, fake_score, images, class_labels, draws=None):
        terms = super().generator_loss(true_score, fake_score, images, class_labels, draws)
        fooling = LOSS.generator_loss(None, self.judge.call, images, class_labels).adversarial
        return Terms({**dict(terms.items()), "fooling": fooling * len(images)}, terms.nan_count)


def judged(parts) -> StudentTrainer:
    step = judge_player(parts)
    return make_score_distiller(parts, JudgedLoss(step.network, alpha=parts.config.alpha), [step])


def adversarial(parts) -> StudentTrainer:
    """No teacher's score and no fake score: a discriminator with a penalty every second iteration, and a generator."""
    config, step = parts.config, judge_player(parts)
    theta = OptimizedNetwork(parts.copy(parts.initial, config.weight_norm), config.lr, config.betas, config.eps)
    penalty = lambda given: Terms({"r1": LOSS.r1_penalty(step.network.call, given.real_images, given.class_labels)})
    fooling = lambda given: Terms(
        {
            "fooling": LOSS.generator_loss(None, step.network.call, given.images, given.class_labels).adversarial
            * len(given.images)
        }
    )
    steps = [
        step,
        dataclasses.replace(step, loss=penalty, weights=lambda pixels: {"r1": 2.0}, stream="r1", every=2),
        OptimizerStep("generator", theta, fooling, lambda pixels: {"fooling": 1.0}, "generator"),
    ]
    return parts.trainer(steps)


JUDGED = dataclasses.replace(
    SID, name="judged", title="Judged", about="a discriminator beside ψ", trainer=judged, reads=SCORE_SETTINGS
)
ADVERSARIAL = dataclasses.replace(
    SID,
    name="adversarial",
    title="GAN",
    about="a discriminator instead of ψ",
    trainer=adversarial,
    psi_steps=0,
    reads=frozenset({"augment", "grad_clip_value", "weight_norm"}),
)
FEW = dataclasses.replace(SID, name="few", defaults={"edm": {"alpha": 1.0}, "edm2": {"alpha": 1.0}})
NO_METHOD = "not a method"
