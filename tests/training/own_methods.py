"""Methods with networks of their own: a discriminator beside the fake score, and one in its place."""

from __future__ import annotations

import dataclasses

import torch

from sida.methods import SID
from sida.methods.gdd import GDDLoss
from sida.methods.sid import SiDLoss
from sida.training import MicroBatch, OptimizedNetwork, OptimizerStep, StudentTrainer


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


def judge_step(parts) -> OptimizerStep:
    with parts.seeded("discriminator"):
        judge = OptimizedNetwork(Judge(), 2 * parts.config.lr, betas=(0.5, 0.99), eps=1e-8)

    def loss(given: MicroBatch) -> dict[str, torch.Tensor]:
        value = LOSS.discriminator_loss(judge.net, given.images, given.real_images, given.class_labels)
        return {"real_or_fake": value * len(given.images)}

    return OptimizerStep(
        "discriminator", judge, loss, lambda pixels: {"real_or_fake": 1.0}, "discriminator", real_images=True
    )


def fooling(judge: OptimizedNetwork, given: MicroBatch) -> torch.Tensor:
    return LOSS.generator_loss(judge.net, given.images, given.class_labels) * len(given.images)


@dataclasses.dataclass(eq=False)
class JudgedLoss(SiDLoss):
    """SiD, and what a discriminator says."""

    judge: OptimizedNetwork | None = None

    def weights(self, pixels):
        return {**super().weights(pixels), "fooling": 0.1 * pixels}

    def generator_terms(self, true_score, fake_score, given):
        return {**super().generator_terms(true_score, fake_score, given), "fooling": fooling(self.judge, given)}


def judged(parts) -> StudentTrainer:
    step = judge_step(parts)
    return parts.distiller(loss=parts.loss(judge=step.network), others=[step])


def adversarial(parts) -> StudentTrainer:
    """No teacher's score and no fake score: a discriminator with a penalty every second iteration, and a generator."""
    config, step = parts.config, judge_step(parts)
    theta = OptimizedNetwork(parts.copy(parts.initial, config.weight_norm), config.lr, config.betas, config.eps)
    penalty = lambda given: {"r1": LOSS.r1_penalty(step.network.net, given.real_images, given.class_labels)}
    loss = lambda given: {"fooling": fooling(step.network, given)}
    steps = [
        step,
        dataclasses.replace(step, loss=penalty, weights=lambda pixels: {"r1": 2.0}, stream="r1", every=2),
        OptimizerStep("generator", theta, loss, lambda pixels: {"fooling": 1.0}, "generator"),
    ]
    return StudentTrainer(steps, parts.schedule(), config)


JUDGED = dataclasses.replace(
    SID,
    name="judged",
    title="Judged",
    about="a discriminator beside ψ",
    loss=JudgedLoss,
    trainer=judged,
)
ADVERSARIAL = dataclasses.replace(
    SID,
    name="adversarial",
    title="GAN",
    about="a discriminator instead of ψ",
    loss=None,
    trainer=adversarial,
    psi_steps=0,
    reads=("augment", "grad_clip_value", "weight_norm"),
)


@dataclasses.dataclass(eq=False)
class NoLevels(SiDLoss):
    """SiD without official noise levels of the fake score."""

    P_mean: float | None = None


FEW = dataclasses.replace(SID, name="few", loss=NoLevels, official={"edm": {}, "edm2": {}})
NO_METHOD = "not a method"
