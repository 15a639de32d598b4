"""Methods of one's own: one with a discriminator beside the fake score, one with few official values, and none."""

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


JUDGED = dataclasses.replace(
    SID,
    name="judged",
    title="Judged",
    about="a discriminator beside ψ",
    loss=JudgedLoss,
    trainer=judged,
)


@dataclasses.dataclass(eq=False)
class NoLevels(SiDLoss):
    """SiD without official noise levels of the fake score."""

    P_mean: float | None = None


FEW = dataclasses.replace(SID, name="few", loss=NoLevels, official={"edm": {}, "edm2": {}})
NO_METHOD = "not a method"
